"""The most memory that workers of a small cluster ever hold while they write more points than they have room for.

    python benchmarks/memory_bound.py [--runs 20] [--rows 29000000] [--limit-mb 384] [--out results/memory_bound.md]

Each run is a cluster of its own, two workers of one thread. The peak is the kernel's (``ru_maxrss``), of each worker that
lived to the end; a worker that was killed for its memory counts as 100 %. Exits with 1 where a peak is above 80 % of the limit.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).parents[1] / "tests" / "pipelines" / "out_of_core_write.py"
BOUND = 0.8


def one_run(rows: int, limit_mb: int) -> dict[str, Any]:
    """Return what the program told of one run; without "peaks" where it failed."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(PROGRAM), f"{folder}/s.zv", f"{folder}/local", str(rows), str(limit_mb), "1"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stderr[-2000:], file=sys.stderr)
        return {}
    told: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return told


def row(number: int, told: dict[str, Any], limit_mb: int) -> tuple[str, float]:
    """Return a line of the table, and the greatest share of the limit in it."""
    if not told or not told["same_workers"]:
        return f"| {number} | a worker was killed | 100 % | |", 1.0
    peaks = [peak / 2**20 for peak in told["peaks"]]
    shown = ", ".join(f"{peak:,.0f}" for peak in peaks)
    share = max(peaks) / limit_mb
    return f"| {number} | {shown} | {100 * share:.0f} % | {told['seconds']:,.0f} |", share


def main() -> int:
    """Run, print and keep the table; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--rows", type=int, default=29_000_000)
    parser.add_argument("--limit-mb", type=int, default=384)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    lines = [
        f"Two workers of one thread, {given.limit_mb} MB each; {given.rows:,} points of 28 bytes, "
        f"{given.rows * 28 / 2**20:,.0f} MB ({time.strftime('%Y-%m-%d')}, `benchmarks/memory_bound.py`).",
        "",
        "| run | peak of each worker, MB | greatest share of the limit | seconds |",
        "|---|---|---|---|",
    ]
    print("\n".join(lines))
    shares = []
    for number in range(1, given.runs + 1):
        line, share = row(number, one_run(given.rows, given.limit_mb), given.limit_mb)
        shares.append(share)
        lines.append(line)
        print(line, flush=True)
        text = f"{max(shares):.0%} at the most in {len(shares)} runs; the bound is {BOUND:.0%}."
        if given.out is not None:
            given.out.write_text("\n".join([*lines, "", text, ""]))
    print(f"\n{text}")
    return int(max(shares) > BOUND)


if __name__ == "__main__":
    sys.exit(main())
