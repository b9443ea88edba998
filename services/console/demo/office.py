"""The people of a demo: who writes invoices, who drives parcels, who looks at goods that come back. Never tired.

What the retailer's people do goes the way of every person's deed: through the services' own admin listeners. The
courier takes labelled parcels over at his own system, which then tells what it scanned.
"""

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from typing import Any, Final

import httpx

from contracts.fulfillment.v1 import LabelCreated, ShipmentDelivered
from services.border.tax_ids import mod_11
from services.console.client import Admin, AdminError
from services.console.demo.journeys import Journeys
from services.console.instance import Address

TAX_ID: Final = "11222333000181"
"""A CNPJ with valid check digits."""

STATE, MODEL, SERIES, NORMAL = "35", "55", "001", "1"
RETURN_SHARE, DAMAGED_SHARE = 0.03, 0.4
DAYS = (1.0, 4.0)
PAUSE_S, AGAIN_S = 0.1, 0.3
TRIES: Final = 100
HANDS: Final = 6
NOT_YET: Final = {0, HTTPStatus.CONFLICT, HTTPStatus.NOT_FOUND, HTTPStatus.SERVICE_UNAVAILABLE}
"""Who answers so has not heard of the order yet, or is just being started again: asked once more."""


def invoice_key(number: int, issued_at: datetime) -> str:
    """An access key of the company's NF-e (Manual de Orientação do Contribuinte, NF-e 4.00): 43 places and a digit."""
    body = f"{STATE}{issued_at:%y%m}{TAX_ID}{MODEL}{SERIES}{number:09}{NORMAL}{number % 100_000_000:08}"
    return body + mod_11(body)


def invoice_xml(number: int, issued_at: datetime, total_minor: int, order: str) -> str:
    """The NF-e of an order (layout 4.00): who issued what, when, over how much. Nobody signs it: it is a sandbox's."""
    key = invoice_key(number, issued_at)
    return (
        f'<NFe xmlns="http://www.portalfiscal.inf.br/nfe"><infNFe Id="NFe{key}" versao="4.00">'
        f"<ide><cUF>{STATE}</cUF><natOp>Venda</natOp><mod>{MODEL}</mod><serie>{int(SERIES)}</serie><nNF>{number}</nNF>"
        f"<dhEmi>{issued_at.isoformat(timespec='seconds')}</dhEmi></ide>"
        f"<emit><CNPJ>{TAX_ID}</CNPJ><xNome>Saldo Demonstracao Ltda</xNome></emit>"
        f"<total><ICMSTot><vNF>{total_minor // 100}.{total_minor % 100:02}</vNF></ICMSTot></total>"
        f"<compra><xPed>{order}</xPed></compra></infNFe></NFe>"
    )


@dataclass(slots=True)
class Office:
    """Writes the invoice of every order that is confirmed, and another where the order is over another sum since; hands
    over every parcel that has its label, and takes back a few that were delivered.

    `run` goes on until it is cancelled. `refused` has what a service said no to, in its words. `courier` is the
    carrier's own system, for the account of this company. Each deed is tried `tries` times, `AGAIN_S` apart.
    """

    admin: Admin
    courier: Address
    journeys: Journeys
    seed: int
    return_share: float = RETURN_SHARE
    tries: int = TRIES
    invoiced: int = 0
    returned: int = 0
    refused: list[str] = field(default_factory=list)
    _written: dict[str, tuple[str, int]] = field(default_factory=dict)
    _hands: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(HANDS))
    _http: httpx.AsyncClient = field(default_factory=lambda: httpx.AsyncClient(trust_env=False))

    async def run(self) -> None:
        """Follow what is heard, a few deeds at a time."""
        seen: set[str] = set()
        confirmed = changed = labelled = delivered = 0
        numbers = itertools.count(1)
        async with self._http, asyncio.TaskGroup() as deeds:
            while True:
                for order_id in self.journeys.confirmed[confirmed:]:
                    confirmed += 1
                    if order_id not in seen:
                        seen.add(order_id)
                        deeds.create_task(self._do(partial(self._invoice, order_id, next(numbers))))
                for order_id in self.journeys.changed[changed:]:
                    changed += 1
                    if order_id in seen:
                        deeds.create_task(self._do(partial(self._invoice, order_id, next(numbers))))
                for label in self.journeys.labelled[labelled:]:
                    labelled += 1
                    deeds.create_task(self._do(partial(self._hand_over, label)))
                for parcel in self.journeys.delivered[delivered:]:
                    delivered += 1
                    draw = random.Random(f"{self.seed} {parcel.shipment_id}")  # noqa: S311 - a repeatable crowd
                    if parcel.shipment_id not in seen and draw.random() < self.return_share:
                        deeds.create_task(self._do(partial(self._take_back, parcel, draw.random() < DAMAGED_SHARE)))
                    seen.add(parcel.shipment_id)
                await asyncio.sleep(PAUSE_S)

    async def _do(self, deed: Callable[[], Awaitable[bool]]) -> None:
        for _ in range(self.tries):
            async with self._hands:
                if await deed():
                    return
            await asyncio.sleep(AGAIN_S)  # Meanwhile the hand does something else.
        self.refused.append(f"given up after {self.tries} tries: {deed}")

    async def _post(self, service: str, path: str, body: dict[str, Any]) -> bool | None:
        """True: done; False: to be tried again; None: refused."""
        try:
            await asyncio.to_thread(self.admin.post, service, path, body)
        except AdminError as error:
            if error.status in NOT_YET:
                return False
            self.refused.append(str(error))
            return None
        return True

    async def _invoice(self, order_id: str, number: int) -> bool:
        journey = self.journeys.by_order[order_id]
        owing = journey.owing
        if journey.ended or owing is None or owing.due_minor is None:
            return journey.ended
        void, over_minor = self._written.get(order_id, ("", None))
        if over_minor == owing.due_minor or any(one.dispatched for one in journey.parcels.values()):
            return True
        now = datetime.now(UTC)
        xml = invoice_xml(number, now, owing.due_minor, order_id)
        given = {"order_id": order_id, "order_version": owing.version, "xml": xml}
        done = await self._post("erp", "invoices", given | ({"replaces": void} if void else {}))
        if done:
            self._written[order_id] = invoice_key(number, now), owing.due_minor
            self.invoiced += not void
        return done is not False

    async def _hand_over(self, label: LabelCreated) -> bool:
        days = random.Random(f"{self.seed} {label.shipment_id}").uniform(*DAYS)  # noqa: S311 - a repeatable crowd
        body = {"tracking_code": label.tracking_code, "shipment_id": label.shipment_id, "days": days}
        headers = {"Authorization": f"Bearer {self.courier.token}"}
        try:
            answer = await self._http.post(f"{self.courier.base_url}/table/v1/parcels", json=body, headers=headers)
        except httpx.TransportError:
            return False
        if answer.is_client_error:
            self.refused.append(f"the courier answered {answer.status_code}")
        return not answer.is_server_error

    async def _take_back(self, parcel: ShipmentDelivered, damaged: bool) -> bool:
        lines = [
            line.model_dump() | {"location": parcel.location, "state": "damaged" if damaged else "available"}
            for line in parcel.lines
        ]
        done = await self._post(
            "fulfillment", f"parcels/{parcel.shipment_id}/return", {"return_id": "back-1", "lines": lines}
        )
        self.returned += done is True
        return done is not False
