"""The layout ``grid`` (ZV 0.9): an array's blobs are cells of one array of variable-length bytes, alone or packed in shards.

A missing cell is a legal empty one in Zarr, so that a lost object would read as nothing. What should exist is therefore taken
from the catalog, or from the list ``nonempty_chunks`` in the array's document: a listed chunk without its bytes is an error.
The catalog also knows where in its shard a cell is and the checksum of its bytes; without it, shard indexes are read once and
kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import FormatError, StoreError, ZVError
from dask_zv.format.grids import EMPTY, GridArray, cell_path, parse_grid_document
from dask_zv.format.keys import DOCUMENT, coords_to_keys, is_spatial_key, keys_to_coords, parse_key
from dask_zv.storage.catalog import Catalog
from dask_zv.storage.codecs import CellCodec, cell_codec
from dask_zv.storage.grid.fetch import (
    CellRun,
    StoredCell,
    catalogued_runs,
    fetch_runs,
    indexed_runs,
    load_indexes,
    moved_shards,
    object_runs,
)
from dask_zv.storage.nodes import load_catalog, read_grids
from dask_zv.storage.objects import Address, BlobReader, Objects, keys_by_array, wait_before_retry
from dask_zv.storage.specs import check_not_replaced
from dask_zv.storage.zarr_reads import ZARR_ERRORS, open_zarr_array, unpacked

_ATTEMPTS = 5


def _coords(keys: Sequence[str], rank: int) -> NDArray[np.int64]:
    """Return the coordinates of spatial keys; those of another rank lie far outside of every grid."""
    if all(k.count(".") + 1 == rank for k in keys):
        return keys_to_coords(keys, rank)
    return np.array([parse_key(k) if k.count(".") + 1 == rank else (-(1 << 62),) * rank for k in keys], np.int64).reshape(
        -1, rank
    )


class GridArrays(BlobReader):
    """Blobs of the grid arrays below `prefix`; `trust` where who opened the level has compared the catalog with documents."""

    def __init__(self, objects: Objects, prefix: str, catalog: Catalog | None = None, *, trust: bool = False) -> None:
        super().__init__(objects, prefix, catalog)
        self._trust = trust
        self.rewritten = False
        """A document was written again with what the catalog knows: by a copy of the store, or by an edit of cells."""
        self._arrays: dict[str, GridArray | None] = {}
        self._of_catalog: dict[str, GridArray | None] = {}

    def forget(self, array: str | None = None) -> None:
        """Drop what is remembered of an array's document (of all where None)."""
        if array is None:
            self._arrays.clear()
            self._of_catalog.clear()
        else:
            self._arrays.pop(array, None)
            self._of_catalog.pop(array, None)

    # ------------------------------------------------------------------------------------------ documents

    def arrays(self, names: Iterable[str]) -> dict[str, GridArray | None]:
        """Return what the arrays' documents say, None for those that are absent or no chunk grids."""
        names = list(names)
        self._arrays |= read_grids(self.objects, self.prefix, [n for n in names if n not in self._arrays])
        return {n: self._arrays[n] for n in names}

    def catalogued(self, names: Iterable[str]) -> dict[str, GridArray]:
        """Return those arrays that the catalog describes and whose documents have not changed since it was written."""
        catalog = self.catalog
        if catalog is None:
            return {}
        known = [n for n in names if n in catalog.nodes and n in catalog.arrays]
        new = [n for n in known if n not in self._of_catalog]
        for name in new:
            path = self.path(name)
            self._of_catalog[name] = parse_grid_document(catalog.nodes[name].document, path, self.objects.url)
        if new and not self._trust:
            identities = self.objects.identities([self.path(n, DOCUMENT) for n in new])
            changed = [n for n, i in zip(new, identities, strict=True) if i != catalog.nodes[n].identity]
            self.rewritten |= bool(changed)
            for name, now in self.arrays(changed).items():
                if not self._says_the_same(name, now):
                    self._of_catalog[name] = None
                    self.catalog_is_stale = True
        return {n: a for n in known if (a := self._of_catalog[n]) is not None}

    def _says_the_same(self, name: str, now: GridArray | None) -> bool:
        """Return True if a rewritten document agrees with the catalog (a copied store has other times of change)."""
        then = self._of_catalog[name]
        if now is None or then is None or now.spec != then.spec or now.attributes != then.attributes:
            return False
        assert self.catalog is not None
        return now.nonempty == frozenset(coords_to_keys(self.catalog.coords[self.catalog.chunks_of(name)]))

    def array(self, name: str) -> GridArray | None:
        """Return what an array's document says, from the catalog where that holds; its list of chunks is then None."""
        found = self.catalogued([name])
        return found[name] if name in found else self.arrays([name])[name]

    # ------------------------------------------------------------------------------------------ listing

    def list_keys(self, array: str) -> list[str]:
        return coords_to_keys(self.list_coords(array))

    def list_coords(self, array: str) -> NDArray[np.int64]:
        """Return the chunks of `array`, ascending, shape (n, K)."""
        catalogued = self.catalogued([array])
        if array in catalogued:
            assert self.catalog is not None
            coords = self.catalog.coords[self.catalog.chunks_of(array)]
            return coords if len(coords) else coords.reshape(0, catalogued[array].spec.rank)  # a catalog of nothing has no rank
        self.forget(array)
        found = self.arrays([array])[array]
        if found is None:
            self._check_never_was(array)
            return np.zeros((0, 0), np.int64)
        keys = found.nonempty if found.nonempty is not None else self.stored_keys(array, found)
        return np.array(sorted(map(parse_key, keys)), np.int64).reshape(-1, found.spec.rank)

    def exists(self, array: str, key: str) -> bool:
        if not is_spatial_key(key):
            return False
        if array in self.catalogued([array]):
            assert self.catalog is not None
            return self.catalog.locate(array, key) is not None
        self.forget(array)
        found = self.arrays([array])[array]
        if found is None:
            self._check_never_was(array)
            return False
        return key in (found.nonempty if found.nonempty is not None else self.stored_keys(array, found))

    def _check_never_was(self, array: str) -> None:
        """Raise where an array without a document is one that the catalog knows: lost, not absent."""
        if self.catalog is None or not self.catalog.chunks_of(array).any():
            return
        now = load_catalog(self.objects, self.prefix)  # who removes an array removes the catalog first
        if now is not None and now.chunks_of(array).any():
            first = coords_to_keys(now.coords[now.chunks_of(array)][:1])[0]
            raise self._gone((array, first), "the array's document is missing")

    def stored_keys(self, array: str, found: GridArray) -> set[str]:
        """Return the chunks whose cells are stored, of an array whose writer left no list."""
        base = self.path(array, "c")
        cells: list[tuple[int, ...]] = []
        for name in self.objects.list_prefix(self.path(array)):  # Icechunk lists nodes, nothing inside of one
            parts = name.removeprefix(base + "/").split("/")
            if len(parts) == found.spec.rank and all(p.isascii() and p.isdigit() and len(p) < 19 for p in parts):
                cells.append(tuple(map(int, parts)))
        widths = found.spec.shard_shape or (1,) * found.spec.rank
        most = math.prod(-(-n // w) for n, w in zip(found.spec.shape, widths, strict=True))
        if len(cells) > most:
            raise FormatError(
                f"{len(cells):,} objects are stored, and its grid has room for {most:,}: they are not its own",
                store=self.objects.url, array=self.path(array),
            )  # fmt: skip
        if found.spec.shard_shape is not None:
            moved_shards(self.objects, [cell_path(self.path(array), c) for c in cells])  # forgets indexes of replaced shards
            indexes = load_indexes(self.objects, self.path(array), found.spec.shard_cells, cells)
            inside: list[tuple[int, ...]] = []
            for shard, places in indexes.items():
                for number in np.flatnonzero(places[:, 1] != EMPTY).tolist():
                    local = np.unravel_index(number, found.spec.shard_shape)
                    inside.append(tuple(s * w + int(x) for s, w, x in zip(shard, found.spec.shard_shape, local, strict=True)))
            cells = inside
        return {".".join(str(c + o) for c, o in zip(cell, found.spec.origin, strict=True)) for cell in cells}

    def sizes(self, array: str) -> dict[str, int]:
        """Return the length of every payload of `array`: from the objects where cells are stored raw, else by reading them."""
        keys = self.list_keys(array)
        if not keys:
            return {}
        found = self.arrays([array])[array]
        assert found is not None
        if found.spec.shard_shape is None and not found.spec.codecs and found.plain:
            path = self.path(array)
            cells = found.spec.cells_of(np.array([parse_key(k) for k in keys], np.int64), path)
            stamps = self.objects.stamps([cell_path(path, c) for c in cells.tolist()])
            for key, stamp in zip(keys, stamps, strict=True):
                if stamp is None or stamp[0] < 8:
                    raise self._gone((array, key), "its object is missing or truncated")
            return {key: stamp[0] - 8 for key, stamp in zip(keys, stamps, strict=True) if stamp is not None}
        out: dict[str, int] = {}
        for start in range(0, len(keys), 1024):
            part = self.read_many([(array, k) for k in keys[start : start + 1024]])
            out.update({key: len(data) for (_, key), data in part.items()})
        return {key: out[key] for key in keys}

    # ------------------------------------------------------------------------------------------ reading

    def read_stored(self, addresses: Sequence[Address]) -> dict[Address, StoredCell]:
        """Return cells as they are stored, checked; of arrays that need zarr to be found, their payloads."""
        return self._read_all(addresses, stored=True)

    def read_many(self, addresses: Sequence[Address]) -> dict[Address, bytes]:
        return self._read_all(addresses, stored=False)

    def _read_all(self, addresses: Sequence[Address], *, stored: bool) -> dict[Address, Any]:
        out: dict[Address, Any] = {}
        # who opened the level takes keys from its catalog
        todo = list(dict.fromkeys(addresses)) if self._trust else [a for a in dict.fromkeys(addresses) if is_spatial_key(a[1])]
        todo = self._read_by_catalog(todo, out, stored=stored)
        for attempt in range(_ATTEMPTS):
            if not todo:
                return out
            if attempt:
                wait_before_retry(attempt)
                for array in {a for a, _ in todo}:
                    self._arrays.pop(array, None)
            todo, problem = self._read_by_documents(todo, out, fresh=attempt > 0, stored=stored)
            if todo and problem is not None and not isinstance(problem, FormatError | StoreError):
                raise problem
        if todo:
            assert problem is not None
            check_not_replaced(self.objects, self.prefix, todo[0][1])
            raise problem
        return out

    def _read_by_catalog(self, addresses: list[Address], out: dict[Address, Any], *, stored: bool) -> list[Address]:
        """Fetch what the catalog knows, fill `out`, and return what must be looked up in the store itself."""
        if self.catalog is None:
            return addresses
        keys = keys_by_array(addresses)
        known = self.catalogued(keys)
        left = [a for a in addresses if a[0] not in known]
        runs: list[CellRun] = []
        codecs: dict[str, CellCodec] = {}
        of_keys: list[str] | None = None
        for array, found in known.items():
            if not found.plain:
                left.extend((array, key) for key in keys[array])
                continue
            codecs[array] = cell_codec(found.spec.codecs)
            if keys[array] != of_keys:  # arrays of a level are asked for the same chunks
                of_keys = keys[array]
                coords = _coords(of_keys, found.spec.rank)
                rows = self.catalog.find(coords)
            columns = self.catalog.arrays[array]
            have = rows >= 0
            have[have] = columns.have[rows[have]]
            if not have.all() and not self._trust:  # committed since the catalog was read, maybe
                self._arrays.pop(array, None)
                left += [(array, key) for key, there in zip(of_keys, have.tolist(), strict=True) if not there]
            runs += catalogued_runs(self.path(array), array, found.spec, of_keys, coords, have, columns, rows)
        bad = fetch_runs(self.objects, self.prefix, runs, codecs, out, stored=stored)
        if bad:
            self._refuse_damage([address for address, error in bad if error is not None], known)
            self.catalog_is_stale = True
            self.stale_chunk = bad[0][0][1]
        return left + [address for address, _ in bad]

    def _refuse_damage(self, addresses: Sequence[Address], known: Mapping[str, GridArray]) -> None:
        """Raise where bytes are damaged: the object's stamp and the identity of the array's document are as noted."""
        assert self.catalog is not None
        arrays = list(dict.fromkeys(array for array, _ in addresses))
        found = self.objects.identities([self.path(a, DOCUMENT) for a in arrays])
        same = {a for a, i in zip(arrays, found, strict=True) if i == self.catalog.nodes[a].identity}
        places = []
        for array, key in addresses:
            if array in same:
                spec = known[array].spec
                where, _ = object_runs(spec.cells_of(keys_to_coords([key], spec.rank)), spec)[0]
                places.append(((array, key), cell_path(self.path(array), where)))
        self.refuse_damage(places)

    def _read_by_documents(
        self, addresses: list[Address], out: dict[Address, Any], *, fresh: bool, stored: bool
    ) -> tuple[list[Address], ZVError | None]:
        """Read by documents and shard indexes; return what must be tried again, with the first reason."""
        keys = keys_by_array(addresses)
        again: list[Address] = []
        problem: ZVError | None = None
        runs: list[CellRun] = []
        codecs: dict[str, CellCodec] = {}
        listed: set[str] = set()
        for array in self._arrays.keys() & keys.keys():  # what a remembered document lacks may have been committed since
            known = self._arrays[array]
            if known is None or (known.nonempty is not None and not known.nonempty.issuperset(keys[array])):
                del self._arrays[array]
        for array, found in self.arrays(keys).items():
            if found is None:
                lost = [k for k in keys[array] if self.catalog is not None and self.catalog.locate(array, k) is not None]
                if lost:
                    again.extend((array, k) for k in lost)
                    problem = problem or self._gone((array, lost[0]), "the array's document is missing")
                continue
            spec = found.spec
            coords = _coords([k for k in keys[array] if k.count(".") + 1 == spec.rank], spec.rank)
            coords = coords[spec.contains(coords)]
            names = coords_to_keys(coords)
            if found.nonempty is not None:
                listed.add(array)
                keep = np.fromiter((k in found.nonempty for k in names), bool, len(names))
                coords, names = coords[keep], [k for k, kept in zip(names, keep.tolist(), strict=True) if kept]
            if not found.plain:
                self._read_through_zarr(array, found, list(zip(names, coords.tolist(), strict=True)), out)
                continue
            codecs[array] = cell_codec(spec.codecs)
            more, missing = indexed_runs(self.objects, self.path(array), array, spec, names, coords, fresh=fresh)
            runs += more
            if missing and array in listed:
                again.extend((array, k) for k in missing)
                problem = problem or self._gone((array, missing[0]), "its shard is missing, or has no such cell")
        failures = fetch_runs(self.objects, self.prefix, runs, codecs, out, stored=stored)
        indexed = [run for run in runs if run.lengths is not None and run.data is None]
        moved = moved_shards(self.objects, list({run.path for run in indexed})) if indexed else set()
        failed = {address for address, _ in failures}
        for address in ((run.array, key) for run in indexed if run.path in moved for key in run.keys):
            out.pop(address, None)
            if address not in failed:
                failures.append((address, self.damage(address, "the chunk's shard was replaced while it was read")))
        for address, failure in failures:
            if failure is None and address[0] not in listed:
                continue  # nothing says that it should be there
            again.append(address)
            problem = problem or failure or self._gone(address, "its object is missing")
        return again, problem

    def _read_through_zarr(
        self, array: str, found: GridArray, wanted: Sequence[tuple[str, list[int]]], out: dict[Address, bytes]
    ) -> None:
        """Read cells of an array whose keys or indexes are encoded in a way that zarr knows and we don't."""
        cells = unpacked(self.objects, open_zarr_array(self.objects, self.path(array)))
        for key, coords in wanted:
            cell = tuple(c - o for c, o in zip(coords, found.spec.origin, strict=True))
            try:
                value: Any = cells[cell]
                data = bytes(value.item() if hasattr(value, "item") else value)
            except ZVError:
                raise
            except ZARR_ERRORS as error:
                raise self.damage((array, key), f"zarr can't decode the cell: {error!s:.500}") from error
            if data:
                out[array, key] = data
            elif found.nonempty is not None:
                raise self._gone((array, key), "its cell is empty")

    def _gone(self, address: Address, why: str) -> StoreError:
        return self.failure(address, f"a committed chunk is gone: {why}; dzv.repair(store, source=copy) writes it again")
