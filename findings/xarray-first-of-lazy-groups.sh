#!/bin/sh
# xarray 2026.9.0 with dask 2026.8.0: the first and the last of each group of a Dask column are all rows, ungrouped.
#
# A Dask array can be grouped by where its labels are given (UniqueGrouper). Then mean() and the like have a row for each label;
# first() and last() return the Dataset as it was, and do not raise, while the same groups in memory give a row for each label.
#
# Seen:
#   in memory: mean 3 rows, first 3 rows, last 3 rows
#   Dask: mean 3 rows, first 9 rows, last 9 rows
#
# Needs Python 3.12 or later as python3, and the network. Ends with 1 when the behaviour is another.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat > "$folder/finding.py" <<'END'
import numpy as np
import xarray as xr

ds = xr.Dataset({"value": ("v", np.arange(9.0))}, {"key": ("v", np.arange(9) % 3)})
for name, data in (("in memory", ds), ("Dask", ds.chunk(v=3))):
    groups = data.groupby(key=xr.groupers.UniqueGrouper(labels=[0, 1, 2]))
    told = [f"{what} {getattr(groups, what)().value.size} rows" for what in ("mean", "first", "last")]
    print(f"{name}:", ", ".join(told))
END

python3 -m venv "$folder/venv"
set -- "flox==0.11.2" "xarray==2026.9.0" "numpy-groupies==0.16.0" "dask[array]==2026.8.0" "numpy==2.5.5" "pandas==3.1.1"
"$folder/venv/bin/pip" install --quiet "$@" 2>> "$folder/log" || { cat "$folder/log"; exit 1; }
"$folder/venv/bin/python" -W ignore "$folder/finding.py" > "$folder/seen"
sed -n 's/^#   //p' "$0" > "$folder/expected"
cat "$folder/seen"
diff "$folder/expected" "$folder/seen" || { echo "the behaviour has changed"; exit 1; }
echo "as described"
