"""Axes of a store: the columns of its positions, as NGFF names them.

Source: Zarr Vectors format, ``multiscales[0].axes``; NGFF 0.4 for the order of axis types.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dask_zv.errors import InputError

NOT_FOR_AXES = (
    *("vertex", "vertex_end", "vertex_range", "object", "object_id", "object_index", "node_count", "geometry", "parent"),
    *("object_table", "object_table_column"),
    *("topology", "edge", "edges", "edge_node", "face", "faces", "face_node", "group", "in_group", "crs"),
    *("chunk", "chunk_rows", "chunk_first_row"),
)
"""What Datasets of a store call their dimensions, and the coordinates that say how the others belong together."""
_DEFAULT_NAMES = "xyzw"
_MIN_AXES, _MAX_AXES = 2, 4
_RANKS = {"time": 0, "channel": 1, "space": 3}
_CUSTOM_RANK = 2


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis: column j of every position belongs to axis j.

    Parameters
    ----------
    name : str
        Not empty, without ``/``.
    type : str
        ``space``, ``time``, ``channel`` or a type of one's own.
    unit : str, optional
        UDUNITS-2 name such as ``micrometer``.

    Raises
    ------
    InputError
        If the name or type is empty, or the name holds a ``/``.
    """

    name: str
    type: str = "space"
    unit: str | None = None

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name:
            raise InputError(f"axis name must be a non-empty string without '/', not {self.name!r:.80}")
        if not self.type:
            raise InputError(f"type of axis {self.name!r} must not be empty")

    @classmethod
    def from_json(cls, value: str | Mapping[str, object] | Axis) -> Axis:
        """Make an axis of a name, or of an object with ``name`` and optionally ``type`` and ``unit``.

        Raises
        ------
        InputError
            If `value` is of another kind, or a field of it is wrong.
        """
        if isinstance(value, Axis):
            return value
        if isinstance(value, str):
            return cls(value)
        if not isinstance(value, Mapping):
            raise InputError(f"axis must be a name or an object with a name, not {value!r:.80}")
        name, kind, unit = value.get("name"), value.get("type", "space"), value.get("unit")
        if not isinstance(name, str) or not isinstance(kind, str) or not (unit is None or isinstance(unit, str)):
            raise InputError(f"name, type and unit of an axis must be strings: {dict(value)!r:.120}")
        return cls(name, kind, unit or None)

    def to_json(self) -> dict[str, str]:
        """Return the axis as an entry of ``multiscales[0].axes``; without a unit where there is none."""
        entry = {"name": self.name, "type": self.type}
        return entry if self.unit is None else entry | {"unit": self.unit}


def parse_axes(axes: Sequence[str | Mapping[str, object] | Axis] | None, ndim: int | None = None) -> tuple[Axis, ...]:
    """Check the axes of a store, or make the default ones.

    Parameters
    ----------
    axes : sequence of str, mapping or Axis, optional
        Default: the first `ndim` of x, y, z, w, in space.
    ndim : int, optional
        How many there must be. Needed where `axes` is None.

    Returns
    -------
    tuple of Axis
        2 to 4 of them.

    Raises
    ------
    InputError
        If there are too few or too many axes, not `ndim`, less than two in space, two of one name, or types out of the
        order time, channel, custom, space.

    Examples
    --------
    >>> [axis.name for axis in parse_axes([{"name": "t", "type": "time"}, "y", "x"], 3)]
    ['t', 'y', 'x']
    """
    if axes is None:
        if ndim is None:
            raise InputError("axes or their number must be given")
        axes = _DEFAULT_NAMES[:ndim]
    if isinstance(axes, Mapping) or not isinstance(axes, Sequence):
        raise InputError(f"axes must be a sequence of names or of objects with a name, not {axes!r:.80}")
    found = tuple(Axis.from_json(axis) for axis in axes)
    names = [axis.name for axis in found]
    if ndim is not None and len(found) != ndim:
        raise InputError(f"{len(found)} axes ({', '.join(names)}) for positions of {ndim} columns")
    if not _MIN_AXES <= len(found) <= _MAX_AXES:
        raise InputError(f"a store has {_MIN_AXES} to {_MAX_AXES} axes, not {len(found)}")
    if len(set(names)) != len(names):
        raise InputError(f"axis names must differ from each other: {', '.join(names)}")
    n_space = sum(axis.type == "space" for axis in found)
    if n_space < _MIN_AXES:
        raise InputError(f"a store has at least {_MIN_AXES} axes of type space, not {n_space}")
    ranks = [_RANKS.get(axis.type, _CUSTOM_RANK) for axis in found]
    if ranks != sorted(ranks):
        types = ", ".join(axis.type for axis in found)
        raise InputError(f"axes must be in the order time, channel, custom types, space; they are {types}")
    return found
