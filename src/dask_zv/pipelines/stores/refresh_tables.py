"""Making the small tables of ours anew: how many vertices each object has, and how many edges each chunk of skeletons."""

from __future__ import annotations

import numpy as np

from dask_zv.pipelines.source.columns import LevelRows
from dask_zv.pipelines.source.edge_rows import EDGE_COUNTS, count_parents
from dask_zv.pipelines.source.object_lengths import OBJECT_LENGTHS, count_lengths
from dask_zv.pipelines.stores.level import Level
from dask_zv.pipelines.writing.object_arrays import write_edge_table, write_lengths
from dask_zv.storage.handles import open_objects
from dask_zv.storage.objects import join

__all__ = ["rebuild_tables"]


def rebuild_tables(level: Level) -> None:
    """Count the vertices of objects, and of skeletons the edges of chunks, and store the counts; the catalog must be new.

    Fragments, manifests and links are read, some thousand chunks at a time; positions and attributes are not.

    Raises
    ------
    FormatError, StoreError
        Manifests, fragments or links are damaged; the old tables are gone.
    """
    place = level.place
    objects = open_objects(place.handle)
    for array in (OBJECT_LENGTHS, EDGE_COUNTS):
        objects.delete_prefix(join(place.prefix, array))
    if not level.source.catalogued:
        return  # the tables are believed beside a catalog alone
    if level.source.schema.has_objects:
        found = count_lengths(level.source, level.chunks, level.index)
        write_lengths(place, [(found.ids, found.lengths)], objects.nodes_first)
    links = level.found_links(0) if level.has_implied_edges else None
    if links is not None and not level.is_chunked_skeleton and links.source.crossing is None:
        rows = LevelRows(level.source, level.chunks)
        counts = count_parents(rows, links.source)
        write_edge_table(place, np.column_stack([level.chunks.coords, counts]), objects.nodes_first)
