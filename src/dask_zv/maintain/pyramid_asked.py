"""The arguments that a pyramid is built by: checked, and as a level's attributes keep them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dask_zv.errors import InputError, did_you_mean
from dask_zv.geometry.cells import REDUCTIONS, check_reduction, reduction_of
from dask_zv.geometry.kinds import kind_of
from dask_zv.geometry.schema import AttributeSchema
from dask_zv.geometry.simplify import simplifier_of
from dask_zv.level.contents import LevelContents, StoreContents
from dask_zv.level.stale import is_stale

MOST_LEVELS = 16
ASKED = "dask_zv_pyramid"
"""Attribute of a level: the arguments that it was built by, for who builds it anew."""
Keep = float | tuple[float, str]


@dataclass(frozen=True, slots=True)
class PyramidArguments:
    """The arguments that a pyramid is made by, checked."""

    factor: tuple[int, ...]
    method: str
    attributes: Mapping[str, str | None]
    seed: int
    keep: tuple[float, str] | None
    cells: tuple[int, ...] | None = None  # bins along the edges of a chunk
    tolerance: float | None = None  # of level 1

    def to_json(self, levels: int) -> dict[str, Any]:
        """Return them as JSON values."""
        return {**json.loads(json.dumps(dataclasses.asdict(self))), "levels": levels}

    def equals(self, told: Mapping[str, Any]) -> bool:
        """Return True if these are the arguments that a level was built by, whatever the number of levels."""
        return self.to_json(0) == {**told, "levels": 0}


def check_source(level: LevelContents) -> None:
    """Raise :class:`InputError` where coarser levels can't be built of a level."""
    kind = kind_of(level.kind)
    links = level.found_links(0) if kind.link == "face" else None
    if links is not None and links.source.family.width > 3:
        raise InputError(
            f"{level.store.url} is a store of geometry {kind.name!r} with faces of {links.source.family.width} vertices: "
            "coarser levels are built of triangles; divide the faces"
        )
    if level.source.leading is not None:
        raise InputError(
            f"{level.url} is chunked by {level.source.leading!r}: coarser levels are built of levels whose chunks are boxes in "
            "space; write the store again without that"
        )
    if not len(level.chunks):
        raise InputError(f"{level.url} has no vertices: write them first")


def check_levels(levels: Any) -> int | None:
    """Return the number of levels that a user asks for."""
    if levels is not None and (isinstance(levels, bool) or not hasattr(levels, "__index__") or not 1 <= levels <= MOST_LEVELS):
        raise InputError(f"levels is the number of coarser levels, 1 to {MOST_LEVELS}, not {levels!r:.80}")
    return None if levels is None else int(levels)


def check_arguments(
    level: LevelContents, factor: Any, method: Any, attributes: Any, seed: Any, keep: Any, bin_shape: Any, tolerance: Any
) -> PyramidArguments:
    """Return the arguments if they can be met."""
    grid, kind = level.source.schema.grid, kind_of(level.kind)
    simplified = simplifier_of(kind) is not None
    try:
        factors = np.broadcast_to(np.asarray(factor), grid.ndim)
    except ValueError:
        factors = np.zeros(0, float)
    if factors.dtype.kind not in "iu" or len(factors) != grid.ndim or (factors < 1).any() or (factors < 2).all():
        raise InputError(f"factor is an integer of at least 2, or {grid.ndim} integers of at least 1, not {factor!r:.80}")
    linked = bool(kind.link) and not simplified
    methods = ("simplify",) if simplified else ("contract",) if linked else ("mean", "sample")
    if method not in ("auto", *methods):
        known = ", ".join(map(repr, ("auto", *methods)))
        near = did_you_mean(method, methods)
        raise InputError(f"method is one of {known} for geometry {kind.name!r}, not {method!r:.80}{near}")
    method = methods[0] if method == "auto" else method
    if isinstance(seed, bool) or not hasattr(seed, "__index__"):
        raise InputError(f"seed is an integer, not {seed!r:.80}")
    given = {} if isinstance(attributes, str) and attributes == "auto" else attributes
    if not isinstance(given, Mapping):
        raise InputError(f"attributes is 'auto' or a mapping of names to reductions, not {attributes!r:.80}")
    own = {a.name: a for a in level.source.schema.attributes}
    for name, how in given.items():
        if name not in own:
            near = did_you_mean(name, own)
            raise InputError(f"no attribute {name!r}: the level has {', '.join(own) or 'none'}{near} [{level.url}]")
        if how is not None and how not in REDUCTIONS:
            raise InputError(
                f"attribute {name!r}: one of {', '.join(REDUCTIONS)}, or None to leave it out, not {how!r:.80}"
                f"{did_you_mean(how, REDUCTIONS)}"
            )
        if linked and how == "sample":
            raise InputError(f"attribute {name!r}: nothing is drawn of geometry {kind.name!r}; one of the others")
        if how is not None and (why := check_reduction(own[name], how)) is not None:
            raise InputError(f"attribute {name!r} has no {how!r}: {why}")
        if simplified and how not in (None, "sample"):
            raise InputError(f"attribute {name!r}: vertices of geometry {kind.name!r} keep their values: 'sample', or None")
    asked_of = {n: given[n] if n in given else _default(a, method) for n, a in own.items()}
    factors_of = tuple(factors.tolist())
    if simplified:
        if bin_shape is not None:
            raise InputError(f"bin_shape is for points: geometry {kind.name!r} is simplified by tolerance=")
        far = _checked_tolerance(level, tolerance)
        return PyramidArguments(factors_of, method, asked_of, int(seed), _checked_keep(level, keep), None, far)
    if tolerance is not None:
        raise InputError("tolerance is for paths and trees: points are gathered by bins, see bin_shape=")
    cells = None
    if bin_shape is not None:
        edges = np.asarray(bin_shape, np.float64)
        if edges.shape != (grid.ndim,) or not (np.isfinite(edges) & (edges > 0)).all():
            raise InputError(f"bin_shape is {grid.ndim} positive numbers, not {bin_shape!r:.80}")
        ratio = np.asarray(grid.chunk_shape) / edges
        if (np.abs(ratio - np.rint(ratio)) > 1e-9 * ratio).any() or (np.rint(ratio) < 1).any():
            raise InputError(f"bin_shape {tuple(edges.tolist())} must divide chunk_shape {grid.chunk_shape} evenly")
        cells = tuple(np.rint(ratio).astype(np.int64).tolist())
    return PyramidArguments(factors_of, method, asked_of, int(seed), _checked_keep(level, keep), cells)


def _default(attribute: AttributeSchema, method: str) -> str:
    return reduction_of(attribute) if method in ("mean", "contract") else "sample"


def _checked_tolerance(level: LevelContents, tolerance: Any) -> float:
    """Return how far a path of level 1 may be from that of level 0: by default half of the distance of its vertices."""
    if tolerance is None:
        edge = np.mean([e * s for e, s in zip(level.source.schema.grid.chunk_shape, measure_of(level), strict=True)])
        pieces = sum(len(part.objects) for part in level.index.slices())
        return float(edge) * pieces / max(int(level.chunks.rows.sum()), 1) / 2
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0 <= tolerance < np.inf:
        raise InputError(f"tolerance is a distance in the units of the axes, not {tolerance!r:.80}")
    return float(tolerance)


def measure_of(level: LevelContents) -> tuple[float, ...]:
    """Return the factors of the axes by which lengths are measured: 1, and for axes that are no space as chunks have it."""
    edges, axes = level.source.schema.grid.chunk_shape, level.store.metadata.axes
    mean = float(np.mean([e for e, a in zip(edges, axes, strict=True) if a.type == "space"]))
    return tuple(1.0 if a.type == "space" else mean / e for e, a in zip(edges, axes, strict=True))


def _checked_keep(level: LevelContents, keep: Any) -> tuple[float, str] | None:
    if keep is None:
        return None
    if not level.source.schema.has_objects:
        raise InputError(f"keep={keep!r:.80} is of objects, and {level.url} has none")
    share, by = keep if isinstance(keep, tuple | list) and len(keep) == 2 else (keep, "random")
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1 or not isinstance(by, str):
        raise InputError(
            f"keep is a share above 0 and at most 1, or (share, 'length' or an object attribute), not {keep!r:.80}"
        )
    if by not in ("random", "length"):
        known = level.index.attributes(np.zeros(0, np.int64))
        if by not in known or known[by].ndim != 1 or known[by].dtype.kind not in "iuf":
            near = did_you_mean(by, known)
            raise InputError(f"keep goes by 'random', 'length', or an object attribute of single numbers, not {by!r:.80}{near}")
    return float(share), by


def recorded(store: StoreContents) -> tuple[PyramidArguments, int] | None:
    """Return the arguments of the levels that are stale; None where none is."""
    coarser = [store.level(n) for n in store.levels if n > 0]
    if not coarser:
        raise InputError(f"{store.url} has one level, so there is none to update: leave out update=True")
    if not any(is_stale(level) for level in coarser):
        return None
    told = coarser[0]._attributes.get(ASKED)
    if not isinstance(told, Mapping):
        raise InputError(
            f"the levels of {store.url} were built by another tool, which does not say how: overwrite=True, with the arguments "
            "that you want, replaces them"
        )
    keep, cells = told["keep"], told["cells"]
    own = {a.name: a for a in store.level(0).source.schema.attributes}
    known = {n: how for n, how in told["attributes"].items() if n in own}
    rest = {n: _default(a, told["method"]) for n, a in own.items() if n not in known}
    gone = sorted(told["attributes"].keys() - own.keys())
    if gone and rest:  # renamed, maybe: by what rule is the new one reduced?
        raise InputError(
            f"level 0 of {store.url} has no {gone[0]!r} any more, of which the levels have the "
            f"{told['attributes'][gone[0]]!r}, and a new attribute {next(iter(rest))!r}: build them with overwrite=True, and "
            "attributes={...} for what was renamed"
        )
    asked = PyramidArguments(
        tuple(told["factor"]),
        told["method"],
        {**known, **rest},
        told["seed"],
        None if keep is None else (keep[0], keep[1]),
        None if cells is None else tuple(cells),
        told["tolerance"],
    )
    return asked, max(told["levels"], len(coarser))
