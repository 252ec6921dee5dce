"""What the product uses of other libraries that is not public, each with the reason, and nothing beyond it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "dask_zv"

INTERNAL = ("zarr.core", "xarray.core", "xarray.namedarray", "icechunk._icechunk_python", "numpy.core", "pandas.core")
"""Packages that their libraries call internal, without an underscore in front."""

WRAPPED = "zarr documents a WrapperStore's inner store under this name, and has no other"
LEFT = {
    ("storage/codecs.py", "zarr.core.array_spec.ArrayConfig"): "what a codec is called with; zarr exports it nowhere else",
    ("storage/codecs.py", "zarr.core.array_spec.ArraySpec"): "what a codec is called with; zarr exports it nowhere else",
    ("storage/codecs.py", "zarr.core.sync.sync"): "the loop that zarr's stores live in; zarr has no public way to run in it",
    ("storage/icechunk/session.py", "_session"): "the bytes of a session with changes, of which Icechunk 1.1 makes no fork",
    ("storage/icechunk/session.py", "_store"): WRAPPED,
    ("storage/icechunk/session.py", "zarr.core.sync.sync"): "as in storage/codecs.py",
    ("storage/zarr_objects.py", "_pipe_file"): "fsspec's documented names of coroutines begin with an underscore",
    ("storage/zarr_objects.py", "_store"): WRAPPED,
    ("storage/zarr_objects.py", "zarr.core.sync.sync"): "as in storage/codecs.py",
    ("storage/targets.py", "_store"): WRAPPED,
    ("storage/targets.py", "_store_dict"): "two MemoryStores over one dict are one store, and nothing public says so",
    ("storage/targets.py", "zarr.core.sync.sync"): "as in storage/codecs.py",
    ("xarray_backend/arrays.py", "_data"): "Variable.data reads a lazy array; what it is made of is wanted",
    ("xarray_backend/arrays.py", "xarray.core.indexing"): "xarray's guide to backends imports it from there",
    ("xarray_backend/arrays.py", "xarray.core.indexing.LazilyIndexedArray"): "xarray's guide to backends imports it from there",
    (
        "xarray_backend/accessor.py",
        "xarray.core.groupby.DatasetGroupBy",
    ): "the type of what groupby returns; xarray exports it nowhere",
    ("xarray_backend/arrays.py", "_in_memory"): "nothing public says whether a lazy variable was loaded, without loading it",
    ("xarray_backend/grouping.py", "xarray.core.groupby.DatasetGroupBy"): "as in xarray_backend/accessor.py",
    ("xarray_backend/measures.py", "_in_memory"): "as in xarray_backend/arrays.py",
}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def bound_names(tree: ast.Module) -> Iterator[str]:
    """Yield what a module gives a name: functions, classes, variables, attributes that it sets, slots."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Attribute(attr=name, value=ast.Name("self" | "cls" | "other" | "out" | "group"), ctx=ast.Store()):
                yield name
            case ast.Name(id=name, ctx=ast.Store()):
                yield name


def modules() -> dict[str, ast.Module]:
    return {str(p.relative_to(SOURCE)): ast.parse(p.read_text(encoding="utf-8")) for p in sorted(SOURCE.rglob("*.py"))}


def own_imports(tree: ast.Module) -> Iterator[str]:
    """Yield the paths of the modules of ours that a module imports, in which its classes have their bases."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("dask_zv"):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            yield from (name.replace(".", "/").removeprefix("dask_zv/") + ".py" for name in names)


def foreign_private_names(tree: ast.Module, ours: set[str]) -> Iterator[str]:
    """Yield what is imported from private places, and private attributes that no class of ours has."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=aliases):
                imported = [alias.name for alias in aliases]
            case ast.ImportFrom(module=str(module), names=aliases, level=0):
                imported = [f"{module}.{alias.name}" for alias in aliases]
            case ast.Attribute() if ast.unparse(node) in INTERNAL:
                yield ast.unparse(node)
                continue
            case ast.Call(
                func=ast.Name("import_module") | ast.Attribute(attr="import_module"), args=[ast.Constant(str(name)), *_]
            ):
                imported = [name]
            case ast.Attribute(attr=name) if is_private(name) and name not in ours:
                yield name
                continue
            case ast.Call(func=ast.Name("getattr" | "hasattr" | "setattr"), args=[_, ast.Constant(str(name)), *_]):
                if is_private(name) and name not in ours:
                    yield name
                continue
            case _:
                continue
        for name in imported:
            parts = name.split(".")
            inside = any(name == package or name.startswith(f"{package}.") for package in INTERNAL)
            if parts[0] not in ("dask_zv", "__future__") and (inside or any(map(is_private, parts))):
                yield name


def found() -> set[tuple[str, str]]:
    trees = modules()
    bound = {path: set(bound_names(tree)) for path, tree in trees.items()}
    near = {path: {path, *own_imports(tree)} & set(trees) for path, tree in trees.items()}
    out = set()
    for path, tree in trees.items():
        within = set().union(*(near[other] for other in near[path]))  # of its classes, their bases and the bases of these
        ours = set().union(*(bound[other] for other in within))
        out |= {(path, name) for name in foreign_private_names(tree, ours)}
    return out


def test_no_private_names_but_those_of_the_list() -> None:
    assert len(modules()) > 8
    assert found() - set(LEFT) == set()


def test_the_list_names_nothing_that_is_gone() -> None:
    assert set(LEFT) - found() == set()


def test_private_names_are_seen() -> None:
    code = """
import zarr.core.array
import dask._expr
from icechunk._icechunk_python import PySession
from xarray.core.indexes import Index
from distributed import _concurrent_futures_thread
import_module("xarray.core.utils")
pandas.core.frame
class Mine:
    def __init__(self, store):
        self._own = store._foreign
    def get(self, other):
        return self._own, other._own, getattr(other, "_hidden"), other.__dict__
"""
    tree = ast.parse(code)
    assert set(foreign_private_names(tree, set(bound_names(tree)))) == {
        "zarr.core.array",
        "dask._expr",
        "icechunk._icechunk_python.PySession",
        "xarray.core.indexes.Index",
        "distributed._concurrent_futures_thread",
        "xarray.core.utils",
        "pandas.core",
        "_foreign",
        "_hidden",
    }
