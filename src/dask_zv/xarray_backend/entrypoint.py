"""What xarray finds under the name "zv"; it only adapts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

import xarray as xr
from xarray.backends import BackendEntrypoint

from dask_zv.errors import InputError
from dask_zv.level.contents import LevelContents, StoreContents
from dask_zv.level.stale import STALE, warn_of_stale
from dask_zv.level.unfinished import warn_of_unfinished
from dask_zv.store.store import Store
from dask_zv.store.store import open as open_store
from dask_zv.xarray_backend.views import objects_dataset, spatial_dataset

_SUFFIXES = (".zv", ".zarrvectors", ".zv.zip", ".zarrvectors.zip")
View = Literal["spatial", "objects"]
_TAKEN = ("drop_variables", "level", "view", "chunk_table", "group", "storage_options", "check_objects")
_DECODERS = ("mask_and_scale", "decode_times", "decode_timedelta", "use_cftime", "concat_characters", "decode_coords")
"""Keywords of xarray about values that files hold in code: those of a store have their dtypes."""
_INSTEAD = {
    "bbox": "select with ds.zv.sel(bbox=...) after opening, which reads no more than that",
    "objects": "select with ds.zv.sel(objects=...) or ds.zv.objects[...] after opening",
    "groups": "select with ds.zv.sel(groups=...) after opening",
    "attributes": "variables are read when they are used; drop_variables=[...] leaves some out",
    "columns": "variables are read when they are used; drop_variables=[...] leaves some out",
    "mode": "Datasets are read; dzv.open(path, 'r+') opens a store for writing",
    "consolidated": "that is of xr.open_zarr; a store has a catalog of its own",
    "zarr_format": "that is of xr.open_zarr; stores are Zarr 3",
    "session": "give the Icechunk session in the place of the path",
}


def level_dataset(
    level: LevelContents, view: str = "spatial", drop_variables: str | Iterable[str] | None = None, *, chunk_table: bool = False
) -> xr.Dataset:
    """Return a level as a lazy Dataset; of an unfinished write, who called xarray is warned."""
    if not level.metadata.vertex_count:
        warn_of_unfinished(level, stacklevel=4)
    if STALE in level._attributes:
        warn_of_stale(level, stacklevel=4)
    dropped = {drop_variables} if isinstance(drop_variables, str) else set(drop_variables or ())
    if view == "spatial":
        return spatial_dataset(level, dropped, chunk_table=chunk_table)
    if view == "objects":
        if chunk_table:
            raise InputError("chunk_table=True is for view='spatial': objects go through many chunks")
        return objects_dataset(level, dropped)
    raise InputError(f"view is 'spatial' or 'objects', not {view!r}")


class ZVBackendEntrypoint(BackendEntrypoint):
    """Open Zarr Vectors stores: dimension ``vertex``, coordinates named after the axes, a variable per attribute."""

    description: ClassVar[str] = "Open Zarr Vectors stores (.zv, .zarrvectors) with dask-zv"
    url: ClassVar[str] = "https://github.com/dask-zv/dask-zv"
    supports_groups: ClassVar[bool] = True
    open_dataset_parameters: ClassVar[tuple[str, ...]] = ("filename_or_obj", *_TAKEN, *_DECODERS)

    def open_dataset(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        level: int = 0,
        view: View = "spatial",
        chunk_table: bool = False,
        group: str | int | None = None,
        storage_options: Mapping[str, Any] | None = None,
        check_objects: bool = False,
        mask_and_scale: Any = None,
        decode_times: Any = None,
        decode_timedelta: Any = None,
        use_cftime: bool | None = None,
        concat_characters: Any = None,
        decode_coords: Any = None,
        **unknown: Any,
    ) -> xr.Dataset:
        """Return one level as a lazy Dataset.

        Parameters
        ----------
        filename_or_obj
            Whatever :func:`dask_zv.open` takes, or an open :class:`dask_zv.Store`.
        drop_variables : str or iterable of str, optional
        level : int
        view : {"spatial", "objects"}
            Vertices by chunk, so that boxes prune; or each object's vertices together, in the order of its path.
        chunk_table : bool
            Add the table of chunks, along the dimension ``chunk``.
        group : str or int, optional
            The level as a path, as :func:`xarray.open_groups` names it: ``"/1"``.
        storage_options : mapping, optional
        check_objects : bool
            Look for other tools' edits of single chunks now, see :func:`dask_zv.open`.
        mask_and_scale, decode_times, decode_timedelta, concat_characters, decode_coords : optional
            Taken since xarray has them, and without effect: a store keeps dates, missing values and coordinates as such, so
            nothing is in code.
        use_cftime : bool, optional
            False or None: dates are ``datetime64``.
        **unknown
            Anything else is an error that names what to do instead.

        Raises
        ------
        InputError
            `view` is neither of the two, or `use_cftime` is True.
        TypeError
            There is no such keyword.
        """
        _check_decoders({**unknown, "use_cftime": use_cftime})
        store = _opened(filename_or_obj, storage_options, check_objects)
        number = level if group is None else _level_of(group)
        return level_dataset(store.level(number), view, drop_variables, chunk_table=chunk_table)

    def open_groups_as_dict(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        view: View = "spatial",
        chunk_table: bool = False,
        storage_options: Mapping[str, Any] | None = None,
        check_objects: bool = False,
        **decoders: Any,
    ) -> dict[str, xr.Dataset]:
        """Return every level as a lazy Dataset, by path: ``"/0"`` is the full resolution; ``"/"`` holds attributes alone.

        Parameters
        ----------
        filename_or_obj, drop_variables, view, chunk_table, storage_options, check_objects
            As for :meth:`open_dataset`.
        **decoders
            Those of :meth:`open_dataset`, without effect.
        """
        _check_decoders(decoders)
        store = _opened(filename_or_obj, storage_options, check_objects)
        levels = {f"/{n}": level_dataset(store.level(n), view, drop_variables, chunk_table=chunk_table) for n in store.levels}
        about = ("Conventions", "zv_url", "zv_axes", "geometry_types", "bounds_min", "bounds_max")
        root = xr.Dataset()
        if levels:
            first = next(iter(levels.values()))
            root.attrs = {k: first.attrs[k] for k in about}
            root.encoding = {k: v for k, v in first.encoding.items() if k != "zarr_vectors_level"}
        return {"/": root, **levels}

    def open_datatree(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        view: View = "spatial",
        chunk_table: bool = False,
        storage_options: Mapping[str, Any] | None = None,
        check_objects: bool = False,
        **decoders: Any,
    ) -> xr.DataTree:
        """Return a tree with a node for every level, ``/0``, ``/1`` and so on; parameters as :meth:`open_groups_as_dict`."""
        groups = self.open_groups_as_dict(
            filename_or_obj,
            drop_variables=drop_variables,
            view=view,
            chunk_table=chunk_table,
            storage_options=storage_options,
            check_objects=check_objects,
            **decoders,
        )
        return xr.DataTree.from_dict(groups)

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Return True if the name of the file suggests this engine."""
        if isinstance(filename_or_obj, Store):
            return True
        if not isinstance(filename_or_obj, str | os.PathLike):
            return False
        name = os.fspath(filename_or_obj)
        return isinstance(name, str) and name.rstrip("/").lower().endswith(_SUFFIXES)


def _opened(target: Any, storage_options: Mapping[str, Any] | None, check_objects: bool) -> StoreContents:
    opened = isinstance(target, Store)
    store = target if opened else open_store(target, storage_options=storage_options, check_objects=check_objects)
    return store._contents


def _check_decoders(given: Mapping[str, Any]) -> None:
    """Refuse keywords that are none of xarray's, and the one whose wish is not met."""
    for name in given:
        if name not in _DECODERS:
            hint = _INSTEAD.get(name, f"there are {', '.join(_TAKEN)}, and those of xarray.open_dataset")
            raise TypeError(f"engine='zv' has no keyword {name!r}: {hint}")
    if given.get("use_cftime"):
        raise InputError("use_cftime=True: dates of a store are datetime64; leave it out, and convert those that you need")


def _level_of(group: str | int) -> int:
    name = str(group).strip("/")
    if not name.isdigit():
        raise InputError(f"group is a level's path, such as '/0', not {group!r}")
    return int(name)
