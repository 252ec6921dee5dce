"""dask-zv writes and reads Zarr Vectors stores with Dask and opens them in xarray: points, lines, skeletons, graphs, meshes.

The first lines::

    import xarray as xr
    import dask_zv as dzv

    store = dzv.create("cells.zv", chunk_shape=(250, 250, 250))  # edges of a chunk, in the units of the axes
    dzv.write_points(store, table, attributes=["kind"])          # a table with columns x, y, z and kind, or arrays
    store.info()                                                 # what is in it

    ds = xr.open_dataset("cells.zv", engine="zv", chunks={})     # lazy
    ds.sel(x=slice(0, 200), y=slice(0, 200)).load()              # reads the chunks that the box touches

What to use::

    make a store, open one              create, open (each returns a Store)
    write                               write_points, write_lines, write_polylines, write_skeletons, write_graph, write_meshes
                                        (each returns a Report)
    read                                xarray.open_dataset(path, engine="zv") and ds.zv, or store.level(0).read(...): Level,
                                        Geometry, Links
    see what is in it                   store.info(), store.level(0).info(), ds.zv.plot
    copy it, in other chunks or packing convert
    join several                        merge
    change it in place                  store.set_attribute, .delete_objects, .delete and others of Store
    give it larger bounds               expand
    build coarser levels, for overviews build_pyramid
    check it, repair it                 validate (returns a Validation of Finding objects), repair, refresh;
                                        open(path, check_objects=True)
    write as a job array (SLURM, MPI)   plan_points, plan_polylines, plan_skeletons, plan_graph, plan_meshes, load_plan,
                                        load_receipt: WritePlan, BlockReceipt
    change settings                     config
    catch errors                        ZVError, the base of StoreError, NotFoundError, ReadOnlyError, InvalidNameError,
                                        MetadataError, FormatError, PlanError, BoundsError and InputError; ZVWarning
    store blobs by array and chunk      open_group: Group

``help(dzv.write_points)`` explains one function. Names are imported when they are first used, so that ``import dask_zv`` costs
little.
"""

import ast
import importlib
import pkgutil
from typing import Any

from dask_zv._xarray_hook import register_accessors as _register_accessors
from dask_zv.errors import did_you_mean as _did_you_mean

_HOMES = {
    alias.name: node.module
    for node in ast.parse(pkgutil.get_data(__name__, "__init__.pyi") or b"").body
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
}
"""The module that each public name lives in, by the stub beside this file: the one list of names."""

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dask_zv' has no attribute {name!r}{_did_you_mean(name, __all__)}")
    home = importlib.import_module(str(_HOMES[name]))
    globals()[name] = value = importlib.import_module(f"dask_zv.{name}") if home.__name__ == __name__ else getattr(home, name)
    return value


def __dir__() -> list[str]:
    return list(__all__)


_register_accessors()
