"""Warnings of ours are errors in all tests, wherever `stacklevel` says that they come from."""

from __future__ import annotations

import ast
import warnings
from pathlib import Path

import pytest

import dask_zv as dzv

SOURCE = Path(dzv.__file__).parent


def test_our_warnings_are_errors_here():
    with pytest.raises(dzv.ZVWarning, match="on behalf of the caller"):
        warnings.warn("on behalf of the caller", dzv.ZVWarning, stacklevel=1)


def test_others_warnings_of_what_our_code_does_are_errors_here():
    with pytest.raises(RuntimeWarning, match="of our code"):
        warnings.warn_explicit("of our code", RuntimeWarning, "code.py", 1, module="dask_zv.spatial.grid")


def test_all_that_we_warn_of_has_our_category():
    calls = [
        node
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("warnings.warn", "warn")
    ]
    assert calls
    assert [ast.unparse(c) for c in calls if len(c.args) < 2 or ast.unparse(c.args[1]) != "ZVWarning"] == []
