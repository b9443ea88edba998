"""The verdict on a run, from the sandboxes' own books and public events alone. Pure: same evidence, same verdict."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from services.console.demo import acceptance, accounts, exposure, propagation
from services.console.demo.accounts import Accounts
from services.console.demo.evidence import Channel, Evidence
from services.console.demo.exposure import Shortfall
from services.console.demo.propagation import Propagation


@dataclass(frozen=True, slots=True)
class ChannelResult:
    """What one connection sold, shows, and how fast the sales of the others reached it."""

    channel: Channel
    sales: int
    differences: tuple[str, ...]
    propagation: Propagation

    @property
    def converged(self) -> bool:
        """Whether every number in the sandbox is the one that the published levels ask for."""
        return not self.differences


@dataclass(frozen=True)
class Verdict:
    """The judgement. `failures` says in words what is wrong, each with the thing to look at; empty means pass."""

    accounts: Accounts
    oversold: dict[str, int]
    resurrected: int
    shortfalls: Sequence[Shortfall]
    channels: Sequence[ChannelResult]
    movements: int
    not_conserved: Sequence[str]
    unmatched: Sequence[str]

    @cached_property
    def failures(self) -> list[str]:
        """What is wrong, in words."""
        return _failures(self)

    @property
    def passed(self) -> bool:
        """Whether the run kept every promise."""
        return not self.failures


def judge(evidence: Evidence, *, timed: bool = True) -> Verdict:
    """Judge a run; how fast sales spread is measured where it is `timed`.

    It fails where a unit is left open, lost, doubled or oversold, where a sandbox shows another number than the
    published levels ask for, where a sale was short although its channel had already been told that nothing was left,
    where a push was reported that the sandbox's books do not know, and where the ledger is not conserved.
    """
    settled = accounts.settle(evidence)
    acceptances = acceptance.match(evidence)
    untimed = dict.fromkeys(evidence.books, Propagation((), (), 0, 0.0))
    measured = propagation.measure(evidence, settled, acceptances) if timed else untimed
    return Verdict(
        accounts=settled,
        oversold=accounts.oversold(evidence, settled),
        resurrected=exposure.resurrected(evidence, acceptances),
        shortfalls=exposure.shortfalls(evidence, settled, acceptances),
        channels=[
            ChannelResult(
                channel=channel,
                sales=len({sold.order for sold in evidence.books[channel.connection_id].sold}),
                differences=tuple(differences(evidence, channel)),
                propagation=measured[channel.connection_id],
            )
            for channel in evidence.channels
        ],
        movements=len({movement.movement_id for movement in evidence.heard.movements}),
        not_conserved=accounts.conservation(evidence, settled),
        unmatched=acceptances.unmatched,
    )


def differences(evidence: Evidence, channel: Channel) -> list[str]:
    """Where a sandbox shows another number than the last published levels ask for."""
    levels = evidence.heard.levels_by_sku()
    available = {sku: of_sku[-1].to_show for sku, of_sku in levels.items()}
    shown = evidence.books[channel.connection_id].numbers
    found = []
    for sku in channel.skus:
        wanted = evidence.plan.shown(sku, available)
        if shown.get(sku) != wanted:
            found.append(f"{channel.name} shows {shown.get(sku)} of {sku}, it should show {wanted}")
    return found


def unsettled(evidence: Evidence) -> tuple[int, int]:
    """(open units, listings that show a wrong number): what a run still waits for after its last sale."""
    settled = accounts.settle(evidence)
    return settled.units["open"] + len(settled.lost), sum(
        len(differences(evidence, channel)) for channel in evidence.channels
    )


def _failures(verdict: Verdict) -> list[str]:
    failures = []
    units = verdict.accounts.units
    if not units["accepted"]:
        failures.append("no sandbox accepted a single sale: nothing was shown")
    if units["open"]:
        failures.append(f"{units['open']} units are neither reserved, short nor cancelled: {_open_lines(verdict)}")
    if verdict.accounts.lost:
        failures.append(f"{len(verdict.accounts.lost)} orders lost: {_few(verdict.accounts.lost)}")
    if verdict.accounts.doubled:
        failures.append(f"{len(verdict.accounts.doubled)} orders doubled: {_few(verdict.accounts.doubled)}")
    if verdict.oversold:
        failures.append(f"oversold: {_few([f'{units} of {sku}' for sku, units in verdict.oversold.items()])}")
    wrong = [difference for result in verdict.channels for difference in result.differences]
    if wrong:
        failures.append(f"{len(wrong)} listings did not converge: {_few(wrong)}")
    late = [f"{fall.connection} {fall.order} ({fall.sku})" for fall in verdict.shortfalls if fall.late]
    if late:
        failures.append(f"{len(late)} sales were short after their channel had been told of zero: {_few(late)}")
    if verdict.unmatched:
        failures.append(f"{len(verdict.unmatched)} pushes are not in the sandboxes' books: {_few(verdict.unmatched)}")
    if verdict.not_conserved:
        failures.append(f"the ledger is not conserved: {_few(verdict.not_conserved)}")
    return failures


def _open_lines(verdict: Verdict) -> str:
    names = {result.channel.connection_id: result.channel.name for result in verdict.channels}
    return _few(
        [
            f"{names[connection_id]} {order} {sku} ({line.open})"
            for (connection_id, order, sku), line in verdict.accounts.lines.items()
            if line.open
        ]
    )


def _few(items: Sequence[str]) -> str:
    shown = ", ".join(items[:5])
    return shown if len(items) <= 5 else f"{shown} and {len(items) - 5} more"


def to_report(verdict: Verdict, *, seed: int, duration_s: float, deadletters: int) -> dict[str, Any]:
    """`report.json`: the figures, then what explains them. Times in milliseconds."""
    return {
        "verdict": "pass" if verdict.passed else "fail",
        "seed": seed,
        "duration_s": round(duration_s, 3),
        "orders": verdict.accounts.orders,
        "units": verdict.accounts.units
        | {"oversold": sum(verdict.oversold.values()), "resurrected": verdict.resurrected},
        "channels": {
            result.channel.name: {
                "connection_id": result.channel.connection_id,
                "sales": result.sales,
                "listings": len(result.channel.skus),
                "converged": result.converged,
                "limit_bound": result.propagation.limit_bound,
                "ideal_p99_ms": result.propagation.ideal_p99_ms,
                "unchanged": result.propagation.unchanged,
                "propagation_ms": propagation.summary(result.propagation.from_sale_ms),
                "propagation_from_receipt_ms": propagation.summary(result.propagation.from_receipt_ms),
            }
            for result in verdict.channels
        },
        "ledger": {"movements": verdict.movements, "conserved": not verdict.not_conserved},
        "deadletters": deadletters,
        "shortfalls": [
            {
                "connection": fall.connection,
                "order": fall.order,
                "sku": fall.sku,
                "units": fall.units,
                "sold_at_ms": fall.sold_at_ms,
                "learned_ms": fall.learned_ms,
                "late": fall.late,
            }
            for fall in verdict.shortfalls
        ],
        "failures": verdict.failures,
    }
