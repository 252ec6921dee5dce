"""Values that a user gives a level's vertices, and the rows of them that each block takes.

They come as one array in the order of the rows, or as a table: a value for each chunk, or for each object, as ``map_chunks``
and ``map_objects`` give them. What is lazy stays on the workers; where nothing tells lengths or dtype, it is looked at once.
One module because every form that values may have ends in the same pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
from dask.base import is_dask_collection
from dask.task_spec import List, Task
from numpy.typing import NDArray

from dask_zv.errors import InputError
from dask_zv.format.dictionary import DictionaryEncoding
from dask_zv.geometry.assembly import take_ranges
from dask_zv.geometry.schema import AttributeSchema
from dask_zv.graph.builder import GraphBuilder, block_delayeds, is_lazy
from dask_zv.graph.keeping import look_once
from dask_zv.graph.run import hold_if_large, hold_on_workers
from dask_zv.level.contents import LevelContents
from dask_zv.read.columns import OBJECT_ID, LevelRows
from dask_zv.spatial.chunks import ChunkLookup
from dask_zv.write.containers import KINDS, as_array, attrs_of, in_memory
from dask_zv.write.inputs import describe
from dask_zv.write.partitions import AttributeInput
from dask_zv.write.scan import fits

_STEP = 1 << 20
_OBJECTS_VIEW = "row number in this view"
"""What the coordinate ``vertex`` of the objects view says of itself: its rows are in another order."""


@dataclass(frozen=True, slots=True, eq=False)
class ValuePart:
    """Some of the values, (n,) or (n, C), and what they are of: chunks (n, K), objects (n,), or rows (none, of dtype bool)."""

    values: NDArray[Any]
    labels: NDArray[Any]


_ROWS: NDArray[Any] = np.zeros(0, bool)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is known of some parts: the length of each by number, and of all what the attribute is."""

    lengths: dict[int, int]
    of: str  # "rows", "chunks", "objects"
    dtype: np.dtype[Any]
    channels: int | None
    names: frozenset[str]
    missing: bool


@dataclass(frozen=True, slots=True, eq=False)
class Values:
    """Values of an attribute, as they are stored, and how blocks get at theirs."""

    schema: AttributeSchema
    attrs: dict[str, Any]
    of: str
    arguments: Callable[[GraphBuilder], list[Any]]
    starts: NDArray[np.int64]  # first row of each part, and the number of all rows; of tables, of labels

    def add_pieces(
        self, builder: GraphBuilder, rows: LevelRows, blocks: Sequence[NDArray[np.int64]]
    ) -> list[tuple[Callable[..., NDArray[Any]], Any]]:
        """Return for each block of chunks (numbers, ascending) a function of its `LevelRows`, chunks and a task argument."""
        parts = self.arguments(builder)
        if self.of != "rows":
            table = builder.add(builder.key("values"), _join_parts, List(*parts))
            take = _of_chunks if self.of == "chunks" else _of_objects
            return [(partial(take, self.schema), table) for _ in blocks]
        refs = [builder.add(builder.key("values", i), _itself, part) for i, part in enumerate(parts)]
        out: list[tuple[Callable[..., NDArray[Any]], Any]] = []
        for chunks in blocks:
            pieces = []
            for low, high in _row_runs(rows, chunks):
                first = int(np.searchsorted(self.starts, low, side="right")) - 1
                for number in range(first, len(self.starts) - 1):
                    begin, end = int(self.starts[number]), int(self.starts[number + 1])
                    if begin >= high:
                        break
                    if end > low:
                        span = slice(max(low - begin, 0), min(high, end) - begin)
                        pieces.append(Task(None, _piece, refs[number], end - begin, span))
            out.append((partial(_of_rows, self.schema), List(*pieces)))
        return out


def _itself(part: Any) -> Any:
    return part


def _row_runs(rows: LevelRows, chunks: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return the runs of rows of some chunks (ascending)."""
    lows, highs = rows.offsets[chunks], rows.offsets[chunks + 1]
    first = np.flatnonzero(np.r_[True, lows[1:] != highs[:-1]])
    last = np.r_[first[1:] - 1, len(chunks) - 1]
    return list(zip(lows[first].tolist(), highs[last].tolist(), strict=True))


def _piece(part: ValuePart, expected: int, span: slice) -> NDArray[Any]:
    if len(part.values) != expected:
        raise InputError(
            f"a part of the values has {len(part.values):,} rows, {expected:,} were declared: the values change between "
            "readings; persist() them, or correct the chunks of the array"
        )
    return part.values[span]


def _join_parts(parts: Sequence[ValuePart]) -> ValuePart:
    return ValuePart(np.concatenate([p.values for p in parts]), np.concatenate([p.labels for p in parts]))


def _stored(schema: AttributeSchema, values: NDArray[Any]) -> NDArray[Any]:
    """Return values as they are stored."""
    width = None if values.ndim == 1 else values.shape[1]
    if schema.dictionary is None and (width != schema.channels or not fits(values, schema.dtype)):
        raise InputError(
            f"attribute {schema.name!r} is {values.dtype} {values.shape} in a part, declared as {schema.dtype} with "
            f"{schema.channels or 'no'} channels: give the lazy array the dtype that it has, with astype or meta="
        )
    try:
        return schema.encode(values)
    except InputError as error:
        raise InputError(f"attribute {schema.name!r}: {error.message}") from None


def _of_rows(
    schema: AttributeSchema, rows: LevelRows, chunks: NDArray[np.int64], pieces: Sequence[NDArray[Any]]
) -> NDArray[Any]:
    """Return the stored values of the rows of some chunks, which are the pieces one behind the other."""
    return _stored(schema, np.concatenate(pieces))


def _of_chunks(schema: AttributeSchema, rows: LevelRows, chunks: NDArray[np.int64], table: ValuePart) -> NDArray[Any]:
    """Return the stored values of the rows of some chunks, each that of its chunk."""
    order = np.lexsort(table.labels.T[::-1])
    known = ChunkLookup(np.ascontiguousarray(table.labels[order]))
    at = known.find(rows.table.coords[chunks])
    lost = np.flatnonzero(at < 0)
    what = "" if not len(lost) else f"chunk {'.'.join(map(str, rows.table.coords[chunks[lost[0]]].tolist()))}"
    each = _stored(schema, _taken(schema, table.values[order], at, what))
    return np.repeat(each, rows.counts[chunks], axis=0)


def _of_objects(schema: AttributeSchema, rows: LevelRows, chunks: NDArray[np.int64], table: ValuePart) -> NDArray[Any]:
    """Return the stored values of the rows of some chunks, each that of its object."""
    owners = rows.picked(OBJECT_ID, take_ranges(rows.offsets[chunks], rows.counts[chunks]))
    order = np.argsort(table.labels, kind="stable")
    ids = table.labels[order]
    at = np.minimum(np.searchsorted(ids, owners), max(len(ids) - 1, 0))
    at = np.where(ids[at] == owners, at, -1) if len(ids) else np.full(len(owners), -1)
    lost = np.flatnonzero(at < 0)
    what = "" if not len(lost) else f"object {owners[lost[0]]}" if owners[lost[0]] >= 0 else "a vertex of no object"
    return _stored(schema, _taken(schema, table.values[order], at, what))


def _taken(schema: AttributeSchema, values: NDArray[Any], at: NDArray[np.int64], lost: str) -> NDArray[Any]:
    """Return values by place; for -1 what the dtype has for a missing value."""
    if not lost:
        return values[at]
    out = np.empty((len(at), *values.shape[1:]), values.dtype if schema.dictionary is None else object)
    there = at >= 0
    out[there] = values[at[there]]
    if schema.dictionary is not None:
        out[~there] = None
    elif values.dtype.kind in "fc":
        out[~there] = np.nan
    elif values.dtype.kind in "mM":
        out[~there] = np.array("NaT", values.dtype)
    else:
        raise InputError(
            f"attribute {schema.name!r} has no value for {lost}, and {values.dtype} has none that means 'missing': give floats "
            "or a value for each"
        )
    return out


# ---------------------------------------------------------------------------------------------- what is given


def find_values(level: LevelContents, rows: LevelRows, name: str, values: Any, max_categories: int) -> Values:
    """Return what a user gives for all vertices of a level: checked, as far as it can be without its content."""
    what = f"attribute {name!r}"
    lazy = isinstance(values, list | tuple) and any(is_lazy(v) for v in values)
    if lazy or is_lazy(values):
        parts = list(values) if lazy else [values]
        return _looked_at(level, rows, AttributeInput(name, np.dtype(object)), _delayed_parts(name, parts), {}, max_categories)
    attrs = attrs_of(what, values)
    for word in ("zv_url", "zv_level"):
        attrs.pop(word, None)
    table = _table_of(values)
    if table is None:
        _check_order(name, values, len(rows))
    array = as_array(what, values)
    spec = describe(name, array, values)
    if table is not None:
        arguments = partial(_table_parts, name, table, array)
        return _looked_at(level, rows, spec, arguments, attrs, max_categories)
    if not is_dask_collection(array):
        return _of_memory(rows, spec, array, attrs, max_categories)
    if array.ndim == 2 and len(array.chunks[1]) > 1:
        array = array.rechunk({1: -1})
    lengths = np.array(array.chunks[0], float)
    arguments = partial(_array_parts, name, array)
    if np.isnan(lengths).any() or spec.is_dictionary:
        return _looked_at(level, rows, spec, arguments, attrs, max_categories)
    _check_length(name, int(lengths.sum()), len(rows))
    return Values(spec.schema(), attrs, "rows", arguments, np.cumsum([0, *lengths]).astype(np.int64))


def _check_length(name: str, found: int, wanted: int) -> None:
    if found != wanted:
        raise InputError(f"attribute {name!r} has {found:,} rows, the level has {wanted:,} vertices: give a value for each")


def _check_order(name: str, values: Any, n: int) -> None:
    """Refuse a variable of a Dataset whose rows are not those of the level, in its order."""
    own = getattr(values, "coords", {}).get("vertex") if hasattr(values, "dims") else None
    if own is None:
        return
    advice = "give it for all vertices, in the order of a Dataset opened with view='spatial'"
    if own.attrs.get("long_name") == _OBJECTS_VIEW:
        raise InputError(f"attribute {name!r} is in the order of the objects, the vertices are stored by chunk: {advice}")
    if values.dims[:1] != ("vertex",):
        raise InputError(f"attribute {name!r} lies along {values.dims}, 'vertex' is wanted first: transpose it")
    _check_length(name, own.sizes["vertex"], n)
    for start in range(0, n, _STEP):
        stop = min(start + _STEP, n)
        if not np.array_equal(own.variable[start:stop].to_numpy(), np.arange(start, stop)):
            raise InputError(f"attribute {name!r} is not in the order of the level's vertices: {advice}")


def _table_of(values: Any) -> Any | None:
    """Return the labels of a variable that has a value to a chunk, (n, K), or to an object, (n,); None for any other."""
    dims = getattr(values, "dims", ())
    coords = getattr(values, "coords", None)
    if coords is None or not dims:
        return None
    if dims[0] == "object" and "object" in coords:
        return np.asarray(coords["object"].to_numpy(), np.int64)
    axes = [str(c) for c in coords if str(c).startswith("chunk_") and coords[c].dims == ("chunk",)]
    if dims[0] == "chunk" and axes:
        return np.stack([np.asarray(coords[a].to_numpy(), np.int64) for a in axes], axis=1)
    return None


def _of_memory(rows: LevelRows, spec: AttributeInput, array: NDArray[Any], attrs: dict[str, Any], limit: int) -> Values:
    _check_length(spec.name, len(array), len(rows))
    seen = _look(spec, limit, 0, ValuePart(array, _ROWS))
    schema = _schema(spec, seen, limit)
    step = max(_STEP, 1)
    parts = [ValuePart(array[i : i + step], _ROWS) for i in range(0, len(array), step)]
    held = hold_on_workers(parts)

    def arguments(builder: GraphBuilder) -> list[Any]:
        return [builder.payload(h) for h in held]

    starts = np.cumsum([0, *(len(p.values) for p in parts)]).astype(np.int64)
    return Values(schema, attrs, "rows", arguments, starts)


def _array_parts(name: str, array: Any, builder: GraphBuilder) -> list[Any]:
    return [Task(None, _part_of, name, builder.absorb(d, inline=True)) for d in block_delayeds(array)]


def _table_parts(name: str, labels: NDArray[np.int64], array: Any, builder: GraphBuilder) -> list[Any]:
    held = hold_if_large(labels, labels.nbytes)
    blocks = List(*(builder.absorb(d, inline=True) for d in block_delayeds(array))) if is_dask_collection(array) else [array]
    return [Task(None, _labelled, name, held, blocks)]


def _delayed_parts(name: str, parts: Sequence[Any]) -> Callable[[GraphBuilder], list[Any]]:
    def arguments(builder: GraphBuilder) -> list[Any]:
        return [Task(None, _part_of, name, builder.payload(p)) for p in parts]

    return arguments


def _labelled(name: str, labels: NDArray[np.int64], blocks: Sequence[Any]) -> ValuePart:
    return ValuePart(np.concatenate([in_memory(f"attribute {name!r}", b) for b in blocks]), labels)


def _part_of(name: str, values: Any) -> ValuePart:
    """Return a block of a lazy array, or what a Delayed came to: an array, or the result of a map."""
    if hasattr(values, "data_vars"):
        named = list(values.data_vars)
        if name not in named:
            raise InputError(f"attribute {name!r}: the function returned {named}, so it is unknown which is meant: name it so")
        values = values[name]
    labels = _table_of(values)
    return ValuePart(in_memory(f"attribute {name!r}", values), _ROWS if labels is None else labels)


def _look(spec: AttributeInput, limit: int, number: int, part: ValuePart) -> _Seen:
    """Return what is known of a part."""
    of = "rows" if part.labels.dtype == bool else "chunks" if part.labels.ndim == 2 else "objects"
    values = part.values
    own = describe(spec.name, values, values)
    names: frozenset[str] = frozenset()
    missing = False
    if own.is_dictionary and len(values):
        encoding = DictionaryEncoding.from_values(values)
        names, missing = frozenset(map(str, encoding.categories)), encoding.fill_value is not None
        _check_categories(spec, names, limit)
    return _Seen({number: len(values)}, of, own.dtype, own.channels, names, missing)


def _merge(seen: Sequence[_Seen]) -> _Seen:
    some = [s for s in seen if any(s.lengths.values())] or list(seen[:1])

    def what(seen: _Seen) -> tuple[Any, ...]:
        return seen.of, seen.channels, seen.dtype.kind == "O"

    odd = next((s for s in some if what(s) != what(some[0])), None)
    if odd is not None:
        raise InputError(
            f"one part of the values is {some[0].dtype} for {some[0].of} with {some[0].channels or 'no'} channels, another is "
            f"{odd.dtype} for {odd.of} with {odd.channels or 'no'} channels: all must be alike"
        )
    dtype = some[0].dtype if some[0].dtype.kind == "O" else np.result_type(*(s.dtype for s in some))
    return replace(
        some[0],
        lengths={n: length for s in seen for n, length in s.lengths.items()},
        dtype=dtype,
        names=frozenset(chain.from_iterable(s.names for s in seen)),
        missing=any(s.missing for s in seen),
    )


def _check_categories(spec: AttributeInput, names: frozenset[str], limit: int) -> None:
    if len(names) > limit:
        raise InputError(
            f"attribute {spec.name!r} has more than {limit:,} distinct strings, which are too many categories: store a number "
            "per string instead, or raise max_categories= (65,535 at the most)"
        )
    if spec.categories is not None and not names <= set(spec.categories):
        unknown = sorted(names - set(spec.categories))[0]
        raise InputError(f"attribute {spec.name!r} has the value {unknown!r}, which is not among its declared categories")


def _schema(spec: AttributeInput, seen: _Seen, limit: int, missing: bool = False) -> AttributeSchema:
    _check_categories(spec, seen.names, limit)
    dtype = seen.dtype if spec.is_dictionary or spec.dtype.kind not in KINDS else spec.dtype
    return replace(spec, dtype=dtype, channels=seen.channels).schema(seen.names, seen.missing or missing)


def _looked_at(
    level: LevelContents,
    rows: LevelRows,
    spec: AttributeInput,
    arguments: Callable[[GraphBuilder], list[Any]],
    attrs: dict[str, Any],
    limit: int,
) -> Values:
    """Return values whose dtype, lengths or categories are known after a look at them, on the active scheduler."""
    seen, arguments, _ = look_once(arguments, partial(_look, spec, limit), _merge)
    lengths = [seen.lengths[n] for n in sorted(seen.lengths)]
    if seen.of == "rows":
        _check_length(spec.name, sum(lengths), len(rows))
    elif seen.of == "objects" and not level.source.schema.has_objects:
        raise InputError(f"attribute {spec.name!r} has a value to an object, and {level.url} has no objects")
    # objects, or chunks, that the table does not name have a value that is missing
    partly = seen.of == "objects" or (seen.of == "chunks" and sum(lengths) < len(rows.counts))
    schema = _schema(spec, seen, limit, missing=partly)
    return Values(schema, attrs, seen.of, arguments, np.cumsum([0, *lengths]).astype(np.int64))
