"""dask-zv: write and read Zarr Vectors stores as Dask graphs, and open them in xarray.

Names are imported when they are first used, so that ``import dask_zv`` costs little.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dask_zv._version import __version__ as __version__
from dask_zv._xarray_hook import register_accessors as _register_accessors
from dask_zv.errors import BoundsError as BoundsError
from dask_zv.errors import FormatError as FormatError
from dask_zv.errors import InputError as InputError
from dask_zv.errors import InvalidNameError as InvalidNameError
from dask_zv.errors import MetadataError as MetadataError
from dask_zv.errors import NotFoundError as NotFoundError
from dask_zv.errors import PlanError as PlanError
from dask_zv.errors import ReadOnlyError as ReadOnlyError
from dask_zv.errors import StoreError as StoreError
from dask_zv.errors import ZVError as ZVError
from dask_zv.errors import ZVWarning as ZVWarning

if TYPE_CHECKING:
    from dask_zv import config as config
    from dask_zv.geometry.result import Geometry as Geometry
    from dask_zv.geometry.result import Links as Links
    from dask_zv.graph.group import Group as Group
    from dask_zv.graph.group import open_group as open_group
    from dask_zv.graph.report import Report as Report
    from dask_zv.maintain.convert import convert as convert
    from dask_zv.maintain.expand import expand as expand
    from dask_zv.maintain.refresh import refresh as refresh
    from dask_zv.store.store import Level as Level
    from dask_zv.store.store import Store as Store
    from dask_zv.store.store import create as create
    from dask_zv.store.store import open as open
    from dask_zv.write.graphs import plan_graph as plan_graph
    from dask_zv.write.graphs import plan_meshes as plan_meshes
    from dask_zv.write.graphs import write_graph as write_graph
    from dask_zv.write.graphs import write_meshes as write_meshes
    from dask_zv.write.plans import BlockReceipt as BlockReceipt
    from dask_zv.write.plans import WritePlan as WritePlan
    from dask_zv.write.plans import load_plan as load_plan
    from dask_zv.write.plans import load_receipt as load_receipt
    from dask_zv.write.points import plan_points as plan_points
    from dask_zv.write.points import write_points as write_points
    from dask_zv.write.polylines import plan_polylines as plan_polylines
    from dask_zv.write.polylines import write_lines as write_lines
    from dask_zv.write.polylines import write_polylines as write_polylines
    from dask_zv.write.skeletons import plan_skeletons as plan_skeletons
    from dask_zv.write.skeletons import write_skeletons as write_skeletons

_LAZY = {
    name: module
    for module, names in {
        "config": "config",
        "geometry.result": "Geometry Links",
        "graph.group": "Group open_group",
        "graph.report": "Report",
        "maintain.convert": "convert",
        "maintain.expand": "expand",
        "maintain.refresh": "refresh",
        "store.store": "Level Store create open",
        "write.graphs": "plan_graph plan_meshes write_graph write_meshes",
        "write.plans": "BlockReceipt WritePlan load_plan load_receipt",
        "write.points": "plan_points write_points",
        "write.polylines": "plan_polylines write_lines write_polylines",
        "write.skeletons": "plan_skeletons write_skeletons",
    }.items()
    for name in names.split()
}

__all__ = sorted({*_LAZY, *(name for name in globals() if name == "__version__" or name.endswith(("Error", "Warning")))})


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'dask_zv' has no attribute {name!r}")
    module = importlib.import_module(f"dask_zv.{_LAZY[name]}")
    globals()[name] = value = module if name == _LAZY[name] else getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


_register_accessors()
