"""Paths cut where they cross the sides of a box: new vertices lie on its faces."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dask_zv.errors import InputError
from dask_zv.spatial.grid import Box, stored_box
from dask_zv.xarray_backend import conventions as names
from dask_zv.xarray_backend.content import Shape, check_in_step
from dask_zv.xarray_backend.step_index import in_step

__all__ = ["cut_paths"]


def cut_paths(ds: xr.Dataset, shape: Shape, box: Box) -> xr.Dataset:
    """Return what of each path is inside a closed box, with a vertex where it enters and where it leaves.

    All positions are read: a path can cross the box without a vertex in it. See :meth:`ZVDatasetAccessor.sel`.

    Raises
    ------
    InputError
        The Dataset holds no paths by object.
    """
    if shape.view != "objects" or not shape.is_path:
        raise InputError(
            f"clip='cut' cuts paths, which view='objects' of lines, polylines and streamlines holds: the {shape.kind} in the "
            f"{shape.view} view is selected with clip=True"
        )
    lengths = check_in_step(ds)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    columns = [ds[a].to_numpy() for a in shape.axes]
    sides = [stored_box((low, high), c.dtype) for c, low, high in zip(columns, *box, strict=True)]
    box = np.array([s[0] for s in sides], np.float64), np.array([s[1] for s in sides], np.float64)
    points = np.stack([c.astype(np.float64) for c in columns], axis=1).reshape(len(owner), len(columns))
    base, weight, begins, faces = _pieces(points, owner, box)
    ids = ds["object"].to_numpy() if "object" in ds.variables else np.arange(len(lengths))
    first = np.flatnonzero(begins)
    plain = ds.drop_vars([n for n in (names.RANGE, "object", "vertex") if n in ds.variables])
    out = plain.isel(object=owner[base[first]], vertex=base).load()
    after = plain.isel(vertex=np.minimum(base + 1, max(len(owner) - 1, 0))).load()
    changed: dict[Any, xr.Variable] = {}
    for name, variable in out.variables.items():
        if variable.dims[:1] == ("vertex",):
            values = _between(variable.to_numpy(), after.variables[name].to_numpy(), weight)
            if name in shape.axes:
                axis = shape.axes.index(str(name))
                on_face = faces[0] == axis
                values[on_face] = faces[1][on_face].astype(values.dtype)
                values = np.clip(values, *(s[axis] for s in box)).astype(values.dtype)
            changed[name] = xr.Variable(variable.dims, values, variable.attrs)
    counts = np.diff(np.r_[first, len(base)]).astype(np.int64)
    changed[names.COUNT] = xr.Variable(("object",), counts, ds[names.COUNT].attrs)
    coords = {k: v for k, v in changed.items() if k in out.coords}
    out = out.assign({k: v for k, v in changed.items() if k not in coords}).assign_coords(coords)
    return in_step(out.assign_coords(object=("object", ids[owner[base[first]]]), vertex=np.arange(len(base))), counts)


def _pieces(
    points: NDArray[np.float64], owner: NDArray[np.int64], box: Box
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_], tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Return the vertices of what is inside.

    Returns
    -------
    base, weight : ndarray, shape (m,)
        Each lies between the vertices `base` and `base` + 1, at this part of the way.
    begins : ndarray of bool
        A piece begins with it.
    faces : (ndarray of int64, ndarray of float64)
        Axis whose face it lies on (-1: none), and the position of that.
    """
    start = np.flatnonzero(owner[1:] == owner[:-1])
    at, way = points[start], points[start + 1] - points[start]
    inside_now = (at >= box[0]) & (at <= box[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = (box[0] - at) / way, (box[1] - at) / way
    enters = np.where(way == 0, np.where(inside_now, -np.inf, np.inf), np.minimum(low, high))
    leaves = np.where(way == 0, np.where(inside_now, np.inf, -np.inf), np.maximum(low, high))
    t0, t1 = np.maximum(enters.max(axis=1), 0), np.minimum(leaves.min(axis=1), 1)
    kept = np.flatnonzero(t0 < t1)
    axis0, axis1 = enters[kept].argmax(axis=1), leaves[kept].argmin(axis=1)
    seg, t0, t1, way = start[kept], t0[kept], t1[kept], way[kept]
    rows = np.arange(len(kept))
    face0 = np.where(way[rows, axis0] > 0, box[0][axis0], box[1][axis0])
    face1 = np.where(way[rows, axis1] > 0, box[1][axis1], box[0][axis1])
    goes_on = np.zeros(len(seg), bool)
    goes_on[1:] = (seg[1:] == seg[:-1] + 1) & (t1[:-1] == 1) & (t0[1:] == 0)
    inside = ((points >= box[0]) & (points <= box[1])).all(axis=1)
    covered = np.zeros(len(points), bool)
    covered[seg[t0 == 0]] = True
    covered[seg[t1 == 1] + 1] = True
    lone = np.flatnonzero(inside & ~covered)
    new = ~goes_on
    base = np.concatenate([seg[new], seg, lone]).astype(np.int64)
    weight = np.concatenate([t0[new], t1, np.zeros(len(lone))])
    begins = np.concatenate([np.ones(int(new.sum()), bool), np.zeros(len(seg), bool), np.ones(len(lone), bool)])
    axis = np.concatenate([np.where(t0 > 0, axis0, -1)[new], np.where(t1 < 1, axis1, -1), np.full(len(lone), -1)])
    face = np.concatenate([face0[new], face1, np.zeros(len(lone))])
    order = np.lexsort((~begins, weight, base))
    return base[order], weight[order], begins[order], (axis[order].astype(np.int64), face[order])


def _between(one: NDArray[Any], two: NDArray[Any], weight: NDArray[np.float64]) -> NDArray[Any]:
    """Return values at parts of the way: numbers with fractions and times in between, all others those of the nearer end."""
    part = weight.reshape((-1, *(1 for _ in one.shape[1:])))
    nearer = np.where(part < 0.5, one, two)
    if one.dtype.kind in "fc" or one.dtype.kind in "mM":
        mixed = one + (two - one) * part
    else:
        return nearer
    return np.where((part == 0) | (part == 1), nearer, mixed).astype(one.dtype)
