"""Lines, polylines, streamlines, skeletons, graphs and meshes of both packages read exactly, by every path."""

from __future__ import annotations

import dask
import numpy as np
import pytest
from golden_reference import Golden, boxes_of, golden_names, sorted_rows
from points_reference import assert_same, in_box

import dask_zv as dzv


@pytest.fixture(autouse=True, scope="module")
def _sync():
    with dask.config.set(scheduler="sync"):
        yield


@pytest.fixture(params=golden_names())
def golden(request):
    return Golden(request.param)


def test_the_stores_are_there():
    names = golden_names()
    assert len(names) == 26
    assert {Golden(n).kind for n in names} == {"line", "polyline", "streamline", "skeleton", "graph", "mesh"}


def check(geometry, golden, rows, *, links=None):
    """Compare a geometry with the vertices `rows` (input numbers) and all links between them."""
    rows = np.asarray(rows, int)
    assert_same(geometry.positions, golden.positions[rows], "positions")
    names = {k.removeprefix("attr__") for k in golden.truth if k.startswith("attr__")}
    assert set(geometry.attributes) == names
    for name in names:
        assert_same(geometry.attributes[name], golden.truth[f"attr__{name}"][rows], name)
    if not golden.shares_fragments:
        assert_same(geometry.object_ids, golden.owners[rows], "object_ids")
    inside = np.isin(np.arange(len(golden.positions)), rows)
    for name, found in (("edges", geometry.edges), ("faces", geometry.faces)):
        if name not in golden.truth:
            assert found is None
            continue
        wanted = golden.truth[name]
        among = inside[wanted].all(axis=1)
        assert found.dtype == np.int64
        named, *values = sorted_rows(rows[found], *(geometry.edge_attributes[k] for k in sorted(geometry.edge_attributes)))
        assert_same(named, wanted[among], name)
        attributes = sorted(k.removeprefix("eattr__") for k in golden.truth if k.startswith("eattr__"))
        assert sorted(geometry.edge_attributes) == attributes
        for attribute, value in zip(attributes, values, strict=True):
            stored = golden.truth["eattr_stored"][among]
            assert np.ma.getmaskarray(value).tolist() == (~stored).tolist()
            assert_same(np.ma.getdata(value)[stored], golden.truth[f"eattr__{attribute}"][among][stored], attribute)
        assert geometry.face_attributes == {}
    if golden.kind == "skeleton":
        place = {int(r): i for i, r in enumerate(rows)}
        parent = dict(golden.truth["edges"].tolist())
        assert_same(geometry.parents, np.array([place.get(parent.get(int(r), -1), -1) for r in rows], np.int64), "parents")
        child = geometry.edges[:, 0]
        assert (np.diff(child) > 0).all()
        assert_same(geometry.parents[child], geometry.edges[:, 1])
    else:
        assert geometry.parents is None


def everything(golden):
    return np.ones(len(golden.positions), bool)


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_whole_levels(golden, scheduler):
    level = golden.store.level(0)
    with dask.config.set(scheduler=scheduler):
        check(level.read(order="chunk"), golden, golden.order)
        check(level.read(order="chunk", compute=False).compute(), golden, golden.order)
        default = level.read()
        check(default, golden, golden.expected_rows(everything(golden), "object") if golden.is_path else golden.order)
    assert (default.ids is not None) == golden.is_path


def test_in_blocks(golden, override):
    """One chunk to a block: edges, parents, paths and shared rows are put together from many parts."""
    override(read_block_chunks=1)
    override(read_packed_block_chunks=1)
    level = golden.store.level(0)
    delayed = level.read(order="chunk", compute=False)
    beside = level.source.schema.has_objects  # what is known of objects is read meanwhile
    assert len(dict(delayed.__dask_graph__())) == len(level.chunks) + 1 + beside
    with dask.config.set(scheduler="threads"):
        check(delayed.compute(), golden, golden.order)
        if not golden.shares_fragments:
            check(level.read(order="object"), golden, golden.expected_rows(everything(golden), "object"))


def test_by_object(golden):
    level = golden.store.level(0)
    if golden.shares_fragments:  # the vertices of all objects in a chunk are one fragment, which each of them names
        expected = [golden.owners[[golden.chunks[r] == c for r in range(len(golden.chunks))]] for c in golden.chunks]
        owners = np.array([o[0] if len(set(o.tolist())) == 1 else -2 for o in expected])
        assert {-2} < set(owners.tolist())
        assert_same(level.read().object_ids, owners[golden.order])
        return
    geometry = level.read(order="object")
    check(geometry, golden, golden.expected_rows(everything(golden), "object"))
    assert geometry.ids.tolist() == golden.ids
    assert geometry.lengths.tolist() == [int((golden.owners == i).sum()) for i in golden.ids]


def test_manifests(golden):
    """Each object alone is what its manifest names: chunk by chunk, in the order of the manifest."""
    level = golden.store.level(0)
    manifest = golden.truth["manifest"]
    coords = level.chunks.coords.tolist()
    of_chunk = np.repeat(np.arange(len(coords)), level.chunks.rows)
    for oid in golden.ids:
        mine = manifest[manifest[:, 0] == oid]
        assert mine[:, 1].tolist() == list(range(len(mine)))
        geometry = level.read(objects=oid, order="object")
        assert geometry.ids.tolist() == [oid]
        assert geometry.lengths.tolist() == [len(geometry)]
        named = [coords.index(c) for c in mine[:, 2:-1].tolist()]
        input_chunks = {coords.index(list(golden.chunks[r])) for r in np.flatnonzero(golden.owners == oid)}
        assert set(named) == input_chunks
        rows = [golden.chunks[r] for r in golden.expected_rows(everything(golden), "object", [oid])]
        if golden.shares_fragments:
            assert sorted(set(named)) == named
            whole = golden.order[np.isin(of_chunk, named)]
            assert_same(geometry.positions, golden.positions[whole])
            continue
        assert [c for i, c in enumerate(rows) if not i or c != rows[i - 1]] == [
            tuple(coords[c]) for i, c in enumerate(named) if not i or c != named[i - 1]
        ]


def test_objects(golden):
    if golden.shares_fragments:
        return  # see test_manifests
    level = golden.store.level(0)
    for wanted in [[i] for i in golden.ids] + [golden.ids[::2], golden.ids[::-1]]:
        for order in ("chunk", "object"):
            geometry = level.read(objects=wanted, order=order)
            check(geometry, golden, golden.expected_rows(everything(golden), order, wanted))
            assert geometry.object_index.tolist() == sorted(wanted)
            if order == "object":
                assert geometry.ids.tolist() == sorted(wanted)
                assert geometry.lengths.tolist() == [int((golden.owners == i).sum()) for i in sorted(wanted)]
    nothing = level.read(objects=[])
    assert len(nothing) == 0
    check(nothing, golden, [])
    with pytest.raises(dzv.NotFoundError, match=str(golden.ids[-1] + 1)):
        level.read(objects=[0, golden.ids[-1] + 1])


def test_object_attributes_and_groups(golden):
    geometry = golden.store.level(0).read()
    names = {k.removeprefix("oattr__") for k in golden.truth if k.startswith("oattr__")}
    assert set(geometry.object_attributes) == names
    assert geometry.object_index.tolist() == golden.ids
    some = golden.ids[1:3]
    part = golden.store.level(0).read(objects=some)
    for name in names:
        rows = golden.truth[f"oattr__{name}"]
        assert golden.truth["oattr_ids"].tolist() == golden.ids
        assert_same(geometry.object_attributes[name], rows, name)
        assert not np.ma.getmaskarray(geometry.object_attributes[name]).any()
        assert_same(part.object_attributes[name], rows[1:3], name)
    ends = golden.truth.get("groups_offsets", np.zeros(1, int))
    assert {g: m.tolist() for g, m in geometry.groups.items()} == {
        g: golden.truth["groups_flat"][ends[g] : ends[g + 1]].tolist() for g in range(len(ends) - 1)
    }
    assert set(geometry.group_attributes) == {k.removeprefix("gattr__") for k in golden.truth if k.startswith("gattr__")}
    for name, values in geometry.group_attributes.items():
        assert_same(values, golden.truth[f"gattr__{name}"], name)


# -------------------------------------------------------------------------------------------------- boxes and chunks


def check_clipped(level, golden, keep, objects=None, **selection):
    """Read a selection in both orders, and as whole objects."""
    if objects is not None:
        selection["objects"] = objects
    check(level.read(order="chunk", **selection), golden, golden.expected_rows(keep, "chunk", objects))
    if golden.shares_fragments:
        return
    rows = golden.expected_rows(keep, "object", objects)
    geometry = level.read(order="object", **selection)
    check(geometry, golden, rows)
    if golden.is_path:
        assert list(zip(geometry.ids.tolist(), geometry.lengths.tolist(), strict=True)) == golden.expected_runs(rows)
    else:
        listed = golden.ids if objects is None else sorted(objects)
        have = dict(zip(geometry.ids.tolist(), geometry.lengths.tolist(), strict=True))
        assert {i: n for i, n in have.items() if n} == {i: n for i in listed if (n := int((keep & (golden.owners == i)).sum()))}
    touched = sorted({int(golden.owners[r]) for r in rows})
    whole = level.read(order="object", clip=False, **selection)
    check(whole, golden, golden.expected_rows(everything(golden), "object", touched))
    assert whole.ids.tolist() == touched
    assert whole.object_index.tolist() == touched
    check(
        level.read(order="chunk", clip=False, **selection), golden, golden.expected_rows(everything(golden), "chunk", touched)
    )


def test_boxes(golden):
    level = golden.store.level(0)
    sizes = []
    for box in boxes_of(golden.positions):
        keep = in_box(golden.positions, box)
        sizes.append(int(keep.sum()))
        check_clipped(level, golden, keep, bbox=box)
    assert sizes[0] == len(keep)
    assert sizes[4] == 0
    assert len({n for n in sizes if 0 < n < len(keep)}) >= 2
    check_clipped(
        level, golden, in_box(golden.positions, box), golden.ids[::2] if not golden.shares_fragments else None, bbox=box
    )


def test_chunks(golden):
    level = golden.store.level(0)
    rng = np.random.default_rng(0)
    keys = level.chunks.keys
    for n in (1, 2, len(keys) // 2, len(keys)):
        some = sorted(rng.permutation(len(keys))[:n].tolist())
        coords = level.chunks.coords[some]
        inside = {tuple(c) for c in coords.tolist()}
        keep = np.array([c in inside for c in golden.chunks])
        check_clipped(level, golden, keep, chunks=[keys[i] for i in some])
        check(level.read(chunks=coords, order="chunk"), golden, golden.expected_rows(keep, "chunk"))
    check(level.read(chunks=[tuple(c) for c in coords.tolist()], order="chunk"), golden, golden.order)
    check(level.read(chunks=keys[0], order="chunk"), golden, golden.order[: level.chunks.rows[0]])
    check(level.read(chunks=level.chunks.coords[0], order="chunk"), golden, golden.order[: level.chunks.rows[0]])
    assert len(level.read(chunks=[])) == 0
    box = boxes_of(golden.positions)[1]
    half = level.chunks.coords[::2]
    inside = {tuple(c) for c in half.tolist()}
    keep = in_box(golden.positions, box) & np.array([c in inside for c in golden.chunks])
    check_clipped(level, golden, keep, None if golden.shares_fragments else golden.ids[1:] or golden.ids, bbox=box, chunks=half)


def test_chunks_that_are_none(golden):
    level = golden.store.level(0)
    unknown = ".".join(["77"] * level.chunks.coords.shape[1])
    with pytest.raises(dzv.NotFoundError) as caught:
        level.read(chunks=[level.chunks.keys[0], unknown])
    assert caught.value.chunk == unknown
    with pytest.raises(dzv.NotFoundError):
        level.read(chunks=[unknown], clip=False)
    for malformed in (["a.b.c"], [1.5, 2.5, 3.5], [[1, 2, 3, 4, 5]], 7, {"x": 1}):
        with pytest.raises(dzv.InputError, match="chunk"):
            level.read(chunks=malformed)


@pytest.mark.parametrize("name", ["golden_0.9/skeleton", "golden_0.9/graph", "golden_0.9/polylines", "golden_0.7/skeleton"])
def test_boxes_in_blocks_and_lazily(name, override):
    override(read_block_chunks=1)
    golden = Golden(name)
    level = golden.store.level(0)
    box = boxes_of(golden.positions)[1]
    keep = in_box(golden.positions, box)
    with dask.config.set(scheduler="threads"):
        check_clipped(level, golden, keep, bbox=box)
        lazy = level.read(bbox=box, order="chunk", compute=False)
        check(lazy.compute(), golden, golden.expected_rows(keep, "chunk"))
        whole = level.read(bbox=box, order="chunk", clip=False, compute=False).compute()
    touched = sorted(set(golden.owners[keep].tolist()))
    check(whole, golden, golden.expected_rows(everything(golden), "chunk", touched))


# -------------------------------------------------------------------------------------------------- attributes, order of links


@pytest.mark.parametrize("name", ["golden_0.9/graph", "golden_0.7/graph", "golden_0.9/graph_sharded"])
def test_attributes_by_name(name):
    golden = Golden(name)
    level = golden.store.level(0)
    of_edges = next(k.removeprefix("eattr__") for k in golden.truth if k.startswith("eattr__"))
    alone = level.read(attributes=[of_edges])
    assert alone.attributes == {}
    assert list(alone.edge_attributes) == [of_edges]
    assert level.read(attributes=[]).edge_attributes == {}
    assert_same(level.read(attributes=[]).edges, alone.edges)
    with pytest.raises(dzv.InputError, match="nonesuch"):
        level.read(attributes=["nonesuch"])


@pytest.mark.parametrize("name", golden_names(("graph", "mesh")))
def test_order_of_links(name):
    """By the chunk that they are filed under, those inside of it first; in 0.7 all inside first."""
    golden = Golden(name)
    geometry = golden.store.level(0).read()
    links = geometry.edges if geometry.edges is not None else geometry.faces
    chunks = [[golden.chunks[golden.order[r]] for r in link] for link in links.tolist()]
    source = [min(c) for c in chunks]
    crossing = [len(set(c)) > 1 for c in chunks]
    assert any(crossing)
    assert not all(crossing)
    if golden.old:
        assert crossing == sorted(crossing)
        inside = [s for s, c in zip(source, crossing, strict=True) if not c]
        assert inside == sorted(inside)
    else:
        places = list(zip(source, crossing, strict=True))
        assert places == sorted(places)


# -------------------------------------------------------------------------------------------------- pyramids


PYRAMIDS = ["golden_0.7/streamlines_pyramid", "golden_0.9/streamlines_pyramid"]


@pytest.mark.parametrize("name", PYRAMIDS)
@pytest.mark.parametrize("number", [1, 2])
def test_coarse_levels(name, number):
    golden = Golden(name)
    level = golden.store.level(number)
    positions, manifest = golden.truth[f"L{number}_positions"], golden.truth[f"L{number}_manifest"]
    flat = level.read(order="chunk")
    assert_same(flat.positions, positions)
    assert flat.edges is None
    assert flat.parents is None
    # a fragment is one vertex; several paths come by it, and a path may come by it twice
    coords = [tuple(c) for c in level.chunks.coords.tolist()]
    first = np.r_[0, np.cumsum(level.chunks.rows)]
    rows = {}
    for oid, _, *chunk, fragment in manifest.tolist():
        rows.setdefault(oid, []).append(first[coords.index(tuple(chunk))] + fragment)
    geometry = level.read()
    assert geometry.ids.tolist() == list(range(10))
    assert geometry.lengths.tolist() == [len(rows.get(i, [])) for i in range(10)]
    assert 0 in geometry.lengths.tolist() or number == 1
    every = [r for i in range(10) for r in rows.get(i, [])]
    assert_same(geometry.positions, positions[every])
    assert geometry.object_ids.tolist() == [i for i in range(10) for _ in rows.get(i, [])]
    for oid in range(10):
        alone = level.read(objects=[oid])
        assert_same(alone.positions, positions[rows.get(oid, [])] if oid in rows else positions[:0])
        assert alone.lengths.tolist() == [len(rows.get(oid, []))]
    for key in golden.truth:
        if key.startswith(f"L{number}_oattr__"):
            values = geometry.object_attributes[key.partition("__")[2]]
            present = golden.truth[f"L{number}_present"]
            assert (~np.ma.getmaskarray(values).reshape(10, -1).any(axis=1)).tolist() == present.tolist()
            assert_same(np.ma.getdata(values)[present], golden.truth[key][present])
    box = boxes_of(positions)[1]
    keep = in_box(positions, box)
    clipped = level.read(bbox=box)
    runs = [(i, list(run)) for i in range(10) for run in "".join("x" if keep[r] else " " for r in rows.get(i, [])).split()]
    assert list(zip(clipped.ids.tolist(), clipped.lengths.tolist(), strict=True)) == [(i, len(run)) for i, run in runs]
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
        assert links.width == 2
        assert links.directed
        assert links.chunks.shape == (len(links), 2, 3)
        found = []
        for chunks, rows in zip(links.chunks.tolist(), links.rows.tolist(), strict=True):
            ends = []
            for chunk, row, at in zip(chunks, rows, (level, other), strict=True):
                place = at.chunks.coords.tolist().index(chunk)
                assert row < at.chunks.rows[place]
                ends.append(int(at.chunks.rows[:place].sum()) + row)
            found.append(ends)
        (found,) = sorted_rows(np.array(found))
        assert_same(found, golden.truth[key], key)
    with pytest.raises(dzv.NotFoundError, match="level 7"):
        golden.store.level(0).links(7)


# -------------------------------------------------------------------------------------------------- stores made by hand


LINKS = ["directed", "directed_duplicate", "duplicate", "quad", "self", "tri", "tri_directed", "tri_duplicate"]


def as_records(links):
    """Return (chunk, row) of every endpoint of each record."""
    return [
        [(tuple(c), r) for c, r in zip(chunks, rows, strict=True)]
        for chunks, rows in zip(links.chunks.tolist(), links.rows.tolist(), strict=True)
    ]


@pytest.mark.filterwarnings("ignore:the chunk has vertices outside of its box:dask_zv.ZVWarning")  # as they were made
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
    coords = level.chunks.coords.tolist()
    first = np.r_[0, np.cumsum(level.chunks.rows)]
    numbers = [[int(first[coords.index(list(c))]) + r for c, r in record] for record in wanted]
    if links.width == 1:
        assert geometry.edges is None
        assert geometry.faces is None
        return
    read = geometry.edges if links.width == 2 else geometry.faces
    of_links = geometry.edge_attributes if links.width == 2 else geometry.face_attributes
    named, given = sorted_rows(read, of_links["n"])
    wanted, expected = sorted_rows(np.array(numbers), np.array(golden.call["attribute_n"], np.int32))
    assert_same(named, wanted)
    assert_same(given, expected)


@pytest.mark.filterwarnings("ignore:the chunk has vertices outside of its box:dask_zv.ZVWarning")  # as they were made
def test_fragments_and_manifests_of_every_mode():
    """Explicit fragments name rows in any order, twice, or not at all; manifests name ranges and lists of fragments."""
    golden = Golden("golden_0.9/low_level")
    positions = {k: np.array(v, np.float32) for k, v in golden.call["positions"].items()}
    fragments = golden.call["fragments"]
    level = golden.store.level(0)
    keys = level.chunks.keys
    assert keys == ["-1.2.10", "0.0.0", "1.0.0"]
    rows = [(k, r) for k in keys for fragment in fragments[k] for r in fragment]
    geometry = level.read()
    assert_same(geometry.positions, np.stack([positions[k][r] for k, r in rows]))
    named = [[(".".join(map(str, c)), r) for c, r in record] for record in golden.call["links"]["0"]["records"]]
    at = [[rows.index(end) for end in record] for record in named]
    assert sorted(geometry.edges.tolist()) == sorted(at)
    assert sorted(as_records(level.links())) == sorted(
        [[(tuple(map(int, k.split("."))), r) for k, r in record] for record in named]
    )
    by_object = level.read(order="object")
    wanted = []
    lengths = []
    for oid in range(4):
        mine = []
        for chunk, fragment in golden.call["manifests"][str(oid)]:
            key = ".".join(map(str, chunk))
            mine += [positions[key][r] for r in fragments[key][fragment]]
        lengths.append(len(mine))
        wanted += mine
        alone = level.read(objects=[oid], order="object")
        assert_same(alone.positions, np.array(mine, np.float32).reshape(-1, 3))
    assert_same(by_object.positions, np.stack(wanted))
    have = dict(zip(by_object.ids.tolist(), by_object.lengths.tolist(), strict=True))
    assert [have.get(i, 0) for i in range(4)] == lengths


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
        rows = np.flatnonzero(geometry.object_ids == oid)
        alone = level.read(objects=[oid])
        for part, among in ((geometry, rows), (alone, np.arange(len(alone)))):
            assert_same(part.positions[among].astype(np.float32), np.array(expected["positions_with_offset"], np.float32))
            assert_same(part.attributes["radius"][among], np.array(expected["radius"], np.float32))
            edges = part.edges[np.isin(part.edges[:, 0], among)]
            assert sorted(np.searchsorted(among, edges).tolist()) == sorted(expected["edges_child_parent"])
            assert sorted(part.positions[edges].tolist()) == sorted(expected["true_edge_positions"])
            roots = among[part.parents[among] < 0]
            assert len(roots) == len(among) - len(edges)
    low, high = geometry.positions.min(axis=0), geometry.positions.max(axis=0)
    box = low, (low + high) / 2
    keep = in_box(geometry.positions, box)
    assert keep.any()
    clipped = level.read(bbox=box)
    assert_same(clipped.positions, geometry.positions[keep])
    number = np.where(keep, np.cumsum(keep) - 1, -1)
    parents = np.where(geometry.parents < 0, -1, number[geometry.parents])
    assert_same(clipped.parents, parents[keep])


def test_stores_without_links_say_so():
    level = dzv.open(Golden("golden_0.9/polylines_raw_object_attr").path).level(0)
    assert len(level.links()) == 14
    with pytest.raises(dzv.NotFoundError, match="no links to level 1"):
        level.links(1)
    with pytest.raises(dzv.InputError, match="delta"):
        level.links("+1")


def test_clip_is_about_objects(tmp_path):
    store = dzv.create(tmp_path / "s.zv", chunk_shape=(10.0, 10.0))
    dzv.write_points(store, np.array([[1.0, 1], [12, 3]]))
    level = dzv.open(tmp_path / "s.zv").level(0)
    with pytest.raises(dzv.InputError, match="clip"):
        level.read(bbox=((0, 0), (5, 5)), clip=False)
    assert len(level.read(clip=False)) == 2
    assert len(level.read(bbox=((0, 0), (5, 5)))) == 1
    assert level.read(chunks=["1.0"]).positions.tolist() == [[12, 3]]
