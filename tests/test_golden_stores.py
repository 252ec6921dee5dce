"""Every golden store has its expectation, and every expectation a store and a test that reads it."""

import json
from pathlib import Path

import numpy as np
import pytest

DATA = Path(__file__).parent / "data"
STORES = {"golden_0.7": 23, "golden_0.9": 37}
KINDS = {"point_cloud", "line", "polyline", "streamline", "graph", "skeleton", "mesh"}
"""Those that test_golden_points.py and test_golden_geometries.py read, whatever they are named."""
OF_THEIR_OWN = {"links_", "low_level", "skeleton_chunked"}
"""What the package wrote by other ways than a writing function: tests name them, and their expectations have no arrays."""


def names_of(generation, suffix=".expected.json"):
    return {path.name.removesuffix(suffix) for path in (DATA / generation).iterdir() if path.name.endswith(suffix)}


@pytest.mark.parametrize("generation", list(STORES))
def test_stores_and_expectations_are_of_each_other(generation):
    files = {path.name for path in (DATA / generation).iterdir()}
    stores = {name.partition(".")[0] for name in files if ".zarrvectors" in name}
    documents, arrays = names_of(generation), names_of(generation, ".expected.npz")
    assert stores == documents
    assert len(stores) == STORES[generation]
    assert len(files) == len(stores) + len(documents) + len(arrays)
    wrong = []
    for name in sorted(documents):
        said = json.loads((DATA / generation / f"{name}.expected.json").read_text())
        if any(name.startswith(own) for own in OF_THEIR_OWN):
            wrong += [name] if name in arrays or not said else []
            continue
        assert said["kind"] in KINDS, name
        assert name in arrays, f"{name} has lost its arrays"
        with np.load(DATA / generation / f"{name}.expected.npz") as truth:
            found = {key: [str(truth[key].dtype), list(truth[key].shape)] for key in truth}
        wrong += [f"{name}: {key}" for key in found.keys() | said["arrays"].keys() if found.get(key) != said["arrays"].get(key)]
    assert wrong == []


def test_stores_of_their_own_are_read():
    tests = (Path(__file__).parent / "pipelines/test_golden_geometries.py").read_text()
    own = [n for n in names_of("golden_0.9") if n.startswith(tuple(OF_THEIR_OWN))]
    assert len(own) == 10
    assert [n for n in own if f'"golden_0.9/{n}"' not in tests and f'"{n.removeprefix("links_")}"' not in tests] == []
