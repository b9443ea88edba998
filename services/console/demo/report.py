"""The verdict on paper: `report.json`, a table, and a small picture of how fast sales spread."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deploy.local.files import write_private
from services.console.demo import path
from services.console.demo.path import PathVerdict
from services.console.demo.verdict import Verdict, to_report
from services.console.verification import Outcome

BARS = " ▁▂▃▄▅▆▇█"
EDGES_MS = (10, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1000, 2000, 5000)
SHORTFALLS_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Played:
    """All that a run is judged by. `late_units` were still open 30 s after the last sale; `refused` is what people
    asked for in vain; `checks` were made in the databases. No `path` where stock alone was played."""

    stock: Verdict
    path: PathVerdict | None
    late_units: int
    duration_s: float
    deadletters: int
    reviews: int
    refused: Sequence[str]
    checks: Sequence[Outcome]


def compose(played: Played, *, seed: int) -> dict[str, Any]:
    """`report.json`."""
    told = to_report(played.stock, seed=seed, duration_s=played.duration_s, deadletters=played.deadletters)
    if played.path:
        told |= path.to_report(played.path, reviews=played.reviews)
    told["checks"] = {outcome.check.what: not outcome.contradictions for outcome in played.checks}
    wrong = [f"{outcome.check.what}: not so" for outcome in played.checks if outcome.contradictions]
    late = [f"{played.late_units} units were open 30 s after the last sale"] if played.late_units else []
    refused = [f"{len(played.refused)} deeds of the office were refused: {played.refused[0]}"] if played.refused else []
    buried = [f"{played.deadletters} dead letters: `saldo deadletters list`"] if played.deadletters else []
    failures = [*told.pop("failures"), *late, *(played.path.failures if played.path else []), *refused, *wrong, *buried]
    return told | {"verdict": "fail" if failures else "pass", "failures": failures}


def write(at: Path, report: Mapping[str, Any]) -> None:
    """Write `report.json` in one step."""
    at.parent.mkdir(parents=True, exist_ok=True)
    write_private(at, json.dumps(report, indent=2, ensure_ascii=False) + "\n")


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
    _show_path(console, report)
    console.print()
    console.print(_connections(report, verdict))
    console.print(f"[dim]bars: below {EDGES_MS[0]} ms, then from each of {', '.join(map(str, EDGES_MS))} ms on[/]")
    _show_shortfalls(console, verdict)
    console.print()
    for failure in report["failures"]:
        console.print(f"[red]-[/] {escape(failure)}", highlight=False, soft_wrap=True)
    console.print("[bold red]verdict: fail[/]" if report["failures"] else "[bold green]verdict: pass[/]")


def _show_path(console: Console, report: Mapping[str, Any]) -> None:
    """Money, parcels, documents and customers, a line each."""
    if "money" not in report:
        return

    def counts(name: str) -> str:
        return ", ".join(f"{value} {key}" for key, value in report[name].items())

    money, labels = report["money"], report["sale_to_label_ms"]
    balanced = "balanced" if money["balanced"] else "[red]not balanced[/]"
    spread = " / ".join("-" if labels[one] is None else f"{labels[one] / 1000:.1f}" for one in ("p50", "p95", "p99"))
    console.print(f"[bold]ends[/]   {counts('ends')}")
    console.print(
        f"[bold]money[/]  {money['captured_minor'] / 100:,.2f} taken, {money['refunded_minor'] / 100:,.2f} given back, "
        f"{balanced}; payments: {counts('payments')}"
    )
    console.print(f"[bold]parcels[/] {counts('parcels')}; from paid sale to label p50 / p95 / p99 {spread} s")
    console.print(
        f"[bold]returns[/] {counts('returns')}; documents: {counts('documents')}; customers: {counts('customers')}"
    )


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
