"""Paths, edges and triangles cut where they cross the sides of a box: new vertices lie on its faces."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dask_zv.errors import InputError
from dask_zv.spatial.grid import Box, stored_box
from dask_zv.xarray_backend import conventions as names
from dask_zv.xarray_backend.content import Shape, check_in_step, places_of, vertex_numbers
from dask_zv.xarray_backend.step_index import held_together, in_step


def cut_at_box(ds: xr.Dataset, shape: Shape, box: Box) -> xr.Dataset:
    """Return what of each path, edge or triangle is inside a closed box, with vertices where it crosses the box's sides.

    All positions are read: a path can cross the box without a vertex in it. See :meth:`ZVDatasetAccessor.sel`.
    """
    if shape.is_path and shape.view == "objects":
        return _cut_paths(ds, shape, box)
    if names.EDGES in ds.variables or names.FACES in ds.variables or names.PARENT in ds.variables:
        return _cut_links(ds, shape, box)
    other = "objects" if shape.is_path else "spatial"
    raise InputError(
        f"clip='cut' cuts paths in view='objects', and edges and faces in view='spatial': open the {shape.kind} with "
        f"view={other!r}, or select vertices with clip=True"
    )


def _stored(columns: list[NDArray[Any]], box: Box) -> tuple[Box, NDArray[np.float64]]:
    """Return the box of the stored dtype, and positions."""
    sides = [stored_box((low, high), c.dtype) for c, low, high in zip(columns, *box, strict=True)]
    points = np.stack([c.astype(np.float64) for c in columns], axis=1)
    return (np.array([s[0] for s in sides], np.float64), np.array([s[1] for s in sides], np.float64)), points


def _cut_paths(ds: xr.Dataset, shape: Shape, box: Box) -> xr.Dataset:
    lengths = check_in_step(ds)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    box, points = _stored([ds[a].to_numpy() for a in shape.axes], box)
    base, weight, begins, faces = _pieces(points, owner, box)
    ids = ds["object"].to_numpy() if "object" in ds.variables else np.arange(len(lengths))
    first = np.flatnonzero(begins)
    plain = ds.drop_vars([n for n in (names.RANGE, "object", "vertex") if n in ds.variables])
    out = plain.isel(object=owner[base[first]], vertex=base).load()
    following = np.minimum(base + 1, max(len(owner) - 1, 0))
    after = plain.isel(vertex=following).load()
    inside = ((points >= box[0]) & (points <= box[1])).all(axis=1)
    first_end = np.where(inside[base] != inside[following], inside[base], weight < 0.5)
    changed: dict[Any, xr.Variable] = {}
    for name, variable in out.variables.items():
        if variable.dims[:1] == ("vertex",):
            values = _between(variable.to_numpy(), after.variables[name].to_numpy(), weight, first_end)
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
    """Return the vertices of what is inside, shape (m,) each.

    Each lies between the vertices `base` and `base` + 1, at the part `weight` of the way; with some a piece `begins`; `faces`
    are the axis whose face it lies on (-1: none), and the position of that.
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


def _cut_links(ds: xr.Dataset, shape: Shape, box: Box) -> xr.Dataset:
    """Cut edges and triangles at one side of the box after the other; a new vertex is shared by all that cross there."""
    numbers = vertex_numbers(ds)
    role = next((r for r in (names.FACES, names.EDGES) if r in ds.variables), None)
    if role is None:
        links = places_of(numbers, np.stack([numbers, ds[names.PARENT].to_numpy()], axis=1))
    else:
        links = places_of(numbers, ds[role].to_numpy())
    if links.shape[1] > 3:
        raise InputError(f"clip='cut' cuts triangles, and these faces have {links.shape[1]} corners: triangulate, or clip=True")
    kept = np.flatnonzero((links >= 0).all(axis=1))
    links = links[kept]
    plain = ds.drop_vars([n for n in (names.RANGE, names.TABLE, "vertex") if n in ds.variables])
    plain = plain.drop_indexes(list(plain.xindexes))
    along = [str(k) for k, v in plain.variables.items() if v.dims[:1] == ("vertex",) and k not in (names.PARENT, *shape.axes)]
    columns = {k: plain[k].to_numpy() for k in along}
    owner = "owner of a vertex" if shape.view == "objects" else None  # no variable's name: those are along vertex
    if owner is not None:
        lengths = check_in_step(ds)
        columns[owner] = np.repeat(np.arange(len(lengths)), lengths)
    box, points = _stored([plain[a].to_numpy() for a in shape.axes], box)
    n = len(points)
    for axis, side, sign in [(a, box[i][a], (1, -1)[i]) for a in range(len(shape.axes)) for i in (0, 1)]:
        if np.isfinite(side):
            links, which, (near, far, weight) = _at_side(links, sign * (points[:, axis] - side), len(points))
            kept = kept[which]
            new = points[near] + (points[far] - points[near]) * weight[:, None]
            new[:, axis] = side
            points = np.concatenate([points, new])
            columns = {k: np.concatenate([c, _between(c[near], c[far], weight, True)]) for k, c in columns.items()}
    there = ((points >= box[0]) & (points <= box[1])).all(axis=1)
    there[n:] = False
    there[links.ravel()] = True
    rows = np.flatnonzero(there)
    if owner is not None:
        rows = rows[np.argsort(columns[owner][rows], kind="stable")]
    place = np.full(len(points), -1, np.int64)
    place[rows] = np.arange(len(rows))
    links = place[links]
    changed = {k: (plain[k].dims, columns[k][rows], plain[k].attrs) for k in along}
    for i, axis_name in enumerate(shape.axes):
        changed[axis_name] = (("vertex",), points[rows, i].astype(plain[axis_name].dtype), plain[axis_name].attrs)
    out = plain.drop_dims("vertex")
    if role is not None:
        out = out.isel({role[:-1]: kept}).drop_vars([d for d in (role[:-1],) if d in out.variables])
        changed[role] = (plain[role].dims, links, plain[role].attrs)
    if names.PARENT in plain.variables:
        parents = np.full(len(rows), -1, np.int64)
        parents[links[:, 0]] = links[:, 1]
        changed[names.PARENT] = (("vertex",), parents, plain[names.PARENT].attrs)
    coords = {k: v for k, v in changed.items() if k in plain.coords}
    out = out.load().assign({k: v for k, v in changed.items() if k not in coords}).assign_coords(coords)
    out = out.assign_coords(vertex=("vertex", np.arange(len(rows)), ds["vertex"].attrs))
    out = out.set_xindex("object") if "object" in out.variables else out
    if owner is not None:
        counts = np.bincount(columns[owner][rows], minlength=ds.sizes["object"])
        out = out.isel(object=np.flatnonzero(counts))
        out = out.assign_coords({names.COUNT: ("object", counts[counts > 0], ds[names.COUNT].attrs)})
        return in_step(out, counts[counts > 0])
    return held_together(out, out["object"].to_numpy()) if names.TABLE in ds.variables else out


def _at_side(
    links: NDArray[np.int64], depth: NDArray[np.float64], count: int
) -> tuple[NDArray[np.int64], NDArray[np.intp], tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]]:
    """Cut edges (m, 2) or triangles (m, 3) at a plane, below which `depth` of a vertex is negative, and outside.

    Return what is inside, in the order (and of triangles with the winding) of what it is cut from; what each is cut from; and
    of each new vertex, numbered from `count` on: it lies between one inside (`near`) and one outside (`far`), at this part of
    the way.
    """
    inside = depth[links] >= 0
    number = inside.sum(axis=1)
    width = links.shape[1]
    mixed = np.flatnonzero((number > 0) & (number < width))
    # turned so that corner 0 is alone on its side of the plane
    alone = (
        np.argmax(inside[mixed] == (number[mixed] == 1)[:, None], axis=1) if width == 3 else np.argmin(inside[mixed], axis=1)
    )
    turned = np.take_along_axis(links[mixed], (alone[:, None] + np.arange(width)) % width, axis=1)
    first, others = np.repeat(turned[:, :1], width - 1, axis=1), turned[:, 1:]
    outer = depth[first] < 0
    near, far = np.where(outer, others, first), np.where(outer, first, others)
    pairs, new = np.unique(np.stack([near.ravel(), far.ravel()], axis=1), axis=0, return_inverse=True)
    crossing = np.where(depth[near] == 0, near, new.reshape(near.shape) + count)  # one on the plane is its own
    if width == 2:
        made = np.where(alone[:, None] == [[0, 1]], crossing, turned[:, 1:])
        source = mixed
    else:
        tip, two = ~outer[:, 0], outer[:, 0]
        b, c, ab, ac = turned[:, 1], turned[:, 2], crossing[:, 0], crossing[:, 1]
        made = np.concatenate(
            [
                np.stack([turned[:, 0], ab, ac], axis=1)[tip],
                np.stack([ab, b, c], axis=1)[two],
                np.stack([ab, c, ac], axis=1)[two],
            ]
        )
        source = np.concatenate([mixed[tip], mixed[two], mixed[two]])
    solid = (made != np.roll(made, 1, axis=1)).all(axis=1)
    whole = np.flatnonzero(number == width)
    which = np.concatenate([whole, source[solid]])
    order = np.argsort(which, kind="stable")
    near, far = pairs[:, 0], pairs[:, 1]
    weight = depth[near] / (depth[near] - depth[far])
    return np.concatenate([links[whole], made[solid]])[order], which[order], (near, far, weight)


def _between(one: NDArray[Any], two: NDArray[Any], weight: NDArray[np.float64], first: Any) -> NDArray[Any]:
    """Return values at parts of the way: numbers with fractions and times in between, all others those of the chosen end."""
    shape = (-1, *(1 for _ in one.shape[1:]))
    part = weight.reshape(shape)
    chosen = np.where(np.reshape(first, shape if np.ndim(first) else ()), one, two)
    if one.dtype.kind in "fc" or one.dtype.kind in "mM":
        mixed = one + (two - one) * part
    else:
        return chosen
    return np.where(part == 0, one, np.where(part == 1, two, mixed)).astype(one.dtype)
