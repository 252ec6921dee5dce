"""What a run leaves out, all of it asked for at the test and counted at the end: "N of M cases run".

By the marker ``product`` a test says that its cases are a product of two parameters or more, of which a run without ``--long``
may leave some out: every pair of values of two parameters is in a case that runs (``product(keep="pairs")``), or every value of
every parameter (``keep="values"``). Tests marked ``long`` and ``hpc`` want an option of that name. Everything else runs whole, in
every run, and so does what is named on the command line.
"""

from __future__ import annotations

import os
import platform
import time
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

__all__ = ["Cases", "covering", "examples"]

_LONG = [False]
_STACK = ("zarr", "numpy", "dask", "xarray", "pandas", "icechunk", "obstore", "s3fs")
_REASONS = {"long": "takes minutes: needs --long", "hpc": "needs SLURM and Open MPI: run ci/hpc"}


def examples(short: int, long: int) -> int:
    """Return how many examples of what has no end are taken: by hypothesis, of seeds, of moments."""
    return long if _LONG[0] else short


def covering(cases: Sequence[Sequence[Hashable]], size: int) -> list[int]:
    """Return the numbers of the cases that show each combination of `size` values that any shows, in their order.

    A case is the values of its parameters. The one with the most combinations that are not yet shown comes first, of equals that
    whose values were taken least, and of those the first.
    """
    shown_by = [set(combinations(enumerate(case), min(size, len(case)))) for case in cases]
    missing = set().union(*shown_by)
    chosen: list[int] = []
    taken: Counter[tuple[int, Hashable]] = Counter()
    while missing:
        best = max(range(len(cases)), key=lambda i: (len(shown_by[i] & missing), -sum(taken[v] for v in enumerate(cases[i]))))
        taken.update(enumerate(cases[best]))
        missing -= shown_by[best]
        chosen.append(best)
    return sorted(chosen)


class Cases:
    """Leaves out the cases that a run leaves out, and says at its end how many ran."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._collected = 0
        self._left_out: Counter[str] = Counter()
        self._ran: set[str] = set()
        self._failed: set[str] = set()
        self._skipped: dict[str, str] = {}
        self._start = time.monotonic()
        _LONG[0] = config.getoption("--long")  # before any test is imported

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        self._collected = len(items)
        for marker, reason in _REASONS.items():
            if not self._config.getoption(f"--{marker}"):
                for item in items:
                    if item.get_closest_marker(marker):
                        item.add_marker(pytest.mark.skip(reason=reason))
        left_out = set(_left_out_of_products(items))  # also where none is left out: a marker at no product is an error
        if self._config.getoption("--long") or any("::" in argument for argument in self._config.args):
            return
        if left_out:
            self._left_out["of products"] += len(left_out)
            self._config.hook.pytest_deselected(items=[item for item in items if item in left_out])
            items[:] = [item for item in items if item not in left_out]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple | list) else ""
            known = (why for why in _REASONS.values() if why in reason)
            self._skipped[report.nodeid] = next(known, "skipped for a reason of their own")
        else:
            self._ran.add(report.nodeid)
        if report.failed:
            self._failed.add(report.nodeid)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        output = getattr(self._config, "workeroutput", None)
        if output is not None:
            output["cases"] = (self._collected, dict(self._left_out))

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take what a process of pytest-xdist has collected: all collect the same."""
        if "cases" in (getattr(node, "workeroutput", None) or {}):
            self._collected, left_out = node.workeroutput["cases"]
            self._left_out = Counter(left_out)

    def counts(self) -> str:
        """Return "N of M cases run", and why the others did not."""
        ran = self._ran - set(self._skipped)
        out = self._left_out + Counter(self._skipped.values())
        rest = self._collected - len(ran) - out.total()
        if rest:
            out["not reached, or deselected by an option"] = rest
        reasons = "; ".join(f"{n} {why}" for why, n in out.items())
        return f"{len(ran)} of {self._collected} cases run" + (f" ({reasons})" if out else "")

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        terminalreporter.section("cases")
        terminalreporter.line(self.counts())
        record = self._config.getoption("--record")
        if record:
            Path(record).write_text(self._record(), encoding="utf-8")

    def _record(self) -> str:
        """Return the log of the run: what ran how long, on what; in Markdown."""
        minutes, seconds = divmod(round(time.monotonic() - self._start), 60)
        workers = self._config.getoption("numprocesses", None) or 1
        versions = ", ".join(f"{name} {version(name)}" for name in _STACK)
        arguments = " ".join(map(str, self._config.invocation_params.args))
        lines = [
            f"# Tests of dask-zv {version('dask-zv')}",
            "",
            f"`pytest {arguments}`, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC.",
            "",
            f"- {self.counts()}",
            f"- {len(self._failed)} failed",
            f"- {minutes} min {seconds} s in {workers} processes, {os.cpu_count()} CPUs",
            f"- Python {platform.python_version()}, {versions}; {platform.platform()}",
            *(f"- FAILED {name}" for name in sorted(self._failed)),
        ]
        return "\n".join(lines) + "\n"


def _left_out_of_products(items: Sequence[pytest.Item]) -> Iterator[pytest.Item]:
    products: dict[tuple[Any, str], list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("product"):
            products.setdefault((item.path, item.nodeid.partition("[")[0]), []).append(item)
    for (_, name), cases in products.items():
        marker: Any = cases[0].get_closest_marker("product")
        keep = marker.kwargs.get("keep", "pairs")
        axes = _axes(cases)
        if marker.args or keep not in ("pairs", "values") or len(axes) < 2:
            raise pytest.UsageError(
                f"{name}: the marker product is for products of two parameters or more, with keep='pairs' or 'values'; this has "
                f"{marker} and the independent parameters {[name for name, _ in axes]}"
            )
        kept = set(covering(list(zip(*(values for _, values in axes), strict=True)), 2 if keep == "pairs" else 1))
        yield from (case for i, case in enumerate(cases) if i not in kept)


def _axes(cases: Sequence[pytest.Item]) -> list[tuple[str, tuple[int, ...]]]:
    """Return the parameters that vary apart from each other, with the number of each case's value of it."""
    params = [case.callspec.params for case in cases]  # type: ignore[attr-defined]
    axes = {}
    for name in params[0]:
        numbers: dict[int, int] = {}  # a value is the same object in all of its cases
        axes[name] = tuple(numbers.setdefault(id(values[name]), len(numbers)) for values in params)
    # parameters that are named together vary together: one axis; one that doesn't vary is none
    distinct = {values: name for name, values in axes.items() if len(set(values)) > 1}
    return [(name, values) for values, name in distinct.items()]
