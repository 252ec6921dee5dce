"""What a run without ``--long`` leaves out, by rules that are the same in every run and spread what is left over everything.

Of a function with many cases some run, so chosen that every value of every parameter is in one; contract tests run all, as their
matrix is what they are for. Tests may ask for another number by the marker ``spread``, take some cases of a loop by :func:`some`,
and set the examples of hypothesis by :func:`examples`. A run with ``--long``, or of tests that are named one by one, takes every
case.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any, TypeVar

import pytest

_T = TypeVar("_T")
_LONG = [False]
_CASES = 3
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
        marker, contract = (cases[0].get_closest_marker(name) for name in ("spread", "contract"))
        some_of = _one_layout_of_s3(cases)
        kept.update(some_of if contract else _spread(some_of, *(marker.args if marker else (_CASES,))))
    return [item for item in items if item in kept], [item for item in items if item not in kept]


def _spread(cases: list[pytest.Item], number: int) -> list[pytest.Item]:
    """Return one case or more with each value of each parameter, where there are several; in all `number` if that is enough."""
    if len(cases) <= number:
        return cases
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
    """Return what tells the values of a case's parameters: the objects are those of the other cases with the same values."""
    return {(name, id(value)) for name, value in _params(case).items()}


def _hash(text: str) -> int:
    return zlib.crc32(text.encode())
