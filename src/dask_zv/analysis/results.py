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
    """What every result must look like.

    Attributes
    ----------
    specs : mapping of str to (shape, dtype)
    single : bool
        The function returns no dict.
    """

    specs: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]
    single: bool

    @classmethod
    def of(cls, meta: Any) -> Example:
        """Return what an example says: a result of the function, or a dtype in the place of a number.

        Raises
        ------
        InputError
            Neither a number, an array, a dtype, nor a dict of these.
        """

        def plain(value: Any) -> Any:
            if isinstance(value, np.dtype | type | str):
                try:
                    return np.zeros((), value)
                except TypeError:
                    raise InputError(f"meta is an example of a result or a dtype, not {value!r:.80}") from None
            return value

        values, single = _arrays({k: plain(v) for k, v in meta.items()} if isinstance(meta, Mapping) else plain(meta), "meta")
        return cls({name: (v.shape, v.dtype) for name, v in values.items()}, single)

    def empty(self) -> dict[str, NDArray[Any]]:
        """Return the columns of no results."""
        return {name: np.zeros((0, *shape), dtype) for name, (shape, dtype) in self.specs.items()}

    def describe(self) -> str:
        """Return it in words."""
        parts = [f"{dtype}{list(shape) if shape else ''}" for shape, dtype in self.specs.values()]
        return parts[0] if self.single else ", ".join(f"{name!r}: {p}" for name, p in zip(self.specs, parts, strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """The results of some chunks or objects.

    Attributes
    ----------
    label : str
        Which the first of them is of.
    values : mapping of str to ndarray, shape (n, ...)
    example : Example, optional
        None where there are no results, and nothing says what they would be.
    """

    label: str
    values: Mapping[str, NDArray[Any]]
    example: Example | None


@dataclass(frozen=True, slots=True)
class Function:
    """A user's function, and what is known of its results.

    Attributes
    ----------
    func : callable
    args, kwargs
        Passed to it after the geometry.
    example : Example, optional
        Results are cast to it.
    where : str
        The level's URL, for errors.
    """

    func: Callable[..., Any]
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    example: Example | None = None
    where: str = ""

    def columns(self, pieces: Iterable[tuple[str, Geometry]]) -> Columns:
        """Call the function for every piece; each comes with its name.

        Raises
        ------
        InputError
            A result is no number or array, or unlike those before it.
        """
        example, first = self.example, ""
        stacks: dict[str, list[NDArray[Any]]] = {} if example is None else {name: [] for name in example.specs}
        for label, geometry in pieces:
            try:
                result = self.func(geometry, *self.args, **self.kwargs)
            except Exception as error:
                error.add_note(f"raised by the function for {label} of {self.where}")
                raise
            values, single = _arrays(result, f"the result for {label} of {self.where}")
            if example is None:
                example = Example({name: (v.shape, v.dtype) for name, v in values.items()}, single)
                stacks = {name: [] for name in values}
            first = first or label
            self._check(example, values, single, label, first)
            for name, value in values.items():
                stacks[name].append(value)
        if example is None:
            return Columns("", {}, None)
        out = {
            name: np.stack(stacks[name]).astype(dtype, copy=False) if stacks[name] else np.zeros((0, *shape), dtype)
            for name, (shape, dtype) in example.specs.items()
        }
        return Columns(first, out, example)

    def _check(self, example: Example, values: Mapping[str, NDArray[Any]], single: bool, label: str, first: str) -> None:
        if single == example.single and values.keys() == example.specs.keys():
            for name, value in values.items():
                shape, dtype = example.specs[name]
                same = value.dtype == dtype or (self.example is not None and np.can_cast(value.dtype, dtype, "same_kind"))
                if value.shape != shape or not same:
                    break
            else:
                return
        found = Example({name: (v.shape, v.dtype) for name, v in values.items()}, single)
        raise _unlike(found, label, example, "" if self.example is not None else first, self.where)


def _unlike(found: Example, label: str, example: Example, other: str, where: str) -> InputError:
    """Return the error of a result that is unlike another, or unlike meta where `other` is empty."""
    wanted, hint = f"that for {other}", ", or pass meta= to have numbers cast to one dtype"
    if not other:
        wanted, hint = "meta", ", that can be cast to meta's without loss of kind"
    return InputError(
        f"the result for {label} is {found.describe()}, unlike {wanted}, which is {example.describe()}: return the same names, "
        f"shapes and dtypes for all{hint}",
        store=where,
    )


def join_parts(parts: Sequence[Columns], function: Function) -> Columns:
    """Return the results of all blocks, one behind the other.

    Raises
    ------
    InputError
        The results of one block are unlike those of another, or there are none and nothing says what they would be.
    """
    some = [p for p in parts if p.example is not None]
    if not some:
        if function.example is None:
            raise InputError(
                "nothing is selected, so there is no result to tell dtype and shape by: pass meta=, an example of what the "
                "function returns, to get columns of no rows",
                store=function.where,
            )
        return Columns("", function.example.empty(), function.example)
    first = some[0]
    assert first.example is not None
    for part in some[1:]:
        if part.example != first.example:
            assert part.example is not None
            raise _unlike(part.example, part.label, first.example, first.label, function.where)
    values = {name: np.concatenate([p.values[name] for p in some]) for name in first.values}
    return Columns(first.label, values, first.example)


def _arrays(result: Any, what: str) -> tuple[dict[str, NDArray[Any]], bool]:
    """Return a result as named arrays, and whether it is no dict.

    Raises
    ------
    InputError
        It holds something that is no number and no array of numbers.
    """
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
