"""What must hold in every trial, and the table of many."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_PEER = "zarr-vectors"


def faults_of(record: Mapping[str, Any]) -> list[str]:
    """Return what went wrong in a trial that must not go wrong, however the write was interrupted; empty where nothing did."""
    return [*_of_readers(record), *_of_messages(record), *_of_resume(record)]


def _of_readers(record: Mapping[str, Any]) -> list[str]:
    out = []
    replaces = record["replaces"]
    for name, seen in record["during"].items():
        # a level that is replaced in place is, to readers that know no catalog, part old and part new: docs/internals.md
        if not (replaces and name.startswith(_PEER)):
            texts = [f"{o}: {t}" for o, t in seen["texts"].items() if o.startswith("WRONG")]
            out += [f"{name} saw {o} during the write: {texts}" for o in _never(replaces) if seen["counts"].get(o)]
    done = record["committed"] or (record["told"]["outcome"] == "done" and record["step"] != "run")
    for way, (outcome, text) in record["after"].items():
        if done and outcome != "new":
            out.append(f"{way} saw {outcome} after the commit: {text}")
        elif outcome in _never(replaces) and not (replaces and way.startswith(_PEER)):
            out.append(f"{way} saw {outcome} after the kill: {text}")
    out += [f"{way} saw {o} after the same call again: {t}" for way, (o, t) in record["then"].items() if o != "new"]
    return out


def _never(replaces: bool) -> tuple[str, ...]:
    """Return what no reader may see: rows that nobody wrote so, and an empty level in place of one that was committed."""
    return ("WRONG", "nothing") if replaces else ("WRONG",)


def _of_messages(record: Mapping[str, Any]) -> list[str]:
    told = record["told"]
    if told["outcome"] in ("done", "killed"):
        return []
    if told["outcome"] != "error":
        return [f"the program {told['outcome']}"]
    text = "\n".join([told["text"], *told["notes"]])
    return [
        f"the message does not say {w}: {told['type']}: {text}" for w in ("s.zv", "the same call finishes it") if w not in text
    ]


def _of_resume(record: Mapping[str, Any]) -> list[str]:
    found = record["resume"]
    out = []
    if found["outcome"] != "done":
        out.append(f"the same call again: {found['outcome']} {found.get('type', '')}: {found.get('text', '')}")
    if found["written again"]:
        out.append(f"blocks were whole and written again: {found['written again']}")
    if record["differs"]:
        out.append(f"the store differs from one that nobody interrupted: {record['differs'][:5]}")
    return out


def table(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the lines of a table in Markdown, a row for each kind of trial, new levels apart from replaced ones."""
    lines = [
        "| who is killed | level | moments (by phase) | reader | during | after | what the user is told | the same call again |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind in dict.fromkeys(r["kind"] for r in records):
        for replaces in (False, True):
            some = [r for r in records if r["kind"] == kind and r["replaces"] == replaces]
            if some:
                lines += _rows(kind, "replaced" if replaces else "new", some)
    return lines


def _rows(kind: str, level: str, records: Sequence[Mapping[str, Any]]) -> list[str]:
    phases = Counter(s["phase"] or "?" for r in records for s in r["struck"])
    missed = sum(not r["struck"] for r in records)
    moments = f"{len(records)} ({_counted(phases)}{f'; {missed} not reached' if missed else ''})"
    readers = dict.fromkeys(w for r in records for w in r["after"])
    rows = []
    for reader in dict.fromkeys(_reader_of(w) for w in readers):
        during: Counter[str] = Counter()
        for r in records:
            during.update(r["during"].get(reader, {}).get("counts", {}))
        after = Counter(o for r in records for w, (o, _) in r["after"].items() if _reader_of(w) == reader)
        rows.append([reader, _counted(during), _counted(after)])
    told = _counted(Counter(_told(r["told"]) for r in records))
    again = _counted(Counter("**not as it must be**" if faults_of(r) else "equal" for r in records))
    first = [[kind, level, moments], [told, again]]
    return [
        "| " + " | ".join([*(first[0] if not i else [""] * 3), *row, *(first[1] if not i else [""] * 2)]) + " |"
        for i, row in enumerate(rows)
    ]


def _reader_of(way: str) -> str:
    return way.rpartition(" ")[0]


def _told(told: Mapping[str, Any]) -> str:
    if told["outcome"] == "error":
        return f"`{told['type']}`"
    return {"done": "the report", "killed": "nothing: it is dead"}.get(told["outcome"], told["outcome"])


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in sorted(counts.items(), key=lambda item: -item[1])) or "–"


def summary(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return what all trials have in common, as lines of a list in Markdown."""
    listed = list(records)
    kept = [r["resume"]["kept"] for r in listed]
    looks = Counter(o for r in listed for seen in r["during"].values() for o, n in seen["counts"].items() for _ in range(n))
    return [
        f"- {len(listed)} trials, {sum(len(r['struck']) for r in listed)} kills, "
        f"{sum(bool(faults_of(r)) for r in listed)} of them not as they must be",
        f"- {sum(looks.values()):,} looks of readers during the writes: {_counted(looks)}",
        f"- blocks that a run found done: {sum(kept)} (median {statistics.median(kept):.0f}); written again of them: "
        f"{sum(len(r['resume']['written again']) for r in listed)}; written by it: {sum(r['resume']['stored'] for r in listed)}",
        f"- half-written files that killed processes left, under names that nobody reads: {sum(r['temporary'] for r in listed)}",
    ]
