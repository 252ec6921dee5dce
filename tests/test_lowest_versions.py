"""`ci/lowest.txt` pins what `ci/lowest` installs: the lowest version of everything that pyproject.toml gives a bound to."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NOT_TRIED = {
    "hpc": "needs the machine's MPI: ci/hpc",
    "dev": "tools, of exactly one version",
}


def bounds() -> dict[str, str]:
    """Return the lowest version of each requirement, of the package and of all its extras that ci/lowest installs."""
    extras = PROJECT["optional-dependencies"]
    texts = [*PROJECT["dependencies"], *(text for name in extras.keys() - NOT_TRIED.keys() for text in extras[name])]
    found: dict[str, set[str]] = {}
    for requirement in map(Requirement, texts):
        if requirement.name == "dask-zv":
            assert not requirement.extras & NOT_TRIED.keys()
            continue
        lowest = {s.version for s in requirement.specifier if s.operator == ">="}
        assert len(lowest) == 1, f"{requirement} needs one lower bound"
        found.setdefault(requirement.name, set()).update(lowest)
    assert all(len(versions) == 1 for versions in found.values()), found
    return {name: versions.pop() for name, versions in found.items()}


def constraints() -> dict[str, str]:
    lines = (ROOT / "ci/lowest.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#") and not line.endswith("# of none")]
    assert len({pin.name for pin in pins}) == len(pins)
    return {pin.name: str(pin.specifier).removeprefix("==") for pin in pins}


def test_the_constraints_are_the_bounds_of_pyproject() -> None:
    assert constraints() == bounds()
    assert PROJECT["requires-python"] == ">=3.11"  # what `ci/venv --lowest` takes


def test_what_is_installed_is_what_is_pinned() -> None:
    """In the environment of `ci/lowest`; elsewhere, that nothing is older."""
    lowest = os.environ.get("DASK_ZV_LOWEST") == "1"
    for name, bound in constraints().items():
        found = Version(version(name))
        assert found == Version(bound) if lowest else found >= Version(bound), name


BROKEN = {
    "fails": "exit 1",
    "is not installed": "exec /nonexistent/python",
    "crashes": "kill -SEGV $$",
    "says something else": "echo hello",
    "says only half": "echo 9999.0009.0009",
    "is no program": None,
}


@pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")), reason="this Python is one of those that ci/python leaves out"
)
def test_interpreters_that_do_not_work_are_passed_over(tmp_path: Path) -> None:
    """`ci/python` finds the one that works among those that don't, without pyenv and without a home."""
    bash = shutil.which("bash")
    newest = tmp_path / "python3.30"

    def found(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(bash), str(ROOT / "ci/python"), *arguments]
        return subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)

    assert "no python >= 3.11" in found().stderr
    (tmp_path / "python3").symlink_to(Path(sys.executable).resolve())
    for what, program in BROKEN.items():
        newest.write_text(f"#!{bash}\n{program or ''}\n")
        newest.chmod(0o755 if program else 0o644)
        told = found()
        assert Path(told.stdout.strip()).samefile(Path(sys.executable).resolve()), (what, told)
    assert found(f"3.{sys.version_info.minor}").returncode == 0
    assert found("3.30").returncode == 1
