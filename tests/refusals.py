"""What must fail, in a line: tables of refusals stay readable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


def fails(error: type[BaseException], match: str | None, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> None:
    """Assert that a call raises an error whose message matches."""
    with pytest.raises(error, match=match):
        call(*args, **kwargs)
