"""Small sizes in the library, so that little data has many blocks, partitions and parts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dask
import pytest

from dask_zv import config


@contextmanager
def sizes(*, scheduler: str | None = None, **settings: Any) -> Iterator[None]:
    """Use some settings of the library, and a scheduler."""
    with dask.config.set({} if scheduler is None else {"scheduler": scheduler}), config.override(**settings):
        yield


def always(*, scope: str = "module", **settings: Any) -> Any:
    """Return a fixture, to be given a name in a module, by which all of its tests run with these."""

    @pytest.fixture(autouse=True, scope=scope)  # type: ignore[call-overload]
    def small() -> Iterator[None]:
        with sizes(**settings):
            yield

    return small
