"""What the measurements of ``compare_grid.py`` are held against: the bars, and what is only stated.

A line is a ratio of two sides of one round, or a value of one side. Its bar may differ from store to store; where it has none,
the line is stated without one. A bar is about a number of chunks or points; smaller settings are marked as not what it asks
for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Row = dict[str, Any]

FASTER: Literal["faster"] = "faster"
COST: Literal["cost"] = "cost"
VALUE: Literal["value"] = "value"
EVERYWHERE = ("-", "local", "s3", "s3+20ms")


@dataclass(frozen=True)
class Line:
    """A line of the table. `kind`: other / ours, at least the bar; ours / other, at most the bar; ours, at most the bar."""

    what: str
    row: str
    ours: tuple[str, str]
    """Side and verb."""
    other: tuple[str, str] | None = None
    kind: Literal["faster", "cost", "value"] = FASTER
    bars: Mapping[str, float] = field(default_factory=dict)
    metric: str = "seconds"
    unit: str = ""
    chunks: tuple[int, int] = (0, 10**9)
    """The line is about settings with so many chunks."""
    bar_from: tuple[int, int] = (0, 0)
    """Chunks and points from which the bar counts."""
    only: str = ""
    """A field that must be false for the bar to count."""
    invert: bool = False
    """Of a value: at least the bar."""

    @property
    def unequal(self) -> str:
        return ">=" if self.kind == FASTER or self.invert else "<="


def same(stores: tuple[str, ...], bar: float) -> dict[str, float]:
    return dict.fromkeys(stores, bar)


S3 = ("s3", "s3+20ms")
MILLION, TEN_MILLION = (0, 1_000_000), (0, 10_000_000)
LINES = (
    # many chunks
    Line(
        "write, block = shard: peer's batch / ours",
        "blobs",
        ("ours", "write blobs"),
        ("peer", "write blobs"),
        bars={"local": 8, "s3+20ms": 25},
        bar_from=(10_000, 0),
    ),
    Line(
        "write, block = shard: ours / packed",
        "blobs",
        ("ours", "write blobs"),
        ("packed", "write blobs"),
        COST,
        same(EVERYWHERE, 2),
        bar_from=(10_000, 0),
    ),
    Line(
        "stored objects beyond 30, per block and array",
        "blobs",
        ("ours", "write blobs"),
        kind=VALUE,
        bars=same(EVERYWHERE, 1.1),
        metric="objects_share",
        bar_from=(10_000, 0),
    ),
    Line("write, block = shard: peer's shards / ours", "blobs", ("ours", "write blobs"), ("peer, sharded", "write blobs")),
    Line(
        "write, an object per chunk: peer's batch / ours",
        "blobs",
        ("ours, single", "write blobs"),
        ("peer", "write blobs"),
        bars={"local": 1, "s3+20ms": 3},
        bar_from=(1_000, 0),
    ),
    Line(
        "read all, shards: peer's batch / ours",
        "blobs",
        ("ours", "read blobs"),
        ("peer", "read blobs"),
        bars={"local": 1, "s3+20ms": 20},
        bar_from=(1_000, 0),
    ),
    Line("read all, shards: ours / packed", "blobs", ("ours", "read blobs"), ("packed", "read blobs"), COST),
    Line(
        "read all, an object per chunk: peer's batch / ours",
        "blobs",
        ("ours, single", "read blobs"),
        ("peer", "read blobs"),
        bars={"local": 1},
        bar_from=(1_000, 0),
    ),
    Line(
        "read all that the peer sharded: peer / ours",
        "blobs",
        ("ours on the peer's store", "read blobs"),
        ("peer, sharded", "read blobs"),
        bars=same(EVERYWHERE, 10),
        bar_from=(1_000, 0),
    ),
    # a cluster
    Line(
        "write from a cluster, payload made by tasks: peer's batch / ours",
        "cluster",
        ("ours, cluster", "blobs made by tasks"),
        ("peer", "write blobs"),
        bars={"local": 8},
        bar_from=(10_000, 0),
    ),
    Line(
        "write from a cluster, payload of the client: peer's batch / ours",
        "cluster",
        ("ours, cluster", "blobs of the client"),
        ("peer", "write blobs"),
    ),
    # points
    Line(
        "ingest: peer's add_points / ours",
        "points",
        ("ours", "ingest"),
        ("peer", "ingest"),
        bars={"local": 8},
        chunks=(10_000, 10**9),
        bar_from=MILLION,
    ),
    Line(
        "ingest: peer's add_points / ours",
        "points",
        ("ours", "ingest"),
        ("peer", "ingest"),
        bars={"s3+20ms": 10},
        chunks=(0, 9_999),
        bar_from=MILLION,
    ),
    Line(
        "ingest: peer's add_points, packed / ours",
        "points",
        ("ours", "ingest"),
        ("peer, sharded", "ingest"),
        bars={"s3+20ms": 10},
        chunks=(0, 9_999),
        bar_from=MILLION,
    ),
    Line("ingest: Parquet / ours", "points", ("ours", "ingest"), ("parquet", "ingest")),
    Line(
        "ingest 10k points, one worker thread: peer / ours",
        "small",
        ("ours, one thread", "ingest"),
        ("peer", "ingest"),
        bars={"local": 1},
    ),
    Line(
        "whole level: peer / ours",
        "points",
        ("ours", "whole level"),
        ("peer", "whole level"),
        bars={"local": 3, "s3+20ms": 20},
        chunks=(0, 9_999),
        bar_from=MILLION,
    ),
    Line(
        "whole level: peer / ours",
        "points",
        ("ours", "whole level"),
        ("peer", "whole level"),
        bars={"local": 10, "s3+20ms": 20},
        chunks=(10_000, 10**9),
        bar_from=MILLION,
    ),
    Line(
        "whole level of the peer's store: peer / ours",
        "points",
        ("ours on the peer's store", "whole level"),
        ("peer", "whole level"),
    ),
    Line(
        "the peer reads our default store: that / its own",
        "points",
        ("peer on our store", "whole level"),
        ("peer", "whole level"),
        COST,
        same(EVERYWHERE, 2),
        only="sharded",
    ),
    Line(
        "box of 1 %: peer / ours",
        "points",
        ("ours", "box"),
        ("peer", "box"),
        bars={"local": 3, "s3+20ms": 8},
        bar_from=(10_000, 1_000_000),
    ),
    Line(
        "box of 1 %, shards of 4x4x4: peer / ours",
        "points",
        ("ours, 4x4x4", "box"),
        ("peer", "box"),
        bars={"s3+20ms": 8},
        bar_from=(10_000, 1_000_000),
    ),
    Line(
        "box of 1 %, shards of 4x4x4: requests / allowed",
        "points",
        ("ours, 4x4x4", "box"),
        kind=VALUE,
        bars=same(S3, 1),
        metric="requests_share",
        bar_from=(10_000, 1_000_000),
    ),
    Line(
        "box of 1 %, shards of 4x4x4: bytes read / returned",
        "points",
        ("ours, 4x4x4", "box"),
        kind=VALUE,
        bars=same(S3, 4),
        metric="bytes_per_byte",
        bar_from=(10_000, 0),
    ),
    Line(
        "stored bytes: ours / Parquet with zstd",
        "points",
        ("ours", "ingest"),
        ("parquet", "ingest"),
        COST,
        {"local": 1.5},
        metric="stored_bytes",
    ),
    Line("stored bytes: ours / peer", "points", ("ours", "ingest"), ("peer", "ingest"), COST, metric="stored_bytes"),
    # jobs on two workers; their bars are about 10M points
    Line(
        "ingest by slabs, 2 workers: peer's three phases / ours",
        "jobs, slabs",
        ("ours, cluster", "job"),
        ("peer, job", "job"),
        bars={"local": 1.3},
        bar_from=TEN_MILLION,
    ),
    Line(
        "ingest in random order, 2 workers: peer's add_points / ours",
        "jobs, random",
        ("ours, cluster", "job"),
        ("peer", "ingest"),
        bars={"local": 1.5},
        bar_from=TEN_MILLION,
    ),
    Line(
        "worker time / (wall x workers), slabs",
        "jobs, slabs",
        ("ours, cluster", "job"),
        kind=VALUE,
        bars={"local": 0.8},
        bar_from=TEN_MILLION,
        metric="busy",
        invert=True,
    ),
    # opening
    Line(
        "open and repr",
        "points",
        ("ours", "open"),
        kind=VALUE,
        bars={"local": 0.05, "s3": 0.05},
        unit=" s",
        bar_from=(10_000, 0),
    ),
    Line("open and repr: requests", "points", ("ours", "open"), kind=VALUE, bars=same(S3, 6), metric="requests"),
    Line("open and repr: peer / ours", "points", ("ours", "open"), ("peer", "open")),
    Line("open and repr in xarray", "points", ("ours", "open in xarray"), kind=VALUE, unit=" s"),
    Line("open and repr", "open", ("ours", "open"), kind=VALUE, bars=same(("local", "s3"), 1), unit=" s"),
    Line("open and repr: requests", "open", ("ours", "open"), kind=VALUE, bars=same(S3, 6), metric="requests"),
    Line("open and repr in xarray", "open", ("ours", "open in xarray"), kind=VALUE, unit=" s"),
    # graphs
    *(
        Line(
            f"{verb}: {name}",
            "graphs",
            ("ours", verb),
            kind=VALUE,
            bars={"local": bar},
            metric=metric,
            unit=unit,
            bar_from=(1_000_000, 0),
        )
        for verb in ("graph of random points", "graph of slabs of points", "graph of blobs")
        for name, metric, bar, unit in (
            ("build", "seconds", 10, " s"),
            ("tasks", "tasks", 5000, ""),
            ("pickled", "graph_mb", 10, " MB"),
            ("client memory", "peak_mb", 500, " MB"),
        )
    ),
    # imports
    Line("import beyond dependencies", "import", ("ours, import", "import"), kind=VALUE, bars={"-": 0.3}, unit=" s"),
    Line("the same, all public names used", "import", ("ours, import", "import and use all names"), kind=VALUE, unit=" s"),
)
