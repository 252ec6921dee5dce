"""A store of layout ``grid`` decoded by hand, with everything checked that the format says of it.

Only documents, cells and numpy: nothing is shared with the library. What is decoded is in reading order: chunks ascending,
fragments in order, rows in order.
"""

from __future__ import annotations

import itertools
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import google_crc32c
import numpy as np
from numcodecs.blosc import Blosc
from numcodecs.vlen import VLenBytes
from numcodecs.zstd import Zstd
from points_reference import chunk_of, files

Coords = tuple[int, ...]


def objects_of(target: Any) -> dict[str, bytes]:
    """Return every object of a directory, or of the dict that a store was made in."""
    if isinstance(target, dict):
        return {k: v.to_bytes() for k, v in target.items()}
    return files(target)


@dataclass
class Record:
    """A link: rows in reading order as the input gave them, and where it was found."""

    ends: tuple[int, ...]
    source: Coords
    segment: str
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass
class PlainLevel:
    """What a level holds."""

    geometry: str
    directed: bool
    positions: np.ndarray
    attributes: dict[str, np.ndarray]
    chunks: dict[Coords, int]
    fragments: dict[Coords, list[tuple[int, int]]]
    manifests: dict[int, list[tuple[Coords, int]]]
    links: list[Record]
    link_attributes: tuple[str, ...]
    object_attributes: dict[str, np.ndarray]
    groups: list[list[int]]
    group_attributes: dict[str, np.ndarray]

    def base(self, chunk: Coords) -> int:
        """Return the reading row of a chunk's first vertex."""
        return sum(n for c, n in self.chunks.items() if c < chunk)

    def rows_of(self, owner: int) -> list[int]:
        """Return an object's reading rows in the order of its manifest."""
        out: list[int] = []
        for chunk, number in self.manifests[owner]:
            start, count = self.fragments[chunk][number]
            out += range(self.base(chunk) + start, self.base(chunk) + start + count)
        return out

    def parents(self) -> list[int]:
        """Return the parent of each row: the row before it in its fragment, where no link says otherwise."""
        out: list[int] = []
        for chunk in sorted(self.fragments):
            for _, count in self.fragments[chunk]:
                out += [-1 if i == 0 else len(out) + i - 1 for i in range(count)]
        told: set[int] = set()
        for record in self.links:
            child, parent = record.ends
            assert child not in told, "two links give one vertex a parent"
            told.add(child)
            out[child] = parent
        return out


class _Store:
    def __init__(self, objects: Mapping[str, bytes], level: str) -> None:
        self.objects = {k.removeprefix(f"{level}/"): v for k, v in objects.items() if k.startswith(f"{level}/")}
        self.root = json.loads(objects["zarr.json"])["attributes"]

    def document(self, path: str) -> dict[str, Any]:
        return json.loads(self.objects[f"{path}/zarr.json" if path else "zarr.json"])

    def children(self, path: str) -> list[str]:
        head = f"{path}/"
        return sorted({k[len(head) :].partition("/")[0] for k in self.objects if k.startswith(head)} - {"zarr.json"})

    def names(self, path: str) -> list[str]:
        return self.children(path) if f"{path}/zarr.json" in self.objects else []

    def cells(self, path: str) -> dict[Coords, bytes]:
        """Return the payloads of a chunk array by absolute chunk, checked against the list that other readers go by."""
        document = self.document(path)
        assert document["data_type"] == "variable_length_bytes"
        assert document["fill_value"] == ""
        attributes, shape = document["attributes"], document["shape"]
        origin = attributes.get("chunk_grid_origin", [0] * len(shape))
        assert any(origin) or "chunk_grid_origin" not in attributes
        codecs = document["codecs"]
        unit = document["chunk_grid"]["configuration"]["chunk_shape"]
        inner = codecs
        if codecs[0]["name"] == "sharding_indexed":
            settings = codecs[0]["configuration"]
            assert settings["chunk_shape"] == [1] * len(shape)
            inner = settings["codecs"]
        else:
            assert unit == [1] * len(shape)
        out: dict[Coords, bytes] = {}
        for key, data in self.objects.items():
            if not key.startswith(f"{path}/c/"):
                continue
            at = tuple(map(int, key.removeprefix(f"{path}/c/").split("/")))
            parts = {(0,) * len(shape): data} if inner is codecs else _unpack(data, unit)
            for offset, part in parts.items():
                cell = tuple(a * u + o for a, u, o in zip(at, unit, offset, strict=True))
                assert all(0 <= c < s for c, s in zip(cell, shape, strict=True)), f"{path}: cell {cell} outside {shape}"
                payload = _decode(part, inner)
                assert payload, f"{path}: an empty cell is stored at {cell}"
                out[tuple(c + o for c, o in zip(cell, origin, strict=True))] = payload
        listed = attributes["nonempty_chunks"]
        assert listed == sorted(listed)
        assert listed == sorted(".".join(map(str, c)) for c in out), f"{path}: the list is not what is stored"
        return dict(sorted(out.items()))

    def array(self, path: str) -> np.ndarray:
        """Return an ordinary array, of one or more chunks along its first axis."""
        document = self.document(path)
        shape, unit = document["shape"], document["chunk_grid"]["configuration"]["chunk_shape"]
        names = [c["name"] for c in document["codecs"]]
        parts = []
        for i in range(-(-shape[0] // unit[0])):
            key = "/".join([f"{path}/c/{i}", *("0" for _ in shape[1:])])
            data = self.objects.get(key)
            if document["data_type"] == "variable_length_bytes":
                assert names == ["vlen-bytes", "zstd"] or names == ["vlen-bytes"]
                raw = b"" if data is None else Zstd().decode(data) if "zstd" in names else data
                cell = np.full(unit[0], b"", object) if data is None else VLenBytes().decode(raw)
            else:
                dtype = _dtype(document)
                fill = document["fill_value"]
                fill = {"NaN": np.nan}.get(fill, fill)
                if data is None:
                    cell = np.full(unit, fill, dtype)
                else:
                    cell = np.frombuffer(Zstd().decode(data) if "zstd" in names else data, dtype).reshape(unit)
            parts.append(cell)
        whole = np.concatenate(parts) if parts else np.zeros([0, *shape[1:]], object)
        return whole[: shape[0]]


def _dtype(document: Mapping[str, Any]) -> np.dtype[Any]:
    kind = document["data_type"]
    if isinstance(kind, dict):
        assert kind["name"] == "fixed_length_utf32"
        return np.dtype(f"<U{kind['configuration']['length_bytes'] // 4}")
    return np.dtype(kind).newbyteorder("<")


def _unpack(data: bytes, unit: list[int]) -> dict[Coords, bytes]:
    """Return the parts of a shard by their cell in it."""
    count = math.prod(unit)
    index, checksum = data[-16 * count - 4 : -4], data[-4:]
    assert struct.unpack("<I", checksum)[0] == google_crc32c.value(index)
    table = np.frombuffer(index, "<u8").reshape(count, 2)
    cells = itertools.product(*(range(u) for u in unit))
    absent = np.iinfo(np.uint64).max
    found = {c: (int(a), int(n)) for c, (a, n) in zip(cells, table, strict=True) if a != absent}
    spans = sorted(found.values())
    assert all(a + n <= b for (a, n), (b, _) in itertools.pairwise(spans)), "parts of a shard overlap"
    return {c: data[a : a + n] for c, (a, n) in found.items()}


def _decode(data: bytes, codecs: list[dict[str, Any]]) -> bytes:
    assert codecs[0]["name"] == "vlen-bytes"
    for codec in reversed(codecs[1:]):
        data = bytes({"zstd": Zstd, "blosc": Blosc}[codec["name"]]().decode(data))
    items, length = struct.unpack_from("<II", data)
    assert items == 1
    assert len(data) == 8 + length
    return data[8:]


def _ranges(blob: bytes) -> list[tuple[int, int]]:
    """Return the fragments of an index that has ranges alone."""
    magic, version, flags, count, ranges = struct.unpack_from("<IHHII", blob)
    assert (magic, version, flags) == (0x5A564647, 1, 0)
    assert count == ranges
    bitmap = -(-count // 64) * 8
    assert len(blob) == 16 + bitmap + 16 * count + 4
    bits = np.unpackbits(np.frombuffer(blob, np.uint8, bitmap, 16), bitorder="little")
    assert bits[:count].all()
    assert not bits[count:].any()
    assert blob[-4:] == b"\0\0\0\0"
    return [tuple(r) for r in np.frombuffer(blob, "<i8", 2 * count, 16 + bitmap).reshape(-1, 2).tolist()]  # type: ignore[misc]


def _manifest(blob: bytes, rank: int) -> list[tuple[Coords, int]]:
    if not blob:
        return []
    (count,) = struct.unpack_from("<I", blob)
    assert len(blob) == 4 + count * (8 * rank + 9)
    out = []
    for i in range(count):
        at = 4 + i * (8 * rank + 9)
        coords = struct.unpack_from(f"<{rank}q", blob, at)
        assert blob[at + 8 * rank] == 0
        out.append((coords, struct.unpack_from("<q", blob, at + 8 * rank + 1)[0]))
    return out


def _ragged(blob: bytes, width: int) -> np.ndarray:
    (groups,) = struct.unpack_from("<q", blob)
    assert groups == 1
    assert struct.unpack_from("<q", blob, 8)[0] == 0
    rows = np.frombuffer(blob, "<i8", offset=16)
    return rows.reshape(-1, width)


def _offsets(segment: str) -> list[Coords]:
    parts = [tuple(map(int, part.split("."))) for part in segment.split("_")]
    again = "_".join(".".join("0" if c == 0 else f"{c:+d}" for c in p) for p in parts)
    assert again == segment
    return parts


def _unrank(code: int, width: int) -> list[int]:
    """Return the permutation of a Lehmer code."""
    left = list(range(width))
    out = []
    for i in range(width):
        at, code = divmod(code, math.factorial(width - 1 - i))
        out.append(left.pop(at))
    assert code == 0
    return out


def decode(target: Any, level: str = "0") -> PlainLevel:
    """Decode a level of a store that holds one, and check it against the format."""
    store = _Store(objects_of(target), level)
    root = store.root["zarr_vectors"]
    own = store.document("")["attributes"]["zarr_vectors_level"]
    chunk_shape = own.get("chunk_shape") or root["chunk_shape"]
    rank = len(chunk_shape)
    vertices = store.cells("vertices")
    dtype = np.dtype(store.document("vertices")["attributes"]["dtype"])
    sizes: dict[Coords, int] = {}
    points = [np.zeros((0, rank), dtype)]
    for chunk, blob in vertices.items():
        rows = np.frombuffer(blob, dtype).reshape(-1, rank)
        for p in rows:
            assert chunk_of(p, chunk_shape) == chunk, f"{p} is not in chunk {chunk}"
        sizes[chunk] = len(rows)
        points.append(rows)
    assert own["vertex_count"] == sum(sizes.values())
    assert own["fragments_tile"] is True
    fragments: dict[Coords, list[tuple[int, int]]] = {}
    for chunk, blob in store.cells("vertex_fragments").items():
        found = _ranges(blob)
        ends = np.cumsum([0, *(n for _, n in found)]).tolist()
        assert [a for a, _ in found] == ends[:-1]
        assert ends[-1] == sizes[chunk]
        fragments[chunk] = found
    assert fragments.keys() == sizes.keys()
    attributes = {name: _column(store, f"vertex_attributes/{name}", sizes) for name in store.names("vertex_attributes")}
    manifests = _manifests(store, fragments, rank)
    directed, records, link_names = _links(store, sizes, rank)
    groups = store.array("groups").tolist() if "groups/zarr.json" in store.objects else []
    return PlainLevel(
        root["geometry_types"][0],
        directed,
        np.concatenate(points),
        attributes,
        sizes,
        fragments,
        manifests,
        records,
        link_names,
        {n: store.array(f"object_attributes/{n}") for n in store.names("object_attributes")},
        [np.frombuffer(g, "<i8").tolist() for g in groups],
        {n: store.array(f"group_attributes/{n}") for n in store.names("group_attributes")},
    )


def _column(store: _Store, path: str, sizes: Mapping[Coords, int]) -> np.ndarray:
    about = store.document(path)["attributes"]
    dtype, rest = np.dtype(about["dtype"]), tuple(about["row_shape"])
    cells = store.cells(path)
    assert cells.keys() == sizes.keys(), path
    parts = [np.zeros((0, *rest), dtype)]
    for chunk, blob in cells.items():
        assert len(blob) == sizes[chunk] * math.prod(rest) * dtype.itemsize
        parts.append(np.frombuffer(blob, dtype).reshape(-1, *rest))
    values = np.concatenate(parts)
    if about.get("encoding") == "dictionary":
        assert about["categories"] == sorted(about["categories"])
        words = np.array([*about["categories"], None], object)
        codes = set(values.tolist())
        assert codes <= {*range(len(words) - 1), *([-1] if "_FillValue" in about else [])}
        values = words[values]
    return values


def _manifests(
    store: _Store, fragments: Mapping[Coords, list[tuple[int, int]]], rank: int
) -> dict[int, list[tuple[Coords, int]]]:
    if "object_index/zarr.json" not in store.objects:
        return {}
    about = store.document("object_index")["attributes"]
    assert about["sid_ndim"] == rank
    assert about["layout"] == "vlen_manifests_v2"
    if about["num_objects"] == 0:
        assert not fragments
        return {}
    ids = store.array("object_index/object_ids").tolist()
    blobs = store.array("object_index/manifests").tolist()
    assert len(ids) == len(blobs) == about["num_objects"]
    assert ids == sorted(set(ids))
    assert about["object_ids_sorted"] is True
    found = {i: _manifest(b, rank) for i, b in zip(ids, blobs, strict=True)}
    assert about["num_present"] == sum(map(bool, found.values()))
    named = [place for manifest in found.values() for place in manifest]
    assert sorted(named) == sorted((c, i) for c, f in fragments.items() for i in range(len(f))), "each fragment has one owner"
    return found


def _links(store: _Store, sizes: Mapping[Coords, int], rank: int) -> tuple[bool, list[Record], tuple[str, ...]]:
    if not store.names("links"):
        return False, [], ()
    assert store.children("links") == ["0"]
    family = store.document("links/0")["attributes"]
    width, directed = family["link_width"], family["directed"]
    assert (family["zv_array"], family["level_delta"], family["sid_ndim"]) == ("links_family", 0, rank)
    assert family["store"] == "canonical"
    names = tuple(store.names("link_attributes"))
    starts = dict(zip(sizes, np.cumsum([0, *sizes.values()]).tolist(), strict=False))
    zero = "_".join([".".join("0" * rank)] * (width - 1))
    records: list[Record] = []
    for segment in store.names("links/0"):
        offsets = _offsets(segment)
        assert len(offsets) == width - 1
        about = store.document(f"links/0/{segment}")["attributes"]
        assert [tuple(o) for o in about["offsets"]] == offsets
        intra = segment == zero
        assert about["has_perm"] == (not intra and not directed)
        assert (about["link_width"], about["level_delta"], about["zv_array"]) == (width, 0, "links")
        assert directed or offsets == sorted(offsets), "canonical offsets don't decrease"
        assert directed or min(offsets) >= (0,) * rank, "canonical offsets are not negative"
        cells = store.cells(f"links/0/{segment}")
        assert cells or intra, "a segment without records"
        columns = {n: store.cells(f"link_attributes/{n}/0/{segment}") for n in names}
        for name, column in columns.items():
            assert column.keys() == cells.keys(), name
        if intra and "link_fragments/zarr.json" in store.objects:
            index = store.cells("link_fragments")
            counts = {c: len(b) // (8 * width) for c, b in cells.items()}
            assert {c: _ranges(b) for c, b in index.items()} == {c: [(0, n)] for c, n in counts.items()}
        for chunk, blob in cells.items():
            rows = np.frombuffer(blob, "<i8").reshape(-1, width) if intra else _ragged(blob, width + int(about["has_perm"]))
            values = {
                n: _link_values(store, f"link_attributes/{n}/0/{segment}", c[chunk], len(rows)) for n, c in columns.items()
            }
            chunks = [chunk, *(tuple(a + o for a, o in zip(chunk, off, strict=True)) for off in offsets)]
            for i, row in enumerate(rows.tolist()):
                order = _unrank(row[0], width) if about["has_perm"] else list(range(width))
                stored = list(zip(chunks, row[-width:], strict=True))
                for c, v in stored:
                    assert 0 <= v < sizes[c], f"{segment} at {chunk}: row {v} of chunk {c}"
                given = [None] * width
                for slot, place in enumerate(order):
                    given[place] = stored[slot]  # type: ignore[call-overload]
                if about["has_perm"]:
                    assert order == sorted(range(width), key=lambda k: given[k]), "stably sorted by chunk and row"
                ends = tuple(starts[c] + v for c, v in given)  # type: ignore[misc]
                records.append(Record(ends, chunk, segment, {n: v[i] for n, v in values.items()}))
    if records:
        assert family["num_links"] == family["num_physical_records"] == len(records)
    for name in names:
        assert store.document(f"link_attributes/{name}/0")["attributes"]["zv_array"] == "link_attribute_family"
        assert set(store.names(f"link_attributes/{name}/0")) == set(store.names("links/0"))
    return directed, records, names


def _link_values(store: _Store, path: str, blob: bytes, count: int) -> np.ndarray:
    about = store.document(path)["attributes"]
    dtype, rest = np.dtype(about["dtype"]), tuple(about.get("row_shape", ()))
    assert len(blob) == count * math.prod(rest) * dtype.itemsize
    return np.frombuffer(blob, dtype).reshape(count, *rest)


def reading_key(record: Record, width: int) -> tuple[Any, ...]:
    """Return what records are read back by: chunk, those inside of it first, then by segment; as written in a cell."""
    inside = not any(any(o) for o in _offsets(record.segment))
    return record.source, not inside, record.segment
