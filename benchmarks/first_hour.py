"""How far each of twelve common tasks is from the README, and how long its page takes to read and to run.

    python benchmarks/first_hour.py

Links are the fewest that lead from README.md to the page. Words are all words of the page (or of its section and the
introduction), including code and output, read at 200 words a minute. Seconds are those of all Python blocks of the page in one
fresh process, imports included.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
WORDS_A_MINUTE = 200
JOBS = {
    "understand what a store is": "docs/concepts.md",
    "write a table and query a box": "docs/quickstart.md",
    "write Parquet files on a Dask cluster": "docs/cluster.md",
    "tracks in time": "docs/tracks.md",
    "a skeleton: cable length, a box": "docs/objects.md",
    "a mesh: surface area, cut at a box": "docs/objects.md",
    "size of a store, and is it complete": "docs/whole.md",
    "choose and change chunks": "docs/chunks.md",
    "move to S3, copy, rename, delete": "docs/moving.md",
    "finish an interrupted write": "docs/whole.md",
    "write my own data from SLURM": "docs/hpc.md#with-my-own-data",
    "draw it in 3-D": "docs/pictures.md",
}
RUN = "import json, sys\nnames = {'__name__': '__main__'}\nfor code in json.load(sys.stdin):\n    exec(code, names)\n"


def links_of(page: str) -> set[str]:
    """Return the pages that a page links to, relative to the root."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.findall(r"\]\((?!https?://)([^)#]+\.md)", text)
    return {os.path.relpath((ROOT / page).parent / link, ROOT) for link in found}


def hops_from(start: str) -> dict[str, int]:
    """Return how many links each page is away from a page."""
    hops, edge = {start: 0}, [start]
    while edge:
        page = edge.pop(0)
        for link in sorted(links_of(page) - hops.keys()):
            hops[link] = hops[page] + 1
            edge.append(link)
    return hops


def slug(heading: str) -> str:
    """Return the anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def words_of(target: str) -> int:
    """Return the words of a page, or of its introduction and one section."""
    page, _, anchor = target.partition("#")
    parts = re.split(r"^(?=## )", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE)
    if anchor:
        parts = [parts[0], *(p for p in parts[1:] if slug(p.splitlines()[0].removeprefix("## ")) == anchor)]
        assert len(parts) == 2, f"no section {anchor} in {page}"
    return len(" ".join(parts).split())


def seconds_of(page: str) -> tuple[float, float]:
    """Run the Python blocks of a page in one fresh process and an empty folder; return wall and CPU seconds."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    with tempfile.TemporaryDirectory() as folder:
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-c", RUN], input=json.dumps(blocks), text=True, cwd=folder, check=True, stdout=subprocess.DEVNULL,
            env={**os.environ, "MPLBACKEND": "Agg"},
        )  # fmt: skip
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return time.perf_counter() - start, cpu


def main() -> None:
    """Print the table."""
    hops = hops_from("README.md")
    seconds = {page: seconds_of(page) for page in {target.partition("#")[0] for target in JOBS.values()}}
    print(
        "| task | page | links from README | words | run, s | CPU, s | minutes to read and run |\n|---|---|---|---|---|---|---|"
    )
    for job, target in JOBS.items():
        page = target.partition("#")[0]
        words, (wall, cpu) = words_of(target), seconds[page]
        minutes = words / WORDS_A_MINUTE + wall / 60
        link = target.removeprefix("docs/")
        print(f"| {job} | [{link}]({link}) | {hops[page]} | {words} | {wall:.1f} | {cpu:.1f} | {minutes:.1f} |")
    print(f"\nLoad of the last minute: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    start = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Points, lines")[0]
    print(f"\nREADME up to its table of tasks: {len(start.split())} words")


if __name__ == "__main__":
    main()
