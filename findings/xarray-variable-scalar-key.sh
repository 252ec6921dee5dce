#!/bin/sh
# xarray 2026.9.0: Variable.isel by a 0-d DataArray and another key keeps the dimension, and takes all of it where the variable is a Dask array.
#
# `argmin` and the like give 0-d DataArrays. DataArray.isel and Dataset.isel turn them into numbers first and are right; Variable.isel and
# Variable.__getitem__, which backends and accessors use, don't: the dimension stays, with its one row in memory, and with every row,
# selected or not, from Dask.
#
# Seen:
#   2026.9.0 numpy: ('row', 'column') (1, 2) [[4, 6]]
#   2026.9.0 dask: ('row', 'column') (3, 2) [[0, 2], [4, 6], [8, 10]]
#   2026.9.0 number, dask: ('column',) (2,) [4, 6]
#
# Needs Python 3.12 or later as python3, and the network. Ends with 1 when the behaviour is another.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat > "$folder/finding.py" <<'END'
import dask.array as da
import numpy as np
import xarray as xr

table = np.arange(12).reshape(3, 4)
middle = xr.DataArray([5, 1, 7]).argmin()
for name, data, row in (
    ("numpy", table, middle),
    ("dask", da.from_array(table, chunks=2), middle),
    ("number, dask", da.from_array(table, chunks=2), int(middle)),
):
    found = xr.Variable(("row", "column"), data).isel(row=row, column=[0, 2])
    print(xr.__version__, f"{name}:", found.dims, np.asarray(found).shape, np.asarray(found).tolist())
END

python3 -m venv "$folder/0"
"$folder/0/bin/pip" install --quiet "xarray==2026.9.0" "dask[array]==2026.8.0" "numpy==2.5.5" 2>> "$folder/log" || { cat "$folder/log"; exit 1; }
"$folder/0/bin/python" "$folder/finding.py" > "$folder/seen"

cat > "$folder/expected" <<'END'
2026.9.0 numpy: ('row', 'column') (1, 2) [[4, 6]]
2026.9.0 dask: ('row', 'column') (3, 2) [[0, 2], [4, 6], [8, 10]]
2026.9.0 number, dask: ('column',) (2,) [4, 6]
END
cat "$folder/seen"
diff "$folder/expected" "$folder/seen" || { echo "the behaviour has changed"; exit 1; }
echo "as described"
