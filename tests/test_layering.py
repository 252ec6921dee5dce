"""Imports point down, and only where they may (the contracts are in pyproject.toml)."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "src" / "dask_zv").rglob("*.py"))


def imported_names(source: str) -> Iterator[str]:
    """Yield the dotted name of every absolute import, wherever in the file it stands."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), names=names, level=0):
                yield from (f"{module}.{alias.name}" for alias in names)


def test_contracts_of_import_linter_are_kept() -> None:
    code = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"
    run = subprocess.run(
        [sys.executable, "-c", code, "--no-logo", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert " 0 broken" in run.stdout


def test_there_is_something_to_check() -> None:
    assert len(MODULES) > 8


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_module_imports_neither_the_peer_nor_private_parts(path: Path) -> None:
    names = list(imported_names(path.read_text(encoding="utf-8")))
    assert [name for name in names if name.split(".")[0] == "zarr_vectors"] == []
    foreign = [name.split(".") for name in names if name.split(".")[0] not in ("dask_zv", "__future__")]
    private = [".".join(parts) for parts in foreign if any(p.startswith("_") and not p.endswith("__") for p in parts)]
    assert private == []


def test_root_imports_no_heavy_library() -> None:
    code = "import sys, dask_zv; print(sorted({'distributed', 'xarray', 'pandas'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert run.stdout.strip() == "[]"
