"""What a run without ``--long`` leaves out, by rules that are the same in every run and spread what is left over everything.

Tests say so themselves: by the marker ``spread`` for functions of many alike cases, by :func:`some` for cases in a loop, and by
:func:`examples` for hypothesis. A run with ``--long``, or of tests that are named one by one, takes every case of ``spread``.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any, TypeVar

import pytest

_T = TypeVar("_T")
_LONG = [False]
_S3 = ("fsspec_s3", "obstore_s3")


def set_long(long: bool) -> None:
    """Say whether this is a long run, before any test is imported."""
    _LONG[0] = long


def some(cases: Iterable[_T], every: int, first: int = 0) -> list[_T]:
    """Return each `every`-th of the cases from the `first` on (modulo `every`), in a long run all."""
    return list(cases) if _LONG[0] else list(cases)[first % every :: every]


def examples(short: int, long: int) -> int:
    """Return how many examples hypothesis takes."""
    return long if _LONG[0] else short


def deselect(items: list[pytest.Item]) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """Return the tests of a short run, and the others; both in their order."""
    functions: dict[Any, list[pytest.Item]] = {}
    for item in items:
        functions.setdefault((item.path, item.nodeid.partition("[")[0]), []).append(item)
    kept: set[pytest.Item] = set()
    for cases in functions.values():
        marker = cases[0].get_closest_marker("spread")
        kept.update(_spread(_one_layout_of_s3(cases), *marker.args) if marker else _one_layout_of_s3(cases))
    return [item for item in items if item in kept], [item for item in items if item not in kept]


def _spread(cases: list[pytest.Item], number: int) -> list[pytest.Item]:
    """Return one case or more with each value of each parameter, where there are several; in all `number` if that is enough."""
    order = sorted(cases, key=lambda case: _hash(case.nodeid))
    chosen: list[pytest.Item] = []
    seen: set[tuple[str, int]] = set()
    for case in order:
        values = _values(case)
        if len(values) > 1 and not values <= seen:
            chosen.append(case)
            seen |= values
    return chosen + [case for case in order if case not in chosen][: max(number - len(chosen), 0)]


def _one_layout_of_s3(cases: list[pytest.Item]) -> list[pytest.Item]:
    """Return the cases, but of those on S3 the one client's in one layout, the other's in the other: requests cost."""
    layouts = {str(_params(case).get("layout")) for case in cases}
    if len(layouts) != 2:
        return cases

    def in_turn(case: pytest.Item) -> bool:
        params = {name: str(value) for name, value in _params(case).items()}
        if params.get("store") not in _S3:
            return True
        turn = _hash(case.nodeid.partition("[")[0] + params.get("scheduler", ""))
        return (turn + _S3.index(params["store"]) + sorted(layouts).index(params["layout"])) % 2 == 0

    return [case for case in cases if in_turn(case)]


def _params(case: pytest.Item) -> dict[str, Any]:
    spec = getattr(case, "callspec", None)
    return {} if spec is None else dict(spec.params)


def _values(case: pytest.Item) -> set[tuple[str, int]]:
    spec = getattr(case, "callspec", None)
    return set() if spec is None else set(spec.indices.items())


def _hash(text: str) -> int:
    return zlib.crc32(text.encode())
