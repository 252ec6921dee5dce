#!/bin/sh
# flox 0.11.2 with xarray 2026.9.0: whether groupby(...).count() can count a text column depends on the order of the groups.
#
# Columns of strings (dtype object) with missing values are counted where the column that is grouped by is ascending, in memory. Where
# it is not, or where the data are Dask arrays, flox passes the strings to numpy_groupies, which asks them for NaN. xarray uses
# flox wherever that is installed: installing it makes such a count fail, and xr.set_options(use_flox=False) makes it work, in memory.
#
# Seen:
#   in memory, without flox, groups 0 1 0 1: 1 2
#   in memory, with flox, groups 0 0 1 1: 2 1
#   in memory, with flox, groups 0 1 0 1: TypeError
#   Dask, with flox, groups 0 0 1 1: TypeError
#
# Needs Python 3.12 or later as python3, and the network. Ends with 1 when the behaviour is another.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat > "$folder/finding.py" <<'END'
import numpy as np
import xarray as xr


def count(groups, lazy, flox):
    ds = xr.Dataset({"text": ("v", np.array(["a", "b", None, "c"], dtype=object))}, {"key": ("v", groups)})
    with xr.set_options(use_flox=flox):
        try:
            grouped = (ds.chunk(v=2) if lazy else ds).groupby(key=xr.groupers.UniqueGrouper(labels=[0, 1]))
            return " ".join(map(str, grouped.count().text.to_numpy()))
        except TypeError as error:
            return type(error).__name__


print("in memory, without flox, groups 0 1 0 1:", count([0, 1, 0, 1], False, False))
print("in memory, with flox, groups 0 0 1 1:", count([0, 0, 1, 1], False, True))
print("in memory, with flox, groups 0 1 0 1:", count([0, 1, 0, 1], False, True))
print("Dask, with flox, groups 0 0 1 1:", count([0, 0, 1, 1], True, True))
END

python3 -m venv "$folder/venv"
set -- "flox==0.11.2" "xarray==2026.9.0" "numpy-groupies==0.16.0" "dask[array]==2026.8.0" "numpy==2.5.5" "pandas==3.1.1"
"$folder/venv/bin/pip" install --quiet "$@" 2>> "$folder/log" || { cat "$folder/log"; exit 1; }
"$folder/venv/bin/python" -W ignore "$folder/finding.py" > "$folder/seen"
sed -n 's/^#   //p' "$0" > "$folder/expected"
cat "$folder/seen"
diff "$folder/expected" "$folder/seen" || { echo "the behaviour has changed"; exit 1; }
echo "as described"
