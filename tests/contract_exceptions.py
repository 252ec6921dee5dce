"""What a store or a scheduler can't do: the only reasons for which a contract test may be skipped.

The documentation mirrors this list. Every entry is tested the other way round too: what can't be done is an error that says so
(`tests/batch/test_one_process_stores.py`, `tests/storage/test_group_contract.py`).
"""

from __future__ import annotations

import pytest

ONE_PROCESS = "lives in the memory of one process: other processes are refused before anything is written"
SESSION = "a writable Icechunk session belongs to its process: other processes get forks of it from a write, not from a pickle"
ICECHUNK_NODES = "Icechunk keeps parsed documents and removes what is below a node with it: no damaged or missing document"
ICECHUNK_FIRST = "Icechunk wants a node before its chunk; its transaction gives the guarantee that the order gives elsewhere"
ICECHUNK_WORDS = "Icechunk returns documents in its own words: the same to every reader of JSON, not the same bytes"

CANNOT: dict[tuple[str, str], str] = {
    ("memory_store", "other processes"): ONE_PROCESS,
    ("dict", "other processes"): ONE_PROCESS,
    ("memory_url", "other processes"): ONE_PROCESS,
    ("fsspec_memory", "other processes"): ONE_PROCESS,
    ("obstore_memory", "other processes"): ONE_PROCESS,
    ("icechunk", "pickling"): SESSION,
    ("icechunk", "documents of any bytes"): ICECHUNK_NODES,
    ("icechunk", "data before its document"): ICECHUNK_FIRST,
    ("icechunk", "documents by the byte"): ICECHUNK_WORDS,
}
"""(store, what it would take) to the reason."""


def need(store: str, capability: str) -> None:
    """Skip the test where a store is known not to have a capability."""
    if (store, capability) in CANNOT:
        pytest.skip(CANNOT[store, capability])
