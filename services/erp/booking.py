"""The loop that takes products from a company's ERP and books its sales there.

What is about to be booked is committed before, what came of it after. A process that ends between any two steps leaves
rows that are `going`; whoever takes them up asks the ERP first what there is.
"""

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any, Final, TypeAlias, final
from uuid import UUID, uuid5

import asyncpg
import structlog
from pydantic import ValidationError

from contracts.erp.v1 import DocumentBooked, DocumentRejected
from contracts.inventory.v1 import PutItem
from services.border.errors import OutcomeUnknown, Rejected, Throttled
from services.border.limiter import Limiter
from services.border.vault import Vault
from services.bus import Cause, Transaction
from services.erp import bookings
from services.erp.bookings import Due
from services.erp.domain import item_wanted, sale_of
from services.erp.settings import ErpSettings
from services.erp.store import Key
from services.erp.targets.tryton import Login, Outcome, Product, Refused, Tryton

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
LOGIN_FIELD: Final = "login"
NAME_MAX: Final = 1000
UNFIT_SHOWN: Final = 20
_NAMESPACE: Final = UUID("0f6d9b1e-6a53-5c39-8a8e-3f0c6a3f6f7b")

_log = structlog.get_logger("saldo.erp")


@final
class Booker:
    """Looks at every target that has something due, all at once; one that fails keeps nobody else waiting."""

    def __init__(
        self,
        transaction: Callable[[], AbstractAsyncContextManager[Transaction]],
        vault: Vault,
        settings: ErpSettings,
        point: Callable[[str], None],
    ) -> None:
        self._transaction, self._vault, self._settings, self._point = transaction, vault, settings, point

    async def run(self) -> None:
        """Look again and again; never returns."""
        going: dict[Key, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                async with self._transaction() as tx:
                    due = await bookings.due_targets(tx.connection, tx.now)
                going = {key: task for key, task in going.items() if not task.done()}
                for key in due:
                    if key not in going:
                        going[key] = group.create_task(self.visit(*key))
                await asyncio.sleep(self._settings.look_every_s)

    async def visit(self, tenant: str, target: str) -> None:
        """Do what is due at one target, and keep what came of it for people to see."""
        told: dict[str, Any] = {"error": "", "sales": {}}
        async with self._transaction() as tx:
            began_at, row = tx.now, await bookings.read_target(tx.connection, tenant, target)
        if row is None:
            return
        try:
            async with self._session(row) as tryton:
                if items := await self._take_items(tryton, tenant, target):
                    told["items"] = items
                told["sales"] = await self._book_all(tryton, tenant, target)
        except (Throttled, Rejected, OutcomeUnknown, Refused) as error:
            told["error"] = str(error)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            raise
        except Exception as error:  # noqa: BLE001 - an answer of any other shape ends this look alone
            told["error"] = f"an answer that is not understood ({type(error).__name__})"
        if told["error"]:
            _log.warning("target failed", tenant=tenant, target=target, error=told["error"])
        async with self._transaction() as tx:
            pause = timedelta(seconds=self._settings.retry_s if told["error"] else 0)
            await bookings.tell(tx.connection, tenant, target, began_at, tx.now + pause, told)

    def _session(self, row: asyncpg.Record) -> Tryton:
        sealed, tenant, target = row["login_sealed"], row["tenant"], row["target"]
        login = json.loads(self._vault.open(sealed, tenant=tenant, owner=target, field=LOGIN_FIELD))
        return Tryton(
            Login(row["base_url"], row["database"], login["user"], login["password"]),
            Limiter({}, time.monotonic),
            warehouse=row["warehouse"],
            public_only=row["environment"] != "sandbox",
            timeout_s=self._settings.call_timeout_s,
        )

    # -- products in -----------------------------------------------------------------------------------------------

    async def _take_items(self, tryton: Tryton, tenant: str, target: str) -> dict[str, Any] | None:
        async with self._transaction() as tx:
            next_at = tx.now + timedelta(seconds=self._settings.items_every_s)
            if not await bookings.claim_items(tx.connection, tenant, target, tx.now, next_at):
                return None
        seen: set[str] = set()
        sent, unfit = 0, set[str]()
        async for page in tryton.products():
            unfit |= {product.code for product in page if product.code in seen}
            seen |= {product.code for product in page}
            # Two products of one code on one page: which of them is meant is not for us to say.
            codes = [product.code for product in page]
            unfit |= {code for code in codes if codes.count(code) > 1}
            told, wrong = await self._put(tenant, target, [one for one in page if one.code not in unfit])
            sent, unfit = sent + told, unfit | wrong
        return {"products": len(seen), "sent": sent, "unfit": sorted(unfit)[:UNFIT_SHOWN], "unfit_in_all": len(unfit)}

    async def _put(self, tenant: str, target: str, products: list[Product]) -> tuple[int, set[str]]:
        """Send commands for products whose items are not like them; how many, and codes that can be no item's."""
        sent, unfit = 0, set[str]()
        async with self._transaction() as tx:
            known = await bookings.read_items(tx.connection, tenant, [product.code for product in products])
            for product in products:
                item, name = known.get(product.code), " ".join(product.name.split())[:NAME_MAX]
                try:
                    command = item_wanted(item, product.code, name, active=product.active)
                except ValidationError:
                    unfit.add(product.code)
                    continue
                if command is None:
                    continue
                command_id = _command_id(tenant, target, command, (item.epoch, item.version) if item else (0, 0))
                if await bookings.send_once(tx.connection, tenant, target, product.code, command_id):
                    tx.publish(command, tenant=tenant, cause=Cause("", command_id), event_id=command_id)
                    sent += 1
        return sent, unfit

    # -- sales out -------------------------------------------------------------------------------------------------

    async def _book_all(self, tryton: Tryton, tenant: str, target: str) -> dict[str, int]:
        counts: dict[str, int] = {}
        while True:
            async with self._transaction() as tx:
                hold = tx.now + timedelta(seconds=self._settings.lot_timeout_s + self._settings.call_timeout_s)
                lot = await bookings.claim(tx.connection, tenant, target, tx.now, hold, self._settings.lot)
            if not lot:
                return counts
            self._point("booking.claimed")
            for state, number in (await self._book(tryton, tenant, target, lot)).items():
                counts[state] = counts.get(state, 0) + number

    async def _book(self, tryton: Tryton, tenant: str, target: str, lot: list[Due]) -> dict[str, int]:
        offset = timedelta(hours=self._settings.utc_offset_h)
        sales = [sale for due in lot if (sale := sale_of(due.order_id, due.order, offset))]
        try:
            # Nobody may go on with a lot that another process may take up.
            async with asyncio.timeout(self._settings.lot_timeout_s):
                outcomes = await tryton.book(sales, lambda step: self._point(f"booking.{step}"))
        except (Throttled, Rejected, Refused):
            # Nothing of the last call was done, and what was done before is asked for.
            await self._settle(tenant, target, lot, {})
            raise
        except TimeoutError:
            raise OutcomeUnknown("a lot took longer than ERP_LOT_TIMEOUT_S") from None
        self._point("booking.answered")
        return await self._settle(tenant, target, lot, outcomes)

    async def _settle(self, tenant: str, target: str, lot: list[Due], outcomes: dict[str, Outcome]) -> dict[str, int]:
        counts = {"booked": 0, "rejected": 0, "again": 0}
        async with self._transaction() as tx:
            for due in lot:
                outcome = outcomes.get(due.order_id)
                if outcome is None and due.tries >= self._settings.tries_max:
                    outcome = Outcome(reason="not_finished_there")
                state = "wanted" if outcome is None else "rejected" if outcome.reason else "booked"
                about = outcome or Outcome()
                settled = await bookings.settle(
                    tx.connection, tenant, target, due.order_id, state, tx.now, reference=about.reference,
                    reason=about.reason, due_at=tx.now + timedelta(seconds=self._settings.retry_s),
                )  # fmt: skip
                if settled and outcome:
                    for fact in facts(due.order_id, target, outcome, tx):
                        tx.publish(fact, tenant=tenant, cause=due.cause)
                counts["again" if outcome is None else state] += 1
        self._point("booking.settled")
        return counts


def facts(order_id: str, target: str, outcome: Outcome, tx: Transaction) -> list[DocumentBooked | DocumentRejected]:
    """What is told of an order: its sale, and every shipment of it."""
    sale = f"{order_id}:sale"
    if outcome.reason:
        return [
            DocumentRejected(
                order_id=order_id, document_id=sale, kind="sale", target=target, reason=outcome.reason, at=tx.now
            )
        ]
    told = [("sale", sale, outcome.reference)]
    told += [("shipment", f"{order_id}:shipment:{number}", number) for number in outcome.shipments]
    return [
        DocumentBooked(
            order_id=order_id, document_id=document_id, kind=kind, target=target, reference=reference, at=tx.now
        )
        for kind, document_id, reference in told
    ]


def _command_id(tenant: str, target: str, command: PutItem, position: tuple[int, int]) -> str:
    """The same for the same change of the same item, so that a command that is sent again is known."""
    return str(uuid5(_NAMESPACE, json.dumps([tenant, target, command.model_dump_json(), *position])))
