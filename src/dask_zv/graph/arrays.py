"""Dask arrays taken apart, under both of Dask's ways to hold them: graphs, and expressions (``array.query-planning``)."""

from __future__ import annotations

from typing import Any

from dask.core import flatten
from dask.delayed import Delayed

from dask_zv.errors import InputError


def block_delayeds(array: Any) -> list[Delayed]:
    """Return a ``Delayed`` for each block of a Dask array, in C order."""
    if hasattr(array, "to_delayed"):
        # not optimised: fusing each column by itself would compute what columns share once for every column
        return list(array.to_delayed(optimize_graph=False).ravel())
    graph = array.__dask_graph__()  # an expression has no to_delayed
    return [Delayed(key, graph) for key in flatten(array.__dask_keys__())]


def refuse_expressions(what: str) -> None:
    """Raise :class:`InputError` where Dask's arrays are expressions, of which there is no way to make `what`."""
    import dask.array as da

    if not hasattr(da.Array, "to_delayed"):
        raise InputError(
            f"{what}: Dask's array expressions can't be made of Delayeds yet. Set array.query-planning to False before "
            "dask.array is first imported, by dask.config.set({'array.query-planning': False}) or "
            "DASK_ARRAY__QUERY_PLANNING=False"
        )
