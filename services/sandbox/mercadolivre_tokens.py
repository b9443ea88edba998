"""Mercado Livre's OAuth: access tokens that end, and refresh tokens of which each works once and only the last one.

`POST /oauth/token` with `grant_type=refresh_token` (developer page "Autenticación y Autorización"). What stands is kept
with the shop, so a restart changes no token.
"""

import hmac
import secrets
from collections.abc import Mapping
from typing import Any

from services.sandbox.books import now_ms
from services.sandbox.market import Account, Market

Answer = tuple[int, dict[str, Any]]


def error(message: str, name: str, status: int) -> Answer:
    """An error as the interface words it."""
    return status, {"message": message, "error": name, "status": status, "cause": []}


class Tokens:
    """Grants of all shops."""

    def __init__(self, market: Market) -> None:
        self._market = market

    def account_of(self, authorization: str) -> Account | None:
        """Whose access token this is; None if it is nobody's or has ended."""
        scheme, _, token = authorization.partition(" ")
        parts = token.split("-")
        if scheme.lower() != "bearer" or len(parts) != 4:
            return None
        account = self._market.by_key.get(f"{parts[1]}\x1f{parts[3]}")
        if account is None or account.temper.strikes("token_refused", now_ms()) is not None:
            return None
        return account if self._grant(account)["access"].get(token, 0) > now_ms() else None

    def _clients(self, form: Mapping[str, str]) -> list[Account]:
        secret = form.get("client_secret", "").encode()
        return [
            account
            for account in self._market.accounts.values()
            if account.settings.credentials["client_id"] == form.get("client_id")
            and hmac.compare_digest(account.settings.credentials["client_secret"].encode(), secret)
        ]

    def client_of(self, form: Mapping[str, str]) -> Account | None:
        """A shop of the application that asks; limits are counted by application."""
        return next(iter(self._clients(form)), None)

    def refresh(self, form: Mapping[str, str]) -> tuple[Account | None, Answer]:
        """Exchange a refresh token; whose it is, where it is somebody's, and the answer."""
        if form.get("grant_type") != "refresh_token":
            return None, error("Unsupported grant_type", "unsupported_grant_type", 400)
        clients = self._clients(form)
        if not clients:
            return None, error("invalid client_id or client_secret", "invalid_client", 400)
        given = form.get("refresh_token", "")
        for account in clients:
            grant = self._grant(account)
            if given == grant["refresh"]:
                return account, self._exchange(account, grant)
            if given == grant["previous"] and now_ms() < grant["reuse_until_ms"]:
                return account, (200, grant["answer"])
        refused = error("", "invalid_grant", 400)[1]
        del refused["message"]
        words = "Error validating grant. Your authorization code or refresh token may be expired or it was already used"
        for account in clients:
            self._market.commit(account, [("token", {"action": "refused", "generation": None})], now_ms())
        return None, (400, {"error_description": words} | refused)

    def _grant(self, account: Account) -> dict[str, Any]:
        seed = account.settings.credentials["refresh_token"]
        grant = account.kept.get(("grant", "grant"))
        if grant is None or grant["seed"] != seed:
            # A refresh token given to the shop anew is the seller authorising the application again.
            grant = {"seed": seed, "refresh": seed, "previous": None, "reuse_until_ms": 0, "answer": {}}
            grant |= {"access": {}, "generation": 0}
        return grant

    def _exchange(self, account: Account, grant: dict[str, Any]) -> Answer:
        at_ms = now_ms()
        credentials, settings = account.settings.credentials, account.settings
        access = f"APP_USR-{credentials['client_id']}-{secrets.token_hex(16)}-{credentials['user_id']}"
        refresh = f"TG-{secrets.token_hex(12)}"
        answer = {
            "access_token": access,
            "token_type": "bearer",
            "expires_in": max(1, int(settings.access_token_s)),
            "scope": "offline_access read write",
            "user_id": int(credentials["user_id"]),
            "refresh_token": refresh,
        }
        standing = {token: until for token, until in grant["access"].items() if until > at_ms}
        generation = grant["generation"] + 1
        kept = {
            "seed": grant["seed"],
            "refresh": refresh,
            "previous": grant["refresh"],
            "reuse_until_ms": at_ms + int(settings.refresh_reuse_s * 1000),
            "answer": answer,
            "access": standing | {access: at_ms + int(settings.access_token_s * 1000)},
            "generation": generation,
        }
        account.keep("grant", "grant", kept)
        self._market.commit(account, [("token", {"action": "refreshed", "generation": generation})], at_ms)
        return 200, answer
