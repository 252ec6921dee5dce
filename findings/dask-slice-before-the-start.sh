#!/bin/sh
# dask 2026.8.0 takes a backward slice that begins before the first row for the whole array; numpy has nothing there.
#
# So a slice that is right for a numpy-backed variable of xarray keeps all rows of the same variable with chunks, in order turned around.
#
# Seen:
#   numpy: (0,) | dask: (1000,)
#
# Needs Python 3.12 or later as python3, and the network. Ends with 1 when the behaviour is another.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat > "$folder/finding.py" <<'END'
import dask.array as da
import numpy as np

rows = slice(-1999, None, -1)
print("numpy:", np.arange(1000)[rows].shape, "| dask:", da.arange(1000, chunks=100)[rows].compute().shape)
END

python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "dask[array]==2026.8.0" "numpy==2.5.5" 2>> "$folder/log" || { cat "$folder/log"; exit 1; }
"$folder/venv/bin/python" "$folder/finding.py" > "$folder/seen"
echo "numpy: (0,) | dask: (1000,)" > "$folder/expected"
cat "$folder/seen"
diff "$folder/expected" "$folder/seen" || { echo "the behaviour has changed"; exit 1; }
echo "as described"
