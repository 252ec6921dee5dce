#!/bin/sh
# numpy 2.4.6 answers np.where(condition, -1, unsigned) with the greatest number of the dtype, without a word; 2.5.5 raises OverflowError. Both
# answer `unsigned == -1` and `unsigned < 0`, and both raise in unsigned.max(initial=-1).
#
# So code that marks what is absent by -1 works with the ids of one user and not with those of another: what decides is their dtype.
#
# Seen:
#   2.4.6 where: [255, 1] | == -1: [False, False] | max(initial=-1): OverflowError
#   2.5.5 where: OverflowError | == -1: [False, False] | max(initial=-1): OverflowError
#
# Needs Python 3.12 or later as python3, and the network. Ends with 1 when the behaviour is another.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat > "$folder/finding.py" <<'END'
import numpy as np

ids = np.array([3, 1], "uint8")


def seen(call):
    try:
        return call().tolist()
    except OverflowError as error:
        return type(error).__name__


where = seen(lambda: np.where([True, False], -1, ids))
print(np.__version__, "where:", where, "| == -1:", seen(lambda: ids == -1), "| max(initial=-1):", seen(lambda: ids.max(initial=-1)))
END

for version in 2.4.6 2.5.5; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install --quiet "numpy==$version" 2>> "$folder/log" || { cat "$folder/log"; exit 1; }
    "$folder/$version/bin/python" "$folder/finding.py" >> "$folder/seen"
done

cat > "$folder/expected" <<'END'
2.4.6 where: [255, 1] | == -1: [False, False] | max(initial=-1): OverflowError
2.5.5 where: OverflowError | == -1: [False, False] | max(initial=-1): OverflowError
END
cat "$folder/seen"
diff "$folder/expected" "$folder/seen" || { echo "the behaviour has changed"; exit 1; }
echo "as described"
