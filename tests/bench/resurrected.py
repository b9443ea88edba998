"""How many sold units the stock sender puts back on sale, and how many are oversold, with its rule and without.

100 units, four channels, one sale a second on each, one of them polled every 15 seconds: a simulated world around the
very functions that the sender decides with. Prints both figures and writes var/bench/resurrected.json; exit 1 where
the rule leaves more than a quarter.

    python -m tests.bench.resurrected [--seeds 200]
"""

import argparse
import json
import sys
from pathlib import Path

from tests.channels.stock.test_model import run

ROOT = Path(__file__).parents[2]
SHARE_MAX = 0.25


def figures(seeds: int, *, rule: bool) -> dict[str, float]:
    """Means over the seeds."""
    worlds = [run(seed, rule=rule) for seed in range(seeds)]
    return {
        "resurrected": sum(world.resurrected for world in worlds) / seeds,
        "oversold": sum(world.oversold() for world in worlds) / seeds,
        "writes": sum(world.writes for world in worlds) / seeds,
    }


def main() -> int:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description="Units put back on sale, with the rule and without.")
    parser.add_argument("--seeds", type=int, default=200)
    seeds = parser.parse_args().seeds
    without, ruled = figures(seeds, rule=False), figures(seeds, rule=True)
    share = ruled["resurrected"] / without["resurrected"]
    report = {"seeds": seeds, "without": without, "with": ruled, "share": share, "share_max": SHARE_MAX}
    path = ROOT / "var" / "bench" / "resurrected.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    print(f"units a run, mean of {seeds} runs     without the rule    with it")
    for name in ("resurrected", "oversold", "writes"):
        print(f"{name:<35}{without[name]:>17.1f}{ruled[name]:>11.1f}")
    print(f"resurrected: {share:.0%} of what it is without (at most {SHARE_MAX:.0%})")
    return 0 if share <= SHARE_MAX else 1


if __name__ == "__main__":
    sys.exit(main())
