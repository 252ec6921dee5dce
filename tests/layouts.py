"""The layouts as test parameters: a module whose tests run in both has a fixture `layout` over LAYOUTS, and marks exceptions."""

from __future__ import annotations

from typing import Any

import pytest

LAYOUTS = ("per_chunk", "grid")

per_chunk_only = pytest.mark.parametrize("layout", ["per_chunk"])
grid_only = pytest.mark.parametrize("layout", ["grid"])
in_both_layouts = pytest.mark.parametrize("layout", LAYOUTS)


def grid_settings(rank: int, size: int = 128) -> dict[str, Any]:
    """Return a grid from -4 on along every axis, as a level's attributes name it: cells as they are, one object each."""
    return {"shape": [size] * rank, "origin": [-4] * rank, "shard_shape": None, "codecs": []}
