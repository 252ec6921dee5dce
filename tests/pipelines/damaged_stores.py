"""What the tests of damage share: a store that is moved and broken again and again, and edits as other tools make them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from points_reference import CATALOG

import dask_zv as dzv


def copy_of(store: Path, target: Path, *, catalog: bool = True) -> Path:
    """Copy a store, with its catalog or without."""
    shutil.copytree(store, target)
    if not catalog:
        shutil.rmtree(target / "0" / CATALOG)
    return target


@pytest.fixture
def copy(whole: Any, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that makes a fresh copy of the store of the fixture `whole`."""
    number = iter(range(10**6))
    return lambda *, catalog=True: copy_of(whole.path, tmp_path / f"{next(number)}.zv", catalog=catalog)


def answer(geometry: Any) -> dict[str, Any]:
    """Return everything of a geometry as comparable values."""
    out = {n: None if (v := getattr(geometry, n)) is None else v.tolist() for n in ("positions", "edges", "faces", "parents")}
    out["ids"] = None if geometry.object_ids is None else geometry.object_ids.tolist()
    out |= {k: (str(v.dtype), v.tolist()) for k, v in geometry.attributes.items()}
    out |= {f"edge {k}": v.tolist() for k, v in geometry.edge_attributes.items()}
    out |= {f"object {k}": (v.tolist(), np.ma.getmaskarray(v).tolist()) for k, v in geometry.object_attributes.items()}
    return out | {"groups": {g: m.tolist() for g, m in geometry.groups.items()}}


def errors_of(questions: dict[str, Callable[[], Any]], expected: dict[str, Any], allowed: Any = ()) -> dict[str, Exception]:
    """Ask everything: an answer is right, or an error of ours (a warning: a vertex is outside of its chunk); return these."""
    errors: dict[str, Exception] = {}
    for question, ask in questions.items():
        try:
            found = ask()
        except (dzv.ZVError, dzv.ZVWarning) as error:
            errors[question] = error
            continue
        if found != expected[question] and question not in allowed:
            pytest.fail(f"{question!r} gave a wrong answer without an error: {found!r:.500}")
    return errors


class Breakable:
    """A copy of a store that has another name each time that something in it is broken: what a process remembers is no help."""

    def __init__(self, copy: Path) -> None:
        self.path = copy
        self._number = 0

    @contextmanager
    def broken(self, name: str, data: bytes | None) -> Iterator[Path]:
        """Return the path of the store, of which one file has other content, or is gone; then it is whole again."""
        self._number += 1
        moved = self.path = self.path.rename(self.path.with_name(f"{self.path.stem.partition('-')[0]}-{self._number}.zv"))
        whole = (moved / name).read_bytes()
        put(moved / name, data)
        try:
            yield moved
        except pytest.fail.Exception as failure:
            pytest.fail(f"{name}: {failure}")
        finally:
            (moved / name).write_bytes(whole)


def put(place: Path, data: bytes | None) -> None:
    """Replace a file, or remove it."""
    place.unlink()
    if data is not None:
        place.write_bytes(data)


def damages(data: bytes, *, document: bool) -> Iterator[tuple[str, bytes | None]]:
    """Yield (what, content) of a file that is damaged; the content is None where the file is gone."""
    yield "deleted", None
    yield "emptied", b""
    yield "cut in half", data[: len(data) // 2]
    if not document:  # as good as cut in half
        yield "one byte short", data[:-1]
    yield "one byte long", data + b"}"
    yield "zeroed", bytes(len(data))


def edit_document(path: Path, node: str, change: dict[str, Any], **attributes: Any) -> None:
    """Change the document of a node, and attributes in it, as another tool would, without its catalog."""
    place = path / node / "zarr.json"
    document = json.loads(place.read_bytes())
    document |= change
    document["attributes"] |= attributes
    put(place, json.dumps(document).encode())


class Cells:
    """The blobs of the arrays of a store of chunks in one object each, or of layout ``grid``, as any tool of Zarr handles them."""

    def __init__(self, path: Path, layout: str) -> None:
        self.path, self.layout = path / "0", layout

    def _open(self, array: str, key: str) -> tuple[zarr.Array, Any]:
        if self.layout == "per_chunk":
            return zarr.open_array(self.path / array / key, mode="r+", zarr_format=3), slice(None)
        found = zarr.open_array(self.path / array, mode="r+", zarr_format=3)
        origin = found.attrs.get("chunk_grid_origin", [0] * found.ndim)
        return found, tuple(slice(int(c) - o, int(c) - o + 1) for c, o in zip(key.split("."), origin, strict=True))

    def read(self, array: str, key: str) -> bytes:
        """Return a blob."""
        found, cell = self._open(array, key)
        return found[cell].tobytes() if self.layout == "per_chunk" else found[cell].item()

    def write(self, array: str, key: str, data: bytes) -> None:
        """Replace a blob."""
        if self.layout == "per_chunk":
            values = np.frombuffer(data, np.uint8)
            place = self.path / array / key
            zarr.create_array(place, data=values, chunks=values.shape, compressors=None, overwrite=True, zarr_format=3)
            return
        found, cell = self._open(array, key)
        value = np.empty((1,) * found.ndim, object)
        value.flat[0] = data
        found[cell] = value
