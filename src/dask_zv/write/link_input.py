"""Edges and faces as users have them: tables of the vertices that each link joins, which may be called by ids of the user's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from dask.base import is_dask_collection
from dask.task_spec import Task
from numpy.typing import NDArray

from dask_zv.errors import InputError
from dask_zv.format.links import MAX_WIDTH
from dask_zv.geometry.rows import LinkRows
from dask_zv.geometry.schema import AttributeSchema, check_attribute_name
from dask_zv.graph.builder import GraphBuilder
from dask_zv.graph.keeping import look_once
from dask_zv.storage.codecs import columns_crc32c
from dask_zv.write.containers import (
    KINDS,
    as_array,
    as_integers,
    as_table,
    attrs_of,
    frame_arrays,
    is_frame,
    numeric_dtype,
    stacked,
)
from dask_zv.write.convert import Seen, check_same, owned
from dask_zv.write.inputs import chosen_columns, take_integers
from dask_zv.write.partitions import AttributeInput, Partitions, RawPart, Subject, cut_arrays, cut_frame, cut_in_memory
from dask_zv.write.scan import compact_spans, fits

EDGE_COLUMNS = ("source", "target")
Renumber = Callable[[NDArray[Any]], NDArray[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class LinkScan:
    """What was found in one partition of links."""

    rows: int
    spans: NDArray[np.int64]  # (s, 2): ranges (both ends included) of the vertices that it names
    digest: int = 0  # CRC-32C of all that it holds


def link_subject(what: str) -> Subject:
    """Return the words of errors about a table of ``"edge"`` or ``"face"``."""
    lengths = f"{{:,}} rows for {{:,}} {what}s"
    return Subject(f"{what}s", f"{what}s, part {{}}", f"{what} attribute {{!r}}", "attribute {!r}", lengths, integral=True)


def partition_links(links: Any, attributes: Any, what: str, renumber: Renumber | None) -> Partitions:
    """Return the partitions of a table of ``"edge"`` or ``"face"``, as :func:`~dask_zv.write_graph` takes them.

    `renumber` brings the ids of vertices to their numbers, of tables in memory.
    """
    subject = link_subject(what)
    links, attributes = as_table(links), as_table(attributes)
    if is_frame(links):
        ends = _end_columns(links, what)
        if not (is_frame(attributes) or isinstance(attributes, Mapping)):
            names = chosen_columns(links, attributes, ends)
            if is_dask_collection(links):
                return _from_frame(subject, links, ends, names, what)
            attributes = {n: links[n] for n in names}
        links = _ends_of(links, ends, what)
    if is_frame(attributes):
        attributes = frame_arrays(attributes, {c: c for c in attributes.columns})
    if attributes is not None and not isinstance(attributes, Mapping):
        raise InputError(f"{what}_attributes are a mapping of name to array where {what}s are an array")
    named = {check_attribute_name(k, ()): v for k, v in (attributes or {}).items()}
    table = as_array(f"{what}s", links)
    columns = {k: as_array(f"{what} attribute {k!r}", v) for k, v in named.items()}
    lazy = [k for k, v in columns.items() if is_dask_collection(v)]
    if not is_dask_collection(table) and lazy:
        raise InputError(f"{what} attribute {lazy[0]!r} is lazy and {what}s are not: compute it first")
    if table.ndim == 1 and table.size == 0:
        table = np.zeros((0, 2 if what == "edge" else 3), np.int64)
    _check_table(table, what)
    specs = [_describe(k, v, what, attrs_of(f"{what} attribute {k!r}", named[k])) for k, v in columns.items()]
    if is_dask_collection(table):
        return cut_arrays(subject, table, columns, specs)
    table = as_integers(f"{what}s", table)
    return cut_in_memory(subject, table if renumber is None else renumber(table), columns, specs, {})


def _check_table(table: Any, what: str) -> None:
    wanted = "2" if what == "edge" else "k"
    if table.ndim != 2 or (what == "edge" and table.shape[1] != 2):
        raise InputError(f"{what}s must have the shape ({what[0].upper()}, {wanted}), not {table.shape}")
    if what == "face" and not 3 <= table.shape[1] <= MAX_WIDTH:
        raise InputError(f"faces have 3 to {MAX_WIDTH} vertices each, not {table.shape[1]}")
    if table.dtype.kind not in "iu" and table.size:
        raise InputError(f"{what}s are integers, numbers of vertices, not {table.dtype}")


def _describe(name: str, values: Any, what: str, attrs: Mapping[str, Any]) -> AttributeInput:
    if values.dtype.kind not in KINDS or values.ndim not in (1, 2) or (values.ndim == 2 and not values.shape[1] >= 1):
        raise InputError(
            f"{what} attribute {name!r} ({values.dtype} {values.shape}): numbers, booleans or dates, one or C for each {what}; "
            "number strings with numpy.unique(..., return_inverse=True)"
        )
    if values.dtype.kind in "mM" and np.datetime_data(values.dtype)[0] == "generic":
        raise InputError(f"{what} attribute {name!r} has the dtype {values.dtype} without a unit")
    return AttributeInput(name, values.dtype, int(values.shape[1]) if values.ndim == 2 else None, None, attrs)


def _end_columns(frame: Any, what: str) -> tuple[str, ...]:
    """Return the columns of a frame that name vertices: ``source`` and ``target``, or ``v0``, ``v1``, ``v2``, …."""
    columns = [c for c in frame.columns if isinstance(c, str)]
    ends = EDGE_COLUMNS if what == "edge" else tuple(f"v{i}" for i in range(MAX_WIDTH) if f"v{i}" in columns)
    missing = [c for c in ends if c not in columns]
    if missing or len(ends) < 2 or ends != (EDGE_COLUMNS if what == "edge" else tuple(f"v{i}" for i in range(len(ends)))):
        wanted = "source and target" if what == "edge" else "v0, v1, v2, …"
        raise InputError(f"a DataFrame of {what}s has the columns {wanted}; these are {', '.join(columns)}")
    return ends


def _ends_of(frame: Any, ends: Sequence[str], what: str) -> Any:
    """Return the table of links in a frame; columns of several integer dtypes are never brought together as floats."""
    columns = frame_arrays(frame, {c: c for c in ends})
    if not is_dask_collection(frame):
        columns = {c: as_integers(f"{what}s, column {c!r}", as_array(f"{what}s, column {c!r}", v)) for c, v in columns.items()}
    return stacked(columns)


def _from_frame(subject: Subject, frame: Any, ends: Sequence[str], names: Sequence[str], what: str) -> Partitions:
    """Return the partitions of a dask DataFrame."""
    for name in names:
        check_attribute_name(name, ())
    for column in ends:
        if numeric_dtype(frame.dtypes[column]).kind not in "iu":
            raise InputError(f"{what}s are integers, numbers of vertices, not {frame.dtypes[column]} (column {column!r})")
    _check_table(np.zeros((0, len(ends)), np.int64), what)
    specs = [_describe(n, np.zeros(0, numeric_dtype(frame.dtypes[n])), what, {}) for n in names]
    return cut_frame(subject, frame, np.dtype(np.int64), ends, specs, {})


# ---------------------------------------------------------------------------------------------- scan and second reading


def scan_links(links: Partitions, what: str, vertices: int | None) -> tuple[tuple[LinkScan, ...], Partitions]:
    """Look at all partitions on the active scheduler; return what was found in each, and the input, which may be kept.

    `vertices` is how many there are, where links name them by number.
    """
    schemas = tuple(a.schema() for a in links.attributes)
    look = partial(_scan_part, what, links.width, schemas, vertices)
    found, arguments, _ = look_once(links.arguments, look, _all_of, links.nbytes)
    return tuple(found), replace(links, arguments=arguments)


def _all_of(scans: Sequence[list[LinkScan]]) -> list[LinkScan]:
    return [scan for some in scans for scan in some]


def _scan_part(
    what: str, width: int, schemas: Sequence[AttributeSchema], vertices: int | None, number: int, part: RawPart
) -> list[LinkScan]:
    table = part.table
    where = f"{what}s, part {number}: "
    if table.ndim != 2 or table.shape[1] != width or table.dtype.kind not in "iu":
        raise InputError(f"{where}{table.dtype} {table.shape}, declared as integers (m, {width})")
    if table.size:
        low, high = int(table.min()), int(table.max())
        last = 2**63 - 1 if vertices is None else vertices - 1
        if low < 0 or high > last:
            row = int(np.flatnonzero(((table < 0) | (table > last)).any(axis=1))[0])
            known = "ids of vertices are not negative" if vertices is None else f"there are {vertices:,} vertices, 0 to {last}"
            raise InputError(f"{where}{what} {row} is {table[row].tolist()}: {known}")
    for schema in schemas:
        values = part.attributes[schema.name]
        shape = (len(table),) if schema.channels is None else (len(table), schema.channels)
        if values.shape != shape or not fits(values, schema.dtype):
            raise InputError(
                f"{where}attribute {schema.name!r} is {values.dtype} {values.shape}, declared as {schema.dtype} {shape}, which "
                "does not hold it: give the lazy array the dtype that it has, with astype or meta="
            )
    return [LinkScan(len(table), compact_spans(_distinct(table)), _digest(part))]


def _digest(part: RawPart) -> int:
    return columns_crc32c([("", part.table), *sorted(part.attributes.items())])


def _distinct(table: NDArray[Any]) -> NDArray[np.int64]:
    """Return the distinct numbers in a table, ascending."""
    if not table.size:
        return np.zeros(0, np.int64)
    low, high = int(table.min()), int(table.max())
    if high - low > 8 * table.size:
        return np.unique(table).astype(np.int64)
    seen = np.zeros(high - low + 1, bool)  # several times faster than a sort, where numbers are dense
    seen[(table - low).reshape(-1)] = True
    return np.flatnonzero(seen) + low


def link_parts(links: Partitions, scans: Sequence[LinkScan], builder: GraphBuilder) -> list[Any]:
    """Return a task argument per partition that evaluates to :class:`LinkRows`."""
    starts = np.cumsum([0, *(s.rows for s in scans)]).tolist()
    schemas = tuple(a.schema() for a in links.attributes)
    parts = zip(starts[:-1], scans, links.arguments(builder), strict=True)
    return [
        Task(None, _convert, schemas, f"partition {i} of the {links.subject.table}", start, Seen(s.rows, s.digest), argument)
        for i, (start, s, argument) in enumerate(parts)
    ]


def _convert(schemas: Sequence[AttributeSchema], where: str, start: int, before: Seen, part: RawPart) -> LinkRows:
    """Return the links of a part, once they are found to be those that the scan saw."""
    part = owned(part)
    check_same(where, before, Seen(len(part.table), _digest(part)))
    values = {s.name: s.encode(part.attributes[s.name]) for s in schemas}
    return LinkRows(part.table.astype(np.int64, copy=False), np.arange(start, start + len(part.table)), values)


# ---------------------------------------------------------------------------------------------- ids of vertices


def take_ids(table: Any, vertex_ids: Any) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return the ids of a table of vertices in memory, and the column that they are, if they are one."""
    ids, consumed = take_integers(table, vertex_ids, "vertex_ids")
    if len(ids) and int(ids.min()) < 0:
        raise InputError(f"vertex_ids are not negative, found {ids.min()} to {ids.max()}")
    return ids, consumed


def numbers_of(
    ids: NDArray[np.int64], what: str, wanted: NDArray[Any], *, negative: bool, objects: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Return the place of each wanted id among `ids`.

    With `negative` negative ids are none, and stay. With the object of each vertex, `objects` (N,), a row of `wanted` is one of
    `ids` and means a vertex of the same object: then ids may be distinct in each object only.
    """
    wanted = as_integers(what, wanted)
    called, known, signed = ids, ids, wanted
    if objects is not None and len(distinct := np.unique(ids)) < len(ids):
        owner = np.unique(objects, return_inverse=True)[1].reshape(-1) * len(distinct)
        at = np.minimum(np.searchsorted(distinct, wanted), len(distinct) - 1)
        known = owner + np.searchsorted(distinct, ids)
        signed = np.where(distinct[at] == wanted, owner + at, np.where(wanted < 0, wanted, owner.max() + len(distinct)))
    order = np.argsort(known, kind="stable")
    known = known[order]
    twice = np.flatnonzero(known[1:] == known[:-1])
    if len(twice):
        row = order[twice[0]]
        where = "" if objects is None else f" in object {objects[row]}"
        raise InputError(f"vertex_ids must be distinct: {called[row]} is given twice{where}")
    at = np.minimum(np.searchsorted(known, signed), max(len(known) - 1, 0))
    none = signed < 0 if negative else np.zeros(wanted.shape, bool)
    unknown = ~none & (known[at] != signed) if len(known) else ~none
    if unknown.any():
        raise InputError(f"{what}: there is no vertex {wanted[unknown].reshape(-1)[0]}, it is not among vertex_ids")
    return np.where(none, wanted, order[at] if len(known) else -1)
