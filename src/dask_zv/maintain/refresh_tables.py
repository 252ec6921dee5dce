"""Making the small tables of ours anew: how many vertices each object has, and how many edges each chunk of skeletons."""

from __future__ import annotations

import numpy as np

from dask_zv.format.keys import DOCUMENT, join
from dask_zv.format.links import parse_delta
from dask_zv.level.contents import LevelContents
from dask_zv.level.link_source import CROSSING
from dask_zv.read.columns import LevelRows
from dask_zv.read.edge_rows import EDGE_COUNTS, count_parents
from dask_zv.read.object_lengths import OBJECT_LENGTHS, count_lengths
from dask_zv.read.stored_links import stored_links
from dask_zv.storage.handles import open_objects
from dask_zv.storage.nodes import SETTINGS, merge_attributes
from dask_zv.storage.objects import Objects
from dask_zv.write.object_arrays import write_edge_table, write_lengths


def rebuild_tables(level: LevelContents) -> None:
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
    if level.store.settings or SETTINGS in level._attributes:  # what another tool says in its own store is not ours to change
        _count_links(level, objects)
    if level.source.schema.has_objects:
        found = count_lengths(level.source, level.chunks, level.index)
        write_lengths(place, [(found.ids, found.lengths)], objects.nodes_first)
    links = level.found_links(0) if level.has_implied_edges else None
    if links is not None and not level.is_chunked_skeleton and links.source.crossing is None:
        rows = LevelRows(level.source, level.chunks)
        counts = count_parents(rows, links.source)
        write_edge_table(place, np.column_stack([level.chunks.coords, counts]), objects.nodes_first)


def _count_links(level: LevelContents, objects: Objects) -> None:
    """Correct the numbers of links, which other tools' edits leave as they were."""
    grid = level.place.layout == "grid"
    family, keys = ("links", ("num_links", "num_physical_records")) if grid else (CROSSING, ("num_links",))
    for name in objects.list_dir(join(level.place.prefix, family)):
        found = level.found_links(parse_delta(name)) if name != DOCUMENT else None
        if found is None or found.source.family.store != "canonical":
            continue
        count, told = stored_links(level.source, found), found.source.family
        if any(n not in (None, count) for n in (told.count, told.physical)):
            merge_attributes(objects, join(level.place.prefix, family, name), dict.fromkeys(keys, count))
