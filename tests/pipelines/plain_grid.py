"""A store of layout ``grid`` decoded by hand, with everything checked that the format says of it.

Only documents, cells and numpy (and zarr for what are ordinary arrays): nothing is shared with the library. What is decoded is
in reading order: chunks ascending, fragments in order, rows in order.
"""

from __future__ import annotations

import itertools
import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numcodecs.blosc import Blosc
from numcodecs.zstd import Zstd
from points_reference import chunk_of, files
from zarr.buffer import cpu
from zarr.storage import MemoryStore

Coords = tuple[int, ...]


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
        children = [record.ends[0] for record in self.links]
        assert len(set(children)) == len(children), "two links give one vertex a parent"
        for child, parent in (record.ends for record in self.links):
            out[child] = parent
        return out


class _Store:
    def __init__(self, objects: Mapping[str, bytes], level: str) -> None:
        self.objects = {k.removeprefix(f"{level}/"): v for k, v in objects.items() if k.startswith(f"{level}/")}
        self.root = json.loads(objects["zarr.json"])["attributes"]

    def attributes(self, path: str) -> dict[str, Any]:
        return json.loads(self.objects[f"{path}/zarr.json" if path else "zarr.json"])["attributes"]

    def names(self, path: str) -> list[str]:
        """Return the nodes below a group, none where it is absent."""
        below = {k[len(path) + 1 :].partition("/")[0] for k in self.objects if k.startswith(f"{path}/")}
        return sorted(below - {"zarr.json"}) if f"{path}/zarr.json" in self.objects else []

    def array(self, path: str) -> list[Any]:
        """Return an ordinary array, as zarr reads it."""
        below = {k.removeprefix(f"{path}/"): cpu.Buffer.from_bytes(v) for k, v in self.objects.items() if k.startswith(path)}
        return np.asarray(zarr.open_array(MemoryStore(below), mode="r")[:]).tolist()

    def cells(self, path: str) -> dict[Coords, bytes]:
        """Return the payloads of a chunk array by absolute chunk, checked against the list that other readers go by."""
        document = json.loads(self.objects[f"{path}/zarr.json"])
        assert (document["data_type"], document["fill_value"]) == ("variable_length_bytes", "")
        attributes, shape = document["attributes"], document["shape"]
        origin = attributes.get("chunk_grid_origin", [0] * len(shape))
        assert any(origin) or "chunk_grid_origin" not in attributes
        unit, codecs = document["chunk_grid"]["configuration"]["chunk_shape"], document["codecs"]
        packed = codecs[0]["name"] == "sharding_indexed"
        if packed:
            assert codecs[0]["configuration"]["chunk_shape"] == [1] * len(shape)
            codecs = codecs[0]["configuration"]["codecs"]
        else:
            assert unit == [1] * len(shape)
        out: dict[Coords, bytes] = {}
        for key, data in self.objects.items():
            if not key.startswith(f"{path}/c/"):
                continue
            at = tuple(map(int, key.removeprefix(f"{path}/c/").split("/")))
            for offset, part in _unpack(data, unit) if packed else [((0,) * len(shape), data)]:
                cell = tuple(a * u + o for a, u, o in zip(at, unit, offset, strict=True))
                assert all(0 <= c < s for c, s in zip(cell, shape, strict=True)), f"{path}: cell {cell} outside {shape}"
                payload = _decode(part, codecs)
                assert payload, f"{path}: an empty cell is stored at {cell}"
                out[tuple(c + o for c, o in zip(cell, origin, strict=True))] = payload
        listed = attributes["nonempty_chunks"]
        assert listed == sorted(".".join(map(str, c)) for c in out), f"{path}: the list is not what is stored"
        return dict(sorted(out.items()))


def _unpack(data: bytes, unit: list[int]) -> Iterator[tuple[Coords, bytes]]:
    """Yield the parts of a shard, each with its cell in it."""
    count = math.prod(unit)
    index, checksum = data[-16 * count - 4 : -4], data[-4:]
    assert struct.unpack("<I", checksum)[0] == google_crc32c.value(index)
    places = np.frombuffer(index, "<u8").reshape(count, 2).tolist()
    found = [(c, a, n) for c, (a, n) in zip(itertools.product(*map(range, unit)), places, strict=True) if a != 2**64 - 1]
    spans = sorted((a, n) for _, a, n in found)
    assert all(a + n <= b for (a, n), (b, _) in itertools.pairwise(spans)), "parts of a shard overlap"
    yield from ((c, data[a : a + n]) for c, a, n in found)


def _decode(data: bytes, codecs: list[dict[str, Any]]) -> bytes:
    assert codecs[0]["name"] == "vlen-bytes"
    for codec in reversed(codecs[1:]):
        data = bytes({"zstd": Zstd, "blosc": Blosc}[codec["name"]]().decode(data))
    assert struct.unpack_from("<II", data) == (1, len(data) - 8)
    return data[8:]


def _ranges(blob: bytes) -> list[tuple[int, int]]:
    """Return the fragments of an index that has ranges alone."""
    *head, count, ranges = struct.unpack_from("<IHHII", blob)
    assert (*head, ranges) == (0x5A564647, 1, 0, count)
    bitmap = -(-count // 64) * 8
    assert len(blob) == 16 + bitmap + 16 * count + 4
    bits = np.unpackbits(np.frombuffer(blob, np.uint8, bitmap, 16), bitorder="little")
    assert bits[:count].all()
    assert not bits[count:].any()
    assert blob[-4:] == b"\0\0\0\0"
    return [tuple(r) for r in np.frombuffer(blob, "<i8", 2 * count, 16 + bitmap).reshape(-1, 2).tolist()]  # type: ignore[misc]


def _manifest(blob: bytes, rank: int) -> list[tuple[Coords, int]]:
    rows = [struct.unpack_from(f"<{rank}qBq", blob, at) for at in range(4, len(blob), 8 * rank + 9)]
    assert not blob or struct.unpack_from("<I", blob)[0] == len(rows)
    assert (len(blob) - 4) % (8 * rank + 9) == 0 or not blob
    assert all(mode == 0 for *_, mode, _ in rows)
    return [(tuple(coords), number) for *coords, _, number in rows]


def _offsets(segment: str) -> list[Coords]:
    parts = [tuple(map(int, part.split("."))) for part in segment.split("_")]
    assert segment == "_".join(".".join("0" if c == 0 else f"{c:+d}" for c in p) for p in parts)
    return parts


def _unrank(code: int, width: int) -> list[int]:
    """Return the permutation of a Lehmer code."""
    left, out = list(range(width)), []
    for i in range(width):
        at, code = divmod(code, math.factorial(width - 1 - i))
        out.append(left.pop(at))
    assert code == 0
    return out


def decode(target: Any, level: str = "0") -> PlainLevel:
    """Decode a level of a store that holds one (a directory, or the dict it was made in), and check it against the format."""
    objects = {k: v.to_bytes() for k, v in target.items()} if isinstance(target, dict) else files(target)
    store = _Store(objects, level)
    root, own = store.root["zarr_vectors"], store.attributes("")["zarr_vectors_level"]
    chunk_shape = own.get("chunk_shape") or root["chunk_shape"]
    rank, dtype = len(chunk_shape), np.dtype(store.attributes("vertices")["dtype"])
    sizes: dict[Coords, int] = {}
    points = [np.zeros((0, rank), dtype)]
    for chunk, blob in store.cells("vertices").items():
        rows = np.frombuffer(blob, dtype).reshape(-1, rank)
        assert {chunk_of(p, chunk_shape) for p in rows} == {chunk}, f"not all of {rows} is in chunk {chunk}"
        sizes[chunk] = len(rows)
        points.append(rows)
    assert own["vertex_count"] == sum(sizes.values())
    assert own["fragments_tile"] is True
    fragments = {chunk: _ranges(blob) for chunk, blob in store.cells("vertex_fragments").items()}
    assert fragments.keys() == sizes.keys()
    for chunk, found in fragments.items():
        ends = np.cumsum([0, *(n for _, n in found)]).tolist()
        assert ([a for a, _ in found], ends[-1]) == (ends[:-1], sizes[chunk])
    attributes = {name: _column(store, f"vertex_attributes/{name}", sizes) for name in store.names("vertex_attributes")}
    directed, records = _links(store, sizes, rank)
    manifests = _manifests(store, fragments, rank)
    return PlainLevel(
        root["geometry_types"][0], directed, np.concatenate(points), attributes, sizes, fragments, manifests, records
    )


def _values(blob: bytes, about: Mapping[str, Any], count: int) -> np.ndarray:
    dtype, rest = np.dtype(about["dtype"]), tuple(about.get("row_shape", ()))
    assert len(blob) == count * math.prod(rest) * dtype.itemsize
    return np.frombuffer(blob, dtype).reshape(count, *rest)


def _column(store: _Store, path: str, sizes: Mapping[Coords, int]) -> np.ndarray:
    about, cells = store.attributes(path), store.cells(path)
    assert cells.keys() == sizes.keys(), path
    values = np.concatenate([_values(b"", about, 0), *(_values(blob, about, sizes[c]) for c, blob in cells.items())])
    if about.get("encoding") == "dictionary":
        assert about["categories"] == sorted(about["categories"])
        words = np.array([*about["categories"], None], object)
        assert set(values.tolist()) <= {*range(len(words) - 1), *([-1] if "_FillValue" in about else [])}
        values = words[values]
    return values


def _manifests(store: _Store, fragments: Mapping[Coords, list[Any]], rank: int) -> dict[int, list[tuple[Coords, int]]]:
    if "object_index/zarr.json" not in store.objects:
        return {}
    about = store.attributes("object_index")
    assert (about["sid_ndim"], about["layout"]) == (rank, "vlen_manifests_v2")
    if about["num_objects"] == 0:
        assert not fragments
        return {}
    ids, blobs = store.array("object_index/object_ids"), store.array("object_index/manifests")
    assert len(ids) == len(blobs) == about["num_objects"]
    assert ids == sorted(set(ids))
    assert about["object_ids_sorted"] is True
    found = {i: _manifest(b, rank) for i, b in zip(ids, blobs, strict=True)}
    assert about["num_present"] == sum(map(bool, found.values()))
    named = [place for manifest in found.values() for place in manifest]
    assert sorted(named) == sorted((c, i) for c, f in fragments.items() for i in range(len(f))), "each fragment has one owner"
    return found


def _links(store: _Store, sizes: Mapping[Coords, int], rank: int) -> tuple[bool, list[Record]]:
    if not store.names("links"):
        return False, []
    assert store.names("links") == ["0"]
    family, names = store.attributes("links/0"), store.names("link_attributes")
    width, directed = family["link_width"], family["directed"]
    told = [family[k] for k in ("zv_array", "level_delta", "sid_ndim", "store")]
    assert told == ["links_family", 0, rank, "canonical"]
    starts = dict(zip(sizes, np.cumsum([0, *sizes.values()]).tolist(), strict=False))
    records: list[Record] = []
    for segment in store.names("links/0"):
        offsets, about = _offsets(segment), store.attributes(f"links/0/{segment}")
        intra = not any(map(any, offsets))
        told = [about[k] for k in ("offsets", "has_perm", "link_width", "level_delta", "zv_array")]
        assert told == [list(map(list, offsets)), not intra and not directed, width, 0, "links"]
        assert len(offsets) == width - 1
        assert directed or offsets == sorted(offsets), "canonical offsets don't decrease"
        assert directed or min(offsets) >= (0,) * rank, "canonical offsets are not negative"
        cells = store.cells(f"links/0/{segment}")
        assert cells or intra, "a segment without records"
        columns = {n: store.cells(f"link_attributes/{n}/0/{segment}") for n in names}
        assert all(column.keys() == cells.keys() for column in columns.values())
        if intra and "link_fragments/zarr.json" in store.objects:
            counts = {c: [(0, len(b) // (8 * width))] for c, b in cells.items()}
            assert {c: _ranges(b) for c, b in store.cells("link_fragments").items()} == counts
        for chunk, blob in cells.items():
            permuted = int(about["has_perm"])
            assert intra or struct.unpack_from("<qq", blob) == (1, 0)
            rows = np.frombuffer(blob, "<i8", offset=0 if intra else 16).reshape(-1, width + permuted)
            of_links = {n: store.attributes(f"link_attributes/{n}/0/{segment}") for n in names}
            values = {n: _values(c[chunk], of_links[n], len(rows)) for n, c in columns.items()}
            chunks = [chunk, *(tuple(a + o for a, o in zip(chunk, off, strict=True)) for off in offsets)]
            for i, row in enumerate(rows.tolist()):
                order = _unrank(row[0], width) if permuted else list(range(width))
                stored = list(zip(chunks, row[-width:], strict=True))
                assert all(0 <= v < sizes[c] for c, v in stored), f"{segment} at {chunk}: {stored}"
                given = [place for _, place in sorted(zip(order, stored, strict=True))]
                assert not permuted or order == sorted(range(width), key=given.__getitem__), "stably sorted by chunk and row"
                attributes = {n: v[i] for n, v in values.items()}
                records.append(Record(tuple(starts[c] + v for c, v in given), chunk, segment, attributes))
    if records:
        assert family["num_links"] == family["num_physical_records"] == len(records)
    for name in names:
        assert store.attributes(f"link_attributes/{name}/0")["zv_array"] == "link_attribute_family"
        assert store.names(f"link_attributes/{name}/0") == store.names("links/0")
    return directed, records


def reading_key(record: Record) -> tuple[Any, ...]:
    """Return what records are read back by: chunk, those inside of it first, then by segment; as written in a cell."""
    return record.source, any(map(any, _offsets(record.segment))), record.segment
