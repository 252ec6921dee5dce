#!/bin/sh
# flox 0.11.2 with xarray 2026.9.0: groupby by a data variable fails where a coordinate has other dimensions alone.
#
# A Dataset has values and keys along "v", a number along "o", and a coordinate along ("o", "c"), as a table beside the values
# has. Grouped by the keys, which are a data variable, its mean raises MergeError. With the keys as a coordinate, without the table,
# without the number, or without flox, it is computed.
#
# Seen:
#   with flox: MergeError
#   with flox, keys as a coordinate: 3 groups
#   with flox, without the table: 3 groups
#   with flox, without the number: 3 groups
#   without flox: 3 groups
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


data = {"value": ("v", np.arange(9.0)), "key": ("v", np.arange(9) % 3), "number": ("o", np.arange(2))}
ds = xr.Dataset(data, {"table": (("o", "c"), np.zeros((2, 2)))})
print("with flox:", mean(ds))
print("with flox, keys as a coordinate:", mean(ds.set_coords("key")))
print("with flox, without the table:", mean(ds.drop_vars("table")))
print("with flox, without the number:", mean(ds.drop_vars("number")))
print("without flox:", mean(ds, flox=False))
END

python3 -m venv "$folder/venv"
set -- "flox==0.11.2" "xarray==2026.9.0" "numpy-groupies==0.16.0" "dask[array]==2026.8.0" "numpy==2.5.5" "pandas==3.1.1"
"$folder/venv/bin/pip" install --quiet "$@" 2>> "$folder/log" || { cat "$folder/log"; exit 1; }
"$folder/venv/bin/python" -W ignore "$folder/finding.py" > "$folder/seen"
sed -n 's/^#   //p' "$0" > "$folder/expected"
cat "$folder/seen"
diff "$folder/expected" "$folder/seen" || { echo "the behaviour has changed"; exit 1; }
echo "as described"
