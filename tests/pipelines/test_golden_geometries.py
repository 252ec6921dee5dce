"""Points, lines, polylines, streamlines, skeletons, graphs and meshes of both packages read exactly, by every path.

Compressed, sharded, binned and pyramids; for what points alone have, see test_golden_points.
"""

import dask
import numpy as np
import pytest
from golden_reference import DATA, GENERATIONS, PATHS, Golden, boxes_of, golden_names, sorted_rows
from points_reference import assert_same, in_box
from small import always, sizes

import dask_zv as dzv

KINDS = ("point_cloud", *PATHS, "skeleton", "graph", "mesh")
NAMES = golden_names(KINDS)
OUTSIDE = "ignore:the chunk has vertices outside of its box:dask_zv.ZVWarning"

_small = always(scheduler="sync")


@pytest.fixture(params=NAMES)
def golden(request):
    return Golden(request.param)


def test_the_stores_are_there():
    assert len(NAMES) == 50
    assert {Golden(n).kind for n in NAMES} == set(KINDS)


def check(geometry, golden, rows):
    """Compare a geometry with the vertices `rows` (input numbers) and all links between them."""
    rows = np.asarray(rows, int)
    assert_same(geometry.positions, golden.positions[rows], "positions")
    assert set(geometry.attributes) == set(golden.attributes)
    for name, values in golden.attributes.items():
        assert_same(geometry.attributes[name], values[rows], name)
    if golden.owners is None:
        assert geometry.object_ids is None
    elif not golden.shares_fragments:
        assert_same(geometry.object_ids, golden.owners[rows], "object_ids")
    inside = np.isin(np.arange(len(golden.positions)), rows)
    for name, found in (("edges", geometry.edges), ("faces", geometry.faces)):
        if name not in golden.truth:
            assert found is None
            continue
        among = inside[golden.truth[name]].all(axis=1)
        assert found.dtype == np.int64
        names = sorted(golden.named("eattr__"))
        assert sorted(geometry.edge_attributes) == names
        links, *values = sorted_rows(rows[found], *(geometry.edge_attributes[k] for k in names))
        assert_same(links, golden.truth[name][among], name)
        for attribute, value in zip(names, values, strict=True):
            stored = golden.truth["eattr_stored"][among]
            assert np.ma.getmaskarray(value).tolist() == (~stored).tolist()
            assert_same(np.ma.getdata(value)[stored], golden.truth[f"eattr__{attribute}"][among][stored], attribute)
    assert geometry.face_attributes == {}
    if golden.kind != "skeleton":
        assert geometry.parents is None
        return
    place = {int(r): i for i, r in enumerate(rows)}
    parent = dict(golden.truth["edges"].tolist())
    assert_same(geometry.parents, np.array([place.get(parent.get(int(r), -1), -1) for r in rows], np.int64), "parents")
    child = geometry.edges[:, 0]
    assert (np.diff(child) > 0).all()
    assert_same(geometry.parents[child], geometry.edges[:, 1])


def everything(golden):
    return np.ones(len(golden.positions), bool)


def lengths_of(geometry):
    return list(zip(geometry.ids.tolist(), geometry.lengths.tolist(), strict=True))


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_whole_levels(golden, scheduler):
    level = golden.store.level(0)
    with dask.config.set(scheduler=scheduler):
        check(level.read(order="chunk"), golden, golden.order)
        check(level.read(order="chunk", compute=False).compute(), golden, golden.order)
        default = level.read()
    check(default, golden, golden.expected_rows(everything(golden), "object") if golden.is_path else golden.order)
    assert (default.ids is not None) == golden.is_path
    for name, values in golden.attributes.items():
        alone = level.read(attributes=[name], order="chunk")
        assert_same(alone.attributes[name], values[golden.order], name)
        assert_same(alone.positions, golden.positions[golden.order])


def test_in_blocks(golden):
    """One chunk to a block: edges, parents, paths and shared rows are put together from many parts."""
    level = golden.store.level(0)
    with sizes(scheduler="threads", read_block_chunks=1, read_packed_block_chunks=1):
        delayed = level.read(order="chunk", compute=False)
        beside = golden.owners is not None  # what is known of objects is read meanwhile
        assert len(dict(delayed.__dask_graph__())) == len(level.chunks) + 1 + beside
        check(delayed.compute(), golden, golden.order)
        if golden.owners is not None and not golden.shares_fragments:
            check(level.read(order="object"), golden, golden.expected_rows(everything(golden), "object"))
    with sizes(scheduler="threads", read_block_chunks=3, read_packed_block_chunks=3, read_step_bytes=100):
        check(level.read(order="chunk"), golden, golden.order)  # into arrays that the call takes once, some chunks at a time


def test_by_object(golden):
    level = golden.store.level(0)
    if golden.owners is None:
        for options in ({"order": "object"}, {"objects": [0]}):
            with pytest.raises(dzv.InputError, match="no objects"):
                level.read(**options)
        return
    if golden.shares_fragments:  # the vertices of all objects in a chunk are one fragment, which each of them names
        expected = [golden.owners[[c == other for other in golden.chunks]] for c in golden.chunks]
        owners = np.array([o[0] if len(set(o.tolist())) == 1 else -2 for o in expected])
        assert {-2} < set(owners.tolist())
        assert_same(level.read().object_ids, owners[golden.order])
        return
    for wanted in (None, golden.ids[:1], golden.ids[::2], golden.ids[::-1], golden.ids[-1]):
        ids = golden.ids if wanted is None else sorted(np.atleast_1d(wanted).tolist())
        check(level.read(objects=wanted, order="chunk"), golden, golden.expected_rows(everything(golden), "chunk", ids))
        geometry = level.read(objects=wanted, order="object")
        check(geometry, golden, golden.expected_rows(everything(golden), "object", ids))
        assert lengths_of(geometry) == [(i, int((golden.owners == i).sum())) for i in ids]
        if golden.kind != "point_cloud":
            assert geometry.object_index.tolist() == ids
    check(level.read(objects=[]), golden, [])
    for unknown in ([golden.ids[0], golden.ids[-1] + 1], [-1]):
        with pytest.raises(dzv.NotFoundError, match=str(unknown[-1])):
            level.read(objects=unknown)


def test_manifests(golden):
    """Each object alone is what its manifest names: chunk by chunk, in the order of the manifest."""
    if "manifest" not in golden.truth:
        assert golden.owners is None
        return
    level, manifest = golden.store.level(0), golden.truth["manifest"]
    coords = level.chunks.coords.tolist()
    of_chunk = np.repeat(np.arange(len(coords)), level.chunks.rows)
    for oid in golden.ids:
        mine = manifest[manifest[:, 0] == oid]
        assert mine[:, 1].tolist() == list(range(len(mine)))
        geometry = level.read(objects=oid, order="object")
        assert lengths_of(geometry) == [(oid, len(geometry))]
        named = [coords.index(c) for c in mine[:, 2:-1].tolist()]
        assert set(named) == {coords.index(list(golden.chunks[r])) for r in np.flatnonzero(golden.owners == oid)}
        if golden.shares_fragments:
            assert sorted(set(named)) == named
            assert_same(geometry.positions, golden.positions[golden.order[np.isin(of_chunk, named)]])
            continue
        rows = [golden.chunks[r] for r in golden.expected_rows(everything(golden), "object", [oid])]
        assert [c for i, c in enumerate(rows) if not i or c != rows[i - 1]] == [
            tuple(coords[c]) for i, c in enumerate(named) if not i or c != named[i - 1]
        ]


def test_object_attributes_and_groups(golden):
    geometry, names = golden.store.level(0).read(), golden.named("oattr__")
    assert set(geometry.object_attributes) == set(names)
    if names or golden.kind != "point_cloud":
        # 0.7 has a row for every object up to the last
        index = np.arange(golden.ids[-1] + 1) if golden.old else np.array(golden.ids)
        assert_same(geometry.object_index, index)
    if names:
        ids = golden.truth["oattr_ids"].astype(np.int64)
        part = golden.store.level(0).read(objects=ids[1:3])
        assert part.object_index.tolist() == ids[1:3].tolist()
        for name, rows in names.items():
            values = geometry.object_attributes[name][np.searchsorted(index, ids)]
            assert_same(np.ma.getdata(values), rows, name)
            assert not np.ma.getmaskarray(values).any()
            assert_same(part.object_attributes[name], rows[1:3], name)
    assert {g: m.tolist() for g, m in geometry.groups.items()} == golden.groups
    assert set(geometry.group_attributes) == set(golden.named("gattr__"))
    for name, values in geometry.group_attributes.items():
        assert_same(values, golden.truth[f"gattr__{name}"], name)


# -------------------------------------------------------------------------------------------------- boxes and chunks


def check_clipped(level, golden, keep, objects=None, **selection):
    """Read a selection in both orders, and as whole objects."""
    if golden.shares_fragments:
        objects = None
    elif objects is not None:
        selection["objects"] = objects
    check(level.read(order="chunk", **selection), golden, golden.expected_rows(keep, "chunk", objects))
    if golden.shares_fragments or golden.owners is None:
        return
    rows = golden.expected_rows(keep, "object", objects)
    geometry = level.read(order="object", **selection)
    check(geometry, golden, rows)
    if golden.is_path:
        assert lengths_of(geometry) == golden.expected_runs(rows)
    else:
        listed = golden.ids if objects is None else sorted(objects)
        lengths = [(i, n) for i in listed if (n := int((keep & (golden.owners == i)).sum()))]
        assert [(i, n) for i, n in lengths_of(geometry) if n] == lengths
    touched = sorted({int(golden.owners[r]) for r in rows})
    whole = level.read(order="object", clip=False, **selection)
    check(whole, golden, golden.expected_rows(everything(golden), "object", touched))
    assert whole.ids.tolist() == touched
    if golden.kind != "point_cloud":
        assert whole.object_index.tolist() == touched
    by_chunk = level.read(order="chunk", clip=False, **selection)
    check(by_chunk, golden, golden.expected_rows(everything(golden), "chunk", touched))


def test_boxes(golden):
    """The peer itself loses points of boxes in `points_objects`, where bins and objects meet (FORMAT.md J.1)."""
    level, counts = golden.store.level(0), []
    for box in boxes_of(golden.positions):
        keep = in_box(golden.positions, box)
        counts.append(int(keep.sum()))
        check_clipped(level, golden, keep, bbox=box)
    assert counts[0] == len(keep)
    assert counts[4] == 0
    assert len({n for n in counts if 0 < n < len(keep)}) >= 2
    check_clipped(level, golden, keep, golden.ids[::2] or None, bbox=box)


def in_chunks(golden, coords):
    inside = {tuple(c) for c in coords.tolist()}
    return np.array([c in inside for c in golden.chunks])


def test_chunks(golden):
    level, rng = golden.store.level(0), np.random.default_rng(0)
    keys, every, first = level.chunks.keys, level.chunks.coords, level.chunks.rows[0]
    assert [tuple(c) for c in every.tolist()] == sorted(set(golden.chunks))
    assert level.chunks.rows.tolist() == [golden.chunks.count(tuple(c)) for c in every.tolist()]
    assert level.metadata.vertex_count == len(golden.order)
    for n in (1, 2, len(keys) // 2, len(keys)):
        some = sorted(rng.permutation(len(keys))[:n].tolist())
        keep = in_chunks(golden, every[some])
        check_clipped(level, golden, keep, chunks=[keys[i] for i in some])
        check(level.read(chunks=every[some], order="chunk"), golden, golden.expected_rows(keep, "chunk"))
    check(level.read(chunks=[tuple(c) for c in every.tolist()], order="chunk"), golden, golden.order)
    for one in (keys[0], every[0]):
        check(level.read(chunks=one, order="chunk"), golden, golden.order[:first])
    assert len(level.read(chunks=[])) == 0
    box, half = boxes_of(golden.positions)[1], every[::2]
    keep = in_box(golden.positions, box) & in_chunks(golden, half)
    check_clipped(level, golden, keep, golden.ids[1:] or golden.ids or None, bbox=box, chunks=half)


def test_chunks_that_are_none(golden):
    level = golden.store.level(0)
    unknown = ".".join(["77"] * level.chunks.coords.shape[1])
    for chunks in ([level.chunks.keys[0], unknown], [unknown]):
        with pytest.raises(dzv.NotFoundError) as caught:
            level.read(chunks=chunks, clip=golden.owners is None or len(chunks) > 1)
        assert caught.value.chunk == unknown
    for malformed in (["a.b.c"], [1.5, 2.5, 3.5], [[1, 2, 3, 4, 5]], 7, {"x": 1}):
        with pytest.raises(dzv.InputError, match="chunk"):
            level.read(chunks=malformed)


@pytest.mark.parametrize("name", ["golden_0.9/skeleton", "golden_0.9/graph", "golden_0.9/polylines", "golden_0.7/skeleton"])
def test_boxes_in_blocks_and_lazily(name):
    golden = Golden(name)
    level, box = golden.store.level(0), boxes_of(golden.positions)[1]
    keep = in_box(golden.positions, box)
    with sizes(scheduler="threads", read_block_chunks=1, read_packed_block_chunks=1):
        check_clipped(level, golden, keep, bbox=box)
        lazy, whole = (level.read(bbox=box, order="chunk", clip=clip, compute=False).compute() for clip in (True, False))
    check(lazy, golden, golden.expected_rows(keep, "chunk"))
    touched = sorted(set(golden.owners[keep].tolist()))
    check(whole, golden, golden.expected_rows(everything(golden), "chunk", touched))


# -------------------------------------------------------------------------------------------------- levels, metadata, copies


def test_levels(golden):
    coarse = sorted(int(k[1:].partition("_")[0]) for k in golden.truth if k.startswith("L") and k.endswith("_positions"))
    assert golden.store.levels == (0, *coarse)
    for number in coarse:
        positions, level = golden.truth[f"L{number}_positions"], golden.store.level(number)
        assert_same(level.read(order="chunk").positions, positions)
        assert level.metadata.vertex_count == len(positions)
        assert level.metadata.parent_level == number - 1
        box = np.percentile(positions.astype(np.float64), [20, 70], axis=0)
        assert_same(level.read(bbox=box, order="chunk").positions, positions[in_box(positions, box)])
    with pytest.raises(dzv.NotFoundError, match="no level 9"):
        golden.store.level(9)


def test_metadata(golden):
    arguments, metadata = golden.call["arguments"], golden.store.metadata
    layout, version = ("per_chunk", "0.7.0") if golden.old else ("grid", "0.9.2")
    assert (metadata.zv_version, metadata.generation.name, golden.store.layout) == (version, layout.upper(), layout)
    assert list(metadata.chunk_shape) == arguments["chunk_shape"]
    assert list(metadata.bin_shape) == (arguments.get("bin_shape") or arguments["chunk_shape"])
    low, high = np.array(metadata.bounds)
    if "bounds" in arguments:
        assert [low.tolist(), high.tolist()] == arguments["bounds"]
    assert (golden.positions >= low).all()
    assert (golden.positions <= high).all()
    assert metadata.geometry_types == (golden.kind,)
    assert layout in repr(golden.store)
    assert golden.store.read_only
    if golden.kind == "point_cloud":
        with pytest.raises(dzv.ReadOnlyError, match=r"r\+"):
            dzv.write_points(golden.store, golden.positions)


def test_directories_read_as_the_zips_do_and_a_refresh_changes_nothing(golden, tmp_path):
    path = golden.unpacked(tmp_path / "s.zarrvectors")
    check(dzv.open(path).level(0).read(order="chunk"), golden, golden.order)
    before = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}
    for store in (dzv.open(path, mode="r+").refresh(), dzv.open(path)):
        check(store.level(0).read(order="chunk"), golden, golden.order)
        for number in store.levels[1:]:
            assert_same(store.level(number).read(order="chunk").positions, golden.truth[f"L{number}_positions"])
    assert {p: p.read_bytes() for p in before} == before


# -------------------------------------------------------------------------------------------------- links


@pytest.mark.parametrize("name", ["golden_0.9/graph", "golden_0.7/graph", "golden_0.9/graph_sharded"])
def test_attributes_by_name(name):
    golden = Golden(name)
    level, of_edges = golden.store.level(0), next(iter(golden.named("eattr__")))
    alone, none = level.read(attributes=[of_edges]), level.read(attributes=[])
    assert (alone.attributes, list(alone.edge_attributes), none.edge_attributes) == ({}, [of_edges], {})
    assert_same(none.edges, alone.edges)
    with pytest.raises(dzv.InputError, match="nonesuch"):
        level.read(attributes=["nonesuch"])


@pytest.mark.parametrize("name", golden_names(("graph", "mesh")))
def test_order_of_links(name):
    """By the chunk that they are filed under, those inside of it first; in 0.7 all inside first."""
    golden = Golden(name)
    geometry = golden.store.level(0).read()
    links = geometry.edges if geometry.edges is not None else geometry.faces
    chunks = [[golden.chunks[golden.order[r]] for r in link] for link in links.tolist()]
    source, crossing = [min(c) for c in chunks], [len(set(c)) > 1 for c in chunks]
    assert set(crossing) == {True, False}
    if golden.old:
        assert crossing == sorted(crossing)
        inside = [s for s, c in zip(source, crossing, strict=True) if not c]
        assert inside == sorted(inside)
    else:
        places = list(zip(source, crossing, strict=True))
        assert places == sorted(places)


PYRAMIDS = [f"{generation}/streamlines_pyramid" for generation in GENERATIONS]


@pytest.mark.parametrize("name", PYRAMIDS)
@pytest.mark.parametrize("number", [1, 2])
def test_coarse_levels(name, number):
    golden = Golden(name)
    level = golden.store.level(number)
    positions, manifest = golden.truth[f"L{number}_positions"], golden.truth[f"L{number}_manifest"]
    flat = level.read(order="chunk")
    assert flat.edges is flat.parents is None
    # a fragment is one vertex; several paths come by it, and a path may come by it twice
    coords = [tuple(c) for c in level.chunks.coords.tolist()]
    first = np.r_[0, np.cumsum(level.chunks.rows)]
    rows = {i: [] for i in range(10)}
    for oid, _, *chunk, fragment in manifest.tolist():
        rows[oid].append(first[coords.index(tuple(chunk))] + fragment)
    geometry = level.read()
    assert lengths_of(geometry) == [(i, len(r)) for i, r in rows.items()]
    assert 0 in geometry.lengths.tolist() or number == 1
    every = [r for mine in rows.values() for r in mine]
    assert_same(geometry.positions, positions[every])
    assert geometry.object_ids.tolist() == [i for i, mine in rows.items() for _ in mine]
    for oid, mine in rows.items():
        alone = level.read(objects=[oid])
        assert_same(alone.positions, positions[np.array(mine, int)])
        assert alone.lengths.tolist() == [len(mine)]
    present = golden.truth.get(f"L{number}_present")
    for key, expected in golden.named(f"L{number}_oattr__").items():
        values = geometry.object_attributes[key]
        assert (~np.ma.getmaskarray(values).reshape(10, -1).any(axis=1)).tolist() == present.tolist()
        assert_same(np.ma.getdata(values)[present], expected[present])
    box = boxes_of(positions)[1]
    keep = in_box(positions, box)
    clipped = level.read(bbox=box)
    runs = [(i, len(run)) for i, mine in rows.items() for run in "".join("x" if keep[r] else " " for r in mine).split()]
    assert lengths_of(clipped) == runs
    assert_same(clipped.positions, positions[[r for r in every if keep[r]]])


@pytest.mark.parametrize("name", PYRAMIDS)
def test_links_between_levels(name):
    golden = Golden(name)
    keys = [k for k in golden.truth if k.startswith("X")]
    assert len(keys) == 6
    for key in keys:
        number, delta = map(int, key[1:].split("_"))
        level, other = golden.store.level(number), golden.store.level(number + delta)
        links = level.links(delta)
        assert (links.width, links.directed, links.chunks.shape) == (2, True, (len(links), 2, 3))
        ends = [numbers_of(at, links.chunks[:, i], links.rows[:, i]) for i, at in enumerate((level, other))]
        (found,) = sorted_rows(np.stack(ends, axis=1))
        assert_same(found, golden.truth[key], key)
    with pytest.raises(dzv.NotFoundError, match="level 7"):
        golden.store.level(0).links(7)


def numbers_of(level, chunks, rows):
    """Return the numbers in reading order of rows of chunks."""
    places = [level.chunks.coords.tolist().index(list(c)) for c in np.asarray(chunks).tolist()]
    assert (np.asarray(rows) < level.chunks.rows[places]).all()
    return (np.cumsum(level.chunks.rows) - level.chunks.rows)[places] + np.asarray(rows)


def as_records(links):
    """Return (chunk, row) of every endpoint of each record."""
    return [
        [(tuple(c), r) for c, r in zip(chunks, rows, strict=True)]
        for chunks, rows in zip(links.chunks.tolist(), links.rows.tolist(), strict=True)
    ]


LINKS = ["directed", "directed_duplicate", "duplicate", "quad", "self", "tri", "tri_directed", "tri_duplicate"]


@pytest.mark.filterwarnings(OUTSIDE)  # as they were made
@pytest.mark.parametrize("policy", LINKS)
def test_policies_of_links(policy):
    golden = Golden(f"golden_0.9/links_{policy}")
    level = golden.store.level(0)
    wanted = [[(tuple(c), r) for c, r in record] for record in golden.call["records_input_order"]]
    links = level.links()
    assert links.width == len(wanted[0])
    assert links.directed == golden.call["policy"].get("directed", False)
    found = as_records(links)
    assert sorted(found) == sorted(wanted)
    values = dict(zip(map(str, wanted), golden.call["attribute_n"], strict=True))
    assert links.attributes["n"].tolist() == [values[str(r)] for r in found]
    for key in level.chunks.keys:
        filed = as_records(level.links(chunks=[key]))
        assert all(key in [".".join(map(str, c)) for c, _ in record] for record in filed)
        found = [r for r in found if r not in filed]
    assert found == []
    geometry = level.read()
    if links.width == 1:
        assert geometry.edges is geometry.faces is None
        return
    read = geometry.edges if links.width == 2 else geometry.faces
    of_links = geometry.edge_attributes if links.width == 2 else geometry.face_attributes
    numbers = np.array([numbers_of(level, *zip(*record, strict=True)) for record in wanted])
    for one, two in zip(
        sorted_rows(read, of_links["n"]), sorted_rows(numbers, np.array(golden.call["attribute_n"], np.int32)), strict=True
    ):
        assert_same(one, two)


@pytest.mark.filterwarnings(OUTSIDE)  # as they were made
def test_fragments_and_manifests_of_every_mode():
    """Explicit fragments name rows in any order, twice, or not at all; manifests name ranges and lists of fragments."""
    golden = Golden("golden_0.9/low_level")
    positions = {k: np.array(v, np.float32) for k, v in golden.call["positions"].items()}
    fragments, level = golden.call["fragments"], golden.store.level(0)
    assert level.chunks.keys == ["-1.2.10", "0.0.0", "1.0.0"]
    rows = [(k, r) for k in level.chunks.keys for fragment in fragments[k] for r in fragment]
    geometry = level.read()
    assert_same(geometry.positions, np.stack([positions[k][r] for k, r in rows]))
    records = golden.call["links"]["0"]["records"]
    named = [[(".".join(map(str, c)), r) for c, r in record] for record in records]
    assert sorted(geometry.edges.tolist()) == sorted([rows.index(end) for end in record] for record in named)
    assert sorted(as_records(level.links())) == sorted([[(tuple(c), r) for c, r in record] for record in records])
    wanted = []
    for oid in range(4):
        manifest = [(".".join(map(str, chunk)), fragment) for chunk, fragment in golden.call["manifests"][str(oid)]]
        wanted.append([positions[key][r] for key, fragment in manifest for r in fragments[key][fragment]])
        alone = level.read(objects=[oid], order="object")
        assert_same(alone.positions, np.array(wanted[-1], np.float32).reshape(-1, 3))
    by_object = level.read(order="object")
    assert_same(by_object.positions, np.stack([p for mine in wanted for p in mine]))
    assert [dict(lengths_of(by_object)).get(i, 0) for i in range(4)] == list(map(len, wanted))


def test_skeletons_of_paths():
    """Fragments are unbranched paths, positions are told from an offset, and ids of segments are attributes of the objects."""
    golden = Golden("golden_0.9/skeleton_chunked")
    level = golden.store.level(0)
    geometry = level.read()
    assert geometry.positions.dtype == np.float64
    segments = dict(zip(geometry.object_attributes["segment_id"].tolist(), geometry.object_index.tolist(), strict=True))
    assert sorted(map(str, segments)) == sorted(golden.call["segments"])
    for name, expected in golden.call["segments"].items():
        oid = segments[int(name)]
        alone = level.read(objects=[oid])
        for part, among in ((geometry, np.flatnonzero(geometry.object_ids == oid)), (alone, np.arange(len(alone)))):
            assert_same(part.positions[among].astype(np.float32), np.array(expected["positions_with_offset"], np.float32))
            assert_same(part.attributes["radius"][among], np.array(expected["radius"], np.float32))
            edges = part.edges[np.isin(part.edges[:, 0], among)]
            assert sorted(np.searchsorted(among, edges).tolist()) == sorted(expected["edges_child_parent"])
            assert sorted(part.positions[edges].tolist()) == sorted(expected["true_edge_positions"])
            assert (part.parents[among] < 0).sum() == len(among) - len(edges)
    low, high = geometry.positions.min(axis=0), geometry.positions.max(axis=0)
    keep = in_box(geometry.positions, (low, (low + high) / 2))
    assert keep.any()
    clipped = level.read(bbox=(low, (low + high) / 2))
    assert_same(clipped.positions, geometry.positions[keep])
    number = np.where(keep, np.cumsum(keep) - 1, -1)
    assert_same(clipped.parents, np.where(geometry.parents < 0, -1, number[geometry.parents])[keep])


def test_stores_without_links_say_so():
    level = dzv.open(next(DATA.glob("golden_0.9/polylines_raw_object_attr.*zarrvectors*"))).level(0)
    assert len(level.links()) == 14
    with pytest.raises(dzv.NotFoundError, match="no links to level 1"):
        level.links(1)
    with pytest.raises(dzv.InputError, match="delta"):
        level.links("+1")


def test_clip_is_about_objects():
    store = dzv.create({}, chunk_shape=(10.0, 10.0))
    dzv.write_points(store, np.array([[1.0, 1], [12, 3]]))
    level = store.level(0)
    with pytest.raises(dzv.InputError, match="clip"):
        level.read(bbox=((0, 0), (5, 5)), clip=False)
    assert len(level.read(clip=False)) == 2
    assert len(level.read(bbox=((0, 0), (5, 5)))) == 1
    assert level.read(chunks=["1.0"]).positions.tolist() == [[12, 3]]
