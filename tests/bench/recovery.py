"""Recovery bench: how long sales are held up after each service is killed, and after broker and database restart.

The ten shops of the propagation bench, buyers at a steady rate without a pause. One after another every service gets
SIGKILL, the broker SIGTERM and the database a fast shutdown; the supervisor starts them again. By the sandboxes' books:
a fault is over when the last sale that took longer than a second to most of the others has reached all of them. The
sandboxes tell again after 0.3 s what found nobody, so that what is measured is ours and not their patience. Whatever
was sold has to have arrived in the end, and the books, levels and numbers have to agree.

Run by `saldo bench recovery`. Writes `var/bench/recovery.json`. Exit code 1 where a service takes more than 10 s, a
server more than 30 s, or a sale is lost.
"""

import argparse
import asyncio
import os
import random
import signal
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from services.console.demo.acceptance import Truth, match
from services.console.demo.accounts import settle
from services.console.demo.evidence import Evidence
from services.console.demo.propagation import reached_at_ms, reaches
from services.console.demo.verdict import unsettled
from tests.bench.stage import (
    SERVICES,
    STOCK_ALONE,
    many_products,
    open_company,
    running,
    sell,
    warm_up,
    write_report,
)
from tests.flow.company import SHOP_SETTINGS

FAULTS = {**dict.fromkeys(SERVICES, signal.SIGKILL), "kafka": signal.SIGTERM, "postgres": signal.SIGINT}
SERVICE_S, SERVER_S = 10.0, 30.0
SLOW_MS = 1_000


async def run(folder: Path, endpoints: dict[str, Any], rate: float, apart_s: float) -> dict[str, Any]:
    """Sell all the while, and end one process after another."""
    draw = random.Random(1)
    moments: dict[str, int] = {}
    async with open_company(folder, endpoints, many_products(), **SHOP_SETTINGS) as company:
        await warm_up(company, draw)
        selling = asyncio.create_task(sell(company, rate, apart_s * (len(FAULTS) + 0.5), draw))
        for name, number in FAULTS.items():
            await asyncio.sleep(apart_s / 2)
            os.kill(company.system.process(name)["pid"], number)
            moments[name] = int(time.time() * 1000)
            print(f"{name}: {number.name}", flush=True)
            await asyncio.sleep(apart_s / 2)
        await selling
        evidence = await company.evidence(timeout_s=120)
    open_units, wrong = unsettled(evidence)
    recovered = recovery_s(evidence, moments)
    return {"rate_per_s": rate, "recovery_s": recovered, "open_units": open_units, "numbers_wrong": wrong}


def recovery_s(evidence: Evidence, moments: dict[str, int]) -> dict[str, float]:
    """Seconds from each fault to the arrival of the last sale that it held up; 0 where none was."""
    acceptances, truth = match(evidence), Truth(evidence)
    moments_by_order: dict[tuple[str, int], list[int]] = {}
    for (order_id, connection_id), reach in reaches(evidence, settle(evidence)).items():
        if reach.targets and (at_ms := reached_at_ms(connection_id, reach, acceptances, truth)) is not None:
            moments_by_order.setdefault((order_id, reach.sold_at_ms), []).append(at_ms)
    # A single shop may be late for a reason of its own, such as VTEX's lock after a write.
    slow = [
        max(reached)
        for (_, sold_at_ms), reached in moments_by_order.items()
        if statistics.median(reached) - sold_at_ms > SLOW_MS
    ]
    after = [*list(moments.values())[1:], sys.maxsize]
    return {
        name: max([(at_ms - moment) / 1000 for at_ms in slow if moment <= at_ms < until], default=0.0)
        for (name, moment), until in zip(moments.items(), after, strict=True)
    }


def main() -> int:
    """Run, print, write."""
    parser = argparse.ArgumentParser(prog="saldo bench recovery", description=__doc__)
    parser.add_argument("--rate", type=float, default=10.0, help="Orders a second: half the knee.")
    parser.add_argument("--apart", type=float, default=30.0, help="Seconds from one fault to the next.")
    given = parser.parse_args()
    with running("recovery", **STOCK_ALONE) as (folder, endpoints):
        report = asyncio.run(run(folder, endpoints, given.rate, given.apart))
    write_report("recovery", report)
    for name, seconds in report["recovery_s"].items():
        print(f"{name:<12}{seconds:>7.1f} s, at most {SERVICE_S if name in SERVICES else SERVER_S:g}")
    print(f"{report['open_units']} units without an end, {report['numbers_wrong']} numbers wrong")
    good = all(
        seconds <= (SERVICE_S if name in SERVICES else SERVER_S) for name, seconds in report["recovery_s"].items()
    )
    return 0 if good and not report["open_units"] and not report["numbers_wrong"] else 1


if __name__ == "__main__":
    sys.exit(main())
