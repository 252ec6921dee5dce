#!/bin/sh
# Icechunk 2.3.0 refuses to merge a fork that made an array which its session has removed.
#
# The fork was made after the removal and saw no array; the merge says that the array was "both deleted and modified".
#
# Seen:
#   2.3.0 refused: True
#
# Needs Python 3.12 or later as python3, and the network. Ends with 1 when the behaviour is another.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat > "$folder/finding.py" <<'END'
import tempfile

import icechunk
import zarr

icechunk.set_logs_filter("error")
repo = icechunk.Repository.create(icechunk.local_filesystem_storage(tempfile.mkdtemp()))
session = repo.writable_session("main")
root = zarr.create_group(session.store)
root.create_array("a", shape=2, chunks=2, dtype="i4")
session.commit("first")
session = repo.writable_session("main")
del zarr.open_group(session.store)["a"]
fork = session.fork()
zarr.open_group(fork.store).create_array("a", shape=4, chunks=2, dtype="i4")
try:
    session.merge(fork)
    print(icechunk.__version__, "merged")
except icechunk.IcechunkError as error:
    print(icechunk.__version__, "refused:", "both deleted and modified" in str(error))
END

python3 -m venv "$folder/0"
"$folder/0/bin/pip" install --quiet "icechunk==2.3.0" "zarr==3.4.2" "numpy==2.5.5"
"$folder/0/bin/python" "$folder/finding.py" >> "$folder/seen" 2>> "$folder/log" || { cat "$folder/log"; exit 1; }

cat > "$folder/expected" <<'END'
2.3.0 refused: True
END
cat "$folder/seen"
diff "$folder/expected" "$folder/seen" || { echo "the behaviour has changed"; exit 1; }
echo "as described"
