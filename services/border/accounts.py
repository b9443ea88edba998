"""What an account outside must be before it is kept, and its credentials sealed, wherever the account is."""

from collections.abc import Collection, Mapping

import httpx

from services.border.client import AddressRefused, require_public_url
from services.border.vault import Vault


class AccountInvalid(ValueError):
    """The account cannot be kept; the text says what to change."""


def check_credentials(given: Collection[str], needed: Collection[str], also: Collection[str] = ()) -> None:
    """All that are `needed` are given, and none beside them but those in `also`. Raises `AccountInvalid`."""
    if missing := set(needed) - set(given):
        raise AccountInvalid(f"credentials are missing: {', '.join(sorted(missing))}")
    if surplus := set(given) - {*needed, *also}:
        raise AccountInvalid(f"{len(surplus)} credentials are unknown: give {', '.join(needed)}")


def check_base_url(base_url: str, environment: str) -> None:
    """It is an address, and one outside our own network unless it is a sandbox's. Raises `AccountInvalid`."""
    try:
        url = httpx.URL(base_url)
        if environment != "sandbox":
            require_public_url(url)
    except AddressRefused as refused:
        raise AccountInvalid(f"base_url: {refused}") from None
    except httpx.InvalidURL:
        raise AccountInvalid("base_url is no URL: give one as https://host or https://host/path") from None


def seal_credentials(vault: Vault, tenant: str, account_id: str, credentials: Mapping[str, str]) -> dict[str, bytes]:
    """Each credential sealed in its place, by name."""
    return {
        name: vault.seal(value.encode(), tenant=tenant, owner=account_id, field=name)
        for name, value in credentials.items()
    }


def open_credentials(vault: Vault, tenant: str, account_id: str, sealed: Mapping[str, bytes]) -> dict[str, str]:
    """What `seal_credentials` was given. Raises `SealBroken`."""
    return {
        name: vault.open(value, tenant=tenant, owner=account_id, field=name).decode() for name, value in sealed.items()
    }
