"""Looking at every chunk that no catalog vouches for: what ``check_objects`` asks for."""

from __future__ import annotations

import numpy as np

from dask_zv.format.keys import DOCUMENT, coords_to_keys, join
from dask_zv.format.links import parse_delta
from dask_zv.geometry.schema import LINK_FRAGMENTS, VERTICES
from dask_zv.level.chunk_table import decode_index
from dask_zv.level.contents import LevelContents
from dask_zv.level.find import CHANGED, warn_of_other_bytes
from dask_zv.level.link_source import CROSSING
from dask_zv.level.source import ChunkTable, LevelSource, level_blobs
from dask_zv.read.chunk_boxes import check_boxes
from dask_zv.read.decode import decode_block, fetch
from dask_zv.read.link_cells import read_crossing
from dask_zv.read.links import check_count, count_in_cells
from dask_zv.storage.grid.read import GridArrays
from dask_zv.storage.handles import open_objects
from dask_zv.storage.nodes import load_catalog
from dask_zv.storage.per_chunk.read import PerChunk

_AT_ONCE = 256
_ROWS = 1 << 18


def check_others(level: LevelContents) -> None:
    """Read what no catalog has looked at beside the chunks: links, manifests, and tables about objects, some at a time.

    Warns of a chunk that is not as at the last commit, if all could be read.
    """
    source, index = level.source, level.index
    blobs, objects = level_blobs(source), open_objects(source.place.handle)
    names = {n for f in ("links", CROSSING) for n in objects.list_dir(join(source.place.prefix, f)) if n != DOCUMENT}
    for delta in sorted(parse_delta(n) for n in names):
        found = level.found_links(delta)
        if found is None or (source.links_compared and source.catalogued):
            continue
        count = count_in_cells(source, found, range(len(found.source.attributes)))
        check_count(source, found.source, count, exact=False)
        read_crossing(source, found.source, blobs)
    if isinstance(blobs, GridArrays) and blobs.array(LINK_FRAGMENTS) is not None:
        keys = coords_to_keys(blobs.list_coords(LINK_FRAGMENTS))
        for start in range(0, len(keys), _AT_ONCE):
            for (_, key), data in blobs.read_many([(LINK_FRAGMENTS, k) for k in keys[start : start + _AT_ONCE]]).items():
                decode_index(source, key, data, LINK_FRAGMENTS)
    if source.schema.has_objects:
        for _ in index.slices():
            pass
        for start in range(0, index.count, _ROWS):
            index.attributes(np.arange(start, min(start + _ROWS, index.count)))
        _ = index.tables.groups
    if (changed := level._documents.get(CHANGED)) is not None:  # an edit, or a damage that reads well
        warn_of_other_bytes(source.where(), changed["chunk"])


def check_chunks(source: LevelSource, table: ChunkTable) -> None:
    """Read every chunk of a level, some at a time: what is missing, short, or at odds with its siblings is an error.

    Warns of blobs of layout ``per_chunk`` that are not those of the last commit.
    """
    objects = open_objects(source.place.handle)
    prefix = source.place.prefix
    catalog = None if isinstance(level_blobs(source), GridArrays) else load_catalog(objects, prefix)
    for start in range(0, len(table), _AT_ONCE):
        coords, rows = table.coords[start : start + _AT_ONCE], table.rows[start : start + _AT_ONCE]
        keys, blobs = coords_to_keys(coords), level_blobs(source)
        found = fetch(source, blobs, keys, source.schema.attributes)
        decode_block(source, blobs, coords, source.schema.attributes, found, rows)
        if catalog is not None:
            noted = PerChunk(objects, prefix, catalog)
            known = [a for a in (VERTICES, *source.schema.arrays) if a in catalog.arrays]
            noted.read_many([(a, k) for a in dict.fromkeys(known) for k in keys])
            if noted.catalog_is_stale:
                warn_of_other_bytes(source.where(), noted.stale_chunk)
                catalog = None
    check_boxes(source, table)
