"""What readers make of a store: ours, and that of the ZV 0.9 package. Each runs in a process that stays for many stores.

Every look is one word: "nothing" (no rows, and nothing says that there should be any), the name of a content that is known in
full, "error", or "WRONG": another answer than any of these.
"""

from __future__ import annotations

import hashlib
import select
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from line_process import answer_lines


def digest(parts: dict[str, Any]) -> str:
    """Return a digest of named arrays."""
    import numpy as np

    found = hashlib.sha256()
    for name, values in sorted(parts.items()):
        array = np.ascontiguousarray(values)
        found.update(f"{name} {array.dtype.str} {array.shape}".encode())
        found.update(array.tobytes())
    return found.hexdigest()[:16]


def read_ours(target: str, how: str) -> tuple[int, dict[str, Any]]:
    """Return how many rows our reader finds, and all that it returns."""
    import dask

    import dask_zv as dzv

    with dask.config.set(scheduler="sync"):
        if how == "xarray":
            import xarray as xr

            with xr.open_dataset(target, engine="zv") as found:
                parts = {str(n): v.to_numpy() for n, v in found.variables.items() if v.ndim and v.dtype != object}
                return int(found.sizes["vertex"]), parts
        level = dzv.open(target).level(0)
        read = level.read()
        parts = {"positions": read.positions, **{f"attribute {n}": v for n, v in read.attributes.items()}}
        for name in ("object_ids", "edges", "parents", "ids", "lengths", "object_index"):
            values = getattr(read, name, None)
            if values is not None:
                parts[name] = values
        for name, group in (("object", read.object_attributes), ("edge", read.edge_attributes)):
            parts |= {f"{name} {n}": v for n, v in (group or {}).items()}
        for number, members in (read.groups or {}).items():
            parts[f"group {number}"] = members
        return len(read.positions), parts


def look(
    target: str, how: str, known: dict[str, str], read: Callable[[str, str], tuple[int, dict[str, Any]]] = read_ours
) -> tuple[str, str]:
    """Return the outcome of one look at a store, and an error's type and text."""
    try:
        rows, parts = read(target, how)
    except Exception as error:  # noqa: BLE001 - whatever a reader raises is an outcome
        return "error", f"{type(error).__name__}: {error}"
    found = digest(parts)
    for name, wanted in known.items():
        if found == wanted:
            return name, ""
    shapes = ", ".join(f"{name} {getattr(values, 'shape', '')}" for name, values in sorted(parts.items()))
    return ("nothing", "") if rows == 0 else ("WRONG", f"{rows} rows that nobody wrote so: {shapes}")


def serve(read: Callable[[str, str], tuple[int, dict[str, Any]]]) -> None:
    """Answer requests: ``know`` a store's content, ``look`` once, ``poll`` until the next line."""

    def answer(request: dict[str, Any], lines: Any) -> Any:
        do, target, ways = request["do"], request["target"], request["ways"]
        if do == "know":
            try:
                return {how: digest(read(target, how)[1]) for how in ways}
            except Exception as error:  # noqa: BLE001
                return {"failed": f"{type(error).__name__}: {error}"}
        if do == "look":
            return {how: look(target, how, request["known"].get(how, {}), read) for how in ways}
        counts: Counter[str] = Counter()
        texts: dict[str, str] = {}
        while not select.select([lines], [], [], request.get("pause", 0.02))[0]:
            for how in ways:
                outcome, text = look(target, how, request["known"].get(how, {}), read)
                counts[outcome] += 1
                if text:
                    texts.setdefault(f"{outcome} {how}", text[:400])
        lines.readline()
        return {"counts": dict(counts), "texts": texts}

    answer_lines(answer, with_lines=True)


if __name__ == "__main__":
    import dask_zv  # noqa: F401 - the time that this takes is not that of the first look

    serve(read_ours)
