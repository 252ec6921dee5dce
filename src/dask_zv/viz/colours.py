"""Colours of a picture, from `color=`: attribute values on a scale, categories with a legend, or a plain colour."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dask_zv.errors import InputError
from dask_zv.xarray_backend import conventions as names
from dask_zv.xarray_backend.content import Shape

if TYPE_CHECKING:
    from matplotlib.colorbar import Colorbar
    from matplotlib.colors import Colormap, Normalize

_SHOWN_CATEGORIES = 12
_MISSING = "lightgrey"


@dataclass(frozen=True, slots=True)
class Colour:
    """The source of colours: the dimension ("vertex", "object", "edge", "face") and name of a variable, or "plain"."""

    where: str
    name: str = ""
    label: str = ""
    plain: Any = None

    @property
    def is_identity(self) -> bool:
        """True for object ids, which are names and not quantities."""
        return self.name in ("object", names.OBJECT_ID)


def find_colour(ds: xr.Dataset, shape: Shape, color: Any, allowed: Iterable[str]) -> Colour | None:
    """Return the meaning of `color`, or None; names of attributes along `allowed` take precedence over matplotlib colours."""
    from matplotlib.colors import is_color_like

    if color is None:
        return None
    usable = tuple(allowed)
    if isinstance(color, str):
        tables = {
            "vertex": shape.attributes,
            "object": shape.object_attributes,
            "edge": shape.edge_attributes,
            "face": shape.face_attributes,
        }
        for dim in usable:
            if color in tables[dim]:
                return _of_variable(ds, dim, tables[dim][color], color)
        if color in ds.variables and ds.variables[color].dims[:1] in {(d,) for d in usable}:
            return _of_variable(ds, str(ds.variables[color].dims[0]), color, color)
    if is_color_like(color):
        return Colour("plain", plain=color)
    known = sorted({str(k) for k, v in ds.variables.items() if v.dims[:1] in {(d,) for d in usable}})
    what = "an attribute of " + " or ".join({"vertex": "vertices", "object": "objects"}.get(d, f"{d}s") for d in usable)
    raise InputError(f"color={color!r} is neither {what} nor a colour of matplotlib; the Dataset has {', '.join(known)}")


def _of_variable(ds: xr.Dataset, dim: str, variable: str, name: str) -> Colour:
    found = ds.variables[variable]
    if found.ndim > 1 and (found.ndim > 2 or found.shape[1] not in (3, 4)):
        raise InputError(
            f"{name} has shape {found.shape}: colours are made of one number each, or of 3 or 4 channels (red, green, blue, "
            f"opacity). Take a channel with ds.assign(one=ds[{variable!r}].isel({found.dims[1]}=0)), then color='one'"
        )
    unit = found.attrs.get("units")
    return Colour(dim, variable, f"{name} [{unit}]" if unit else name)


@dataclass(frozen=True, slots=True)
class Look:
    """Colour options of all drawings, as in matplotlib."""

    cmap: Any = None
    norm: Normalize | None = None
    vmin: float | None = None
    vmax: float | None = None
    alpha: float | None = None
    add_colorbar: bool = True
    add_legend: bool = True

    def colormap(self, default: str = "viridis") -> Colormap:
        """Return the colour map, with a colour for missing values."""
        import matplotlib as mpl

        cmap = default if self.cmap is None else self.cmap
        return (mpl.colormaps[cmap] if isinstance(cmap, str) else cmap).with_extremes(bad=_MISSING)

    def scale(self, values: NDArray[Any], log: bool = False) -> Normalize:
        """Return the scale of some values; without limits, that of their range."""
        from matplotlib.colors import LogNorm, Normalize

        if self.norm is not None:
            return self.norm
        finite = values[np.isfinite(values)] if len(values) else values
        low = self.vmin if self.vmin is not None else float(finite.min()) if len(finite) else 0.0
        high = self.vmax if self.vmax is not None else float(finite.max()) if len(finite) else 1.0
        return LogNorm(low, high) if log and 0 < low < high else Normalize(low, high)


@dataclass(frozen=True, slots=True)
class Guide:
    """The key to the colours: a mappable for a colour bar, or entries of a legend.

    Values are numbers, matplotlib's days (`dates`) or whole (`counts`); `more` categories have no entry.
    """

    label: str
    mappable: Any = None
    dates: bool = False
    counts: bool = False
    entries: tuple[tuple[str, Any], ...] = ()
    more: int = 0

    def finish(self, bar: Colorbar) -> None:
        """Label a colour bar."""
        bar.set_label(self.label)
        if self.dates:
            from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

            locator = AutoDateLocator()  # type: ignore[no-untyped-call]
            bar.locator = locator
            bar.formatter = ConciseDateFormatter(locator)  # type: ignore[no-untyped-call]
            bar.update_ticks()
        elif self.counts:
            from matplotlib.colors import LogNorm
            from matplotlib.ticker import LogLocator, StrMethodFormatter

            if isinstance(bar.norm, LogNorm):
                bar.locator = LogLocator(numticks=9)  # a tick for every power of ten, even on a short bar
            bar.formatter = StrMethodFormatter("{x:,.0f}")
            bar.update_ticks()

    def legend(self) -> dict[str, Any]:
        """Return the arguments of ``Axes.legend``."""
        from matplotlib.lines import Line2D

        marks = [Line2D([], [], marker="o", ls="", color=colour, label=text) for text, colour in self.entries]
        if self.more:
            marks.append(Line2D([], [], ls="", label=f"and {self.more:,} more"))
        return {"handles": marks, "title": self.label, "fontsize": "small", "title_fontsize": "small"}


@dataclass(frozen=True, slots=True)
class Paint:
    """Colours of some marks: "plain", or "number" (n,), "category" (codes (n,), -1 for none) or "rgb" (n, 3 or 4) values."""

    kind: str
    label: str = ""
    values: NDArray[Any] = field(default_factory=lambda: np.zeros(0))
    categories: tuple[str, ...] = ()
    dates: bool = False
    plain: Any = None

    def take(self, which: NDArray[Any]) -> Paint:
        """Return the paint of other marks, each of which takes the colour of one of these."""
        return self if self.kind == "plain" else replace(self, values=self.values[which])

    def padded(self) -> Paint:
        """Return the paint with one more mark, for a missing value, which index -1 then selects."""
        from matplotlib.colors import to_rgb

        missing = {"number": np.nan, "category": -1, "rgb": np.resize([*to_rgb(_MISSING), 1.0], self.values.shape[1:])}[
            self.kind
        ]
        return replace(self, values=np.concatenate([self.values, np.asarray(missing)[None]]))

    def mean(self, members: NDArray[np.int64]) -> Paint:
        """Return the paint of marks that combine k of these each, shape (n, k): the mean of numbers, else the first."""
        if self.kind in ("number", "rgb"):
            return replace(self, values=self.values[members].mean(axis=1))
        return self.take(members[:, 0])

    def palette(self) -> NDArray[np.float64]:
        """Return a colour for each category, shape (n, 4)."""
        import matplotlib as mpl

        n = len(self.categories)
        table = np.array(mpl.colormaps["tab10" if n <= 10 else "tab20"].colors)  # type: ignore[attr-defined]
        return np.column_stack([table[np.arange(n) % len(table)], np.ones(n)])

    def rgba(self, look: Look) -> NDArray[np.float64]:
        """Return the colours, shape (n, 4); a single row for a plain one."""
        from matplotlib.colors import to_rgba

        if self.kind == "plain":
            return np.array([to_rgba(self.plain)])
        if self.kind == "number":
            return np.asarray(look.colormap()(look.scale(self.values)(np.ma.masked_invalid(self.values))))
        if self.kind == "rgb":
            opaque = np.ones((len(self.values), 4 - self.values.shape[1]))
            return np.asarray(np.column_stack([self.values, opaque]), np.float64)
        table: NDArray[np.float64] = np.vstack([self.palette(), to_rgba(_MISSING)])
        return np.asarray(table[self.values], np.float64)

    def apply(self, collection: Any, look: Look, setter: str = "set_color") -> None:
        """Colour a matplotlib collection."""
        if self.kind == "number":
            collection.set_array(np.ma.masked_invalid(self.values))
            collection.set_cmap(look.colormap())
            collection.set_norm(look.scale(self.values))
        else:
            getattr(collection, setter)(self.rgba(look))
        if look.alpha is not None:
            collection.set_alpha(look.alpha)

    def guide(self, look: Look) -> Guide | None:
        """Return the colour bar or legend; None for a plain colour."""
        from matplotlib.cm import ScalarMappable

        if self.kind == "number" and look.add_colorbar:
            scalar = ScalarMappable(look.scale(self.values), look.colormap())
            return Guide(self.label, scalar, self.dates)
        if self.kind == "category" and look.add_legend and self.label and self.categories:
            shown = list(zip(self.categories, self.palette(), strict=True))[:_SHOWN_CATEGORIES]
            if (self.values < 0).any():
                shown.append(("none", _MISSING))
            return Guide(self.label, entries=tuple(shown), more=max(0, len(self.categories) - _SHOWN_CATEGORIES))
        return None


def paint_of(values: NDArray[Any], label: str, *, identity: bool = False) -> Paint:
    """Return the paint of values (n,) or (n, 3 or 4); with `identity`, each id that is not negative is a category."""
    if values.ndim == 2:
        scaled = values / 255 if values.dtype.kind in "iu" else values.astype(np.float64)
        if len(scaled) and not (scaled.min() >= 0 and scaled.max() <= 1):
            raise InputError(f"{label} can't be colours: channels go from 0 to 1, or as integers from 0 to 255")
        return Paint("rgb", label, scaled)
    kind = values.dtype.kind
    if identity:
        found, codes = np.unique(values, return_inverse=True)
        negative = int((found < 0).sum())
        return Paint("category", label, np.maximum(codes - negative, -1), tuple(map(str, found[negative:].tolist())))
    if kind == "M":
        from matplotlib.dates import date2num

        days = np.where(np.isnat(values), np.nan, date2num(values))  # type: ignore[no-untyped-call]
        return Paint("number", label, days, dates=True)
    if kind == "m":
        return Paint("number", f"{label} [s]", values / np.timedelta64(1, "s"))
    if kind in "iuf":
        return Paint("number", label, values.astype(np.float64))
    if kind == "O":
        present = np.array([isinstance(v, str) for v in values], bool)
        codes = np.full(len(values), -1)
        found, codes[present] = np.unique(values[present].astype(str), return_inverse=True)
        return Paint("category", label, codes, tuple(found.tolist()))
    found, codes = np.unique(values, return_inverse=True)
    return Paint("category", label, codes, tuple(map(str, found.tolist())))
