"""Every script of examples/ runs as it is, in a directory of its own."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_example_runs(script, tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", str(script)],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False, env={**os.environ, "MPLBACKEND": "Agg"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()
    if script.stem == "demo":
        assert (tmp_path / "demo-output" / "synapses.png").stat().st_size > 100_000
        assert "Counts per region equal those of the CSV files" in done.stdout
    if script.stem == "neurons":
        assert (tmp_path / "neurons.png").stat().st_size > 100_000
        assert "Total cable length 6,819.9 µm, surface area 13,224.0 µm², as in the files." in done.stdout
        assert "Neuron 722817260 alone: 4,332 nodes, 4,331 edges" in done.stdout
        assert "Box, meshes: 2,554 vertices and 4,751 faces inside; 19,795 vertices and 40,881 faces" in done.stdout


def test_neurons_say_where_their_data_is_when_it_is_missing(tmp_path):
    script = shutil.copy(SCRIPTS[0].parent / "neurons.py", tmp_path)
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    assert "navis" in done.stderr
    assert "Traceback" not in done.stderr


def programs():
    """Yield (path, syntax tree) of all that may start a cluster: examples, benchmarks, tests, notebooks."""
    for folder in ("examples", "benchmarks", "tests", "notebooks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path, ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted((ROOT / folder).rglob("*.ipynb")):
            cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
            lines = [line for cell in cells if cell["cell_type"] == "code" for line in "".join(cell["source"]).splitlines()]
            yield path, ast.parse("\n".join(line for line in lines if not line.startswith(("%", "!"))))


def test_dashboards_take_any_port_that_is_free():
    """Two clusters at once, or one beside a cluster of the user's, warn of a port that is taken."""
    calls = [
        (path.relative_to(ROOT).as_posix(), ast.unparse(node))
        for path, tree in programs()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("LocalCluster", "SLURMCluster"))
    ]
    assert len(calls) > 12
    assert [c for c in calls if "':0'" not in c[1] and "**more" not in c[1]] == []
