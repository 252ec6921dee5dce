"""What the links of skeletons, graphs and meshes have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from dask.task_spec import TaskRef
from numpy.typing import NDArray

from dask_zv.errors import InputError
from dask_zv.format.links import LinkFamily
from dask_zv.geometry.links import family_path, intra_segment, link_attribute_metadata
from dask_zv.geometry.schema import LINK_FRAGMENTS, AttributeSchema
from dask_zv.level.contents import LevelContents, StoreContents
from dask_zv.write.job import LinkContext
from dask_zv.write.link_join import LinkJoin, store_links
from dask_zv.write.object_plan import ObjectPlan, plan_objects
from dask_zv.write.scan import Scan
from dask_zv.write.write import Options, level_to_write


def linked_level(store: StoreContents, geometry: str, function: str, options: Options) -> LevelContents:
    """Return the level to write to, in a layout that can hold links."""
    level = level_to_write(store, (geometry,), function, options)
    if store.layout == "per_chunk":
        raise InputError(
            f"{store.url} has layout per_chunk (ZV 0.7), whose writers and readers lose or mix up the links of objects that "
            f"share a chunk: make the store with dzv.create(geometry={geometry!r}, layout='grid')"
        )
    return level


def all_objects(scan: Scan, about: tuple[Any, Any, Any], layout: str) -> ObjectPlan:
    """Return the plan of the objects; all vertices are of object 0 where they have none."""
    ids = scan.ids
    if not len(ids) and scan.rows:
        ids = np.array([[0, 1]])
    object_attributes, groups, group_attributes = about
    return plan_objects(ids, object_attributes, groups, layout=layout, group_attributes=group_attributes)


@dataclass(frozen=True, eq=False)
class Linked:
    """What the links of skeletons, graphs and meshes have in common.

    Attributes
    ----------
    family : LinkFamily
    """

    family: LinkFamily

    @property
    def attributes(self) -> tuple[AttributeSchema, ...]:
        """Attributes of the links."""
        return ()

    @property
    def crossings(self) -> bool:
        """False: these links were given."""
        return False

    @property
    def described(self) -> tuple[tuple[AttributeSchema, Mapping[str, Any]], ...]:
        """None: there are no attributes."""
        return ()

    @property
    def digests(self) -> tuple[int, ...]:
        """None: they are part of the vertices."""
        return ()

    @property
    def families(self) -> tuple[str, ...]:
        """Groups of the arrays whose names only the data tells."""
        return (family_path(), *(family_path(a.name) for a in self.attributes))

    @property
    def arrays(self) -> tuple[str, ...]:
        """Those of links inside chunks, which other tools expect even where there are none."""
        inside = intra_segment(self.family)
        return (LINK_FRAGMENTS, *(f"{path}/{inside}" for path in self.families))

    def metadata(self) -> list[tuple[str, dict[str, Any]]]:
        """Return (path, attributes) of the nodes that are there whatever the data."""
        inside = intra_segment(self.family)
        out: list[tuple[str, dict[str, Any]]] = [
            (LINK_FRAGMENTS, {"zv_array": LINK_FRAGMENTS, "encoding": "fragment_index_v1"}),
            (f"{family_path()}/{inside}", self.family.segment_attributes(inside)),
        ]
        for attribute in self.attributes:
            path = family_path(attribute.name)
            out.append((f"{path}/{inside}", link_attribute_metadata(self.family, attribute, inside)))
            out.append((path, {"zv_array": "link_attribute_family", "name": attribute.name, "level_delta": 0}))
        return [*out, (family_path(), self.family.to_attributes())]

    def store(self, context: LinkContext, join: LinkJoin) -> list[TaskRef]:
        """Add the tasks of a join and those that store what comes of it; return the results of these."""
        pieces = join.add(context.builder, context.plan, context.scan.starts(), context.results)
        return store_links(context.builder, context.spec, self.family, self.attributes, pieces, nodes_first=context.nodes_first)


def name_ranges(scan: Scan, *, by_key: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the least and the greatest name of each partition's vertices."""
    if by_key:
        names = [scan.parts[p].names for p in sorted(scan.parts)]
        return np.array([n[0] for n in names]), np.array([n[1] for n in names])
    starts = scan.starts()
    return starts[:-1], starts[1:] - 1
