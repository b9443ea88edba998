"""The verdict on paper: `report.json`, a table, and a small picture of how fast sales spread."""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deploy.local.files import write_private
from services.console.demo.verdict import Verdict

BARS = " ▁▂▃▄▅▆▇█"
EDGES_MS = (10, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1000, 2000, 5000)
SHORTFALLS_SHOWN = 10


def write(path: Path, report: Mapping[str, Any]) -> None:
    """Write `report.json` in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_private(path, json.dumps(report, indent=2, ensure_ascii=False) + "\n")


def histogram(values: Sequence[float]) -> str:
    """A line of bars, one for each step of `EDGES_MS` and one for what is above; their heights are by square root."""
    counts = [0] * (len(EDGES_MS) + 1)
    for value in values:
        counts[sum(value >= edge for edge in EDGES_MS)] += 1
    most = max(counts)
    if not most:
        return ""
    return "".join(BARS[math.ceil(math.sqrt(count / most) * (len(BARS) - 1))] for count in counts)


def show(console: Console, report: Mapping[str, Any], verdict: Verdict) -> None:
    """Print the verdict for people."""
    orders, units = report["orders"], report["units"]
    console.print()
    console.print(
        f"[bold]orders[/] {orders['placed']} placed: {orders['reserved']} reserved, {orders['short']} short, "
        f"{orders['cancelled']} cancelled, {orders['open']} open, {orders['lost']} lost, {orders['doubled']} doubled"
    )
    console.print(
        f"[bold]units[/]  {units['accepted']} accepted: {units['reserved']} reserved, {units['short']} short, "
        f"{units['cancelled']} cancelled, {units['open']} open; {units['oversold']} oversold, "
        f"{units['resurrected']} put back on sale by a write"
    )
    conserved = "conserved" if report["ledger"]["conserved"] else "[red]not conserved[/]"
    console.print(
        f"[bold]ledger[/] {report['ledger']['movements']} movements, {conserved}; {report['deadletters']} dead letters"
    )
    console.print()
    console.print(_connections(report, verdict))
    console.print(f"[dim]bars: below {EDGES_MS[0]} ms, then from each of {', '.join(map(str, EDGES_MS))} ms on[/]")
    _show_shortfalls(console, verdict)
    console.print()
    for failure in verdict.failures:
        console.print(f"[red]-[/] {escape(failure)}", highlight=False, soft_wrap=True)
    console.print("[bold green]verdict: pass[/]" if verdict.passed else "[bold red]verdict: fail[/]")


def _connections(report: Mapping[str, Any], verdict: Verdict) -> Table:
    table = Table(title="from the sale to every other connection, by the sandboxes' own books", title_justify="left",
                  box=None, header_style="bold", pad_edge=False)  # fmt: skip
    for name in ("connection", "sales", "listings", "measured", "unchanged", "p50", "p95", "p99", "max ms"):
        table.add_column(name, justify="left" if name == "connection" else "right")
    table.add_column("")
    table.add_column("")
    for result in verdict.channels:
        told = report["channels"][result.channel.name]
        spread = told["propagation_ms"]
        figures = ["-" if spread[name] is None else f"{spread[name]:.0f}" for name in ("p50", "p95", "p99", "max")]
        remark = "" if told["converged"] else "[red]not converged[/]"
        if told["limit_bound"]:
            remark += f" limit-bound: an ideal sender has p99 {told['ideal_p99_ms']:.0f} ms"
        counts = [str(value) for value in (told["sales"], told["listings"], spread["count"], told["unchanged"])]
        table.add_row(
            result.channel.name, *counts, *figures, f"[cyan]{histogram(result.propagation.from_sale_ms)}[/]", remark
        )
    return table


def _show_shortfalls(console: Console, verdict: Verdict) -> None:
    if not verdict.shortfalls:
        return
    console.print()
    console.print(f"[bold]{len(verdict.shortfalls)} shortfalls[/]: sold while the last unit's news was on its way")
    for fall in verdict.shortfalls[:SHORTFALLS_SHOWN]:
        learned = ", ".join(
            f"{name} {'-' if moment is None else f'{moment - fall.sold_at_ms:+} ms'}"
            for name, moment in fall.learned_ms.items()
        )
        late = " [red]after its own channel had learned[/]" if fall.late else ""
        console.print(
            f"  {_clock(fall.sold_at_ms)} {fall.connection} {fall.order} {fall.sku} × {fall.units}; "
            f"told of zero (from the sale): {learned}{late}",
            highlight=False,
            soft_wrap=True,
        )
    if len(verdict.shortfalls) > SHORTFALLS_SHOWN:
        console.print(f"  and {len(verdict.shortfalls) - SHORTFALLS_SHOWN} more in report.json")


def _clock(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%H:%M:%S.%f")[:-3]
