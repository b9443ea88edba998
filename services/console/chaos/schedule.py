"""Which fault strikes whom, and when: drawn from a seed. Pure."""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Final

KILLS_PER_MINUTE: Final = 7.0
"""More than five, as a point that nobody passes while it is armed kills nobody."""
FREEZES_PER_MINUTE: Final = 0.5
SERVERS_PER_MINUTE: Final = 0.5
BROKERS_PER_MINUTE: Final = 2.0
"""Of a cluster, which goes on without one, and has to have it back before the next one goes."""
DETOURS_PER_MINUTE: Final = 22.0

POINT_S: Final = 15.0
"""How long a fault point stays armed."""
ORPHAN_S: Final = (25.0, 40.0)
"""Longer than PostgreSQL keeps the session of a member that says nothing (20 s): another takes its slot meanwhile."""

SERVERS: Final = ("kafka", "postgres")
SERVER_DETOURS: Final = {"kafka": 3, "postgres": 4}
"""With their weights; the sandboxes have 3."""
_SERVICES: Final = Path(__file__).parents[2]
_POINT: Final = re.compile(r'(?:point|reach)\("([a-z.]+)"')


@dataclass(frozen=True, slots=True)
class Fault:
    """`kind` strikes `target` at `at_s` into the run. `detail` is what the kind needs to know: a fault point's name,
    milliseconds, a number of commits."""

    at_s: float
    kind: str
    target: str
    duration_s: float = 0.0
    detail: str = ""

    @property
    def of_server(self) -> bool:
        """Whether a server is ended."""
        return self.kind in ENDS_OF_SERVERS and self.target.partition("-")[0] in SERVERS

    @property
    def name(self) -> str:
        """What the report calls it."""
        if self.of_server:
            return f"{self.target} {ENDS_OF_SERVERS[self.kind]}"
        of_second = self.kind in KILLS and self.target.endswith("-2")
        return "second instance leaves and joins" if of_second else NAMES[self.kind]


KILLS: Final = ("kill", "point", "leave")
"""SIGKILL, death at a fault point, SIGTERM. Whoever ended is started again."""

ENDS_OF_SERVERS: Final = {"stop": "shutdown", "kill": "SIGKILL"}
"""Of Kafka the orderly shutdown, of PostgreSQL the fast one."""

NAMES: Final = {
    "kill": "SIGKILL",
    "point": "death at a fault point",
    "leave": "SIGTERM",
    "freeze": "frozen",
    "orphan": "orphan of a slot",
    "delay": "latency",
    "cut": "cut",
    "refuse": "refused",
    "stall": "stalled",
    "dead": "half-open",
    "deaf": "half-open, heard",
    "commit": "reset in COMMIT",
}
DETOUR_KINDS: Final = {"delay": 30, "cut": 20, "refuse": 10, "stall": 15, "dead": 10, "deaf": 10}
"""Of connections, with their weights: slower; reset; reset, and no new ones for a while; still, then going on as if
nothing had been; never answered again, nor closed; heard, but never answered again."""


def points(service: str) -> list[str]:
    """The names of the fault points in the code that a service runs: its own, and those of bus and runtime."""
    texts = [
        path.read_text()
        for folder in (service, "bus", "runtime")
        for path in sorted((_SERVICES / folder).rglob("*.py"))
    ]
    return sorted({name for text in texts for name in _POINT.findall(text)})


def plan_faults(
    seed: int,
    minutes: float,
    services: Sequence[str],
    doubles: Sequence[str],
    outside: Sequence[str],
    brokers: Sequence[str] = ("kafka",),
) -> list[Fault]:
    """Every fault of a run in order of time; the same for the same arguments.

    `doubles` are services with a second process, whose members lose their slots while they are frozen. `outside` are
    the sandboxes that are reached by a detour. Of several `brokers` each goes in its turn, and nothing else of the
    servers; Kafka has no detour then.
    """
    draw = random.Random(f"faults {seed}")  # noqa: S311 - a repeatable schedule, not a secret
    processes = [*services, *(f"{name}-2" for name in doubles)]
    of_service: Mapping[str, list[str]] = {name: points(name) for name in services}

    def kill(at_s: float) -> Fault:
        kind = draw.choices(KILLS, (5, 4, 1))[0]
        if kind == "point":
            service = draw.choice(services)
            return Fault(at_s, kind, service, POINT_S, draw.choice(of_service[service]))
        return Fault(at_s, kind, draw.choice(processes))

    def freeze(at_s: float) -> Fault:
        if doubles and draw.random() < 0.5:
            return Fault(at_s, "orphan", draw.choice(doubles), draw.uniform(*ORPHAN_S))
        return Fault(at_s, "freeze", draw.choice(processes), draw.uniform(1, 8))

    cluster = len(brokers) > 1
    ends = [(kind, server) for kind in ENDS_OF_SERVERS for server in (brokers if cluster else SERVERS)]
    if not cluster:
        draw.shuffle(ends)
    in_turn = cycle(ends)
    detoured = {server: weight for server, weight in SERVER_DETOURS.items() if server == "postgres" or not cluster}

    def server(at_s: float) -> Fault:
        return Fault(at_s, *next(in_turn))

    def detour(at_s: float) -> Fault:
        ways = {**detoured, draw.choice(outside): 3}
        target = draw.choices(list(ways), list(ways.values()))[0]
        if target == "postgres" and draw.random() < 0.3:
            return Fault(at_s, "commit", target, 10.0, draw.choice(("before", "after")))
        kind = draw.choices(list(DETOUR_KINDS), list(DETOUR_KINDS.values()))[0]
        match kind:
            case "delay":
                return Fault(at_s, kind, target, draw.uniform(1, 8), str(draw.randint(5, 300)))
            case "refuse":
                return Fault(at_s, kind, target, draw.uniform(0.5, 4))
            case "stall":
                return Fault(at_s, kind, target, draw.uniform(1, 8))
            case _:
                return Fault(at_s, kind, target)

    rates = ((KILLS_PER_MINUTE, kill), (FREEZES_PER_MINUTE, freeze), (DETOURS_PER_MINUTE, detour),
             (BROKERS_PER_MINUTE if cluster else SERVERS_PER_MINUTE, server))  # fmt: skip
    faults = []
    for per_minute, make in rates:
        count = round(per_minute * minutes)
        apart = 2 if cluster and make is server else 1
        faults += [make(minutes * 60 * (number + draw.random() / apart) / count) for number in range(count)]
    return sorted(faults, key=lambda fault: fault.at_s)
