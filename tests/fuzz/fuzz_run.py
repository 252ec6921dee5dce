"""Feeding decoders: one input after the other, each with a time limit, all under a limit of memory, and each failure saved.

python tests/fuzz/fuzz_run.py --inputs 100000 --seed 0            # every decoder, each in a process of its own
python tests/fuzz/fuzz_run.py --decoder catalog --inputs 5000     # one
python tests/fuzz/fuzz_run.py --replay failures/catalog-0-17.json # an input that failed
"""

from __future__ import annotations

import argparse
import base64
import datetime
import gc
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import fuzz_level_decoders
from fuzz_base import Decoder, Parts
from fuzz_corpus import Mutator
from fuzz_decoders import DECODERS, SLOW

from dask_zv.errors import ZVError

SECONDS = 5.0
"""Of the processor that one input may take; of the clock it may take `_PATIENCE` times as many."""
_PATIENCE = 60
_SLACK = 16 << 20
"""Of the heap: caches, and what is not yet given back."""


class TooSlow(BaseException):
    """An input took longer than it may."""


@dataclass
class Outcome:
    """What became of the inputs of one decoder."""

    name: str
    inputs: int = 0
    right: int = 0
    errors: int = 0
    slowest: float = 0.0
    peak: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raise TooSlow in the main thread after so much time of the processor: others may keep a machine busy, or stop us for a while."""

    def ring(*_: object) -> None:
        raise TooSlow

    alarms = (
        (signal.SIGPROF, signal.ITIMER_PROF, seconds),
        (signal.SIGALRM, signal.ITIMER_REAL, seconds * _PATIENCE),  # who waits for what never comes uses no processor
    )
    before = [signal.signal(number, ring) for number, _, _ in alarms]
    try:
        for _, timer, after in alarms:
            signal.setitimer(timer, after)
        yield
    finally:
        for (number, timer, _), handler in zip(alarms, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)


def attempt(decoder: Decoder, parts: Parts, seed: Parts) -> tuple[str, str]:
    """Return ("right" | "error" | "failure", what happened)."""
    try:
        with _alarm(SECONDS):
            decoder.run(parts, seed)
    except ZVError as error:
        if parts == seed:
            return "failure", f"the seed itself is refused: {error!r}"
        str(error)
        return "error", ""
    except TooSlow:
        return "failure", f"more than {SECONDS:g} s of the processor, or {SECONDS * _PATIENCE:g} s"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return "failure", "".join(traceback.format_exception(error, limit=-4))
    return "right", ""


def fuzz(
    decoder: Decoder, inputs: int, seed: object, *, first: int = 0, limit_memory: bool = False, save: Path | None = None
) -> Outcome:
    """Feed mutated inputs to a decoder from the `first` on; with `limit_memory` refuse the process more than the decoder may take."""
    seeds = list(decoder.seeds())
    outcome = Outcome(decoder.name)
    others = [part for s in seeds for part in s]
    for s in seeds:  # each of them as it is: warms caches up as well
        kind, text = attempt(decoder, s, s)
        if kind != "right":
            outcome.failures.append(_save(decoder, s, s, "seed", text, save))
    gc.collect()
    base = data_bytes()
    started = time.process_time()
    for i in range(first, first + inputs):
        mutator = Mutator(f"{decoder.name}-{seed}-{i}", others)
        origin = mutator.rng.choice(seeds)
        parts = decoder.mutate(origin, mutator)
        if limit_memory:
            resource.setrlimit(resource.RLIMIT_DATA, (base + decoder.bound(parts) + _SLACK, resource.RLIM_INFINITY))
        before = time.process_time()
        kind, text = attempt(decoder, parts, origin)
        outcome.slowest = max(outcome.slowest, time.process_time() - before)
        outcome.inputs += 1
        outcome.right += kind == "right"
        outcome.errors += kind == "error"
        if kind == "failure":
            outcome.failures.append(_save(decoder, parts, origin, f"{seed}-{i}", text, save))
            if len(outcome.failures) >= 20:
                break
    outcome.seconds = time.process_time() - started
    outcome.peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return outcome


def data_bytes() -> int:
    """Return what counts against RLIMIT_DATA."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData"):
            return int(line.split()[1]) * 1024
    return 0


def _save(decoder: Decoder, parts: Parts, seed: Parts, tag: str, text: str, save: Path | None) -> str:
    name = f"{decoder.name.replace(' ', '_').replace(',', '')}-{tag}"
    if save is None:
        return f"{name}: {text}\ninput: {parts!r:.3000}"
    save.mkdir(parents=True, exist_ok=True)
    path = save / f"{name}.json"
    coded = {k: [base64.b64encode(p).decode() for p in v] for k, v in (("parts", parts), ("seed", seed))}
    path.write_text(json.dumps({"decoder": decoder.name, **coded, "what": text}, indent=1))
    return f"{name}: {text}\nagain: ci/fuzz --replay {path}"


def replay(path: Path) -> int:
    """Run a saved input once more, without limits, and show what comes of it."""
    saved = json.loads(path.read_text())
    parts, seed = (tuple(base64.b64decode(p) for p in saved[k]) for k in ("parts", "seed"))
    kind, text = attempt(DECODERS[saved["decoder"]], parts, seed)
    print(kind, text, sep="\n")
    return int(kind == "failure")


def _one(args: argparse.Namespace) -> int:
    decoder, save = DECODERS[args.decoder], Path(args.save)
    outcome = fuzz(decoder, args.inputs, args.seed, first=args.first, limit_memory=True, save=save)
    print(json.dumps(asdict(outcome)))
    return int(bool(outcome.failures))


def _together(args: argparse.Namespace) -> int:
    """Run decoders one after the other in this process, each with few stores: the short profile."""
    fuzz_level_decoders.FEW = True
    outcomes: list[Outcome] = []
    for name in _chosen(args):
        n = max(1, args.inputs // (args.slower if name in SLOW else 1))
        resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        outcomes.append(fuzz(DECODERS[name], n, args.seed, limit_memory=True))
    print(json.dumps([asdict(o) for o in outcomes]))
    return int(any(o.failures for o in outcomes))


def _chosen(args: argparse.Namespace) -> list[str]:
    return [n for n in DECODERS if not args.only or any(o in n for o in args.only)]


def _all(args: argparse.Namespace) -> int:
    outcomes: list[Outcome] = []
    names = _chosen(args)
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}

    def run(name: str) -> Outcome:
        n = max(1, args.inputs // (args.slower if name in SLOW else 1))
        command = [sys.executable, __file__, "--decoder", name, "--inputs", str(n), "--first", str(args.first)]
        command += ["--seed", args.seed, "--save", args.save]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        try:
            return Outcome(**json.loads(done.stdout.splitlines()[-1]))
        except (IndexError, ValueError):
            return Outcome(name, failures=[f"the process ended with status {done.returncode}:\n{done.stderr[-3000:]}"])

    with ThreadPoolExecutor(args.jobs) as pool:
        for outcome in pool.map(run, names):
            outcomes.append(outcome)
            print(_row(outcome), flush=True)
            for failure in outcome.failures:
                print(failure, file=sys.stderr, flush=True)
    table = _table(outcomes, args)
    if args.result:
        Path(args.result).write_text(table)
        print(f"written: {args.result}")
    return int(any(o.failures for o in outcomes))


def _row(o: Outcome) -> str:
    cells = (
        o.name, f"{o.inputs:,}", f"{o.right:,}", f"{o.errors:,}", str(len(o.failures)), f"{o.slowest * 1e3:,.0f}",
        f"{o.peak / 2**20:,.0f}", f"{o.seconds:,.0f}",
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _table(outcomes: list[Outcome], args: argparse.Namespace) -> str:
    head = "| decoder | inputs | right answer | error | failures | slowest, ms | peak memory, MB | seconds |"
    total = sum(o.inputs for o in outcomes)
    lines = [
        f"# Fuzzing, {datetime.date.today()}",  # noqa: DTZ011 - the day where it ran
        "",
        f"`ci/fuzz --inputs {args.inputs} --seed {args.seed}`: {total:,} mutated inputs, {sum(len(o.failures) for o in outcomes)} "
        f"failures. {platform.system()} {platform.machine()}, Python {platform.python_version()}.",
        "",
        "An input ends in a right answer (what is checked of it is said in `tests/fuzz/fuzz_decoders.py` and "
        "`fuzz_level_decoders.py`) or in a `ZVError`; anything else is a failure, as are more than "
        f"{SECONDS:g} s of the processor, or more memory than 64 MB and 100 times the input (compressed frames: 65,536 times their length). "
        "Decoders that read whole stores do so through `dzv.open`, from disk: with files changed, lost and swapped. "
        "Peak memory is that of the whole process, the interpreter and its imports included.",
        "",
        head,
        "|---|--:|--:|--:|--:|--:|--:|--:|",
        *map(_row, outcomes),
        "",
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=100_000, help="mutated inputs for each decoder")
    parser.add_argument("--first", type=int, default=0, help="number of the first input: for a run in parts")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--decoder", choices=list(DECODERS), help="one decoder, in this process")
    parser.add_argument("--only", nargs="*", help="decoders whose name has one of these in it")
    parser.add_argument("--slower", type=int, default=1, help="divide the inputs of decoders that read whole stores by this")
    parser.add_argument("--jobs", type=int, default=1, help="decoders that run at the same time")
    parser.add_argument("--together", action="store_true", help="all in this process, on few stores; prints JSON")
    parser.add_argument("--save", default="fuzz-failures", help="directory of failing inputs")
    parser.add_argument("--result", help="markdown file for the table")
    parser.add_argument("--replay", type=Path)
    args = parser.parse_args()
    if args.replay:
        return replay(args.replay)
    if args.together:
        return _together(args)
    return _one(args) if args.decoder else _all(args)


if __name__ == "__main__":
    sys.exit(main())
