"""Channels are told each step once, whatever happens to the answer, against sandboxes."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import pytest
import pytest_asyncio

from contracts.channels.v1 import InvoiceTold, OrderProgress, ParcelTold, ProgressLine
from contracts.envelope import Envelope
from services.bus import Received
from services.channels import handlers
from services.channels.connections.registry import Open
from services.channels.connectors.connector import OutcomeUnknown, Rejected, Throttled
from services.channels.intake import pull
from services.channels.report import loop, store
from services.channels.report.documents import Documents
from services.channels.settings import ChannelsSettings
from services.channels.shop.shop import Shop
from services.sandbox.client import SandboxClient
from tests.channels.conftest import Kit
from tests.sandbox.running import TOKEN, Sandbox, running

LEASE = timedelta(seconds=60)

pytestmark = pytest.mark.asyncio
_names = itertools.count(1)
KEY = "35260312345678000195550010000000011000000017"
XML = f'<nfeProc><infNFe Id="NFe{KEY}"/></nfeProc>'.encode()


@pytest.fixture(scope="module")
def skyhub_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    yield from running("skyhub", tmp_path_factory)


@pytest_asyncio.fixture
async def skyhub(skyhub_sandbox: Sandbox) -> AsyncIterator[SandboxClient]:
    async with SandboxClient(skyhub_sandbox.base_url, TOKEN) as control:
        yield control


class Told:
    """A paid order of a fresh shop, known here, and short ways to say what is to be told of it."""

    def __init__(
        self, kit: Kit, control: SandboxClient, entry: Open, name: str, external_id: str, order_id: str
    ) -> None:
        self.kit, self.control, self.entry, self.name = kit, control, entry, name
        self.external_id, self.order_id = external_id, order_id
        self.revision = 0
        self.teller = loop.Teller(kit.service, kit.intake.telling.set)

    async def progress(self, **more: Any) -> None:
        """Orders says what there is to tell."""
        self.revision += 1
        message = OrderProgress(
            order_id=self.order_id, revision=more.pop("revision", self.revision),
            connection_id=self.entry.connection.connection_id, state="shipped", state_at=self.kit.service.clock(),
            **more,
        )  # fmt: skip
        event = Received(
            message,
            Envelope(f"e{self.revision}", "t", "s", message.state_at, "", "loja", self.order_id),
            self.order_id,
        )
        async with self.kit.service.transaction() as tx:
            await handlers.obey([event], tx, self.kit.intake, Shop(self.kit.intake, self.kit.vault))

    def invoice(self, **more: Any) -> InvoiceTold:
        return InvoiceTold(
            invoice_id="d1", invoice_key=KEY, invoice_no="1", series="1", issued_at=self.kit.service.clock(),
            total_minor=1990, currency="BRL", **more,
        )  # fmt: skip

    def parcel(self, line_id: str = "SKU-1", **more: Any) -> ParcelTold:
        return ParcelTold(
            shipment_id="s1", carrier="ECT", service="SEDEX", tracking_code="SD123456789BR", tracking_url="",
            lines=(ProgressLine(line_id=line_id, quantity=1),), dispatched_at=self.kit.service.clock(), **more,
        )  # fmt: skip

    async def tell(self) -> None:
        """What is due now, once."""
        connection_id = self.entry.connection.connection_id
        for claimed, first in await self.teller.begin({connection_id: self.entry}, {connection_id: 4}, LEASE):
            await self.teller.tell(self.entry, claimed, first)

    async def soon(self) -> None:
        """As if the pause before the next try were over."""
        await self.kit.service.pool.execute(
            "UPDATE progress SET due_at = now() - interval '1 s' WHERE due_at IS NOT NULL"
        )

    async def books(self) -> list[str]:
        """The steps that the marketplace has heard."""
        rows = [row async for row in self.control.books() if row["shop"] == self.name and row["kind"] == "told"]
        return [row["step"] for row in rows]

    async def answers(self) -> list[tuple[str, str | None]]:
        """(step, reason) of what was answered to orders; no reason: accepted."""
        return [(row["step"], row.get("reason")) for row in await self.kit.published() if "step" in row]


async def told(kit: Kit, control: SandboxClient, connector: str, **settings: str) -> Told:
    name = f"told-{next(_names)}"
    shop = await control.put_shop(name, limits={f"skyhub_{limit}_per_s": 1000 for limit in ("order_reads", "queues")})
    await control.put_products(name, [{"sku": "SKU-1", "title": "t", "quantity": 9, "price_minor": 1990}])
    connection = await kit.connect(
        connector=connector, account=name, base_url=shop["base_url"], credentials=shop["credentials"], **settings
    )
    entry = kit.intake.registry.get(connection.connection_id)
    assert entry is not None
    bought = await control.buy(name, {"SKU-1": 1})
    await pull.empty_queue(kit.service, kit.intake, entry)
    await kit.absorb()
    *_, sale = await kit.published()
    return Told(kit, control, entry, name, bought["order_id"], sale["order_id"])


@pytest_asyncio.fixture
async def order(kit: Kit, skyhub: SandboxClient) -> Told:
    # Looking an order up is limited to one a second; here only what is asked counts.
    return await told(kit, skyhub, "skyhub", **{"limit.order_read": "1000/1000"})


async def test_each_step_is_told_once_in_order_and_answered(order: Told) -> None:
    await order.progress(invoice=order.invoice())
    await order.tell()
    await order.progress(invoice=order.invoice(), parcels=(order.parcel(),))
    await order.progress(invoice=order.invoice(), parcels=(order.parcel(),), revision=1)
    await order.tell()
    parcel = order.parcel(delivered_at=order.kit.service.clock())
    await order.progress(invoice=order.invoice(), parcels=(parcel,))
    await order.tell()
    await order.tell()
    assert await order.books() == ["invoice", "shipment", "delivery"]
    assert await order.answers() == [("invoice", None), ("shipment:s1", None), ("delivery:s1", None)]
    assert await order.kit.count("progress", "due_at IS NULL AND claimed_until IS NULL") == 1


async def test_what_a_channel_was_told_before_it_was_forgotten_is_not_told_again(order: Told) -> None:
    pool, now = order.kit.service.pool, order.kit.service.clock()

    async def forget(days: int) -> int:
        async with pool.acquire() as database:
            return await store.forget(database, now - timedelta(days=days), 10)

    await order.progress(invoice=order.invoice(), parcels=(order.parcel(),))
    await pool.execute("UPDATE progress SET told_at = now() - interval '500 days'")
    assert await forget(400) == 0  # Something is due.
    await order.tell()
    assert await forget(400) == 0
    await pool.execute("UPDATE progress SET told_at = now() - interval '401 days'")
    assert await forget(402) == 0
    assert await forget(400) == 1
    assert [await order.kit.count(table) for table in ("progress", "progress_steps")] == [0, 0]

    parcel = order.parcel(delivered_at=now)
    await order.progress(invoice=order.invoice(), parcels=(parcel,))
    await order.tell()
    assert await order.books() == ["invoice", "shipment", "delivery"]
    assert (await order.answers())[-1] == ("delivery:s1", None)
    assert await order.kit.count("progress", "due_at IS NULL AND claimed_until IS NULL") == 1


@pytest.mark.parametrize("dies", [False, True])
async def test_a_step_whose_answer_was_lost_is_looked_up_and_told_once(
    order: Told, monkeypatch: pytest.MonkeyPatch, dies: bool
) -> None:
    skyhub = type(order.entry.connector)
    real = skyhub.report_shipment  # type: ignore[attr-defined]

    async def lost(*given: Any) -> str:
        await real(order.entry.connector, *given)
        raise SystemExit("killed") if dies else OutcomeUnknown("order_shipments: timeout")

    monkeypatch.setattr(skyhub, "report_shipment", staticmethod(lost))
    await order.progress(invoice=order.invoice(), parcels=(order.parcel(),))
    if dies:
        with pytest.raises(SystemExit):
            await order.tell()
        await order.kit.service.pool.execute("UPDATE progress SET claimed_until = now() - interval '1 s'")
    else:
        await order.tell()
    monkeypatch.setattr(skyhub, "report_shipment", real)
    assert await order.kit.count("progress_steps", "state = 'going'") == 1
    await order.soon()
    await order.tell()
    assert await order.books() == ["invoice", "shipment"]
    assert await order.answers() == [("invoice", None), ("shipment:s1", None)]


async def test_a_step_that_never_arrived_is_told_after_looking(order: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    skyhub = type(order.entry.connector)
    real = skyhub.report_invoice  # type: ignore[attr-defined]

    async def away(*_: Any) -> str:
        raise OutcomeUnknown("order_invoice: timeout")

    monkeypatch.setattr(skyhub, "report_invoice", staticmethod(away))
    await order.progress(invoice=order.invoice())
    await order.tell()
    monkeypatch.setattr(skyhub, "report_invoice", real)
    await order.tell()
    assert await order.books() == [], "it was told before its pause was over"
    await order.soon()
    await order.tell()
    assert await order.books() == ["invoice"]


async def test_what_a_channel_refuses_is_answered_shown_to_a_person_and_holds_back_the_parcel(order: Told) -> None:
    wrong = order.invoice().model_copy(update={"invoice_key": "X" * 44})
    await order.progress(invoice=wrong, parcels=(order.parcel(),))
    await order.tell()
    assert await order.books() == []
    assert await order.answers() == [("invoice", "refused")]
    assert await order.kit.count("alerts", "kind = 'not_told' AND urgent AND resolved_at IS NULL") == 1
    await order.progress(invoice=order.invoice(), parcels=(order.parcel(),))
    await order.tell()
    assert await order.books() == ["invoice", "shipment"]
    assert await order.kit.count("alerts", "kind = 'not_told' AND resolved_at IS NULL") == 0


async def test_an_invoice_that_took_the_place_of_one_the_channel_has_calls_a_person(order: Told) -> None:
    await order.progress(invoice=order.invoice())
    await order.tell()
    another = order.invoice().model_copy(update={"invoice_id": "d2", "invoice_no": "2"})
    for parcels in ((), (order.parcel(),)):
        await order.progress(invoice=another, parcels=parcels)
        await order.tell()
        await order.tell()
    assert await order.books() == ["invoice", "shipment"]
    assert await order.answers() == [("invoice", None), ("invoice:d2", "not_supported"), ("shipment:s1", None)]
    assert await order.kit.count("alerts", "kind = 'not_told' AND urgent AND resolved_at IS NULL") == 1


async def test_an_invoice_that_is_replaced_before_it_was_told_is_told_alone(order: Told) -> None:
    await order.progress(invoice=order.invoice())
    await order.progress(invoice=order.invoice().model_copy(update={"invoice_id": "d2"}))
    await order.tell()
    await order.tell()
    assert await order.answers() == [("invoice", None)]


async def test_a_refusal_can_be_tried_again_by_a_person(order: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    skyhub = type(order.entry.connector)

    async def refuses(*_: Any) -> str:
        raise Rejected("order_invoice: answered 403")

    with monkeypatch.context() as patched:
        patched.setattr(skyhub, "report_invoice", staticmethod(refuses))
        await order.progress(invoice=order.invoice())
        await order.tell()
    async with order.kit.service.transaction() as tx:
        assert not await store.retry(tx.connection, "another", order.order_id, tx.now)
        assert await store.retry(tx.connection, "loja", order.order_id, tx.now)
    await order.tell()
    assert await order.books() == ["invoice"]


async def test_a_channel_that_asks_to_wait_is_told_later_and_not_asked_first(
    order: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    skyhub = type(order.entry.connector)

    async def later(*_: Any) -> str:
        raise Throttled(30.0)

    with monkeypatch.context() as patched:
        patched.setattr(skyhub, "report_invoice", staticmethod(later))
        await order.progress(invoice=order.invoice())
        await order.tell()
    assert await order.kit.count("progress_steps") == 0
    assert await order.kit.count("progress", "due_at > now() + interval '20 s' AND claimed_until IS NULL") == 1


async def test_a_cancel_of_ours_is_told_and_one_that_the_channel_knows_already_is_taken_as_told(order: Told) -> None:
    await order.progress(cancelled_reason="sold_out")
    await order.tell()
    assert await order.books() == ["cancel"]
    assert await order.answers() == [("cancel", None)]
    await order.kit.service.pool.execute("DELETE FROM progress_steps")
    await order.progress(cancelled_reason="person")
    await order.tell()
    assert await order.books() == ["cancel"]
    assert await order.answers() == [("cancel", None)] * 2


async def test_a_cancel_that_no_channel_takes_is_answered_at_once(order: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    deaf = replace(order.entry.connector.traits, reports=frozenset({"invoice"}))
    monkeypatch.setattr(type(order.entry.connector), "traits", deaf)
    await order.progress(cancelled_reason="sold_out", parcels=(order.parcel(),))
    await order.tell()
    assert await order.answers() == [("cancel", "not_supported")]
    assert await order.books() == []


async def test_a_carrier_is_told_in_the_channels_own_word(order: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[ParcelTold] = []
    skyhub = type(order.entry.connector)

    async def heard(_session: Any, _order: Any, parcel: ParcelTold) -> str:
        seen.append(parcel)
        return "r1"

    monkeypatch.setattr(skyhub, "report_shipment", staticmethod(heard))
    connection_id = order.entry.connection.connection_id
    async with order.kit.service.pool.acquire() as database:
        for theirs in ("ECT", "Correios"):
            await store.put_mapping(database, connection_id, "carrier", "ECT", theirs)
    await order.progress(parcels=(order.parcel(),))
    await order.tell()
    assert [(parcel.carrier, parcel.service) for parcel in seen] == [("Correios", "SEDEX")]


async def test_progress_of_orders_that_never_came_in_or_say_nothing_new_leaves_no_row(order: Told) -> None:
    known, order.order_id = order.order_id, "nobody's"
    await order.progress(invoice=order.invoice())
    order.order_id = known
    await order.progress()
    assert await order.kit.count("progress") == 0


async def test_a_person_hears_of_what_is_not_told_in_time(order: Told) -> None:
    now = order.kit.service.clock()
    await order.progress(invoice=order.invoice(), tell_by=now + timedelta(minutes=30))
    warning = asyncio.create_task(loop.warn_loop(order.kit.service))
    try:
        for _ in range(500):
            if await order.kit.count("alerts", "kind = 'telling' AND urgent"):
                break
            await asyncio.sleep(0.01)
        else:
            raise AssertionError("nobody was told")
    finally:
        warning.cancel()
    await order.tell()
    async with order.kit.service.pool.acquire() as database:
        assert await store.late(database, now + timedelta(days=1)) == []


async def test_what_is_told_is_not_walked_to_find_what_is_late(order: Told) -> None:
    async with order.kit.service.pool.acquire() as database:
        await database.execute(f"PREPARE late AS {store.LATE}")
        plan = str(await database.fetch("EXPLAIN EXECUTE late(now())"))
        await database.execute("DEALLOCATE late")
    assert "progress_late" in plan
    assert "progress_refused" in plan
    assert "Index Cond: (order_id = s.order_id)" in plan
    assert "Seq Scan" not in plan


async def test_the_loop_tells_what_comes_and_goes_on_after_a_failure(
    order: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    skyhub = type(order.entry.connector)
    real = skyhub.report_invoice  # type: ignore[attr-defined]
    failed = asyncio.Event()

    async def breaks(*given: Any) -> str:
        if not failed.is_set():
            failed.set()
            raise ValueError("an answer that nobody can read")
        return str(await real(order.entry.connector, *given))

    monkeypatch.setattr(skyhub, "report_invoice", staticmethod(breaks))
    running_loop = asyncio.create_task(loop.report_loop(order.kit.service, order.kit.intake))
    try:
        await order.progress(invoice=order.invoice())
        await asyncio.wait_for(failed.wait(), 20)
        for _ in range(1000):
            await order.soon()
            order.kit.intake.telling.set()
            if await order.books() == ["invoice"]:
                break
            await asyncio.sleep(0.02)
        assert await order.books() == ["invoice"]
    finally:
        running_loop.cancel()
        await asyncio.gather(running_loop, return_exceptions=True)


async def test_news_that_comes_while_a_channel_is_told_is_told_next(order: Told) -> None:
    await order.progress(invoice=order.invoice())
    connection_id = order.entry.connection.connection_id
    [(claimed, first)] = await order.teller.begin({connection_id: order.entry}, {connection_id: 4}, LEASE)
    await order.progress(invoice=order.invoice(), parcels=(order.parcel(),))
    order.kit.intake.telling.clear()
    await order.teller.tell(order.entry, claimed, first)
    assert order.kit.intake.telling.is_set(), "nobody looks for what has come"
    assert await order.books() == ["invoice"]
    await order.tell()
    assert await order.books() == ["invoice", "shipment"]
    assert not await order.kit.count("progress", "due_at IS NOT NULL OR claimed_until IS NOT NULL")


async def test_an_order_that_another_process_took_over_is_told_by_that_one_alone(order: Told) -> None:
    await order.progress(invoice=order.invoice(), parcels=(order.parcel(),))
    connection_id = order.entry.connection.connection_id
    [(claimed, first)] = await order.teller.begin({connection_id: order.entry}, {connection_id: 4}, LEASE)
    await order.kit.service.pool.execute("UPDATE progress SET claimed_until = now() + interval '1 h'")
    await order.teller.tell(order.entry, claimed, first)
    # The step that was under way is told and kept; the next one is the other's.
    assert await order.books() == ["invoice"]
    assert await order.answers() == [("invoice", None)]
    assert await order.kit.count("progress", "claimed_until > now() + interval '50 min'") == 1


async def test_many_orders_are_written_together(
    kit: Kit, skyhub: SandboxClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = [await told(kit, skyhub, "skyhub", **{"limit.order_read": "1000/1000"}) for _ in range(4)]
    for order in orders:
        await order.progress(invoice=order.invoice(), parcels=(order.parcel(),))
    opened, transaction = itertools.count(), kit.service.transaction

    def counted() -> Any:
        next(opened)
        return transaction()

    monkeypatch.setattr(kit.service, "transaction", counted)

    async def heard(*_: Any) -> str:
        return "r1"

    for name in ("report_invoice", "report_shipment"):
        monkeypatch.setattr(type(orders[0].entry.connector), name, staticmethod(heard))
    entries = {order.entry.connection.connection_id: order.entry for order in orders}
    teller = loop.Teller(kit.service, kit.intake.telling.set)
    claimed = await teller.begin(entries, dict.fromkeys(entries, 4), LEASE)
    assert len(claimed) == 4
    await asyncio.gather(*(teller.tell(entries[one.connection_id], one, first) for one, first in claimed))
    assert await kit.count("progress_steps", "state = 'accepted'") == 8
    # One claims, one settles the invoices and begins the shipments, one settles these; a busy machine may need more.
    assert next(opened) <= 6


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (httpx.Response(200, content=XML), None),
        (httpx.Response(404), Rejected),
        (httpx.Response(200, content=b""), Rejected),
        (httpx.Response(200, content=b"x" * 1_000_001), Rejected),
        (httpx.Response(503), Throttled),
    ],
)
async def test_an_invoices_file_is_read_from_erp_alone(
    monkeypatch: pytest.MonkeyPatch, answer: httpx.Response, error: type[Exception] | None
) -> None:
    asked: list[httpx.Request] = []

    def listening(**_: Any) -> httpx.AsyncClient:
        def at(request: httpx.Request) -> httpx.Response:
            asked.append(request)
            return answer

        return httpx.AsyncClient(transport=httpx.MockTransport(at))

    monkeypatch.setattr("services.channels.report.documents.open_client", listening)
    settings = ChannelsSettings.model_validate(
        {"secrets_key": "unused", "documents_url": "http://erp:8099/", "documents_token": "a token"}
    )
    documents = Documents(settings)
    if error:
        with pytest.raises(error):
            await documents.read("http://erp:8099/admin/invoices/d1/xml?tenant=loja")
    else:
        assert await documents.read("http://erp:8099/admin/invoices/d1/xml?tenant=loja") == XML
    assert [request.headers["authorization"] for request in asked] == ["Bearer a token"]
    for elsewhere in ("http://erp:8099.example.com/x", "http://other/x", ""):
        with pytest.raises(Rejected, match="SALDO_DOCUMENTS_URL"):
            await documents.read(elsewhere)
    assert len(asked) == 1
