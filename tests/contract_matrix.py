"""The contract matrix: which contract tests passed on which store and under which scheduler, a table per layout.

A test is a contract test by the marker ``contract``; its columns are its parameters ``store`` and ``scheduler``, its table is
its parameter ``layout`` (``per_chunk`` without one). One that is skipped for a reason that :mod:`contract_exceptions` does not
list fails the session: a hole that nobody explained. What a cell's tests are travels with their reports, so that they may run
in other processes than the one that prints (pytest-xdist).
"""

from __future__ import annotations

from typing import Any

import pytest
from contract_exceptions import CANNOT

_WORST = ("FAIL", "xfail", "????", "skip", "ok")
_AXES = {"store": "stores", "scheduler": "schedulers"}
_LAYOUTS = ("per_chunk", "grid")
_PROPERTY = "contract"
_TABLES = [(axis, layout) for layout in _LAYOUTS for axis in _AXES]


class ContractMatrix:
    """Records the outcome of every contract test and prints the tables at the end."""

    def __init__(self, stores: list[str], schedulers: list[str]) -> None:
        self._cells: dict[tuple[str, str], dict[tuple[str, str], list[str]]] = {table: {} for table in _TABLES}
        self._order = {"store": stores, "scheduler": schedulers}
        self._places: dict[str, tuple[str, int]] = {}
        self._reasons: dict[str, set[str]] = {}
        self._unexplained: list[str] = []

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            if item.get_closest_marker("contract") is None:
                continue
            callspec = getattr(item, "callspec", None)
            params: dict[str, Any] = callspec.params if callspec is not None else {}
            about = {axis: str(params[axis]) for axis in _AXES if axis in params}
            item.user_properties.append((_PROPERTY, {"layout": str(params.get("layout", _LAYOUTS[0])), **about}))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        about: Any = dict(report.user_properties).get(_PROPERTY)
        if about is None or (report.passed and report.when != "call"):
            return
        columns = {axis: about[axis] for axis in _AXES if axis in about}
        outcome = "ok" if report.passed else "FAIL"
        if hasattr(report, "wasxfail"):
            outcome = "xfail"
            self._unexplained.append(f"{report.nodeid}: expected to fail: {report.wasxfail}")
        elif report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple | list) else str(report.longrepr)
            reason = reason.removeprefix("Skipped: ")
            outcome = "skip" if reason in CANNOT.values() else "????"
            if outcome == "skip":
                self._reasons.setdefault(reason, set()).update(columns.values())
            else:
                self._unexplained.append(f"{report.nodeid}: {reason}")
        name = report.nodeid.split("[")[0].rpartition("/")[2].removeprefix("test_").replace(".py::test_", ": ")
        self._places.setdefault(name, (report.location[0], report.location[1] or 0))
        for axis, column in columns.items():
            self._cells[axis, about["layout"]].setdefault((name, column), []).append(outcome)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._unexplained and session.exitstatus == 0:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        for axis, layout in _TABLES:
            if self._cells[axis, layout]:
                self._table(terminalreporter, axis, layout)
        if any(self._cells.values()):
            terminalreporter.line("blank: no such test")
        for reason in sorted(self._reasons):
            terminalreporter.line(f"skip: {reason} ({', '.join(sorted(self._reasons[reason]))})")
        if self._unexplained:
            terminalreporter.section("contract tests without an explanation", red=True)
            for line in self._unexplained:
                terminalreporter.line(line)

    def _table(self, out: Any, axis: str, layout: str) -> None:
        outcomes_of = self._cells[axis, layout]
        rows = sorted({name for name, _ in outcomes_of}, key=self._places.__getitem__)
        ran = list(dict.fromkeys(column for _, column in outcomes_of))
        columns = [c for c in self._order[axis] if c in ran] + sorted(set(ran) - set(self._order[axis]))
        out.section(f"contract matrix: {_AXES[axis]}, layout {layout}")
        width = max(map(len, rows))
        out.line(" " * width + "  " + "  ".join(columns))
        for row in rows:
            cells = (_cell(outcomes_of.get((row, column), [])).center(len(column)) for column in columns)
            out.line(f"{row:<{width}}  " + "  ".join(cells).rstrip())
        outcomes = [o for cell in outcomes_of.values() for o in cell]
        out.line(", ".join(f"{outcomes.count(o)} {o}" for o in _WORST if o in outcomes))


def _cell(outcomes: list[str]) -> str:
    """Return what a cell shows: the worst outcome; how many passed where some were skipped with a reason."""
    if not outcomes:
        return ""
    worst = min(outcomes, key=_WORST.index)
    return f"{outcomes.count('ok')}/{len(outcomes)}" if worst == "skip" and "ok" in outcomes else worst
