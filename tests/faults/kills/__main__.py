"""Kill writes at many moments, note what came of each, and make a table of it: ``ci/faults`` runs this."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kills.inputs import CASES
from kills.readers import Reader, ours, peer_09
from kills.report import faults_of, summary, table
from kills.trials import KINDS, Bench


def parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m kills", description=__doc__)
    parser.add_argument("--moments", type=int, default=24, help="moments for each kind (default 24)")
    parser.add_argument("--seed", type=int, default=0, help="of the first moment; the next ones count on")
    parser.add_argument("--kind", nargs="+", choices=list(KINDS), default=list(KINDS), help="who is killed (default: all)")
    parser.add_argument("--case", nargs="+", choices=list(CASES), default=list(CASES), help="what is written (default: all)")
    parser.add_argument("--no-peer", action="store_true", help="without the readers of zarr-vectors 0.9.2")
    parser.add_argument("--result", type=Path, help="where the log (.jsonl) and the table (.md) go, without the suffix")
    return parser.parse_args(arguments)


def trials(options: argparse.Namespace, bench: Bench) -> Iterator[dict[str, Any]]:
    """Make all trials, the kinds in turn, each with the next case."""
    for number in range(options.moments):
        for place, name in enumerate(options.kind):
            kind = KINDS[name]
            case = options.case[(number + place * 5) % len(options.case)]
            yield bench.trial(kind, case, kind.schedulers[number % len(kind.schedulers)], options.seed + number)


def main(arguments: list[str]) -> int:
    options = parsed(arguments)
    started = time.time()
    log = options.result.with_suffix(".jsonl").open("w") if options.result else None
    records = []
    readers: list[Reader] = [ours()] if options.no_peer else [ours(), peer_09()]
    with tempfile.TemporaryDirectory(prefix="kills") as folder:
        bench = Bench(Path(folder), readers)
        try:
            for record in trials(options, bench):
                record["faults"] = faults_of(record)
                record = json.loads(json.dumps(record).replace(folder, "."))  # nobody wants to know where this ran
                records.append(record)
                if log is not None:
                    log.write(json.dumps(record) + "\n")
                    log.flush()
                where = ", ".join(f"{s['phase']} {s['n']}" for s in record["struck"]) or "not reached"
                told = record["told"]
                outcome = "; ".join(record["faults"]) or "as it must be"
                print(
                    f"{time.time() - started:6.0f} s  seed {record['seed']:3}  {record['kind']}, {record['case']}, "
                    f"{record['scheduler']}: {where} of {record['events']}; {told.get('type', told['outcome'])}; {outcome}",
                    flush=True,
                )
        finally:
            bench.close()
            for reader in readers:
                reader.close()
            if log is not None:
                log.close()
    lines = [*table(records), "", *summary(records)]
    if options.result:
        about = (
            f"{len(records)} trials of `ci/faults` with {options.moments} moments for each kind, seeds {options.seed} to "
            f"{options.seed + options.moments - 1}, Python {platform.python_version()}, {time.strftime('%Y-%m-%d', time.gmtime(started))}, "
            f"{(time.time() - started) / 60:.0f} minutes; the log is `{options.result.with_suffix('.jsonl').name}`."
        )
        head = ["# Killed writes", "", about, "What the columns mean: `docs/reliability.md`.", ""]
        options.result.with_suffix(".md").write_text("\n".join([*head, *lines, ""]))
    print("\n".join(lines))
    return 1 if any(r["faults"] for r in records) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
