"""Rules about the root and its levels: what the root lists, and levels that agree with each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dask_zv.level.contents import StoreContents
from dask_zv.level.stale import is_stale
from dask_zv.maintain.rules_levels import LevelSurvey
from dask_zv.maintain.validation import Finding


def survey_root(store: StoreContents) -> list[Finding]:
    """Return what is wrong with the documents of the root: the list of its levels, above all."""
    found: list[Finding] = []
    levels, paths = list(store.levels), [str(entry["path"]) for entry in store.metadata.datasets]
    if not levels:
        return [Finding("levels", "error", "the store has no level")]
    listed = [int(p) for p in paths if p.isascii() and p.isdigit()]
    found += [
        Finding("multiscales", "error", f"level {number} is not among the datasets of multiscales", number)
        for number in levels
        if number not in listed and (number or paths)
    ]
    found += [
        Finding("multiscales", "error", f"multiscales has a dataset {path!r}, and there is no such level")
        for path in paths
        if path not in {str(n) for n in levels}
    ]
    if listed != sorted(set(listed)):
        text = f"the datasets of multiscales are {', '.join(paths)}: each once, and the finest first, is wanted"
        found.append(Finding("multiscales", "error", text))
    found += _scales(store)
    ome = store.group.attrs.get("ome")
    nodes = ome.get("nodes") if isinstance(ome, Mapping) else None
    if isinstance(nodes, list):
        names = [str(n.get("name")) for n in nodes if isinstance(n, Mapping) and n.get("type") == "zv:level"]
        if names and sorted(names) != sorted(map(str, levels)):
            text = f"the attribute ome names the levels {', '.join(names)}; there are {', '.join(map(str, levels))}"
            found.append(Finding("multiscales", "warning", text))
    return found


def _scales(store: StoreContents) -> list[Finding]:
    """Look at the scales of the datasets: positive numbers, one an axis, that do not fall from level to level."""
    found: list[Finding] = []
    before: tuple[int, list[float]] | None = None
    for entry in store.metadata.datasets:
        transforms = entry.get("coordinateTransformations", [])
        scales = [t.get("scale") for t in transforms if isinstance(t, Mapping) and t.get("type") == "scale"]
        number = int(entry["path"]) if str(entry["path"]).isdigit() else None
        for scale in scales:
            numbers = isinstance(scale, Sequence) and all(isinstance(v, int | float) and v > 0 for v in scale)
            known = [float(v) for v in scale] if numbers and scale is not None else []
            if len(known) != store.metadata.ndim:
                wanted = f"{store.metadata.ndim} positive numbers are wanted"
                text = f"the scale of dataset {entry['path']!r} is {scale!r:.80}: {wanted}"
                found.append(Finding("multiscales", "error", text, number))
            elif number is not None:
                if before is not None and number > before[0] and any(a < b for a, b in zip(known, before[1], strict=True)):
                    text = f"the scale of dataset {number} is {known}, finer than {before[1]} of dataset {before[0]}"
                    found.append(Finding("multiscales", "error", text, number))
                before = number, known
    return found


def survey_levels(store: StoreContents, surveys: Mapping[int, LevelSurvey]) -> list[Finding]:
    """Compare the levels with each other, by their documents."""
    found: list[Finding] = []
    for number, survey in surveys.items():
        level = survey.level
        if level is None:
            continue
        metadata = level.metadata
        if metadata.level != number:
            found.append(Finding("levels", "error", f"the level says that it is level {metadata.level}", number))
        if is_stale(level):
            text = "a finer level was changed after this level was made from it"
            found.append(
                Finding("levels", "warning", text, number, advice="dzv.build_pyramid(store, update=True) makes it again")
            )
        parent = metadata.parent_level
        if parent is None:
            continue
        if parent not in store.levels:
            found.append(Finding("levels", "error", f"the level was made from level {parent}, which is not there", number))
            continue
        above = surveys[parent].level if parent in surveys else None
        if above is None:
            continue
        if metadata.vertex_count > above.metadata.vertex_count > 0:
            counts = metadata.vertex_count, above.metadata.vertex_count
            text = f"the level counts {counts[0]:,} vertices, level {parent} that it was made from {counts[1]:,}"
            found.append(Finding("levels", "warning", text, number))
        own, base = (m.chunk_shape_in(store.metadata.chunk_shape) for m in (metadata, above.metadata))
        if any(a < b for a, b in zip(own, base, strict=True)):
            text = f"its chunks of {list(own)} are smaller than those of level {parent}, {list(base)}"
            found.append(Finding("levels", "warning", text, number))
        if metadata.preserves_object_ids and survey.objects and surveys[parent].objects not in (0, survey.objects):
            text = f"it keeps the ids of level {parent}, and has {survey.objects:,} objects for {surveys[parent].objects:,}"
            found.append(Finding("levels", "warning", text, number))
    return found
