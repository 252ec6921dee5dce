#!/bin/sh
# Icechunk 2.3.0: Session.merge drops what a fork changed of a node that is new in the session.
#
# A session with uncommitted changes can be forked since Icechunk 2. Where a fork changes the attributes (or the shape) of an array
# which the session has made and not yet committed, and writes a chunk of it, session.merge(fork) takes the chunk and leaves the
# attributes and the shape as they were, without an error. Of an array that was committed before, it takes all.
#
# Seen:
#   2.3.0 committed {'step': 1} [7, 7, 0, 0, 0, 0]
#   2.3.0 new {'step': 0} [7, 7, 0, 0]
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
root.create_array("committed", shape=4, chunks=2, dtype="i4", attributes={"step": 0})
session.commit("first")
session = repo.writable_session("main")
zarr.open_group(session.store).create_array("new", shape=4, chunks=2, dtype="i4", attributes={"step": 0})
fork = session.fork()
for name in ("committed", "new"):
    array = zarr.open_array(fork.store, path=name)
    array.attrs["step"] = 1
    array.resize((6,))
    array[:2] = 7
session.merge(fork)
for name in ("committed", "new"):
    array = zarr.open_array(session.store, path=name)
    print(icechunk.__version__, name, dict(array.attrs), array[:].tolist())
END

python3 -m venv "$folder/0"
"$folder/0/bin/pip" install --quiet "icechunk==2.3.0" "zarr==3.4.2" "numpy==2.5.5"
"$folder/0/bin/python" "$folder/finding.py" >> "$folder/seen" 2>> "$folder/log" || { cat "$folder/log"; exit 1; }

cat > "$folder/expected" <<'END'
2.3.0 committed {'step': 1} [7, 7, 0, 0, 0, 0]
2.3.0 new {'step': 0} [7, 7, 0, 0]
END
cat "$folder/seen"
diff "$folder/expected" "$folder/seen" || { echo "the behaviour has changed"; exit 1; }
echo "as described"
