"""What a store or a scheduler can't do: the only reasons for which a contract test may be skipped.

The documentation mirrors this list. Every entry is tested the other way round too: what can't be done is an error that says so
(`tests/batch/test_one_process_stores.py`, `tests/storage/test_group_contract.py`).
"""

from __future__ import annotations

import pytest

ONE_PROCESS = "lives in the memory of one process: other processes are refused before anything is written"
SESSION = "a writable Icechunk session does not pickle: the synchronous and the threaded scheduler only, forks come later"
READ_ONLY = "can only be read"
NO_SUCH_BYTES = "an array's own document decides which objects exist, so half-written ones can't be put there by hand"

CANNOT: dict[tuple[str, str], str] = {
    ("memory_store", "other processes"): ONE_PROCESS,
    ("dict", "other processes"): ONE_PROCESS,
    ("memory_url", "other processes"): ONE_PROCESS,
    ("fsspec_memory", "other processes"): ONE_PROCESS,
    ("obstore_memory", "other processes"): ONE_PROCESS,
    ("icechunk", "other processes"): SESSION,
    ("icechunk", "pickling"): SESSION,
}
"""(store, what it would take) to the reason."""


def need(store: str, capability: str) -> None:
    """Skip the test where a store is known not to have a capability."""
    if (store, capability) in CANNOT:
        pytest.skip(CANNOT[store, capability])
