#!/bin/sh
# flox 0.11.2 with xarray 2026.9.0: groupby by a numeric data variable raises MergeError where the Dataset has any coordinate
# without the dimension that is grouped.
#
# A scalar coordinate is enough, as one with the reference system, or one along another dimension. With the keys as a coordinate,
# ds.set_coords("key"), without that coordinate, or without flox the mean is computed.
#
# Seen:
#   no other coordinate: 3 groups
#   a scalar coordinate: MergeError
#   a coordinate along another dimension: MergeError
#   a scalar coordinate, keys as a coordinate: 3 groups
#   a scalar coordinate, without flox: 3 groups
#
# Needs Python 3.12 or later as python3, and the network. Ends with 1 when the behaviour is another.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat > "$folder/finding.py" <<'END'
import numpy as np
import xarray as xr


def mean(ds, flox=True):
    with xr.set_options(use_flox=flox):
        try:
            return f"{ds.groupby('key').mean().sizes['key']} groups"
        except xr.MergeError as error:
            return type(error).__name__


ds = xr.Dataset({"value": ("v", np.arange(9.0)), "key": ("v", np.arange(9) % 3)})
scalar = ds.assign_coords(place=0)
print("no other coordinate:", mean(ds))
print("a scalar coordinate:", mean(scalar))
print("a coordinate along another dimension:", mean(ds.assign_coords(other=("o", [1, 2]))))
print("a scalar coordinate, keys as a coordinate:", mean(scalar.set_coords("key")))
print("a scalar coordinate, without flox:", mean(scalar, flox=False))
END

python3 -m venv "$folder/venv"
set -- "flox==0.11.2" "xarray==2026.9.0" "numpy-groupies==0.16.0" "dask[array]==2026.8.0" "numpy==2.5.5" "pandas==3.1.1"
"$folder/venv/bin/pip" install --quiet "$@" 2>> "$folder/log" || { cat "$folder/log"; exit 1; }
"$folder/venv/bin/python" -W ignore "$folder/finding.py" > "$folder/seen"
sed -n 's/^#   //p' "$0" > "$folder/expected"
cat "$folder/seen"
diff "$folder/expected" "$folder/seen" || { echo "the behaviour has changed"; exit 1; }
echo "as described"
