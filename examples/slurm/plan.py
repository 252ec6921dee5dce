"""First step of three: look at the input, and save who does what. `python plan.py survey.zv job`

A plan that is there already is kept, so the three steps can be submitted again at any time.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from survey import open_or_create, open_survey

import dask_zv as dzv


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store")
    parser.add_argument("job", type=Path, help="folder for the plan and the receipts")
    parser.add_argument("--side", type=int, default=4, help="tiles along each side of the survey (default 4)")
    parser.add_argument("--points", type=int, default=25_000, help="points of a tile (default 25,000)")
    args = parser.parse_args()

    path = args.job / "plan"
    if path.exists():
        print(f"{path} is there: {dzv.load_plan(path)}")
        return
    (args.job / "receipts").mkdir(parents=True, exist_ok=True)
    positions, attributes = open_survey(args.side, args.points)
    plan = dzv.plan_points(open_or_create(args.store), positions, attributes=attributes)
    plan.save(path)
    print(plan)


if __name__ == "__main__":
    main()
