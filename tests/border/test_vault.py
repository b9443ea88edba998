"""What is sealed opens in its own place alone."""

import base64
import secrets

import pytest

from services.border.vault import KeyInvalid, SealBroken, Vault

PLACE = {"tenant": "loja", "owner": "c1", "field": "credential:access_token"}


@pytest.mark.parametrize(
    "elsewhere",
    [{"tenant": "outra"}, {"owner": "c2"}, {"field": "credential:webhook_secret"}],
    ids=lambda change: next(iter(change)),
)
def test_a_sealed_value_copied_to_another_tenant_owner_or_field_does_not_open(elsewhere: dict[str, str]) -> None:
    vault = Vault(secrets.token_hex(32))
    blob = vault.seal(b"secret", **PLACE)
    assert vault.open(blob, **PLACE) == b"secret"
    with pytest.raises(SealBroken):
        vault.open(blob, **{**PLACE, **elsewhere})


def test_no_changed_byte_goes_unnoticed() -> None:
    vault = Vault(secrets.token_hex(32))
    blob = vault.seal(b"secret", **PLACE)
    for place in range(len(blob)):
        changed = bytearray(blob)
        changed[place] ^= 1
        with pytest.raises(SealBroken):
            vault.open(bytes(changed), **PLACE)


def test_a_new_key_in_front_still_opens_what_the_old_one_sealed() -> None:
    old, new = secrets.token_hex(32), secrets.token_hex(32)
    blob = Vault(old).seal(b"secret", **PLACE)
    both = Vault(f"{new},{old}")
    assert both.open(blob, **PLACE) == b"secret"
    with pytest.raises(SealBroken, match="SALDO_SECRETS_KEY"):
        Vault(new).open(both.seal(b"secret", **PLACE)[:1] + blob[1:], **PLACE)


GOOD = base64.b64encode(bytes(range(200, 232))).decode()


@pytest.mark.parametrize(
    "key",
    [
        "", "short", "zz" * 32, "a" * 63, "00" * 32, "a1b2" * 16, "password" * 8, base64.b64encode(b"x" * 32).decode(),
        f"{GOOD[:20]} {GOOD[20:]}", f"{GOOD[:20]}!?{GOOD[20:]}", GOOD.rstrip("="), f"{GOOD},",
        f"{GOOD},{'0' * 64}", "\u00e9" * 44,
    ],
)  # fmt: skip
def test_a_key_that_is_none_is_refused_with_the_way_to_make_one(key: str) -> None:
    with pytest.raises(KeyInvalid, match="token_hex"):
        Vault(key)


def test_a_key_is_taken_in_every_way_that_it_is_written() -> None:
    raw = bytes(range(200, 232))
    blob = Vault(raw.hex()).seal(b"secret", **PLACE)
    for key in (raw.hex().upper(), GOOD, base64.urlsafe_b64encode(raw).decode(), f" {GOOD} "):
        assert Vault(key).open(blob, **PLACE) == b"secret"
