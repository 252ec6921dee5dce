"""Surfaces of trimesh."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dask_zv.errors import InputError
from dask_zv.exports.columns import flat, numbers_of, places_of_objects
from dask_zv.exports.optional import library
from dask_zv.exports.parts import faces_of
from dask_zv.xarray_backend.content import Content, Shape, read_content, shape_of

if TYPE_CHECKING:
    from trimesh import Trimesh


def to_trimesh(ds: xr.Dataset, *, by_object: bool = False) -> Trimesh | dict[int, Trimesh]:
    """Return the faces of a mesh; vertices are in the order of the Dataset, none is merged or left out (``process=False``).

    A quad becomes two triangles, those of its corners (0, 1, 2) and (2, 3, 0); attributes of faces are repeated.

    Parameters
    ----------
    ds : Dataset
        Of a mesh, in the spatial view.
    by_object : bool
        Return a mesh for each object that has vertices. ``trimesh.Scene({str(k): m for k, m in meshes.items()})`` shows
        them together.

    Returns
    -------
    Trimesh, or dict of int to Trimesh
        ``vertex_attributes`` are those of the vertices (one per channel of those that have several), ``vertex`` (their numbers)
        and ``object_id``; ``face_attributes`` those of the faces. ``metadata`` has ``object_id`` and the attributes of the
        object with `by_object`. 2-D meshes lie in the plane z = 0.

    Raises
    ------
    InputError
        The Dataset is no mesh, in the objects view, of other than 2 or 3 axes, has faces of more than 4 corners; or with
        `by_object`, faces that are not of one object.
    ImportError
        trimesh is not installed.
    """
    trimesh = library("trimesh", "mesh")
    shape = shape_of(ds)
    check_mesh(shape)
    if not 2 <= len(shape.axes) <= 3:
        raise InputError(f"trimesh has meshes of 3 axes, the Dataset has {len(shape.axes)}: {', '.join(shape.axes)}")
    content = read_content(ds)
    faces = faces_of(content)
    if faces.shape[1] not in (3, 4):
        raise InputError(
            f"faces of {faces.shape[1]} corners don't divide into triangles by themselves: only those of 3 or 4 do"
        )
    about = flat(ds, shape.face_attributes, content.face_attributes)
    if faces.shape[1] == 4:
        faces = faces[:, [0, 1, 2, 2, 3, 0]].reshape(-1, 3)
        about = {k: np.repeat(v, 2, axis=0) for k, v in about.items()}
    positions = np.zeros((len(content), 3))
    positions[:, : len(shape.axes)] = content.positions
    columns = {"vertex": numbers_of(ds), **flat(ds, shape.attributes, content.attributes)}
    if content.object_ids is not None:
        columns["object_id"] = content.object_ids

    def made(rows: Any, of_faces: Any, corners: NDArray[np.int64], metadata: dict[str, Any]) -> Trimesh:
        mesh: Trimesh = trimesh.Trimesh(
            vertices=positions[rows],
            faces=corners,
            process=False,
            vertex_attributes={k: v[rows] for k, v in columns.items()},
            face_attributes={k: v[of_faces] for k, v in about.items()},
            metadata=metadata,
        )
        return mesh

    if not by_object:
        return made(slice(None), slice(None), faces, {})
    return {
        key: made(rows, of_faces, corners, metadata) for key, rows, of_faces, corners, metadata in _each_object(content, faces)
    }


def check_mesh(shape: Shape) -> None:
    """Refuse what has no faces.

    Raises
    ------
    InputError
        The Dataset is no mesh.
    """
    if shape.kind != "mesh":
        raise InputError(f"a {shape.kind} has no faces: only meshes have")


def _each_object(content: Content, faces: NDArray[np.int64]) -> Any:
    """Yield id, rows, faces, their corners among these rows, and attributes of each object that has vertices."""
    owned = places_of_objects(content)
    if owned is None:
        raise InputError("the Dataset has no objects (object_id): by_object=False returns all faces at once")
    ids, places = owned
    owner = places[faces]
    odd = int(((owner != owner[:, :1]) | (owner < 0)).any(axis=1).sum())
    if odd:
        raise InputError(f"{odd:,} faces are not of one object, as their vertices are of several, or of none: by_object=False")
    rows = np.argsort(places, kind="stable")
    links = np.argsort(owner[:, 0], kind="stable")
    row_edges = np.searchsorted(places, np.arange(len(ids) + 1), sorter=rows)
    link_edges = np.searchsorted(owner[:, 0], np.arange(len(ids) + 1), sorter=links)
    local = np.empty(len(places), np.int64)
    for i, key in enumerate(ids.tolist()):
        mine = rows[row_edges[i] : row_edges[i + 1]]
        if len(mine):
            of_faces = links[link_edges[i] : link_edges[i + 1]]
            local[mine] = np.arange(len(mine))
            shown = content.shape.object_attributes
            about = {shown[k]: v[i].tolist() for k, v in content.object_attributes.items()}
            yield key, mine, of_faces, local[faces[of_faces]], {"object_id": key, **about}
