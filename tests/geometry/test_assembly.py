"""Row numbers of what was read: maps, paths, parents and links against the same told one row at a time."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dask_zv.geometry.assembly import Paths, RowMap, follow_copies, input_order, parents_of, take_ranges


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5)), max_size=10))
def test_ranges(ranges):
    starts, counts = (np.array([r[i] for r in ranges], np.int64) for i in (0, 1))
    assert take_ranges(starts, counts).tolist() == [s + i for s, n in ranges for i in range(n)]


@given(st.integers(1, 4), st.data())
def test_the_order_of_the_input(width, data):
    given_order = [data.draw(st.permutations(range(10, 10 + width))) for _ in range(data.draw(st.integers(0, 5)))]
    order = np.array([data.draw(st.permutations(range(width))) for _ in given_order], np.intp).reshape(-1, width)
    stored = np.array([[g[o] for o in row] for g, row in zip(given_order, order.tolist(), strict=True)], np.int64)
    assert input_order(stored.reshape(-1, width), order).tolist() == given_order


@st.composite
def _parts(draw):
    """Return, of some blocks, the rows of each chunk, and for each of these its number in the block or -1."""
    parts = []
    for _ in range(draw(st.integers(0, 4))):
        stored = draw(st.lists(st.integers(0, 4), max_size=4))
        total = sum(stored)
        if draw(st.booleans()):
            parts.append((stored, None, total))
        else:
            kept = draw(st.lists(st.booleans(), min_size=total, max_size=total))
            numbers = draw(st.permutations(range(sum(kept))))
            left = iter(numbers)
            parts.append((stored, [next(left) if k else -1 for k in kept], sum(kept)))
    return parts


@given(_parts())
def test_maps_of_rows(parts):
    maps = [RowMap(np.array(s, np.int64), None if p is None else np.array(p, np.int64)) for s, p, _ in parts]
    joined = RowMap.join(maps, [n for _, _, n in parts])
    expected = {}
    chunk = first = 0
    for stored, places, n in parts:
        at = iter(range(sum(stored)) if places is None else places)
        for rows in stored:
            for row in range(rows):
                number = next(at)
                expected[chunk, row] = -1 if number < 0 else number + first
            chunk += 1
        first += n
    if expected:
        chunks, rows = (np.array([k[i] for k in expected]) for i in (0, 1))
        assert joined.find(chunks, rows).tolist() == list(expected.values())
    assert joined.find(np.array([[-1, -1]]), np.array([[0, 7]])).tolist() == [[-1, -1]]
    for c, n in enumerate(joined.stored.tolist()):
        pairs = np.array([[c, c], [c, -1], [-1, c]]), np.array([[n - 1, n], [max(n - 1, 0), 10**9], [-1, 0]])
        bad = [0] + ([1] if n == 0 else []) + [2]
        assert joined.beyond(*pairs).tolist() == bad


@given(st.integers(0, 8), st.data())
def test_parents(n, data):
    """Records win over the row before, whichever it is."""
    first = np.array([i == 0 or data.draw(st.booleans()) for i in range(n)], bool)
    linked = np.array([not f and data.draw(st.booleans()) for f in first], bool)
    children = data.draw(st.lists(st.integers(0, n - 1), unique=True, max_size=n)) if n else []
    records = [(c, data.draw(st.integers(-1, n - 1))) for c in children] + [(-1, 0)] * (n > 0)
    parents, told = parents_of(linked, first, np.array(records, np.int64).reshape(-1, 2), either_way=False)
    of_record = {c: (p, i) for i, (c, p) in enumerate(records)}
    for row in range(n):
        parent, number = of_record.get(row, (row - 1 if linked[row] else -1, -1))
        assert parents[row] == parent
        assert told[row] == number


def test_parents_told_either_way():
    """Where fragments are paths, the child of a record is the first row of one."""
    first = np.array([1, 0, 0, 1, 0, 1], bool)
    linked = ~first
    for records in ([[3, 1], [5, 4]], [[1, 3], [5, 4]], [[3, 1], [4, 5]]):
        parents, told = parents_of(linked, first, np.array(records), either_way=True)
        assert parents.tolist() == [-1, 0, 1, 1, 3, 4]
        assert told.tolist() == [-1, -1, -1, 0, -1, 1]
    # a row that goes on with its path has no other parent: the record is of a child that was not read
    parents, _ = parents_of(linked, first, np.array([[1, -1]]), either_way=True)
    assert parents.tolist() == [-1, 0, 1, -1, 3, -1]


ROWS = st.integers(1, 6).flatmap(
    lambda n: st.tuples(
        st.just(n),
        st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, 2)), unique=True, max_size=12),
        st.lists(st.lists(st.integers(0, n - 1), min_size=2, max_size=2, unique=True), max_size=6) if n > 1 else st.just([]),
    )
)


@given(ROWS)
def test_links_follow_copies(case):
    n, copies, links = case
    copies = sorted(copies, key=lambda c: c[1])  # object by object
    rows, owners = (np.array([c[i] for c in copies], np.int64) for i in (0, 1))
    found, records = follow_copies(np.array(links, np.int64).reshape(-1, 2), rows, owners, n)
    expected = set()
    for number, (a, b) in enumerate(links):
        ends = [i for i, r in enumerate(rows) if r == b]
        for i in (i for i, r in enumerate(rows) if r == a):
            same = [j for j in ends if owners[j] == owners[i]]
            if ends:
                expected.add((number, i, same[0] if same else ends[0]))
    assert {(r, *link) for r, link in zip(records.tolist(), found.tolist(), strict=True)} == expected
    assert len(found) == len(expected)


PATHS = st.lists(st.lists(st.lists(st.booleans(), max_size=4), max_size=4), max_size=4)


@given(PATHS)
def test_paths(objects):
    """Fragments of objects, and which rows of them are kept; rows are numbered in the order of the fragments, backwards."""
    pieces = [(oid, piece) for oid, path in enumerate(objects) for piece in path]
    numbers, kept = {}, 0
    for at in range(len(pieces))[::-1]:
        numbers[at] = kept
        kept += sum(pieces[at][1])
    owners = np.array([oid for oid, _ in pieces], np.int64)
    starts = np.array([numbers[at] for at in range(len(pieces))], np.int64)
    counts = np.array([sum(piece) for _, piece in pieces], np.int64)
    whole = np.array([len(piece) for _, piece in pieces], np.int64)
    places = np.zeros(kept, np.int64)
    for at, (_, piece) in enumerate(pieces):
        places[starts[at] : starts[at] + counts[at]] = np.flatnonzero(piece)
    rows = [int(starts[at]) + i for at in range(len(pieces)) for i in range(counts[at])]
    ids = np.arange(len(objects))
    together = Paths.whole(owners, starts, counts, ids)
    assert together.rows.tolist() == rows
    assert together.ids.tolist() == ids.tolist()
    assert together.lengths.tolist() == [sum(map(sum, path)) for path in objects]
    runs = Paths.runs(owners, starts, counts, whole, places)
    assert runs.rows.tolist() == rows
    expected = []
    for oid, path in enumerate(objects):
        text = "".join("x" if keep else " " for piece in path for keep in piece)
        expected += [(oid, len(run)) for run in text.split()]
    assert list(zip(runs.ids.tolist(), runs.lengths.tolist(), strict=True)) == expected
    assert runs.owners.tolist() == together.owners.tolist()
