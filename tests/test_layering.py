"""Imports point down, and only where they may (the contracts are in pyproject.toml); warnings are ours, and errors in tests."""

from __future__ import annotations

import ast
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

import dask_zv as dzv

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "src" / "dask_zv").rglob("*.py"))


def imported_names(source: str) -> Iterator[str]:
    """Yield the dotted name of every import, wherever in the file it stands; those of relative ones begin with dots."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                yield from (f"{'.' * level}{module or ''}.{alias.name}" for alias in names)


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def test_contracts_of_import_linter_are_kept() -> None:
    code = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"
    run = run_python(code, "--no-logo", "--no-cache")
    assert run.returncode == 0, run.stdout + run.stderr
    assert " 0 broken" in run.stdout


def is_private(name: str, importer: str) -> bool:
    """Tell whether an import takes what another package or module keeps to itself; modules of a folder may share one."""
    parts = name.split(".")
    hidden = [i for i, p in enumerate(parts) if p.startswith("_") and not p.endswith("__")]
    if not hidden:
        return False
    inside = (ROOT / "src").joinpath(*parts[: hidden[0] + 1]).with_suffix(".py").exists()
    return not (inside and importer.rpartition(".")[0] == ".".join(parts[: hidden[0]]))


def test_what_is_private() -> None:
    assert is_private("zarr.core._info.ZarrInfo", "dask_zv.storage.group")
    assert is_private("numpy._core", "dask_zv.format.links")
    assert is_private("_pytest", "dask_zv.errors")
    assert is_private("dask_zv._xarray_hook.register", "dask_zv.storage.group")
    assert is_private("dask_zv.format.links._decode", "dask_zv.format.levels")
    assert not is_private("dask_zv._xarray_hook.register", "dask_zv.errors")
    assert not is_private("zarr.storage.LocalStore", "dask_zv.storage.group")
    assert not is_private("__future__.annotations", "dask_zv.errors")


def test_modules_import_neither_the_peer_nor_private_parts() -> None:
    """Every module, and every import in it."""
    wrong = []
    for path in MODULES:
        module = ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)
        names = imported_names(path.read_text(encoding="utf-8"))
        # what a relative import takes is not seen here: they are not used
        wrong += [f"{module} imports {n}" for n in names if n.split(".")[0] in ("zarr_vectors", "") or is_private(n, module)]
    assert wrong == []
    assert len(MODULES) > 100


def test_root_imports_no_heavy_library() -> None:
    run = run_python("import sys, dask_zv; print(sorted({'distributed', 'xarray', 'pandas'} & set(sys.modules)))")
    assert run.stdout.strip() == "[]", run.stderr


def test_warnings_are_errors_here_wherever_they_are_said_to_come_from() -> None:
    with pytest.raises(dzv.ZVWarning, match="on behalf of the caller"):
        warnings.warn("on behalf of the caller", dzv.ZVWarning, stacklevel=1)
    with pytest.raises(RuntimeWarning, match="of our code"):
        warnings.warn_explicit("of our code", RuntimeWarning, "code.py", 1, module="dask_zv.spatial.grid")


def test_all_that_we_warn_of_has_our_category() -> None:
    nodes = (node for path in MODULES for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    calls = [n for n in nodes if isinstance(n, ast.Call) and ast.unparse(n.func) in ("warnings.warn", "warn")]
    assert calls
    own = ("ZVWarning", "DeprecationWarning")
    assert [ast.unparse(c) for c in calls if len(c.args) < 2 or ast.unparse(c.args[1]) not in own] == []
