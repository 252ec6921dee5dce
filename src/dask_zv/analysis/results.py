"""What a function returns for each chunk or object: checked, and stacked into columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dask_zv.errors import InputError
from dask_zv.geometry.result import Geometry

VALUE = "value"
"""Name of the column of a function that returns no dict."""
_KINDS = "biufcmM"


@dataclass(frozen=True, slots=True)
class Example:
    """What every result must look like: shape and dtype by name; `single` where the function returns no dict."""

    specs: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]
    single: bool

    @classmethod
    def of(cls, meta: Any) -> Example:
        """Return what a user's example says: a result of the function, or a dtype in the place of a number."""

        def plain(value: Any) -> Any:
            if isinstance(value, np.dtype | type | str):
                try:
                    return np.zeros((), value)
                except TypeError:
                    raise InputError(f"meta is an example of a result or a dtype, not {value!r:.80}") from None
            return value

        return cls.shown_by(
            *_arrays({k: plain(v) for k, v in meta.items()} if isinstance(meta, Mapping) else plain(meta), "meta")
        )

    @classmethod
    def shown_by(cls, values: Mapping[str, NDArray[Any]], single: bool) -> Example:
        """Return what the arrays of one result show."""
        return cls({name: (v.shape, v.dtype) for name, v in values.items()}, single)

    def empty(self) -> dict[str, NDArray[Any]]:
        """Return the columns of no results."""
        return {name: np.zeros((0, *shape), dtype) for name, (shape, dtype) in self.specs.items()}

    def describe(self) -> str:
        """Return it in words."""
        parts = [f"{dtype}{list(shape) if shape else ''}" for shape, dtype in self.specs.values()]
        return parts[0] if self.single else ", ".join(f"{name!r}: {p}" for name, p in zip(self.specs, parts, strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class Mapped:
    """What a function returned for some chunks or objects: `values` has a column for each name, ``"value"`` without a dict.

    `labels` are coordinates of chunks, shape (n, K), or ids of objects, shape (n,), ascending in the end; `rows` the vertices
    of each. `example` is None where there is no result, and nothing says what one would be.
    """

    labels: NDArray[np.int64]
    rows: NDArray[np.int64]
    values: Mapping[str, NDArray[Any]]
    example: Example | None
    first: str = ""
    """Which chunk or object the first result is of, in words."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def single(self) -> bool:
        """The function returns no dict."""
        return self.example is not None and self.example.single


_NUMBERS = bool | int | float | complex | np.number | np.bool_


class _Stacks:
    """The results of many pieces, name by name. What is like the last one is added as it is: arrays of one number cost most."""

    def __init__(self, example: Example) -> None:
        self.example = example
        self.values: dict[str, list[Any]] = {name: [] for name in example.specs}
        # the name of each value, the type that it must have to be taken, and what adds it
        self._like: list[tuple[str, type, Callable[[Any], None]]] = []

    def take(self, result: Any) -> bool:
        """Add a result, and return True, if each of its values has the type, shape and dtype that was checked before."""
        like = self._like
        if self.example.single:
            if not like or not self._is_like(VALUE, like[0][1], result):
                return False
            like[0][2](result)
            return True
        if not like or type(result) is not dict or len(result) != len(like):
            return False
        for name, kind, _ in like:
            if name not in result or not self._is_like(name, kind, result[name]):
                return False
        for name, _, add in like:
            add(result[name])
        return True

    def _is_like(self, name: str, kind: type, value: Any) -> bool:
        same = type(value) is kind
        if same and kind is np.ndarray:
            return (value.shape, value.dtype) == self.example.specs[name]
        return same and (kind is not int or -(1 << 63) <= value < 1 << 63)

    def put(self, values: Mapping[str, NDArray[Any]], result: Any) -> None:
        """Add a result as the arrays that it was checked as."""
        for name, value in values.items():
            self.values[name].append(value)
        given = [(name, result if self.example.single else result[name]) for name in values]
        known = all(type(v) is np.ndarray or (isinstance(v, _NUMBERS) and not isinstance(v, np.timedelta64)) for _, v in given)
        self._like = [(name, type(v), self.values[name].append) for name, v in given] if known else []

    def columns(self) -> dict[str, NDArray[Any]]:
        """Return the results as columns."""
        out = {}
        for name, (shape, dtype) in self.example.specs.items():
            stacked = np.stack(self.values[name]) if shape else np.array(self.values[name])
            out[name] = stacked.astype(dtype, copy=False)
        return out


@dataclass(frozen=True, slots=True)
class MappedFunction:
    """A user's function of a geometry, what is passed to it after that, and the level's URL for errors.

    Results are cast to the `example`, where there is one.
    """

    func: Callable[..., Any]
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    example: Example | None = None
    where: str = ""

    def map(
        self, labels: NDArray[np.int64], rows: NDArray[np.int64], name_of: Callable[[int], str], pieces: Iterable[Geometry]
    ) -> Mapped:
        """Call the function for every piece; `name_of` gives the name of each by its number."""
        func, args, kwargs = self.func, tuple(self.args), dict(self.kwargs)
        stacks: _Stacks | None = None
        number = 0
        for number, geometry in enumerate(pieces):
            try:
                result = func(geometry, *args, **kwargs)
            except Exception as error:
                error.add_note(f"raised by the function for {name_of(number)} of {self.where}")
                raise
            if stacks is None or not stacks.take(result):
                label = name_of(number)
                values, single = _arrays(result, f"the result for {label} of {self.where}")
                if stacks is None:
                    stacks = _Stacks(self.example or Example.shown_by(values, single))
                self._check(stacks.example, values, single, label, name_of(0))
                stacks.put(values, result)
        if stacks is None:
            return Mapped(labels, rows, {} if self.example is None else self.example.empty(), self.example)
        out = stacks.columns()
        return Mapped(labels, rows, out, stacks.example, name_of(0))

    def _check(self, example: Example, values: Mapping[str, NDArray[Any]], single: bool, label: str, first: str) -> None:
        if single == example.single and values.keys() == example.specs.keys():
            for name, value in values.items():
                shape, dtype = example.specs[name]
                same = value.dtype == dtype or (self.example is not None and np.can_cast(value.dtype, dtype, "same_kind"))
                if value.shape != shape or not same:
                    break
            else:
                return
        raise self._unlike(Example.shown_by(values, single), label, example, "" if self.example is not None else first)

    def _unlike(self, found: Example, label: str, example: Example, other: str) -> InputError:
        """Return the error of a result that is unlike another, or unlike meta where `other` is empty."""
        wanted, hint = f"that for {other}", ", or pass meta= to have numbers cast to one dtype"
        if not other:
            wanted, hint = "meta", ", that can be cast to meta's without loss of kind"
        return InputError(
            f"the result for {label} is {found.describe()}, unlike {wanted}, which is {example.describe()}: return the same "
            f"names, shapes and dtypes for all{hint}",
            store=self.where,
        )

    def join(self, none: NDArray[np.int64], parts: Sequence[Mapped]) -> Mapped:
        """Return the results of all blocks, in order; `none` are the labels of no block."""
        labels = np.concatenate([none, *(p.labels for p in parts)])
        rows = np.concatenate([np.zeros(0, np.int64), *(p.rows for p in parts)])
        some = [p for p in parts if p.example is not None]
        if not some:
            if self.example is None:
                raise InputError(
                    "nothing is selected, so dtype and shape of the result are unknown: pass meta=, an example of what the "
                    "function returns, to get empty columns",
                    store=self.where,
                )
            return Mapped(labels, rows, self.example.empty(), self.example)
        first = some[0]
        assert first.example is not None
        for part in some[1:]:
            if part.example is not None and part.example != first.example:
                raise self._unlike(part.example, part.first, first.example, first.first)
        values = {name: np.concatenate([p.values[name] for p in some]) for name in first.values}
        if labels.ndim == 1 and (labels[1:] < labels[:-1]).any():  # blocks of objects lie near each other
            order = np.argsort(labels)
            labels, rows, values = labels[order], rows[order], {name: v[order] for name, v in values.items()}
        return Mapped(labels, rows, values, first.example, first.first)


def _arrays(result: Any, what: str) -> tuple[dict[str, NDArray[Any]], bool]:
    """Return a result as named arrays, and whether it is no dict."""
    single = not isinstance(result, Mapping)
    given = {VALUE: result} if single else result
    if not given or not all(isinstance(name, str) and name for name in given):
        raise InputError(f"{what} is a dict with the names {list(given)!r:.80}: non-empty strings are wanted")
    out: dict[str, NDArray[Any]] = {}
    for name, value in given.items():
        masked = np.ma.is_masked(value)
        try:
            array = np.asarray(value)
        except ValueError:  # lists of different lengths
            array = np.asarray(None)
        if masked or array.dtype.kind not in _KINDS:
            kind = "masked" if masked else f"a {type(value).__name__} ({array.dtype})"
            named = "" if single else f" at {name!r}"
            raise InputError(
                f"{what}{named} is {kind}: a number, a numpy array of numbers (dates, booleans), or a dict of these is wanted"
            )
        out[name] = array
    return out, single
