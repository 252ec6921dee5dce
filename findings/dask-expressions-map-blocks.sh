#!/bin/sh
# dask 2026.8.0: with array.query-planning on, da.map_blocks with a Delayed among its arguments leaves that Delayed's tasks out of its graph.
#
# The array is made without an error, and fails when it is computed. So arrays that share a task can't be made of map_blocks there
# (da.from_delayed raises NotImplementedError).
#
# Seen:
#   2026.8.0 graphs: [7, 7, 7]
#   2026.8.0 expressions: ValueError, Missing dependency
#
# Needs Python 3.12 or later as python3, and the network. Ends with 1 when the behaviour is another.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat > "$folder/finding.py" <<'END'
import sys

import dask
import numpy as np

dask.config.set({"array.query-planning": sys.argv[1] == "expressions", "scheduler": "sync"})
import dask.array as da

array = da.map_blocks(lambda value: np.full(3, value), dask.delayed(abs)(-7), chunks=((3,),), dtype=int, meta=np.empty(0, int))
try:
    found = array.compute().tolist()
except ValueError as error:
    found = f"ValueError, {str(error)[:18]}"
print(dask.__version__, f"{sys.argv[1]}:", found)
END

python3 -m venv "$folder/0"
"$folder/0/bin/pip" install --quiet "dask[array]==2026.8.0" "numpy==2.5.5" 2>> "$folder/log" || { cat "$folder/log"; exit 1; }
for kind in graphs expressions; do
    "$folder/0/bin/python" "$folder/finding.py" "$kind" >> "$folder/seen"
done

cat > "$folder/expected" <<'END'
2026.8.0 graphs: [7, 7, 7]
2026.8.0 expressions: ValueError, Missing dependency
END
cat "$folder/seen"
diff "$folder/expected" "$folder/seen" || { echo "the behaviour has changed"; exit 1; }
echo "as described"
