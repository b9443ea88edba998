"""What was done and what was told, a JSON line each, and what had to come in order by its key."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from contracts.channels.v1 import SaleReported
from contracts.envelope import Envelope, Message
from contracts.fulfillment.v1 import ShipmentFact
from contracts.inventory.v1 import DemandMet, DemandShort, StockLevelChanged
from contracts.orders.v1 import OrderFact
from contracts.payments.v1 import PaymentFact
from services.console.demo.evidence import Heard


class History:
    """`with History(path) as history`: a file of JSON lines `{at_ms, what, ...}`, each on disk when `note` returns."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: TextIO | None = None

    def __enter__(self) -> Self:
        self._file = self._path.open("w", buffering=1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file:
            self._file.close()

    def note(self, what: str, **told: Any) -> None:
        """Write a line."""
        assert self._file is not None
        self._file.write(json.dumps({"at_ms": round(time.time() * 1000), "what": what, **told}) + "\n")


@dataclass(slots=True)
class Ordered(Heard):
    """What was heard, and in `overtaken` every event that came after a later one of its key.

    Sales of the connection `dirty` are left out: there somebody mixes them up.
    """

    dirty: str = ""
    overtaken: list[str] = field(default_factory=list)
    latest: dict[tuple[str, str], tuple[int, ...]] = field(default_factory=dict)

    def add(self, envelope: Envelope, message: Message) -> bool:
        """Take one event in; False for a second copy."""
        if not Heard.add(self, envelope, message):
            return False
        place = self._place(message)
        if place:
            key, number = place
            if number < self.latest.get(key, number):
                self.overtaken.append(f"{envelope.type} {key[1]}: {number} after {self.latest[key]}")
            self.latest[key] = max(number, self.latest.get(key, number))
        return True

    def _place(self, message: Message) -> tuple[tuple[str, str], tuple[int, ...]] | None:
        match message:
            case SaleReported() if message.connection_id != self.dirty:
                return ("sale", message.order_id), (message.revision,)
            case DemandMet() | DemandShort():
                return ("outcome", message.order_id), (message.revision,)
            case StockLevelChanged():
                return ("level", message.sku), (message.epoch, message.version)
            case OrderFact():
                return ("order", message.order_id), (message.version,)
            case PaymentFact():
                return ("payment", message.payment_id), (message.version,)
            case ShipmentFact():
                return ("shipment", message.shipment_id), (message.version,)
            case _:
                return None
