"""Hot bench: every order of a round wants one unit of the same SKU, of which there are a thousand.

The pipeline bench with one SKU a round: the same processes, servers and bare script. Exactly as many units as there are
may be reserved, and `ratio` says what the one row, which every order waits for, costs us beside the bare script.

Run by `saldo bench hot`. Writes `var/bench/hot.json`. Exit code 1 where another number was reserved, 2 where the run is
void.
"""

import argparse
import asyncio
import sys
from pathlib import Path

from tests.bench import pipeline

UNITS = 1_000


def main() -> int:
    """Parse, run, judge, print."""
    parser = argparse.ArgumentParser(prog="saldo bench hot", description=__doc__)
    parser.add_argument("--orders", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    plan = pipeline.Plan(options.orders, options.rounds, options.rounds, seed=7, units=UNITS, hot=True)
    result = asyncio.run(pipeline.run(plan, Path("var/bench/hot")))
    code = pipeline.told(result)
    print(f"reserved of {UNITS} units, by round: {result['reserved']}")
    wanted = [min(UNITS, options.orders)] * options.rounds
    exact = all(sorted(of.values()) == wanted for of in result["reserved"].values())
    return code if exact else 1


if __name__ == "__main__":
    sys.exit(main())
