"""The public names: `__all__` is what can be imported, and importing the package costs little."""

import ast
import importlib
import inspect
import pickle
import pydoc
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dask_zv

MODULES = sorted(
    ".".join(("dask_zv", *path.relative_to(Path(dask_zv.__file__).parent).with_suffix("").parts)).removesuffix(".__init__")
    for path in Path(dask_zv.__file__).parent.rglob("*.py")
)


def test_every_exported_name_imports():
    for name in dask_zv.__all__:
        assert getattr(dask_zv, name) is not None
    assert sorted(dask_zv.__all__) == list(dask_zv.__all__)


def test_dir_shows_the_public_names_alone():
    """Also after submodules were imported, which become attributes of the package."""
    import dask_zv.storage.local

    assert dir(dask_zv) == dask_zv.__all__
    assert not {"storage", "annotations", "Any", "ast"} & set(dir(dask_zv))
    assert all(hasattr(getattr(dask_zv, name), "__doc__") for name in dir(dask_zv))


def test_the_docstring_names_everything_by_its_task():
    text = dask_zv.__doc__
    absent = [name for name in dask_zv.__all__ if name != "__version__" and not re.search(rf"\b{name}\b", text)]
    assert absent == []
    assert pydoc.render_doc(dask_zv, renderer=pydoc.plaintext).index("import dask_zv as dzv") < 300


def test_type_checkers_see_what_is_there():
    """The stub is the list of names, so each must be in the module that it says."""
    stub = ast.parse(Path(dask_zv.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    for node in stub.body[1:]:
        assert isinstance(node, ast.ImportFrom)
        (alias,) = node.names
        assert alias.name == alias.asname  # a stub exports no other imports
        here = importlib.import_module(node.module)
        assert getattr(dask_zv, alias.name) is getattr(here, alias.name)
    assert (Path(dask_zv.__file__).parent / "py.typed").exists()


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="nonsense"):
        dask_zv.nonsense  # noqa: B018
    assert not hasattr(dask_zv, "also_nonsense")


def test_the_surface_of_the_contract():
    for name in ("Group", "open_group", "create", "open", "Store", "Level", "Geometry", "Report", "write_points"):
        assert name in dask_zv.__all__
    for name in ("ZVError", "StoreError", "MetadataError", "FormatError", "PlanError", "BoundsError"):
        assert issubclass(getattr(dask_zv, name), dask_zv.ZVError)


def test_every_module_says_what_it_exports():
    public = [name for name in MODULES if "._" not in name]
    assert len(public) > 100
    absent = []
    for name in public:
        module = importlib.import_module(name)
        absent += [f"{name}.{exported}" for exported in getattr(module, "__all__", ()) if not hasattr(module, exported)]
    assert absent == []


@pytest.mark.parametrize("module", ["dask_zv", "dask_zv.graph.group"])
def test_import_is_light(module):
    code = f"import sys, {module}; print(sorted({{'distributed', 'xarray', 'pandas', 'icechunk'}} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert run.stdout.strip() == "[]"


def test_groups_need_no_client():
    code = (
        "import sys, dask_zv; g = dask_zv.open_group({}); g.write_bytes('v', '0', b'1'); "
        "print(sorted({'distributed', 'xarray', 'pandas'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_local_schedulers_need_no_client(scheduler, tmp_path):
    code = f"""
import sys, dask, numpy as np, dask_zv as dzv
with dask.config.set(scheduler={scheduler!r}), dzv.config.override(read_packed_block_chunks=1):
    dzv.write_points(dzv.create({str(tmp_path / "s.zv")!r}, chunk_shape=(1, 1)), np.arange(20.0).reshape(10, 2))
    assert len(dzv.open({str(tmp_path / "s.zv")!r}).level(0).read()) == 10
print("distributed" in sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert run.stdout.strip() == "False"


def test_former_names_still_answer():
    store = dask_zv.create({}, chunk_shape=(10, 10))
    report = dask_zv.write_points(store, [[1.0, 2.0], [3.0, 14.0]])
    with pytest.warns(DeprecationWarning, match="Level.chunks"):
        assert len(store.level(0).lookup) == 2
    for name in ("source", "index", "place", "offset", "is_packed"):
        with pytest.warns(DeprecationWarning, match=f"Level.{name} is internal"):
            assert getattr(store.level(0), name) is getattr(store.level(0)._contents, name) or name == "place"
    with pytest.warns(DeprecationWarning, match="Store.handle"):
        assert store.handle is store._contents.handle
    with pytest.warns(DeprecationWarning, match="files"):
        assert report.stored_objects == report.files


def test_stores_and_levels_show_a_short_list():
    store = dask_zv.create({}, chunk_shape=(10, 10))
    shown = {*dir(store), *dir(store.level(0))}
    assert not {"found_links", "handle", "index", "lookup", "offset", "place", "prefix", "source"} & shown
    assert "Contents" not in str(inspect.signature(dask_zv.write_points))
    with pytest.raises(AttributeError, match="'Level' object has no attribute 'nonsense'"):
        store.level(0).nonsense  # noqa: B018
    again = pickle.loads(pickle.dumps(store.level(0)))
    assert again.url == store.level(0).url


def test_accessor_methods_document_each_parameter():
    from dask_zv.viz import Plot
    from dask_zv.xarray_backend.accessor import ObjectGetter, ZVDatasetAccessor, ZVTreeAccessor

    absent, seen = [], 0
    for owner in (ZVDatasetAccessor, ZVTreeAccessor, ObjectGetter, Plot):
        for name, method in inspect.getmembers(owner, inspect.isfunction):
            if name.startswith("_") and name not in ("__call__", "__getitem__"):
                continue
            own = [p for p in inspect.signature(method).parameters.values() if p.name != "self"]
            stars = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"} if (p := next(iter(own), None)) else {}
            _, _, section = inspect.cleandoc(method.__doc__).partition("Parameters\n----------\n")
            told = section.partition("\n\n")[0]
            listed = {
                n.strip() for line in told.splitlines() if not line.startswith(" ") for n in line.split(" : ")[0].split(",")
            }
            absent += [f"{owner.__name__}.{name}: {p.name}" for p in own if stars.get(p.kind, "") + p.name not in listed]
            seen += len(own)
    assert seen > 100
    assert absent == []
