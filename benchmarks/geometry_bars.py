"""What the measurements of ``compare_geometries.py`` are held against; a ``Line`` is explained in ``grid_bars.py``."""

from __future__ import annotations

from collections.abc import Iterator

from geometry_workload import KINDS
from grid_bars import COST, S3, VALUE, Line, same

CHUNKS = (1_000, 0)
"""The bars are about so many chunks."""
WRITE = {"local": 2.0, "s3+20ms": 10.0}
READ = {"local": 3.0, "s3+20ms": 20.0}
ONE = {"local": 1.0, "s3+20ms": 3.0}
MEMORY = {"local": 1.0, "s3+20ms": 1.0}
REQUESTS = 8.0
WAYS = {"ours": "2 threads", "ours, 2 workers": "2 workers"}


def lines() -> Iterator[Line]:
    """Yield the lines of the table, geometry by geometry."""
    for row in KINDS:
        for verb, bars in (("write", WRITE), ("read", READ)):
            what = "write" if verb == "write" else "read all"
            for side, way in WAYS.items():
                name = f"{row}: {what}, {way}: peer / ours"
                yield Line(name, row, (side, verb), ("peer", verb), bars=bars, bar_from=CHUNKS)
            for side, way in WAYS.items():
                name = f"{row}: {what}, {way}: memory of the largest process, ours / peer"
                yield Line(name, row, (side, verb), ("peer", verb), COST, MEMORY, "memory_mb", bar_from=CHUNKS)
        if row == "graph":
            continue
        one = "read one"
        for what, metric in (
            ("open, read one object", "seconds"),
            ("read one object, opened before", "object_seconds"),
            ("read one object after another", "again_seconds"),
        ):
            name = f"{row}: {what}: peer / ours"
            yield Line(name, row, ("ours", one), ("peer", one), bars=ONE, metric=metric, bar_from=CHUNKS)
        for what, metric in (("open, read one object", "requests"), ("read one object, opened before", "requests_object")):
            name = f"{row}: {what}: requests"
            yield Line(name, row, ("ours", one), kind=VALUE, bars=same(S3, REQUESTS), metric=metric, bar_from=CHUNKS)


LINES = tuple(lines())
