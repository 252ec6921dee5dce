"""Register ``ds.zv`` and ``tree.zv`` on ``import dask_zv``, without importing xarray.

xarray has no way to register an accessor before it is imported. If it is not imported yet, that happens when it is.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType


def _dataset_accessor(ds: Any) -> Any:
    from dask_zv.xarray_backend.accessor import ZVDatasetAccessor

    return ZVDatasetAccessor(ds)


def _tree_accessor(tree: Any) -> Any:
    from dask_zv.xarray_backend.accessor import ZVTreeAccessor

    return ZVTreeAccessor(tree)


def _register(xarray: ModuleType) -> None:
    xarray.register_dataset_accessor("zv")(_dataset_accessor)
    xarray.register_datatree_accessor("zv")(_tree_accessor)


class _AfterXarray:
    """An import hook that registers the accessors once xarray has been imported."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return how xarray is loaded, and registered for; None for every other module."""
        if fullname != "xarray":
            return None
        import importlib.util

        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            sys.meta_path.insert(0, self)  # it may be installed later
            return None
        loader: Any = spec.loader
        run = loader.exec_module

        def run_and_register(module: ModuleType) -> None:
            run(module)
            _register(module)

        loader.exec_module = run_and_register
        return spec


def register_accessors() -> None:
    """Register the accessors now if xarray is imported, else when it is imported."""
    xarray = sys.modules.get("xarray")
    if xarray is None:
        sys.meta_path.insert(0, _AfterXarray())
    else:
        _register(xarray)
