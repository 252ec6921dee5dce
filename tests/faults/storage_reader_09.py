"""What the ZV 0.9 package (zarr-vectors 0.9.2) reads; runs where that is installed, and not this project.

A folder a line in; ``{"rows": ..., "digest": ...}`` or ``{"error": ...}`` a line out. The digest is of the rows in any order.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from typing import Any

import numpy as np
import zarr_vectors as zv


def read(target: str) -> dict[str, Any]:
    found = zv.open(target).level(0).read(attributes="all")
    if not len(found.positions):
        return {"rows": 0, "digest": ""}
    columns = [np.asarray(found.positions, np.float64), np.asarray(found.attributes["mass"], np.float64)[:, None]]
    table = np.concatenate(columns, axis=1)
    table = table[np.lexsort(table.T)]
    return {"rows": len(table), "digest": hashlib.sha256(table.tobytes()).hexdigest()}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            answer = read(line.strip())
        except Exception as error:  # noqa: BLE001 - whatever it raises is what its user sees
            answer = {"error": f"{type(error).__name__}: {error}"[:300]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
