"""Last step of three: make the stored blocks visible, all at once. `python commit.py job`"""

from __future__ import annotations

import argparse
from pathlib import Path

import dask_zv as dzv


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", type=Path, help="folder of the plan and the receipts")
    args = parser.parse_args()
    receipts = sorted((args.job / "receipts").glob("[0-9]*"))
    print(dzv.load_plan(args.job / "plan").commit(receipts))


if __name__ == "__main__":
    main()
