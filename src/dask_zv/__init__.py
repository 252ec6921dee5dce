"""dask-zv: write and read Zarr Vectors stores as Dask graphs, and open them in xarray.

Names are imported when they are first used, so that ``import dask_zv`` costs little.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dask_zv._version import __version__
from dask_zv._xarray_hook import register_accessors as _register_accessors
from dask_zv.errors import (
    BoundsError,
    FormatError,
    InputError,
    InvalidNameError,
    MetadataError,
    NotFoundError,
    PlanError,
    ReadOnlyError,
    StoreError,
    ZVError,
    ZVWarning,
)

if TYPE_CHECKING:
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
    from dask_zv.write.graphs import write_graph as write_graph
    from dask_zv.write.graphs import write_meshes as write_meshes
    from dask_zv.write.planning import plan_graph as plan_graph
    from dask_zv.write.planning import plan_meshes as plan_meshes
    from dask_zv.write.planning import plan_points as plan_points
    from dask_zv.write.planning import plan_polylines as plan_polylines
    from dask_zv.write.planning import plan_skeletons as plan_skeletons
    from dask_zv.write.plans import BlockReceipt as BlockReceipt
    from dask_zv.write.plans import WritePlan as WritePlan
    from dask_zv.write.plans import load_plan as load_plan
    from dask_zv.write.plans import load_receipt as load_receipt
    from dask_zv.write.points import write_points as write_points
    from dask_zv.write.polylines import write_lines as write_lines
    from dask_zv.write.polylines import write_polylines as write_polylines
    from dask_zv.write.skeletons import write_skeletons as write_skeletons

_LAZY = {
    "BlockReceipt": "dask_zv.write.plans",
    "Geometry": "dask_zv.geometry.result",
    "Group": "dask_zv.graph.group",
    "Level": "dask_zv.store.store",
    "Links": "dask_zv.geometry.result",
    "Report": "dask_zv.graph.report",
    "Store": "dask_zv.store.store",
    "WritePlan": "dask_zv.write.plans",
    "convert": "dask_zv.maintain.convert",
    "create": "dask_zv.store.store",
    "expand": "dask_zv.maintain.expand",
    "load_plan": "dask_zv.write.plans",
    "load_receipt": "dask_zv.write.plans",
    "open": "dask_zv.store.store",
    "open_group": "dask_zv.graph.group",
    "plan_graph": "dask_zv.write.planning",
    "plan_meshes": "dask_zv.write.planning",
    "plan_points": "dask_zv.write.planning",
    "plan_polylines": "dask_zv.write.planning",
    "plan_skeletons": "dask_zv.write.planning",
    "refresh": "dask_zv.maintain.refresh",
    "write_graph": "dask_zv.write.graphs",
    "write_lines": "dask_zv.write.polylines",
    "write_meshes": "dask_zv.write.graphs",
    "write_points": "dask_zv.write.points",
    "write_polylines": "dask_zv.write.polylines",
    "write_skeletons": "dask_zv.write.skeletons",
}

__all__ = [
    "BlockReceipt",
    "BoundsError",
    "FormatError",
    "Geometry",
    "Group",
    "InputError",
    "InvalidNameError",
    "Level",
    "Links",
    "MetadataError",
    "NotFoundError",
    "PlanError",
    "ReadOnlyError",
    "Report",
    "Store",
    "StoreError",
    "WritePlan",
    "ZVError",
    "ZVWarning",
    "__version__",
    "convert",
    "create",
    "expand",
    "load_plan",
    "load_receipt",
    "open",
    "open_group",
    "plan_graph",
    "plan_meshes",
    "plan_points",
    "plan_polylines",
    "plan_skeletons",
    "refresh",
    "write_graph",
    "write_lines",
    "write_meshes",
    "write_points",
    "write_polylines",
    "write_skeletons",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        value = getattr(importlib.import_module(_LAZY[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'dask_zv' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


_register_accessors()
