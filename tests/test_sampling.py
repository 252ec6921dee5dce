"""What a run leaves out: nothing but cases of marked products, and it says how many."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
from sampling import covering

CONFTEST = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from sampling import Cases

def pytest_addoption(parser):
    parser.addoption("--long", action="store_true")
    parser.addoption("--hpc", action="store_true")
    parser.addoption("--record")

def pytest_configure(config):
    for marker in ("product", "long", "hpc"):
        config.addinivalue_line("markers", f"{{marker}}: ...")
    config.pluginmanager.register(Cases(config), "cases")
"""
TESTS = """
import pytest

@pytest.mark.parametrize("b", [1, 2, 3])
@pytest.mark.parametrize("a", [1, 2, 3, 4])
def test_whole(a, b): ...

@pytest.mark.product(keep="values")
@pytest.mark.parametrize("b", [1, 2, 3])
@pytest.mark.parametrize("a", [1, 2, 3, 4])
def test_product(a, b): ...

@pytest.mark.long
def test_long(): ...
"""


@pytest.mark.parametrize("sizes", [(2, 3), (10, 2, 4), (3, 3, 3, 2)])
def test_every_pair_and_every_value_is_in_a_case(sizes):
    cases = list(itertools.product(*(range(n) for n in sizes)))
    assert covering(cases, len(sizes)) == list(range(len(cases)))
    values = [cases[i] for i in covering(cases, 1)]
    assert len(values) == max(sizes)
    assert [set(column) for column in zip(*values, strict=True)] == [set(range(n)) for n in sizes]
    pairs = [cases[i] for i in covering(cases, 2)]
    for i, j in itertools.combinations(range(len(sizes)), 2):
        assert {(case[i], case[j]) for case in pairs} == set(itertools.product(range(sizes[i]), range(sizes[j])))
    assert len(sizes) == 2 or len(pairs) < len(cases)


def run(folder: Path, tests: str, *options: str) -> str:
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_these.py").write_text(tests)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, str(folder)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    return done.stdout + done.stderr


def test_the_last_lines_say_what_ran(tmp_path):
    assert "16 of 25 cases run (8 of products; 1 takes minutes: needs --long)" in run(tmp_path, TESTS)
    assert "25 of 25 cases run\n" in run(tmp_path, TESTS, "--long")
    assert "16 of 25 cases run (8 of products; 1 takes minutes: needs --long)" in run(tmp_path, TESTS, "-n", "2")


def test_nothing_but_products_is_left_out(tmp_path):
    alone = TESTS.replace('@pytest.mark.parametrize("b", [1, 2, 3])\n', "").replace("a, b", "a")
    assert "test_product: the marker product is for products of two parameters or more" in run(tmp_path, alone)
