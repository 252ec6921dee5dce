"""What xarray finds under the name "zv"; it only adapts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import xarray as xr
from xarray.backends import BackendEntrypoint

from dask_zv.pipelines.stores.store import Store
from dask_zv.pipelines.stores.store import open as open_store
from dask_zv.xarray_backend.dataset import level_dataset

__all__ = ["ZVBackendEntrypoint"]

_SUFFIXES = (".zv", ".zarrvectors", ".zv.zip", ".zarrvectors.zip")


class ZVBackendEntrypoint(BackendEntrypoint):
    """Open Zarr Vectors stores: dimension ``vertex``, coordinates named after the axes, a variable per attribute."""

    description: ClassVar[str] = "Open Zarr Vectors stores (.zv, .zarrvectors) with dask-zv"
    url: ClassVar[str] = "https://github.com/dask-zv/dask-zv"
    open_dataset_parameters = None

    def open_dataset(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        level: int = 0,
        storage_options: Mapping[str, Any] | None = None,
        check_objects: bool = False,
    ) -> xr.Dataset:
        """Return one level as a lazy Dataset.

        Parameters
        ----------
        filename_or_obj
            Whatever :func:`dask_zv.open` takes, or an open :class:`dask_zv.Store`.
        drop_variables : str or iterable of str, optional
        level : int
        storage_options : mapping, optional
        check_objects : bool
            Look for other tools' edits of single chunks now, see :func:`dask_zv.open`.
        """
        store = filename_or_obj if isinstance(filename_or_obj, Store) else open_store(
            filename_or_obj, storage_options=storage_options, check_objects=check_objects
        )  # fmt: skip
        dropped = [drop_variables] if isinstance(drop_variables, str) else list(drop_variables or ())
        return level_dataset(store.level(level), dropped)

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Tell by the name alone whether this engine is for it."""
        if not isinstance(filename_or_obj, str | os.PathLike):
            return False
        return os.fspath(filename_or_obj).rstrip("/").lower().endswith(_SUFFIXES)
