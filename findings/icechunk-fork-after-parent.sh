#!/bin/sh
# Icechunk 1.1.21 and 2.3.0: a session that goes on writing after it was forked loses to the fork, whichever wrote last.
#
# The session writes a chunk after the fork did; session.merge(fork) then puts the fork's older values over the session's, without
# an error. (A fork is not another session: of two sessions, the second commit would be refused.)
#
# Seen:
#   1.1.21 [1, 1]
#   2.3.0 [1, 1]
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
fork = session.fork()
zarr.open_array(fork.store, path="a")[:] = 1
zarr.open_array(session.store, path="a")[:] = 2
session.merge(fork)
print(icechunk.__version__, zarr.open_array(session.store, path="a")[:].tolist())
END

python3 -m venv "$folder/0"
"$folder/0/bin/pip" install --quiet "icechunk==1.1.21" "zarr==3.1.6" "numpy==2.4.6"
"$folder/0/bin/python" "$folder/finding.py" >> "$folder/seen" 2>> "$folder/log" || { cat "$folder/log"; exit 1; }

python3 -m venv "$folder/1"
"$folder/1/bin/pip" install --quiet "icechunk==2.3.0" "zarr==3.4.2" "numpy==2.5.5"
"$folder/1/bin/python" "$folder/finding.py" >> "$folder/seen" 2>> "$folder/log" || { cat "$folder/log"; exit 1; }

cat > "$folder/expected" <<'END'
1.1.21 [1, 1]
2.3.0 [1, 1]
END
cat "$folder/seen"
diff "$folder/expected" "$folder/seen" || { echo "the behaviour has changed"; exit 1; }
echo "as described"
