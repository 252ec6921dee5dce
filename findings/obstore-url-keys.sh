#!/bin/sh
# obstore 0.12.1 and fsspec 2026.9.0 have other keys for one s3:// URL: to obstore's from_url "#" ends the key and %20 is a space, to fsspec
# both are characters as any.
#
# So a zarr store that was made through the one (zarr.storage.ObjectStore) is another store through the other (FsspecStore), and two URLs
# that differ behind the "#" are one store.
#
# Seen:
#   s3://bucket/tracks#1 | obstore: tracks | fsspec: tracks#1
#   s3://bucket/tracks#2 | obstore: tracks | fsspec: tracks#2
#   s3://bucket/a%20b | obstore: a b | fsspec: a%20b
#
# Needs Python 3.12 or later as python3, and the network. Ends with 1 when the behaviour is another.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat > "$folder/finding.py" <<'END'
import fsspec
from obstore.store import from_url

for url in ("s3://bucket/tracks#1", "s3://bucket/tracks#2", "s3://bucket/a%20b"):
    key = from_url(url, region="us-east-1", skip_signature=True).prefix
    print(url, "| obstore:", key, "| fsspec:", fsspec.core.url_to_fs(url, anon=True)[1].partition("/")[2])
END

python3 -m venv "$folder/0"
"$folder/0/bin/pip" install --quiet "obstore==0.12.1" "fsspec==2026.9.0" "s3fs==2026.9.0" 2>> "$folder/log" || { cat "$folder/log"; exit 1; }
"$folder/0/bin/python" "$folder/finding.py" >> "$folder/seen"

cat > "$folder/expected" <<'END'
s3://bucket/tracks#1 | obstore: tracks | fsspec: tracks#1
s3://bucket/tracks#2 | obstore: tracks | fsspec: tracks#2
s3://bucket/a%20b | obstore: a b | fsspec: a%20b
END
cat "$folder/seen"
diff "$folder/expected" "$folder/seen" || { echo "the behaviour has changed"; exit 1; }
echo "as described"
