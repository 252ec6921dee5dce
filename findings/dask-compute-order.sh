#!/bin/sh
# dask 2026.8.0: dask.compute of Delayed and array collections side by side returns results in another order than its arguments.
#
# Results of one kind come together: those of arguments that stand between them move back. Nothing is said, and unpacking takes one
# result for another.
#
# Seen:
#   asked for: delayed, array, delayed | got: first, third, 3
#   arrays between: array, delayed, array, delayed | got: 3, first, 3, third
#
# Needs Python 3.12 or later as python3, and the network. Ends with 1 when the behaviour is another.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat > "$folder/finding.py" <<'END'
import dask
import dask.array as da

first, third = dask.delayed("first"), dask.delayed("third")
total = da.arange(3, chunks=1).sum()
print("asked for: delayed, array, delayed | got:", ", ".join(map(str, dask.compute(first, total, third))))
print("arrays between: array, delayed, array, delayed | got:", ", ".join(map(str, dask.compute(total, first, total, third))))
END

python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "dask[array]==2026.8.0" "numpy==2.5.5" 2>> "$folder/log" || { cat "$folder/log"; exit 1; }
"$folder/venv/bin/python" "$folder/finding.py" > "$folder/seen"
sed -n 's/^#   //p' "$0" > "$folder/expected"
cat "$folder/seen"
diff "$folder/expected" "$folder/seen" || { echo "the behaviour has changed"; exit 1; }
echo "as described"
