"""The Python blocks of the README and of the documentation run as they are, one after the other, and links are valid.

A block of plain text right below a block of Python is what that block prints.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = (
    "README.md",
    *(
        f"docs/{name}.md"
        for name in (
            "concepts", "quickstart", "append", "statistics", "cluster", "tracks", "objects", "chunks", "moving", "whole", "hpc", "pictures",
            "levels",
            "geometries", "xarray", "consumers", "icechunk", "internals",
        )
    ),
)  # fmt: skip
OF_ZARR_3_1 = ("-W", "ignore:The codec `vlen-bytes` is currently not part")
"""A warning of zarr's first releases of 3.1, about a codec of the format that it reads."""
RUN = """
import contextlib, io, json, sys, warnings
# matplotlib 3.9 beside a newer pyparsing
warnings.filterwarnings("ignore", "'[A-Za-z]+' deprecated - use")
printed, names = [], {"__name__": "__main__"}
for code in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(code, "<block>", "exec"), names)
    printed.append(out.getvalue())
json.dump(printed, sys.stdout)
"""


def run_blocks(blocks: list[str], folder: Path) -> list[str]:
    """Run blocks of Python one after the other in one fresh process; return what each printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", *OF_ZARR_3_1, "-c", RUN],
        input=json.dumps(blocks), cwd=folder, capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "MPLBACKEND": "Agg"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    printed: list[str] = json.loads(done.stdout.splitlines()[-1])  # libraries that are not Python log above it
    return printed


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One folder for all pages, as a reader has it: none may take a name of another's."""
    return tmp_path_factory.mktemp("pages")


@pytest.mark.parametrize("page", PAGES)
def test_pages_print_what_they_say(page, folder):
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", text, re.MULTILINE | re.DOTALL)
    assert any(said for _, said in blocks)
    printed = run_blocks([code for code, _ in blocks], folder)
    for (code, said), found in zip(blocks, printed, strict=True):
        assert found == said, code


def test_pages_are_in_the_index():
    index = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    assert [p.name for p in sorted((ROOT / "docs").glob("*.md")) if p.name != "README.md" and f"({p.name})" not in index] == []
    glossary = (ROOT / "docs/glossary.md").read_text(encoding="utf-8")
    assert all(
        f"**{word}**" in glossary
        for word in ("block", "blob", "cell", "shard", "catalog", "manifest", "receipt", "level", "commit")
    )


def test_links_and_commands_exist():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    for page in pages:
        for link in re.findall(r"\]\((?!https?://)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"
    for command in ("ci/demo", "ci/test"):
        assert command in README
        assert os.access(ROOT / command, os.X_OK)
