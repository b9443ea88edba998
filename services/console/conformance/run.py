"""A run of the kit: find what the service reads, send case after case, wait for it, judge."""

import asyncio
import os
import secrets
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from contracts.catalogue import CATALOGUE, Catalogue, StreamKind
from services.bus.settings import is_loopback
from services.console.conformance import cases as written
from services.console.conformance.bodies import Body, bodies_of
from services.console.conformance.cases import Author, Case, Script
from services.console.conformance.judge import Evidence, Finding, Result, judge
from services.console.conformance.wire import CONNECTIONS, Wire

LOOK_EVERY_S: Final = 0.1
Told = Callable[[str, int, int], None]


class Unfit(Exception):
    """The kit cannot or must not run here; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to hit. Empty `groups`, `reads` and `writes` are found by the service's name.

    `patience_s`: how long a group may stand still, or a message not come, until it counts as never. `settle_s`: how
    long nothing more may come until what came counts as all. `bodies` holds own bodies, as <type>/<name>.json.
    """

    bootstrap: str
    service: str
    groups: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    bodies: Path | None = None
    restart: str = ""
    patience_s: float = 30.0
    settle_s: float = 3.0
    is_test_broker: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """What a run found."""

    service: str
    tenant: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    findings: list[Finding]

    @property
    def failed(self) -> list[Finding]:
        """What is not as the contracts ask."""
        return [finding for finding in self.findings if finding.result is Result.FAIL]


async def run(target: Target, told: Told, catalogue: Catalogue = CATALOGUE) -> Report:
    """Hit the service and judge it. `told(what, done, all)` hears of the progress. Raises `Unfit`, `KafkaError`."""
    tenant = f"conformance-{secrets.token_hex(6)}"
    _refuse_strangers(target)
    async with Wire(target.bootstrap, tenant) as wire:
        partitions = await wire.partitions()
        if CONNECTIONS in partitions and not target.is_test_broker and (real := await wire.production_connections()):
            raise Unfit(f"this broker has connections of environment production ({real[0]} …): {_FLAG}")
        groups, reads = await _reads(wire, target, catalogue, partitions)
        writes = target.writes or own_topics(target.service, partitions, catalogue)
        if missing := [name for name in writes if name not in partitions]:
            raise Unfit(f"there is no topic {missing[0]}: name with --writes what it publishes")
        await wire.listen({name: partitions[name] for name in writes})
        author = Author(tenant, catalogue, partitions)
        drive = _Drive(target, wire, groups, told, Evidence(catalogue, outputs=wire.outputs, writes=writes))
        await drive.everything(author, reads)
    findings = _may_read(target.service, reads, catalogue) + judge(drive.evidence)
    return Report(target.service, tenant, reads, writes, findings)


_FLAG: Final = "say --yes-this-is-a-test-broker if nothing on it is real"


def _refuse_strangers(target: Target) -> None:
    """Poison belongs on no broker that somebody sells with, and no broker says of itself what it is for."""
    if target.is_test_broker:
        return
    if os.environ.get("SALDO_ENVIRONMENT") == "production":
        raise Unfit(f"SALDO_ENVIRONMENT is production: {_FLAG}")
    for address in target.bootstrap.split(","):
        if not is_loopback(address.strip().rpartition(":")[0].strip("[]")):
            raise Unfit(f"{address} is not on this machine, and the kit writes what nobody can read: {_FLAG}")


async def _reads(
    wire: Wire, target: Target, catalogue: Catalogue, partitions: Mapping[str, int]
) -> tuple[list[str], tuple[str, ...]]:
    """The groups of the service and the streams of the catalogue that it reads."""
    there = await wire.groups()
    own = [name for name in there if name == target.service or name.startswith(f"{target.service}.")]
    groups = list(target.groups) or own
    if missing := [name for name in groups if name not in there]:
        raise Unfit(f"there is no consumer group {missing[0]}; there are: {', '.join(there) or 'none'}")
    if not groups:
        raise Unfit(f"no consumer group is named {target.service} or {target.service}.…: start it, or give --group")
    found = set().union(*(await wire.read_by(groups)).values())
    reads = target.reads or tuple(name for name in catalogue.streams if name in found)
    if unknown := [name for name in reads if name not in catalogue.streams]:
        raise Unfit(f"{unknown[0]} is no stream of the catalogue: see `saldo topics`")
    if not reads:
        raise Unfit(f"{', '.join(groups)} read no stream of the catalogue yet: give --reads STREAM")
    if missing := [name for name in reads if name not in partitions]:
        raise Unfit(f"the broker has no topic {missing[0]}: make it with `saldo topics --create`")
    return groups, reads


def own_topics(service: str, topics: Iterable[str], catalogue: Catalogue) -> tuple[str, ...]:
    """What a service publishes, by its name; its streams of commands are written by others."""
    commands = {stream.name for stream in catalogue.streams.values() if stream.kind is StreamKind.COMMANDS}
    return tuple(sorted(name for name in topics if name.startswith(f"{service}.") and name not in commands))


def _may_read(service: str, reads: Sequence[str], catalogue: Catalogue) -> list[Finding]:
    personal = [catalogue.streams[name] for name in reads if catalogue.streams[name].readers]
    return [
        Finding(
            "personal data", stream.name, Result.PASS if service in stream.readers else Result.FAIL,
            f"{service} reads it; it is for {', '.join(stream.readers)}",
        )
        for stream in personal
    ]  # fmt: skip


@final
class _Drive:
    """Sends cases and waits for what comes of them."""

    def __init__(self, target: Target, wire: Wire, groups: Sequence[str], told: Told, evidence: Evidence) -> None:
        self._target, self._wire, self._groups, self._told = target, wire, groups, told
        self.evidence = evidence
        self._stuck: set[str] = set()

    async def everything(self, author: Author, reads: Sequence[str]) -> None:
        """First what makes it speak, then all else, stream by stream; at last what needs a restart."""
        scripts = {}
        for stream in reads:
            entries = author.catalogue.types_of(stream)
            bodies: dict[str, list[Body]] = {entry.name: bodies_of(entry, self._target.bodies) for entry in entries}
            several = written.samples(author, stream, {name: found for name, found in bodies.items() if found})
            self._told(f"samples of {stream}", 0, 0)
            await self._send([case for _, case in several])
            await self._settled([])
            scripts[stream] = self._speaking(stream, several)
        for stream in reads:
            following = list(written.cases(author, stream, scripts[stream]))
            for number, case in enumerate(following):
                self._told(f"{stream}: {case.check}, {case.what}", number, len(following))
                await self._send([case])
            await self._settled([case for case in following if case.stream in self.evidence.tells])
        if self._target.restart:
            await self._restart(author, scripts)
            await self._settled(self.evidence.cases)

    def _speaking(self, stream: str, several: Sequence[tuple[Script, Case]]) -> Script:
        """The first script that led to messages, the ones of a single body first; else the first of all."""
        known = self.evidence.attributed()
        for script, case in sorted(several, key=lambda one: len(one[0])):
            if told := known.told(case.probes[0].aggregate):
                self.evidence.tells[stream] = told
                return script
        return several[0][0]

    async def _send(self, cases: Sequence[Case]) -> None:
        """Send `cases` together and wait until the groups are past them; nothing to a stream that stands still."""
        evidence = self.evidence
        numbers = range(len(evidence.cases), len(evidence.cases) + len(cases))
        evidence.cases += cases
        if any(case.stream in self._stuck for case in cases):
            return
        ends = await self._wire.send([one for case in cases for one in case.sent])
        went_past = await self._past(ends)
        evidence.passed |= dict.fromkeys(numbers, went_past)
        if not went_past:
            self._stuck |= {case.stream for case in cases}

    async def _past(self, ends: Mapping[tuple[str, int], int]) -> bool:
        """True as soon as every end is committed; False when for `patience_s` nothing has moved."""
        clock, streams = asyncio.get_running_loop().time, {topic for topic, _ in ends}
        moved_at, seen = clock(), dict[tuple[str, int], int]()
        while True:
            committed = await self._wire.committed(self._groups, streams)
            read = {topic for topic, _ in committed}
            # Of two majors a service reads one: the other's topic has no offsets of it.
            if read and all(committed.get(place, -1) >= end for place, end in ends.items() if place[0] in read):
                return True
            if committed != seen:
                moved_at, seen = clock(), committed
            if clock() - moved_at > self._target.patience_s:
                return False
            await asyncio.sleep(LOOK_EVERY_S)

    async def _settled(self, expecting: Sequence[Case]) -> None:
        """Wait until nothing more comes, and longer while probes of `expecting` led to nothing yet."""
        clock, outputs = asyncio.get_running_loop().time, self.evidence.outputs
        aggregates = {probe.aggregate for case in expecting for probe in case.probes}
        heard, heard_at = len(outputs), clock()
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if len(outputs) != heard:
                heard, heard_at = len(outputs), clock()
            quiet_s = clock() - heard_at
            if quiet_s < self._target.settle_s:
                continue
            known = self.evidence.attributed()
            complete = all(known.by_aggregate[aggregate] for aggregate in aggregates)
            if complete or quiet_s > self._target.patience_s or self._stuck:
                return

    async def _restart(self, author: Author, scripts: Mapping[str, Script]) -> None:
        """Good events before, while and after the person's command starts the service again."""
        stream = next((name for name in scripts if name in self.evidence.tells), next(iter(scripts)))
        self._told(f"restart, {self._target.restart}", 0, 0)
        cases = written.restart(author, stream, scripts[stream])
        if stream in self._stuck:
            self.evidence.cases += cases
            return
        command = await asyncio.create_subprocess_exec(*shlex.split(self._target.restart))
        for case in cases[:-1]:
            await self._wire.send(case.sent)
            await asyncio.sleep(LOOK_EVERY_S)
        if code := await command.wait():
            raise Unfit(f"{self._target.restart} ended with {code}: it has to start the service again")
        numbers = range(len(self.evidence.cases), len(self.evidence.cases) + len(cases) - 1)
        self.evidence.cases += cases[:-1]
        await self._send(cases[-1:])
        self.evidence.passed |= dict.fromkeys(numbers, self.evidence.passed[len(self.evidence.cases) - 1])
