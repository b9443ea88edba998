"""What a service refuses at the start."""

import base64
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from contracts.envelope import Envelope
from services.bus import BusSettings, Subscription
from services.bus.failures import Poison
from services.bus.faults import Faults
from services.bus.outbox import RECORD_LIMIT_BYTES, encoded
from services.runtime import Service
from tests.bus.model import Deposited, deposit, make_streams

DSN = "postgresql://nobody@127.0.0.1:1/none"


def test_a_listener_beyond_this_machine_needs_tls_and_a_token(tmp_path) -> None:
    tls = {"admin_tls_certificate": tmp_path / "c", "admin_tls_key": tmp_path / "k"}
    for given in ({}, {"admin_token": "t" * 16}, tls, {"admin_token": "too short", **tls}):
        with pytest.raises(ValueError, match="is not a loopback address"):
            BusSettings(postgres_dsn=DSN, admin_host="0.0.0.0", **given)
    assert BusSettings(postgres_dsn=DSN, admin_host="0.0.0.0", admin_token="t" * 16, **tls).admin_host == "0.0.0.0"
    assert BusSettings(postgres_dsn=DSN, admin_host="::1").admin_host == "::1"


def test_fault_points_are_refused_in_production_and_inert_unless_switched_on() -> None:
    with pytest.raises(ValueError, match="is set in production"):
        Faults("commit.after", "production")
    with pytest.raises(ValueError, match="not of the form"):
        Faults("commit.after:after=soon", "test")
    Faults("commit.after:after=2", "test").point("commit.after")
    Faults("", "production").point("commit.after")


def test_secrets_do_not_show() -> None:
    settings = BusSettings(postgres_dsn="postgresql://u:hidden@h/d", admin_token="hidden", personal_key="hidden")
    assert "hidden" not in repr(settings)


def test_a_personal_stream_needs_a_key_and_two_subscriptions_of_a_stream_are_refused() -> None:
    streams = make_streams(personal=True)
    subscription = Subscription(stream=streams.deposits.name, handles=(Deposited,), handler=deposit)
    given = {"name": "bank", "subscriptions": [subscription], "catalogue": streams.catalogue}
    short, repeated = (base64.b64encode(key).decode() for key in (bytes(range(16)), bytes(32)))
    for key in ("", "c2hvcnQ=", "no base64", short, repeated):
        with pytest.raises(ValueError, match="set SALDO_PERSONAL_KEY"):
            Service(settings=BusSettings(postgres_dsn=DSN, personal_key=key), **given)
    Service(settings=BusSettings(postgres_dsn=DSN, personal_key=base64.b64encode(bytes(range(32))).decode()), **given)
    with pytest.raises(ValueError, match="subscribes twice"):
        Service(settings=BusSettings(postgres_dsn=DSN), **{**given, "subscriptions": [subscription, subscription]})


@pytest.mark.rule(12)
def test_a_publication_that_no_broker_would_take_is_poison_at_the_insert() -> None:
    def envelope(**given: str) -> Envelope:
        base = {"id": "1", "type": "t", "source": "s", "subject": "a", "tenant": "acme", "correlation_id": "c"}
        return Envelope(time=datetime.now(UTC), **{**base, **given})

    good = Deposited(account="a", amount=1)
    for wrong, message in (
        (envelope(tenant="A:B"), good),
        (envelope(tenant=""), good),
        (envelope(subject=""), good),
        (envelope(id=""), good),
        (envelope(subject="a\x00"), good),
        (envelope(subject="\ud800"), good),
        (envelope(), Deposited(account="a" * RECORD_LIMIT_BYTES, amount=1)),
    ):
        with pytest.raises(Poison):
            encoded(wrong.values(), message)
    assert encoded(envelope().values(), good)[0] == b"acme:a"


def test_an_armed_point_ends_the_process_once(tmp_path: Path) -> None:
    (tmp_path / "commit.after").touch()
    reach = "import sys; from pathlib import Path; from services.bus.faults import Faults\n"
    reach += "Faults('', 'test', Path(sys.argv[1])).point('commit.after')"
    ended = [subprocess.run([sys.executable, "-c", reach, str(tmp_path)], check=False).returncode for _ in range(2)]
    assert ended == [137, 0]
    with pytest.raises(ValueError, match="production"):
        Faults("", "production", tmp_path)


def test_a_point_that_many_pass_is_armed_for_the_turn_of_one(tmp_path: Path) -> None:
    (tmp_path / "handler.after@orders").touch()
    reach = "import sys; from pathlib import Path; from services.bus.faults import Faults\n"
    reach += "Faults('', 'test', Path(sys.argv[1])).point('handler.after', sys.argv[2])"
    turns = ("levels", "orders", "orders")
    run = [[sys.executable, "-c", reach, str(tmp_path), turn] for turn in turns]
    assert [subprocess.run(one, check=False).returncode for one in run] == [0, 137, 0]
