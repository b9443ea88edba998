"""Every request to Stripe is one that Stripe's own mock server takes: it holds them against Stripe's OpenAPI document.

The mock is Stripe's program in Go, built once into the environment of the tests. It keeps no state, so what is proved
here is the form of requests and how real answers read; the sandbox is there for what follows from what.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from services.border.errors import Rejected
from services.border.limiter import Limiter
from services.border.reading import mapping
from services.payments.domain import Portion, Status
from services.payments.gateways.gateway import Refund, Session
from services.payments.gateways.stripe import Stripe, _get, _post
from tests.payments.given import PAYMENT
from tests.payments.running import free_port
from tests.payments.test_stripe import WANTED

PROGRAM = "github.com/stripe/stripe-mock@v0.203.0"
PATIENCE_S = 300
pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.skipif(shutil.which("go") is None, reason="Go is not installed: stripe-mock cannot be built"),
]


@pytest.fixture(scope="module")
def program() -> Path:
    """The mock as a program; skips where its module cannot be had."""
    folder = Path(sys.prefix) / "go" / PROGRAM.rpartition("/")[2]
    built = folder / "stripe-mock"
    if not built.exists():
        made = subprocess.run(
            ["go", "install", PROGRAM],
            env={**os.environ, "GOBIN": str(folder)}, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        if made.returncode:
            pytest.skip(f"stripe-mock cannot be built here: {(made.stderr.splitlines() or [''])[-1]}")
    return built


@pytest.fixture(scope="module")
def base_url(program: Path) -> Iterator[str]:
    port = free_port()
    command = [str(program), "-http-addr", f"127.0.0.1:{port}", "-https-addr", "127.0.0.1:"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            for _ in range(600):
                try:
                    httpx.get(url, trust_env=False)
                    break
                except httpx.ConnectError:
                    assert process.poll() is None, "stripe-mock ended by itself"
                    time.sleep(0.05)
            yield url
        finally:
            process.terminate()


@pytest_asyncio.fixture
async def session(base_url: str) -> AsyncIterator[Session]:
    async with httpx.AsyncClient(trust_env=False) as http:
        credentials, settings = {"secret_key": "sk_test_123"}, {"return_url": "https://shop.example/back"}
        yield Session(http, Limiter({}, lambda: 0.0), base_url, credentials, settings)


async def test_the_mock_refuses_what_stripe_does_not_know(session: Session) -> None:
    """So that the others cannot pass with whatever they send."""
    with pytest.raises(Rejected, match="400"):
        await _post(session, "/v1/payment_intents", {"amount": "100", "currency": "brl", "colour": "red"}, "key")


async def test_every_call_is_one_of_stripe_s(session: Session) -> None:
    stripe = Stripe()
    opened = await stripe.open(session, WANTED, "open")
    assert opened.reference.startswith("pi_")
    # The mock answers with one intent whatever it is asked, so only its form is looked at.
    for seen in (
        await stripe.charge(session, opened.reference, "pm_card_visa", "charge"),
        await stripe.capture(session, opened.reference, 100, "capture"),
        await stripe.void(session, opened.reference, "void"),
        await stripe.look(session, opened.reference, PAYMENT),
        await stripe.look(session, "", PAYMENT),
    ):
        assert seen is not None
        assert seen.status in Status
        assert seen.reference.startswith("pi_")


async def test_a_refund_and_a_subscription_are_stripe_s(session: Session) -> None:
    given_back = await Stripe().refund(session, "pi_1", Refund("refund-1", 100, "BRL"), "refund")
    assert all(isinstance(portion, Portion) for portion in given_back.refunds.values())
    assert len(given_back.refunds) == 1
    listed = mapping(await _get(session, "/v1/webhook_endpoints", {}), "list")
    # At the address that the mock shows, so that one is deleted, too. What it shows lacks the secret of a new one.
    with pytest.raises(ValueError, match="secret is missing"):
        await Stripe().subscribe(session, listed["data"][0]["url"])


async def test_payouts_are_read_as_stripe_shows_them(session: Session) -> None:
    [payout_id, *_] = await Stripe().payouts(session)
    # Sources of the mock are charges of another kind than payments of ours; the requests are taken.
    assert all(
        one.net_minor == one.gross_minor - one.fee_minor for one in await Stripe().settlements(session, payout_id)
    )
