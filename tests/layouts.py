"""The layouts as test parameters: a module whose tests run in both has a fixture `layout` over LAYOUTS, and marks exceptions."""

from __future__ import annotations

import pytest

LAYOUTS = ("per_chunk", "grid")

per_chunk_only = pytest.mark.parametrize("layout", ["per_chunk"])
grid_only = pytest.mark.parametrize("layout", ["grid"])
in_both_layouts = pytest.mark.parametrize("layout", LAYOUTS)
