"""What an append stores of each attribute: as the level does, with categories that grow, and values for rows without one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import InputError
from dask_zv.format.dictionary import MAX_CATEGORIES, DictionaryEncoding
from dask_zv.geometry.schema import AttributeSchema
from dask_zv.level.contents import LevelContents
from dask_zv.level.source import level_blobs
from dask_zv.write.partitions import AttributeInput, Partitions

Fill = bool | Mapping[str, Any]
"""``fill_missing``: whether rows get "missing" of attributes that were not given, or what they get, by name."""


@dataclass(frozen=True, slots=True, eq=False)
class GrownColumn:
    """An attribute of the level that comes of an append."""

    schema: AttributeSchema
    before: np.dtype[Any] | None  # as the level stores it; None where it has none
    given: bool  # the new rows have values
    fill: NDArray[Any] | None = None  # () or (C,): what rows without one get, as it is stored

    @property
    def rewritten(self) -> bool:
        """True where every chunk of the level gets other bytes than it has."""
        return self.before is None or self.before.itemsize != self.schema.dtype.itemsize

    def stored(self, before: bytes) -> bytes:
        """Return values of a chunk as they are stored from now on."""
        assert self.before is not None
        return np.frombuffer(before, self.before).astype(self.schema.dtype).tobytes() if self.rewritten else before

    def filled(self, rows: int) -> NDArray[Any]:
        """Return the values of rows that have none."""
        assert self.fill is not None
        return np.ascontiguousarray(np.broadcast_to(self.fill, (rows, *self.fill.shape)))


def as_stored(level: LevelContents, partitions: Partitions) -> Partitions:
    """Return an input whose attributes are declared as the level stores those that it has: what does not fit is refused."""
    known = _held(level)
    return dataclasses.replace(
        partitions, attributes=tuple(_declared(a, known[a.name]) if a.name in known else a for a in partitions.attributes)
    )


def _held(level: LevelContents) -> dict[str, AttributeSchema]:
    """Return the attributes of a level; the sizes of blobs tell the width of those whose metadata need not."""
    catalog = level_blobs(level.source).catalog if level.source.catalogued else None
    out = {}
    for schema in level.source.schema.attributes:
        if schema.any_width and schema.channels is None and catalog is not None and schema.array in catalog.arrays:
            some = np.flatnonzero((catalog.rows > 0) & catalog.chunks_of(schema.array))[:1]
            nbytes = int(catalog.arrays[schema.array].nbytes[some].sum())
            width = nbytes // max(int(catalog.rows[some].sum()) * schema.dtype.itemsize, 1)
            schema = dataclasses.replace(schema, channels=width if width > 1 else None)
        out[schema.name] = schema
    return out


def _declared(given: AttributeInput, stored: AttributeSchema) -> AttributeInput:
    what = f"attribute {given.name!r}"
    if given.is_dictionary != (stored.dictionary is not None):
        kinds = ("numbers", "strings") if given.is_dictionary else ("strings", "numbers")
        raise InputError(
            f"{what} has {kinds[0]} in the store, and {kinds[1]} in the rows to append: rename it, or convert them"
        )
    if stored.dictionary is not None:
        return given
    if given.channels != stored.channels:
        raise InputError(
            f"{what} has {stored.channels or 'no'} channels in the store, the rows have {given.channels or 'none'}"
        )
    if given.dtype != stored.dtype and not np.can_cast(given.dtype, stored.dtype, "same_kind"):
        if not (given.dtype.kind in "iu" and stored.dtype.kind in "iuf"):
            raise InputError(f"{what} is {given.dtype}, the store has {stored.dtype}: convert it first")
        info, ends = np.iinfo(given.dtype), _range(stored.dtype)
        if info.min < ends[0] or info.max > ends[1]:
            raise InputError(f"{what} is {given.dtype}, the store has {stored.dtype}: convert it first, as by .astype()")
    return dataclasses.replace(given, dtype=stored.dtype)


def _range(dtype: np.dtype[Any]) -> tuple[float, float]:
    if dtype.kind == "f":
        exact = 2.0 ** np.finfo(dtype).nmant
        return -exact, exact
    info = np.iinfo(dtype)
    return info.min, info.max


def grown_columns(
    level: LevelContents,
    partitions: Partitions,
    found: Mapping[str, tuple[frozenset[str], bool]],
    fill: Fill,
    max_categories: int,
) -> tuple[GrownColumn, ...]:
    """Return the attributes of the level after an append: its own in their order, then those that are new.

    `found` are the categories in the rows to append, by attribute, and whether some values are missing.
    """
    given = {a.name: a for a in partitions.attributes}
    known = _held(level)
    wanted = fill if isinstance(fill, Mapping) else {}
    odd = sorted(set(wanted) - set(given) - set(known))
    if odd:
        raise InputError(f"fill_missing names {odd[0]!r}, which neither the store has as an attribute nor the rows")
    absent = [n for n in known if n not in given]
    refused = [n for n in absent if n not in wanted and fill is not True]
    if refused:
        raise InputError(
            f"the store has the attribute {refused[0]!r}, the rows to append have not: pass it, or fill_missing=True to store "
            f"them without a value, or fill_missing={{{refused[0]!r}: value}}"
        )
    out = []
    for name in [*known, *(n for n in given if n not in known)]:
        every = name in known and name in given
        strings, missing = found.get(name, (frozenset(), False))
        if name in known and known[name].dictionary is None:
            schema = known[name]
        elif name not in known and not given[name].is_dictionary:
            schema = given[name].schema()
        else:
            value = wanted.get(name)
            if not every and value is not None:
                strings = strings | {str(value)}
            missing = missing or (not every and value is None)
            schema = _grown(name, known.get(name), given.get(name), strings, missing=missing, limit=max_categories)
        value = None if every else _fill(schema, wanted.get(name), absent=name in known)
        out.append(GrownColumn(schema, known[name].dtype if name in known else None, name in given, value))
    return tuple(out)


def _grown(
    name: str,
    before: AttributeSchema | None,
    given: AttributeInput | None,
    found: frozenset[str],
    *,
    missing: bool,
    limit: int,
) -> AttributeSchema:
    """Return the schema of strings with more categories: those that are there keep their codes."""
    if before is None:
        assert given is not None
        return given.schema(found, missing)
    old = before.dictionary
    assert old is not None
    new = tuple(sorted(found - {str(c) for c in old.categories}))
    if new and not all(isinstance(c, str) for c in old.categories):
        raise InputError(
            f"attribute {name!r} has categories that are no strings, which can't grow; dzv.convert the store first"
        )
    if new and old.ordered:
        raise InputError(
            f"attribute {name!r} has ordered categories, and {new[0]!r} is none of them: categories with an order can't grow, "
            "write the level again with all of them declared"
        )
    if len(old.categories) + len(new) > min(limit, MAX_CATEGORIES):
        raise InputError(
            f"attribute {name!r} would have {len(old.categories) + len(new):,} categories: raise max_categories= (65,535 at "
            "the most), or store a number per string instead"
        )
    fill = -1 if missing and old.fill_value is None else old.fill_value
    if fill is not None and 0 <= fill < len(old.categories) + len(new):
        raise InputError(
            f"attribute {name!r} stores {fill} for missing values, where another category would go: convert it first"
        )
    grown = DictionaryEncoding((*old.categories, *new), old.ordered, fill)
    dtype: np.dtype[Any] = before.dtype
    if grown.dtype.itemsize > dtype.itemsize:
        dtype = grown.dtype
    elif fill is not None and dtype.kind == "u" and fill < 0:  # codes of one byte order and size stay as they are
        dtype = np.dtype(f"{dtype.str[0]}i{dtype.itemsize}")
    return dataclasses.replace(before, dtype=dtype, dictionary=grown)


def _fill(schema: AttributeSchema, value: Any, *, absent: bool) -> NDArray[Any]:
    """Return what rows without a value get, as it is stored; `absent` where these are the rows to append."""
    shape = () if schema.channels is None else (schema.channels,)
    what, whose = f"attribute {schema.name!r}", "the rows to append" if absent else "the rows of the store"
    if value is not None:
        try:
            if schema.dictionary is not None:
                return np.asarray(schema.encode(np.array([str(value)], object))[0])
            stored = np.asarray(value).astype(schema.dtype, casting="unsafe")
            same = bool(np.all((stored == np.asarray(value)) | (stored != stored)))  # NaN, which is not itself
            if not same:
                raise ValueError(f"{value!r:.80} as {schema.dtype} is {stored}")
            return np.broadcast_to(stored, shape)
        except (TypeError, ValueError) as error:
            raise InputError(f"fill_missing: {what} is {schema.dtype} {shape}, not {value!r:.80}") from error
    if schema.dictionary is not None:
        assert schema.dictionary.fill_value is not None
        return np.asarray(schema.dictionary.fill_value, schema.dtype)
    if schema.dtype.kind in "fc":
        return np.broadcast_to(np.asarray(np.nan, schema.dtype), shape)
    if schema.dtype.kind in "mM":
        return np.broadcast_to(np.asarray("NaT", schema.dtype), shape)
    raise InputError(
        f"{what} is {schema.dtype}, which has no value for 'missing', and {whose} have none: pass "
        f"fill_missing={{{schema.name!r}: value}} to say what they get"
    )
