"""What a run leaves out: nothing but cases of marked products, and it says how many; and the contract matrix, in processes too."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sampling import covering

CONFTEST = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from contract_matrix import ContractMatrix
from sampling import Cases

def pytest_addoption(parser):
    parser.addoption("--long", action="store_true")
    parser.addoption("--hpc", action="store_true")
    parser.addoption("--record")

def pytest_configure(config):
    for marker in ("product", "long", "hpc", "contract"):
        config.addinivalue_line("markers", f"{{marker}}: ...")
    config.pluginmanager.register(Cases(config), "cases")
    config.pluginmanager.register(ContractMatrix(["dict", "icechunk"], ["sync"]), "contract-matrix")
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
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "xdist.plugin", *options, str(folder)]
    alone = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # plugins take a second to import
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False, env=alone)
    return f"{done.stdout}{done.stderr}exit status {done.returncode}"


def test_the_last_lines_say_what_ran(tmp_path):
    assert "16 of 25 cases run (8 of products; 1 takes minutes: needs --long)" in run(tmp_path, TESTS)
    assert "25 of 25 cases run\n" in run(tmp_path, TESTS, "--long")
    assert "16 of 25 cases run (8 of products; 1 takes minutes: needs --long)" in run(tmp_path, TESTS, "-n", "2")


def test_nothing_but_products_is_left_out(tmp_path):
    alone = TESTS.replace('@pytest.mark.parametrize("b", [1, 2, 3])\n', "").replace("a, b", "a")
    assert "test_product: the marker product is for products of two parameters or more" in run(tmp_path, alone)


CONTRACT = """
import pytest
from contract_exceptions import need

@pytest.mark.contract
@pytest.mark.parametrize("store", ["dict", "icechunk"])
def test_pickling(store):
    need(store, "pickling")
    SKIP
"""


def test_the_matrix_is_that_of_all_processes(tmp_path):
    told = run(tmp_path, CONTRACT.replace("SKIP", ""), "-n", "2")
    assert "contract matrix: stores, layout per_chunk" in told
    assert "1 skip, 1 ok" in told
    assert "1 passed, 1 skipped" in told
    told = run(tmp_path, CONTRACT.replace("SKIP", "pytest.skip('not today')"), "-n", "2")
    assert "contract tests without an explanation" in told
    assert "not today" in told
    assert "exit status 1" in told
