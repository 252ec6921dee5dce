"""``tree.zv``: the levels of a store as one thing, of which a view takes the resolution that it can bear."""

from __future__ import annotations

from typing import Any

import xarray as xr


class ZVTreeAccessor:
    """Zarr Vectors verbs of a tree that ``xr.open_datatree(..., engine="zv")`` opened."""

    def __init__(self, tree: xr.DataTree) -> None:
        self._tree = tree

    def __repr__(self) -> str:
        levels = {k: n.sizes["vertex"] for k, n in self._tree.children.items() if "vertex" in n.sizes}
        return "\n".join(["<tree.zv>", *(f"  /{name}: {count:,} vertices" for name, count in levels.items())])

    def level_for(self, bbox: Any = None, *, max_vertices: int) -> int:
        """Return the number of the finest level that has about `max_vertices` in a box at most; the coarsest if none has.

        The tables of chunks tell; nothing is read.

        Parameters
        ----------
        bbox : pair of corners, optional
            Everywhere where None.
        max_vertices : int

        Raises
        ------
        InputError
            The tree has no levels, or the box is malformed.
        """
        from dask_zv.viz import choose_level

        return choose_level(self._tree, bbox, max_vertices)

    def sel(self, bbox: Any = None, *, max_vertices: int, **options: Any) -> xr.Dataset:
        """Return the vertices inside a box at the finest level that :meth:`level_for` allows.

        Parameters
        ----------
        bbox : pair of corners, optional
        max_vertices : int
        **options
            As for :meth:`ZVDatasetAccessor.sel`.
        """
        number = self.level_for(bbox, max_vertices=max_vertices)
        ds: xr.Dataset = self._tree[str(number)].to_dataset()
        found: xr.Dataset = ds.zv.sel(bbox, **options)
        return found

    def plot(self, *args: Any, **options: Any) -> Any:
        """Draw the level that a screen can show; see :func:`dask_zv.viz.plot_tree`."""
        from dask_zv.viz import plot_tree

        return plot_tree(self._tree, *args, **options)
