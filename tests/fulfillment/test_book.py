"""Labels are bought once, whatever answers get lost."""

import asyncio
import io
import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import asyncpg
import pypdfium2
import pytest
import pytest_asyncio
import structlog

from contracts.crm.v1 import CustomerErased
from contracts.envelope import Message
from contracts.fulfillment.v1 import LabelCreated, ShipmentFailed
from services.border.errors import OutcomeUnknown, Rejected, Unreachable
from services.bus import Transaction
from services.fulfillment import store
from services.fulfillment.book import Book, printed
from services.fulfillment.carriers.carrier import Bought, Carrier, Parcel, Purchase, Seen, Traits
from services.fulfillment.carriers.table import TableCarrier
from services.fulfillment.handlers import try_again
from services.fulfillment.labels import Place
from services.fulfillment.rates import Quote, Rate
from services.fulfillment.recipient import recipient
from services.fulfillment.tracking import is_tracking_code
from services.fulfillment.wake import Wake
from tests.fulfillment.bench import SETTINGS, VAULT, Connection, hear, known, within
from tests.fulfillment.given import NOW, ORDER, SHIPMENT, buyer, cancel, prepare

AUTO = SETTINGS.model_copy(update={"auto_pack": True})
ORIGIN = Place("Loja Exemplo", "Rua Um", "1", "", "Centro", "Recife", "PE", "50000-000")
PAC = Rate("ECT", "pac", "01000000", "09999999", 30_000, 1990, "BRL", 3, 7)
QUOTE = Quote("ECT", "pac", 1990, "BRL", 3, 7)
SEDEX = Rate("ECT", "sedex", "01000000", "09999999", 30_000, 3990, "BRL", 1, 2)


_numbers = itertools.count()


class Died(Exception):
    """The process ended here."""


@dataclass
class Remote:
    """A carrier with books; `fails` says what becomes of the next calls, by name of the method."""

    traits: Traits = field(default_factory=lambda: Traits("remote", late_s=30, follows=False))
    bought: dict[str, Bought] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    fails: dict[str, list[Exception]] = field(default_factory=dict)
    price_minor: int = 100

    def _answer(self, method: str) -> None:
        self.asked.append(method)
        if self.fails.get(method):
            raise self.fails[method].pop(0)

    async def quote(self, parcel: Parcel) -> Sequence[Quote]:
        del parcel
        self._answer("quote")
        return [Quote("loggi", "express", self.price_minor, "BRL", 1, 1)]

    async def buy(self, parcel: Parcel, purchase: Purchase) -> Bought:
        del parcel
        if not isinstance(next(iter(self.fails.get("buy", ())), None), Rejected | Unreachable):
            assert purchase.key not in self.bought, "bought twice"
            self.bought[purchase.key] = Bought(
                f"ref-{purchase.key}", f"LG{purchase.serial:06d}", price_minor=99, currency="BRL"
            )
        self._answer("buy")
        return self.bought[purchase.key]

    async def resume(self, parcel: Parcel, purchase: Purchase) -> Bought:
        self._answer("resume")
        return self.bought.get(purchase.key) or await self.buy(parcel, purchase)

    async def cancel(self, purchase: Purchase, reference: str) -> bool:
        assert self.bought[purchase.key].reference == reference
        self._answer("cancel")
        return True

    async def track(self, references: Sequence[str]) -> Mapping[str, Sequence[Seen]]:
        del references
        self._answer("track")
        return {}

    def verify(self, headers: Mapping[str, str], body: bytes) -> None:
        del headers, body
        self._answer("verify")

    def named(self, body: bytes) -> str:
        self._answer("named")
        return body.decode()


@dataclass
class World:
    """A book on a database, its clock, and what it told."""

    connection: Connection
    pool: asyncpg.Pool
    now: datetime = NOW
    told: list[Message] = field(default_factory=list)
    dies: str = ""
    transactions: int = 0

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Transaction]:
        self.transactions += 1
        async with self.pool.acquire() as connection, connection.transaction():
            tx = Transaction(connection, self.now, lambda: f"label-{next(_numbers)}")
            yield tx
        self.told += [one.message for one in tx.publications]

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        return self._open()

    def point(self, name: str) -> None:
        if name == self.dies:
            self.dies = ""
            raise Died

    async def rates(self, tenant: str) -> Sequence[Rate]:
        async with self.pool.acquire() as connection:
            return (await store.read_rates(connection, [tenant]))[tenant]

    def book(self, remote: Carrier | None = None, **settings: float) -> Book:
        carriers: dict[str, Carrier] = {"table": TableCarrier(self.rates)}
        if remote:
            carriers["remote"] = remote

        async def of(tenant: str) -> dict[str, Carrier]:
            del tenant
            return carriers

        return Book(self.transaction, of, VAULT, AUTO.model_copy(update=settings), self.point)

    def failures(self) -> list[str]:
        return [fact.reason for fact in self.told if isinstance(fact, ShipmentFailed)]

    def labels(self) -> list[LabelCreated]:
        return [fact for fact in self.told if isinstance(fact, LabelCreated)]


@pytest_asyncio.fixture
async def world(connection: Connection, database: str) -> AsyncIterator[World]:
    """A packed shipment that may be labelled, rates for its postcode, and where it leaves from."""
    await store.put_rates(connection, "acme", [PAC, SEDEX])
    await store.put_origin(connection, "acme", "main", ORIGIN)
    async with asyncpg.create_pool(database, min_size=1, max_size=4) as pool:
        yield World(connection, pool)


async def wants(world: World, **fields: Any) -> None:
    await hear(world.connection, buyer())
    await hear(world.connection, prepare(**fields), settings=AUTO)


async def want(world: World, number: int) -> None:
    """Several shipments may be labelled, each of an order of its own."""
    orders = [f"order-{n}" for n in range(number)]
    await hear(world.connection, *(buyer(order_id) for order_id in orders))
    prepared = (prepare(order_id=order_id, shipment_id=f"{order_id}:s1") for order_id in orders)
    await hear(world.connection, *prepared, settings=AUTO)


async def labels(world: World, number: int) -> None:
    """Return when there are so many labels."""
    for _ in range(6000):
        if len(world.labels()) == number:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{len(world.labels())} labels")


def text_of(page: bytes) -> str:
    document = pypdfium2.PdfDocument(io.BytesIO(page))
    return str(document[0].get_textpage().get_text_range())


@pytest.mark.asyncio
async def test_the_own_table_makes_a_label_with_the_cheapest_rate(world: World) -> None:
    await wants(world)
    assert await world.book().work_off() == 1

    [label] = world.labels()
    assert (label.carrier, label.service) == ("ECT", "pac")
    assert is_tracking_code(label.tracking_code)
    kept = await store.read_label(world.connection, "acme", label.label_id)
    assert kept is not None
    fields = VAULT.open(kept[1], tenant="acme", owner=label.label_id, field="fields")
    shown = text_of(printed(fields, "pdf"))
    assert "Ana Exemplo" in shown
    assert label.tracking_code in shown
    assert b"Rua das Flores" in printed(fields, "zpl")
    assert b"Flores" not in kept[1]
    assert await world.book().work_off() == 0


@pytest.mark.asyncio
async def test_a_buyer_that_does_not_unseal_holds_up_his_own_label_alone(world: World) -> None:
    await want(world, 2)
    await world.connection.execute("UPDATE buyers SET sealed = '\\x00' WHERE order_id = 'order-0'")

    with structlog.testing.capture_logs() as logs:
        await world.book().work_off()

    assert [label.order_id for label in world.labels()] == ["order-1"]
    assert [(one["log_level"], one["shipment"]) for one in logs] == [("error", "order-0:s1")]


@pytest.mark.asyncio
async def test_the_service_that_the_sale_names_is_taken(world: World) -> None:
    await wants(world, carrier="Correios", service="SEDEX")
    await world.book().work_off()

    assert [label.service for label in world.labels()] == ["sedex"]


@pytest.mark.asyncio
async def test_many_parcels_are_written_together(world: World) -> None:
    await want(world, 20)
    assert await world.book(Remote()).work_off() == 20

    assert len(world.labels()) == 20
    # One claims, one begins, one keeps what the carrier answered; a busy machine may need some more.
    assert world.transactions <= 10


@pytest.mark.asyncio
async def test_a_parcel_whose_answer_cannot_be_kept_keeps_no_other_back(world: World) -> None:
    class Double(Remote):
        """Gives two parcels one tracking code."""

        async def buy(self, parcel: Parcel, purchase: Purchase) -> Bought:
            bought = await super().buy(parcel, purchase)
            return replace(bought, tracking_code=min(bought.tracking_code, "LG000002"))

    await want(world, 4)
    assert await world.book(Double()).work_off() == 4

    assert len(world.labels()) == 2
    states = {(await known(world.connection, order_id=f"order-{n}", one=f"order-{n}:s1")).state for n in range(4)}
    assert states == {"labelled", "buying"}


@pytest.mark.asyncio
async def test_a_carrier_that_does_not_answer_keeps_no_other_parcel_waiting(world: World) -> None:
    class Slow(Remote):
        """Has one parcel that it never answers about."""

        async def buy(self, parcel: Parcel, purchase: Purchase) -> Bought:
            if purchase.key.startswith("order-0:"):
                await asyncio.Event().wait()
            return await super().buy(parcel, purchase)

    await want(world, 3)
    wake = Wake()
    running = asyncio.create_task(world.book(Slow()).run(wake))
    try:
        await labels(world, 2)
        # What comes later does not wait for the one that is stuck either.
        await wants(world)
        wake()
        await labels(world, 3)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert {label.order_id for label in world.labels()} == {"order-1", "order-2", ORDER}


@pytest.mark.asyncio
async def test_a_call_that_outlasts_its_claim_is_looked_up_later(world: World) -> None:
    class Lost(Remote):
        """Buys, and never says so."""

        async def buy(self, parcel: Parcel, purchase: Purchase) -> Bought:
            await super().buy(parcel, purchase)
            return await asyncio.Future()

    lost = Lost()
    await wants(world)
    await world.book(lost, book_lease_s=0.5).work_off()
    assert (await known(world.connection)).state == "buying"

    world.now += timedelta(seconds=31)
    await world.book(lost).work_off()
    assert lost.asked == ["quote", "buy", "resume"]
    assert len(world.labels()) == 1


@pytest.mark.asyncio
async def test_a_parcel_that_nobody_takes_waits_for_new_rates(world: World) -> None:
    await world.connection.execute("DELETE FROM rates")
    await wants(world)
    await world.book().work_off()
    assert world.failures() == ["no_service"]
    assert await world.book().work_off() == 0

    await store.put_rates(world.connection, "acme", [PAC])
    await within(world.connection, partial(try_again, tenant="acme", settings=AUTO))
    await world.book().work_off()
    assert len(world.labels()) == 1


@pytest.mark.asyncio
async def test_a_buyer_without_an_address_is_waited_for(world: World) -> None:
    nowhere = buyer().model_copy(update={"addresses": ()})
    await hear(world.connection, nowhere)
    await hear(world.connection, prepare(), settings=AUTO)
    await world.book().work_off()
    assert world.failures() == ["no_address"]

    await hear(world.connection, buyer(), said_at=NOW + timedelta(seconds=1), settings=AUTO)
    await world.book().work_off()
    assert len(world.labels()) == 1


@pytest.mark.asyncio
async def test_a_postcode_that_no_label_can_show_is_refused_before_anything_is_paid(world: World) -> None:
    remote = Remote()
    nowhere = buyer().addresses[0].model_copy(update={"postal_code": "1001"})
    await hear(world.connection, buyer().model_copy(update={"addresses": (nowhere,)}))
    await hear(world.connection, prepare(), settings=AUTO)
    await world.book(remote).work_off()

    assert world.failures() == ["no_address"]
    assert remote.bought == {}


@pytest.mark.asyncio
async def test_a_purchase_without_an_answer_is_one_purchase(world: World) -> None:
    remote = Remote(fails={"buy": [OutcomeUnknown("no answer")]})
    await wants(world)
    await world.book(remote).work_off()
    assert (await known(world.connection)).state == "buying"
    assert await world.book(remote).work_off() == 0

    world.now += timedelta(seconds=31)
    await world.book(remote).work_off()

    assert remote.asked == ["quote", "buy", "resume"]
    [label] = world.labels()
    assert (label.carrier, label.price_minor) == ("loggi", 99)


@pytest.mark.asyncio
async def test_a_purchase_that_was_never_done_is_done_after_looking(world: World) -> None:
    remote = Remote(fails={"buy": [Unreachable(2)]})
    await wants(world)
    await world.book(remote).work_off()
    world.now += timedelta(seconds=3)
    await world.book(remote).work_off()

    assert remote.asked == ["quote", "buy", "resume", "buy"]
    assert len(world.labels()) == 1


@pytest.mark.asyncio
@pytest.mark.parametrize("point", ["book.saved", "book.answered", "book.settled"])
async def test_killed_anywhere_it_is_one_label(world: World, point: str) -> None:
    remote = Remote()
    world.dies = point
    await wants(world)
    with pytest.raises(Died):
        await world.book(remote).work_off()

    world.now += timedelta(seconds=AUTO.book_lease_s + 1)
    await world.book(remote).work_off()

    assert len(remote.bought) == len(world.labels()) == 1
    assert await world.connection.fetchval("SELECT count(*) FROM labels") == 1


@pytest.mark.asyncio
async def test_a_carrier_that_refuses_is_told_and_asked_again_on_a_word(world: World) -> None:
    remote = Remote(fails={"buy": [Rejected("no")]})
    await wants(world)
    await world.book(remote).work_off()
    assert world.failures() == ["refused_by_carrier"]

    await within(world.connection, partial(try_again, tenant="acme", settings=AUTO))
    await world.book(remote).work_off()
    assert list(remote.bought) == [f"{SHIPMENT}:2"]


@pytest.mark.asyncio
async def test_a_bought_label_is_given_back_when_the_shipment_is_not_wanted(world: World) -> None:
    remote = Remote(fails={"cancel": [OutcomeUnknown("no answer")]})
    await wants(world)
    await world.book(remote).work_off()
    await hear(world.connection, cancel())
    assert (await known(world.connection)).state == "stopping"
    await world.book(remote).work_off()
    world.now += timedelta(seconds=31)
    await world.book(remote).work_off()

    assert (await known(world.connection)).state == "cancelled"
    assert remote.asked[-2:] == ["cancel", "cancel"]


@pytest.mark.asyncio
async def test_a_label_goes_with_the_buyer(world: World) -> None:
    await wants(world)
    await world.book().work_off()
    await store.mark_for_erasure(world.connection, [("acme", ORDER)], NOW)
    assert await store.erase_due(world.connection, NOW, 10) == 0
    await hear(world.connection, cancel())
    await world.book().work_off()

    assert await store.erase_due(world.connection, NOW, 10) == 1
    assert await world.connection.fetchval("SELECT count(*) FROM labels") == 0


@pytest.mark.asyncio
async def test_nothing_of_an_erased_buyer_is_left_in_any_table(world: World) -> None:
    marked = buyer(document="39053344705", phones=("+5511987654321",), emails=("ana@loja.example",))
    await hear(world.connection, marked)
    await hear(world.connection, prepare(), settings=AUTO)
    await world.book().work_off()
    [label] = world.labels()
    await hear(world.connection, cancel())
    await world.book().work_off()
    gone = CustomerErased(customer_id="c", version=1, customer_refs=("ref-a",), order_ids=(ORDER,), at=NOW)
    await hear(world.connection, gone)
    assert await store.erase_due(world.connection, NOW, 10) == 1

    tables = [
        row[0] for row in await world.connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname='public'")
    ]
    rows = [str(tuple(row)) for table in tables for row in await world.connection.fetch(f'TABLE "{table}"')]
    assert any(SHIPMENT in row for row in rows)
    for word in ("Ana", "Flores", "39053344705", "987654321", "ana@", "ref-a"):
        assert [row for row in rows if word in row] == []
    assert await store.read_buyers(world.connection, [("acme", ORDER)]) == {}
    assert await store.read_label(world.connection, "acme", label.label_id) is None


@pytest.mark.asyncio
async def test_two_purchases_of_one_shipment_at_once_are_refused(world: World) -> None:
    await wants(world)
    call = {("acme", SHIPMENT): ("table", QUOTE)}
    await store.begin_calls(world.connection, call, NOW)

    with pytest.raises(asyncpg.UniqueViolationError):
        await store.begin_calls(world.connection, call, NOW)


@pytest.mark.asyncio
async def test_an_import_puts_new_prices_in_the_place_of_old_ones(world: World) -> None:
    await store.put_rates(world.connection, "acme", [replace(PAC, price_minor=5)])

    kept = await store.read_rates(world.connection, ["acme", "other"])
    assert set(kept["acme"]) == {replace(PAC, price_minor=5), SEDEX}
    assert kept["other"] == []


@pytest.mark.asyncio
async def test_a_rate_that_makes_no_sense_is_refused(world: World) -> None:
    for wrong in (replace(PAC, to_code="00000001"), replace(PAC, days_max=1), replace(PAC, up_to_g=0)):
        with pytest.raises(asyncpg.CheckViolationError):
            async with world.connection.transaction():
                await store.put_rates(world.connection, "acme", [wrong])


def test_the_address_of_delivery_goes_before_others() -> None:
    home = buyer().addresses[0]
    bill = home.model_copy(update={"kind": "billing", "street": "Rua Outra"})
    place = recipient(buyer().model_copy(update={"addresses": (bill, home)}))

    assert place is not None
    assert place.street == home.street
    assert recipient(buyer().model_copy(update={"addresses": (home.model_copy(update={"postal_code": ""}),)})) is None


@pytest.mark.asyncio
@pytest.mark.parametrize("answer", [{"tracking_code": "LG\0"}, {"price_minor": -1}])
async def test_an_answer_that_cannot_be_kept_keeps_nobody_else_back(world: World, answer: dict[str, Any]) -> None:
    remote = Remote(price_minor=1)
    await wants(world)
    remote.fails["buy"] = [OutcomeUnknown("no answer")]
    book = world.book(remote)
    await book.work_off()
    [(key, good)] = remote.bought.items()
    remote.bought[key] = replace(good, **answer)
    world.now += timedelta(minutes=1)
    assert await book.work_off() == 1
    assert world.labels() == []
    remote.bought[key] = good
    world.now += timedelta(minutes=2)
    await book.work_off()
    assert [label.tracking_code for label in world.labels()] == [good.tracking_code]
