"""Our reading of one level of a store beside the peer's: equal, refused with a reason, or different."""

from __future__ import annotations

import json
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

import dask_zv as dzv
from dask_zv.errors import ZVError

__all__ = ["Outcome", "compare_level"]


@dataclass
class Outcome:
    """What came of one level of one store."""

    store: str
    level: int
    kind: str
    refused: dict[str, str] = field(default_factory=dict)
    different: dict[str, str] = field(default_factory=dict)
    warned: list[str] = field(default_factory=list)
    known: dict[str, str] = field(default_factory=dict)
    peer_failed: dict[str, str] = field(default_factory=dict)

    @property
    def word(self) -> str:
        """The outcome in one word."""
        return "different" if self.different else "refused" if self.refused else "equal"


def same(a: Any, b: Any) -> bool:
    """Compare values to the bit, whatever their width of strings and byte order."""
    a, b = np.ma.getdata(a), np.ma.getdata(b)
    if a.shape != b.shape:
        a, b = (v.reshape(len(v), -1) if v.size else v.reshape(-1, 1) for v in (a, b))
    if a.shape != b.shape:
        return False
    if a.dtype.kind in "fc" and b.dtype.kind in "fc":
        return bool(np.array_equal(a, b, equal_nan=True))
    if "O" in (a.dtype.kind, b.dtype.kind):
        return [str(v) for v in a.ravel()] == [str(v) for v in b.ravel()]
    return bool(np.array_equal(a, b))


def ordered(rows: NDArray[Any]) -> NDArray[Any]:
    """Return rows in an order of their own."""
    flat = rows.reshape(len(rows), int(np.prod(rows.shape[1:])))
    return flat[np.lexsort(flat.T[::-1])] if flat.size else flat


class Comparison:
    """Reads one level piece by piece and notes what is not as the peer has it."""

    def __init__(self, outcome: Outcome, level: dzv.Level, told: dict[str, Any], found: dict[str, NDArray[Any]]) -> None:
        self.out, self.level, self.told, self.found = outcome, level, told, found
        self.without: dict[str, NDArray[Any]] = {}  # which objects have no value, in a view that fills them with NaN

    def attempt(self, name: str, function: Callable[[], Any]) -> Any:
        try:
            return function()
        except ZVError as error:
            self.out.refused[name] = f"{type(error).__name__}: {error.message}"
        return None

    def check(self, name: str, ours: Any, theirs: Any) -> None:
        if not same(np.asarray(ours), np.asarray(theirs)):
            shapes = f"{np.shape(ours)} {getattr(ours, 'dtype', '')} here, {np.shape(theirs)} {theirs.dtype} there"
            self.out.different[name] = f"not the same values: {shapes}"

    def run(self) -> None:
        if self.level._contents.offset is not None:  # the package adds it where a segment is read by its id, only
            for name in {"positions", "by_object"} & self.found.keys():
                self.found[name] = self.found[name].astype(np.float64) + np.asarray(self.level._contents.offset)
        whole = self.attempt("read in chunk order", lambda: self.level.read(order="chunk"))
        if whole is not None:
            self.by_chunk("chunk order", whole)
            self.connected(whole)
            self.box(whole)
        self.view("spatial view", "spatial")
        if self.level._contents.source.schema.has_objects:
            found = self.attempt("read in object order", lambda: self.level.read(order="object"))
            if found is not None:
                self.by_object("object order", found)
            self.view("objects view", "objects")
        elif self.told.get("ids"):
            self.out.different["objects"] = f"none here, {len(self.told['ids'])} there"
        self.links()

    def by_chunk(self, what: str, whole: dzv.Geometry) -> None:
        if "positions" in self.found:
            self.check(f"positions, {what}", whole.positions, self.found["positions"])
        self.attributes(what, whole.attributes)
        for name, theirs in self.theirs("gattr__"):
            if name not in whole.group_attributes:
                self.out.different[f"group attribute, {what}"] = f"{name!r} is not shown"
            else:
                self.check(f"group attribute, {what}", whole.group_attributes[name], theirs)
        if self.told.get("groups"):
            groups = [sorted(whole.groups.get(i, np.zeros(0, int)).tolist()) for i in range(len(self.told["groups"]))]
            if groups != [sorted(g) for g in self.told["groups"]]:
                self.out.different["groups"] = f"{groups} here, {self.told['groups']} there"

    def attributes(self, what: str, ours: Any) -> None:
        for name, theirs in self.theirs("attr__"):
            if name not in ours:
                self.out.different[f"attribute, {what}"] = f"{name!r} is not shown"
            elif np.asarray(theirs).dtype.kind in "iu" and np.asarray(ours[name]).dtype.kind in "OU":
                continue  # the peer gives codes of categories
            elif len(theirs) == len(ours[name]) or len(self.found.get("positions", ())) == len(theirs):
                self.check(f"attribute, {what}", ours[name], theirs)

    def theirs(self, prefix: str) -> Iterator[tuple[str, Any]]:
        for name, values in {**self.found, **self.told}.items():
            if name.startswith(prefix):
                yield name.removeprefix(prefix), np.asarray(values)

    def by_object(self, what: str, found: dzv.Geometry) -> None:
        ids, lengths = np.asarray(self.told.get("ids", []), np.int64), self.told.get("lengths")
        if lengths is not None and "by_object" in self.found:
            order = np.argsort(ids, kind="stable")
            theirs = np.split(self.found["by_object"], np.cumsum(lengths)[:-1]) if len(lengths) else []
            expected = [theirs[i] for i in order]
            some = np.asarray(lengths)[order] > 0
            paths = np.split(found.positions, np.cumsum(found.lengths)[:-1]) if len(found.lengths) else []
            mine = dict(zip(found.ids.tolist(), paths, strict=True))
            lost = [int(i) for i, s in zip(ids[order], some, strict=True) if s and int(i) not in mine]
            if lost:
                self.out.different[f"objects, {what}"] = f"object {lost[0]} is not here"
            for i, p, s in zip(ids[order].tolist(), expected, some.tolist(), strict=True):
                if s and i in mine and not same(mine[i], p):
                    self.out.different[f"objects, {what}"] = f"object {i}: {len(mine[i])} vertices here, {len(p)} there"
                    break
        self.object_attributes(what, found)

    def object_attributes(self, what: str, found: dzv.Geometry) -> None:
        ids = self.told.get("ids", [])
        for name, theirs in self.theirs("oattr__"):
            if name not in found.object_attributes:
                self.out.different[f"object attribute, {what}"] = f"{name!r} is not shown"
                continue
            ours = found.object_attributes[name]
            if isinstance(ours, np.ma.MaskedArray):
                self.without[name] = np.ma.getmaskarray(ours)
            elif len(self.without.get(name, ())) == len(ours):
                ours = np.ma.MaskedArray(ours, self.without[name].reshape(np.shape(ours)))
            if len(theirs) != len(ids) or found.object_index is None:
                continue
            at = np.searchsorted(found.object_index, ids)
            mask = ~np.ma.getmaskarray(ours)[at].reshape(len(at), -1).all(axis=1) if len(at) else np.zeros(0, bool)
            self.check(f"object attribute, {what}", np.ma.getdata(ours)[at][mask], theirs[mask])

    def connected(self, whole: dzv.Geometry) -> None:
        if "edges" in self.found:
            ours = np.zeros((0, 2), int) if whole.edges is None else whole.edges
            theirs = self.found["edges"]
            more = {*map(tuple, theirs.tolist())} - {*map(tuple, ours.tolist())}
            if (
                whole.parents is not None
                and len(theirs) == len(ours) + len(more)
                and all(whole.parents[c] < 0 for c, _ in more)
            ):
                if more:
                    self.out.known["edges"] = "the package's reader gives a root a parent (the row before it in its chunk)"
                theirs = self.found["edges"] = ours
            self.check("edges", ordered(ours), ordered(theirs))
        if "faces" in self.found and len(self.found["faces"]):
            ours = np.zeros((0, 3), int) if whole.faces is None else whole.faces
            self.check("faces", ordered(ours), ordered(self.found["faces"]))

    def box(self, whole: dzv.Geometry) -> None:
        if len(whole) < 2:
            return
        rng = np.random.default_rng(len(whole))
        every = self.found.get("positions", whole.positions)
        low, high = np.sort(every[rng.integers(0, len(every), 2)].astype(np.float64), axis=0)
        high = np.where(high > low, high, high + 1)  # a box has a width
        inside = ((every.astype(np.float64) >= low) & (every.astype(np.float64) <= high)).all(axis=1)
        found = self.attempt("box", lambda: self.level.read(bbox=(low, high), order="chunk"))
        if found is not None:
            self.check("box", found.positions, every[inside])
        ds = self.attempt("box in xarray", lambda: self.opened("spatial").zv.sel(bbox=(low, high)))
        if ds is not None:
            got = self.attempt("box in xarray", lambda: np.stack([ds[a].to_numpy() for a in self.level.store.axes], axis=1))
            if got is not None:
                self.check("box in xarray", got, every[inside])

    def opened(self, view: str) -> xr.Dataset:
        return xr.open_dataset(self.level.store, engine="zv", level=self.level.number, view=view)

    def view(self, what: str, view: str) -> None:
        ds = self.attempt(what, lambda: self.opened(view).load())
        if ds is None:
            return
        axes = self.level.store.axes
        positions = np.stack([ds[a].to_numpy() for a in axes], axis=1)
        if view == "objects":
            found = dzv.Geometry(
                positions,
                ids=ds["object"].to_numpy(),
                lengths=ds["node_count"].to_numpy(),
                object_index=ds["object"].to_numpy(),
                object_attributes={
                    str(v.attrs.get("zv_name", k)): v.to_numpy() for k, v in ds.variables.items() if v.dims[:1] == ("object",)
                },
            )
            self.by_object(what, found)
            return
        if "positions" in self.found:
            self.check(f"positions, {what}", positions, self.found["positions"])
        columns = {
            str(v.attrs.get("zv_name", k)): v.to_numpy()
            for k, v in ds.variables.items()
            if k not in axes and v.dims[:1] == ("vertex",)
        }
        self.attributes(what, columns)  # one may be called like an axis
        for name in ("edges", "faces"):
            if name in self.found and len(self.found[name]):
                ours = ds[name].to_numpy() if name in ds.variables else np.zeros((0, 2), int)
                self.check(f"{name}, {what}", ordered(ours), ordered(self.found[name]))

    def links(self) -> None:
        for key in [k for k in self.found if k.startswith("rows__")]:
            delta = int(key.removeprefix("rows__"))
            if not len(self.found[key]):
                continue
            found = self.attempt(f"links {delta}", lambda d=delta: self.level.links(d))
            if found is None:
                continue
            theirs = np.concatenate([self.found[f"chunks__{delta}"], self.found[key][..., None]], axis=2)
            ours = np.concatenate([found.chunks, found.rows[..., None]], axis=2)
            if len(np.unique(ordered(theirs), axis=0)) != len(theirs):  # a duplicate family comes once a copy there
                ours, theirs = np.unique(ordered(ours), axis=0), np.unique(ordered(theirs), axis=0)
            self.check(f"links {delta}", ordered(ours), ordered(theirs))
        self.link_attributes()

    def link_attributes(self) -> None:
        """Compare values beside the records that they are of; of those across chunks 0.2.0 keeps none."""
        for key, theirs in self.theirs("lattr__"):
            number, _, name = key.partition("__")
            found = self.attempt(f"links {number}", lambda n=number: self.level.links(int(n)))
            if found is None:
                continue
            if name not in found.attributes:
                self.out.different["link attribute"] = f"{name!r} is not shown"
                continue
            records = self.found.get(f"records__{key}")
            if records is None:
                chunks, rows = (self.found[f"{what}__{number}"] for what in ("chunks", "rows"))
                records = np.concatenate([chunks, rows[..., None]], axis=2)
            values = found.attributes[name]
            there = ~np.ma.getmaskarray(values).reshape(len(values), -1).all(axis=1) if len(values) else np.zeros(0, bool)
            ours = np.concatenate([found.chunks, found.rows[..., None]], axis=2)[there]
            pairs = [
                sorted(zip(r.reshape(len(r), -1).tolist(), v.reshape(len(v), -1).tolist(), strict=True), key=str)
                for r, v in ((ours, np.ma.getdata(values)[there]), (records, np.asarray(theirs)))
            ]
            if len({str(r) for r, _ in pairs[1]}) < len(pairs[1]):  # copies of a record come once here
                pairs = [sorted({str(p): p for p in some}.values(), key=str) for some in pairs]
            if str(pairs[0]) != str(pairs[1]):
                self.out.different["link attribute"] = f"{name!r}: {len(pairs[0])} values here, {len(pairs[1])} there"


def compare_level(store: Path, number: int, reading: Path) -> Outcome:
    """Read a level of a store, and compare it with what the peer read of it."""
    told = json.loads(reading.with_suffix(".json").read_text())
    found = dict(np.load(reading.with_suffix(".npz"), allow_pickle=False))
    out = Outcome(store.name, number, told.get("kind") or "none", peer_failed=told["failed"])
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            level = dzv.open(str(store)).level(number)
            comparison = Comparison(out, level, told, found)
            comparison.run()
        except ZVError as error:
            out.refused["open"] = f"{type(error).__name__}: {error.message}"
        except Exception as error:  # noqa: BLE001  # ours must not raise anything else
            out.different["crash"] = f"{type(error).__name__}: {error}"[:300]
    out.warned = [str(w.message) for w in warned if "dask_zv" in str(w.filename) or "ZV" in type(w.message).__name__]
    return out


def plain(message: str) -> str:
    """Return a message without what is of one store alone."""
    return re.sub(r"-?\d[\d.,]*", "N", re.sub(r"(?<![a-z])'[^']*'", "'...'", message))[:160]


def table(outcomes: list[Outcome]) -> str:
    """Return a Markdown table of outcomes by kind, and the reasons below it."""
    kinds = sorted({o.kind for o in outcomes})
    lines = ["| kind | levels | equal | refused with a reason | different |", "|---|---|---|---|---|"]
    for kind in [*kinds, "all"]:
        some = [o for o in outcomes if kind in (o.kind, "all")]
        words = Counter(o.word for o in some)
        lines.append(f"| {kind} | {len(some)} | {words['equal']} | {words['refused']} | {words['different']} |")
    for title, get in (
        ("refused", lambda o: o.refused if not o.different else {}),
        ("different", lambda o: o.different),
        ("known faults of the package", lambda o: o.known),
        ("warned", lambda o: dict(enumerate(o.warned))),
    ):
        reasons: Counter[str] = Counter()
        example: dict[str, str] = {}
        for o in outcomes:
            for name, text in get(o).items():
                reason = f"{name}: {plain(text)}"
                reasons[reason] += 1
                example.setdefault(reason, f"{o.store}/{o.level}")
        lines += ["", f"{title}:"] + [f"- {n} x {reason} (as {example[reason]})" for reason, n in reasons.most_common()]
    return "\n".join(lines)
