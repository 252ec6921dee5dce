"""The size of the house: what a person must hold in the head, in numbers that may only go down.

NUMBERS is the one table. A number above its ceiling fails; one below it asks for the ceiling to be lowered, so that what was
gained stays gained. The bar is where the number should end (issue 18).
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "dask_zv"
LONG = 350

NUMBERS: dict[str, tuple[int, int]] = {
    # what: (ceiling, bar)
    "modules entered: write_bytes": (14, 10),
    "modules entered: write_bytes in a batch": (21, 16),
    "modules entered: write_points": (52, 32),
    "modules entered: open and read a box": (32, 20),
    "modules entered: xarray, a box": (41, 25),
    "lines of src": (48_540, 28_000),
    "lines of tests": (45_300, 32_000),
    "modules": (219, 120),
    f"modules over {LONG} lines without a reason": (0, 0),
    "modules in import circles": (0, 0),
    "layouts compared outside of storage": (0, 0),
    "geometries named outside of geometry": (0, 0),
    "class names that come twice": (0, 0),
}


WORDS_OF_OTHERS = {
    ("xarray_backend.conventions", "line"): "a geometry_type of CF",
    ("xarray_backend.conventions", "mesh"): "the attribute of UGRID that names a variable's topology",
    ("write.containers", "mesh"): "the same attribute, which is left out of what is stored",
    ("exports.linked", "graph"): "the extra that installs networkx",
    ("exports.linked", "mesh"): "the extra that installs trimesh",
    ("viz.plot", "mesh"): "a kind of picture",
}
"""Strings that are spelled as a geometry and mean something else: (module, string) and what it is."""


@cache
def trees() -> dict[str, ast.Module]:
    """Return the syntax tree of every module by its dotted name."""
    found = {}
    for path in sorted(SRC.rglob("*.py")):
        name = ".".join(path.relative_to(SRC.parent).with_suffix("").parts).removesuffix(".__init__")
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def lines_of(folder: Path) -> dict[Path, int]:
    """Return the lines of every module below a folder."""
    return {path: len(path.read_text(encoding="utf-8").splitlines()) for path in folder.rglob("*.py")}


def long_modules() -> list[str]:
    """Return the modules that are long and don't say why: "one module because ..." in the docstring is how they do."""
    found = []
    for path, n in lines_of(SRC).items():
        reason = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        if n > LONG and "one module because" not in " ".join(reason.lower().split()):
            found.append(f"{path.relative_to(SRC)} ({n})")
    return sorted(found)


def imports_of(name: str, tree: ast.Module) -> Iterator[str]:
    """Yield the modules of ours that a module imports, wherever in it: late ones and those for typing count as well."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in trees())
        elif isinstance(node, ast.ImportFrom) and node.module and node.module in trees():
            yield from (full if (full := f"{node.module}.{a.name}") in trees() else node.module for a in node.names)


def circles() -> list[str]:
    """Return the modules that import themselves by way of others."""
    direct = {name: set(imports_of(name, tree)) for name, tree in trees().items()}
    reached = {}
    for name in direct:
        seen: set[str] = set()
        todo = list(direct[name])
        while todo:
            if (module := todo.pop()) not in seen:
                seen.add(module)
                todo += direct[module]
        reached[name] = seen
    return sorted(name for name, seen in reached.items() if name in seen)


def layout_comparisons() -> list[str]:
    """Return where a layout is compared with a name outside of storage/."""
    found = []
    for name, tree in trees().items():
        for node in ast.walk(tree):
            if name.startswith("dask_zv.storage") or not isinstance(node, ast.Compare):
                continue
            sides = [node.left, *node.comparators]
            by_value = any(isinstance(op, ast.Eq | ast.NotEq | ast.In | ast.NotIn) for op in node.ops)
            if (by_value and any(getattr(s, "id", getattr(s, "attr", "")) == "layout" for s in sides)) or any(
                isinstance(s, ast.Constant) and s.value in ("grid", "per_chunk") for s in node.comparators
            ):
                found.append(f"{name}:{node.lineno}")
    return found


def geometry_names() -> list[str]:
    """Return where a geometry is named by a string outside of geometry/, where the registry of them is."""
    from dask_zv.format.metadata import GEOMETRY_TYPES

    found = [
        (name.removeprefix("dask_zv."), node.value, node.lineno)
        for name, tree in trees().items()
        if not name.startswith(("dask_zv.geometry", "dask_zv.format.metadata"))  # the registry, and the format's own list
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value in GEOMETRY_TYPES
    ]
    gone = WORDS_OF_OTHERS.keys() - {(name, value) for name, value, _ in found}
    assert not gone, f"WORDS_OF_OTHERS names what is gone: {gone}"
    return [f"{name}:{line} {value}" for name, value, line in found if (name, value) not in WORDS_OF_OTHERS]


def repeated_classes() -> list[str]:
    """Return the names that several classes have."""
    names = Counter(n.name for tree in trees().values() for n in ast.walk(tree) if isinstance(n, ast.ClassDef))
    return sorted(name for name, n in names.items() if n > 1)


@cache
def trips() -> dict[str, list[str]]:
    """Return the modules that each trip enters, in a process that does nothing else."""
    run = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("house_trips.py"))],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return dict(json.loads(run.stdout))


def measured(what: str) -> tuple[int, object]:
    """Return a number, and what it counts where that helps to lower it."""
    if what.startswith("modules entered: "):
        entered = trips()[what.partition(": ")[2]]
        return len(entered), entered
    if what.startswith("lines of "):
        return sum(lines_of(SRC if what.endswith("src") else ROOT / "tests").values()), ""
    found: object = {
        "modules": trees,
        f"modules over {LONG} lines without a reason": long_modules,
        "modules in import circles": circles,
        "layouts compared outside of storage": layout_comparisons,
        "geometries named outside of geometry": geometry_names,
        "class names that come twice": repeated_classes,
    }[what]()
    return len(found), "" if what == "modules" else found  # type: ignore[arg-type]


@pytest.mark.parametrize("what", NUMBERS)
def test_numbers_only_go_down(what: str) -> None:
    ceiling, _bar = NUMBERS[what]
    number, of_what = measured(what)
    assert number <= ceiling, f"{what}: {number}, the ceiling is {ceiling}. Make it smaller; don't raise the ceiling. {of_what}"
    if number < ceiling:
        warnings.warn(f"{what}: {number}. Lower the ceiling, which is {ceiling}", stacklevel=1)


def test_the_map_is_true() -> None:
    """Every function that docs/architecture.md names is where it says."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/]+\.py)` `(\w+)(?:\.(\w+))?`", text)
    assert len(named) > 30
    absent = []
    for path, name, member in named:
        body = trees().get("dask_zv." + path.removesuffix(".py").replace("/", "."), ast.Module([], [])).body
        found = [
            n for n in body if name in (getattr(n, "name", ""), *(getattr(t, "id", "") for t in getattr(n, "targets", ())))
        ]
        if not found or (member and not any(getattr(n, "name", "") == member for n in ast.walk(found[-1]))):
            absent.append(f"{path} {name} {member}")
    assert absent == []


if __name__ == "__main__":  # the table, for a report
    print("| what | now | ceiling | bar |\n|---|---|---|---|")
    for row, (top, goal) in NUMBERS.items():
        print(f"| {row} | {measured(row)[0]:,} | {top:,} | {goal:,} |")
