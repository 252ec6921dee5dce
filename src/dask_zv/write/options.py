"""The keywords of the writing functions, and what names them in a function's signature."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, Literal, ParamSpec, Required, TypedDict, TypeVar, get_type_hints

from numpy.typing import DTypeLike

from dask_zv.errors import InputError, did_you_mean
from dask_zv.level.asked import CreateOptions

P = ParamSpec("P")
R = TypeVar("R")


class WriteOptions(CreateOptions, total=False):
    """Keywords of every writing function, see :func:`dask_zv.write_points`; lines and paths take arrays of other shapes."""

    storage_options: Mapping[str, Any] | None
    attributes: Any
    object_ids: Any
    object_attributes: Any
    groups: Mapping[int, Sequence[int]] | None
    group_attributes: Any
    mode: Literal["error", "overwrite", "append"]
    on_existing: Literal["error", "extend"]
    fill_missing: bool | Mapping[str, Any]
    out_of_bounds: Literal["raise", "ignore", "expand"]
    position_tolerance: float | None
    max_categories: int
    progress: bool | None
    resume: bool | None


class PathOptions(WriteOptions, total=False):
    """Keywords of :func:`dask_zv.write_polylines`."""

    geometry: str | None
    lengths: Any
    sort_by: Any


class SkeletonOptions(WriteOptions, total=False):
    """Keywords of :func:`dask_zv.write_skeletons`."""

    parents: Required[Any]
    vertex_ids: Any


class GraphOptions(WriteOptions, total=False):
    """Keywords of :func:`dask_zv.write_graph`."""

    edges: Required[Any]
    edge_attributes: Any
    directed: bool
    vertex_ids: Any


class MeshOptions(WriteOptions, total=False):
    """Keywords of :func:`dask_zv.write_meshes`."""

    faces: Required[Any]
    face_attributes: Any
    vertex_ids: Any


class CopyOptions(TypedDict, total=False):
    """Keywords of :func:`dask_zv.convert`."""

    layout: str | None
    shard_chunks: int | Sequence[int] | Literal["auto"] | None
    compressor: Any
    chunk_shape: Sequence[float] | None
    bin_shape: Sequence[float] | None
    dtype: DTypeLike | None
    bounds: tuple[Sequence[float], Sequence[float]] | None
    storage_options: Mapping[str, Any] | None
    overwrite: bool
    progress: bool | None


MODES = ("error", "overwrite", "append")
ON_EXISTING = ("error", "extend")
DEFAULTS = {
    "directed": False, "mode": "error", "on_existing": "error", "fill_missing": False, "out_of_bounds": "raise",
    "max_categories": 10_000, "shard_chunks": "auto", "compressor": "auto",
}  # fmt: skip
"""Those that are not None."""
COPY_DEFAULTS: dict[str, Any] = {"compressor": "keep", "shard_chunks": None, "overwrite": False}
CREATE = (*CreateOptions.__annotations__, "storage_options")
"""Those that make a store where none is."""


def with_options(options: type) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Name the keywords of a class of options in a function's signature, and hand it all of them."""
    defaults = {**DEFAULTS, **(COPY_DEFAULTS if options is CopyOptions else {})}
    hints = get_type_hints(options)
    own = [name for name in hints if name not in WriteOptions.__annotations__]
    shared = [name for name in WriteOptions.__annotations__ if name in hints]
    required: frozenset[str] = getattr(options, "__required_keys__", frozenset())
    kind = inspect.Parameter.KEYWORD_ONLY
    named = [
        inspect.Parameter(
            name,
            kind,
            default=inspect.Parameter.empty if name in required else defaults.get(name),
            annotation=hints[name],
        )
        for name in (*own, *(n for n in shared if n not in CREATE), *(n for n in CREATE if n in shared))
    ]

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        shown = inspect.signature(function)
        first = [p for p in shown.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
        last = [p for p in shown.parameters.values() if p.kind is kind]
        return filled(function, shown.replace(parameters=[*first, *named, *last]))

    return decorate


def check_mode(options: WriteOptions, function: str) -> None:
    """Raise :class:`InputError` where an option of what becomes of a level's content is none, or belongs to another mode."""
    mode, existing, out_of_bounds = str(options["mode"]), str(options["on_existing"]), options["out_of_bounds"]
    if mode not in MODES:
        near = "; did you mean 'append'?" if mode == "a" else did_you_mean(mode, MODES)
        raise InputError(f"mode is 'error', 'overwrite' or 'append', not {mode!r}{near}")
    if existing == "replace":
        raise InputError(
            "on_existing='replace' would be two steps: store.delete_objects(ids) removes the objects that are there, and "
            "mode='append' then adds the new ones of the same ids"
        )
    if existing not in ON_EXISTING:
        raise InputError(f"on_existing is 'error' or 'extend', not {existing!r}{did_you_mean(existing, ON_EXISTING)}")
    odd = "on_existing" if existing != "error" else "fill_missing" if options["fill_missing"] is not False else None
    if mode != "append" and odd is not None:
        raise InputError(f"{odd}= says what mode='append' does: pass both, or neither")
    policies = ("raise", "ignore", "expand") if function == "write_points" else ("raise", "expand")
    if out_of_bounds not in policies:
        said = " or ".join(map(repr, policies)) if len(policies) == 2 else "'raise', 'ignore' or 'expand'"
        raise InputError(f"out_of_bounds is {said}, not {out_of_bounds!r}{did_you_mean(out_of_bounds, policies)}")


_OF_CREATE = {
    "overwrite": "; here it is mode='overwrite'",
    "exist_ok": "; dzv.create has it, and here it is not needed: a store with the same settings is written to",
}
"""What to write in the place of options that users know from :func:`dask_zv.create`."""


def filled(function: Callable[P, R], signature: inspect.Signature, **hidden: Any) -> Callable[P, R]:
    """Return a function that has a signature, and hands on all that has a default there, and what is `hidden`."""
    defaults = {p.name: p.default for p in signature.parameters.values() if p.default is not p.empty} | hidden

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            odd = next((name for name in kwargs if name not in signature.parameters), None)
            plain = [p.name for p in signature.parameters.values() if p.kind is not p.KEYWORD_ONLY]
            if odd is not None:
                near = _OF_CREATE.get(odd) or did_you_mean(odd, signature.parameters)
            else:
                near = f": all but {', '.join(plain)} are given by name, as {call.__name__}({', '.join(plain)}, attributes=...)"
                near = near if len(args) > len(plain) else ""
            raise TypeError(f"{call.__name__}() {error}{near}") from None
        return function(*args, **{**defaults, **kwargs})

    call.__signature__ = signature  # type: ignore[attr-defined]
    return call
