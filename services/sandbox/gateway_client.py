"""A control client of the payment gateway; what every sandbox has (health, books, reset) is as in `client.py`.

GET /health -> 200 {status, sandbox: "gateway", accounts: count}
PUT /accounts/{account} with any fields of `gateway_accounts.AccountSettings` -> 201 or 200 {account, base_url
    (Stripe), pix_base_url (mutual TLS), certificates (folder), credentials: {secret_key, publishable_key,
    client_id, client_secret}, pix_key, tax_id, vices, ...}; GET the same; GET /accounts -> {accounts: [name]}
PUT /accounts/{account}/vices with the fields of `gateway_accounts.GatewayVices`, replacing all -> 200 {vices}
GET /accounts/{account}/payments -> 200 {at_ms, payments: [{reference, payment_id, method, status, currency,
    amount_minor, authorized_minor, captured_minor, refunded_minor, refunds_pending_minor, disputed_minor,
    fee_minor}]}
POST /accounts/{account}/cards with {kind} -> 201 {token, brand, last4}
POST /accounts/{account}/pay/{txid} with {amount_minor?} -> 201 {reference, amount_minor, end_to_end_id, paid_at_ms}
    or 409 {reason: paid | removed | expired, error}
POST /accounts/{account}/authenticate/{reference} with {accept} -> 200 {reference, status} or 409 {reason, error}
POST /accounts/{account}/dispute/{reference} with {reason?, amount_minor?} -> 201 {reference, dispute_id} or 409
POST /accounts/{account}/payout -> 201 {payouts: [{payout_id, amount_minor}]}
POST /accounts/{account}/dispute/{reference}/close with {outcome: won | lost} -> 200 {reference, status} or 409

The rows of the books are described in `gateway_accounts.py`; an account's name is their `shop`.
"""

from typing import Any, Literal
from urllib.parse import quote

from services.sandbox.client import SandboxClient


class GatewayClient(SandboxClient):
    """Use as `async with GatewayClient(base_url, token) as gateway`."""

    @staticmethod
    def _shop(shop: str) -> str:
        return f"/accounts/{quote(shop, safe='')}"

    async def put_account(self, account: str, **settings: Any) -> dict[str, Any]:
        """Create or change an account; returns it with addresses and credentials."""
        return await self._call("PUT", self._shop(account), settings)

    async def account(self, account: str) -> dict[str, Any]:
        """An account with addresses and credentials."""
        return await self._call("GET", self._shop(account))

    async def payments(self, account: str) -> dict[str, dict[str, Any]]:
        """What has moved for every payment, by reference."""
        told = await self._call("GET", f"{self._shop(account)}/payments")
        return {one["reference"]: one for one in told["payments"]}

    async def card(
        self, account: str, kind: Literal["ok", "declined", "insufficient", "authenticate", "disputed"] = "ok"
    ) -> str:
        """A buyer's card as a token, as if typed on the hosted page."""
        return str((await self._call("POST", f"{self._shop(account)}/cards", {"kind": kind}))["token"])

    async def pay(self, account: str, txid: str, *, amount_minor: int | None = None) -> dict[str, Any]:
        """The payer pays a Pix charge. Raises `SandboxError` 409 where it is paid, removed or expired."""
        return await self._call(
            "POST", f"{self._shop(account)}/pay/{quote(txid, safe='')}", {"amount_minor": amount_minor}
        )

    async def authenticate(self, account: str, reference: str, *, accept: bool = True) -> dict[str, Any]:
        """The buyer answers their bank's question."""
        return await self._call(
            "POST", f"{self._shop(account)}/authenticate/{quote(reference, safe='')}", {"accept": accept}
        )

    async def dispute(self, account: str, reference: str, *, amount_minor: int | None = None) -> str:
        """The buyer disputes a captured card payment; returns the dispute's id."""
        told = await self._call(
            "POST", f"{self._shop(account)}/dispute/{quote(reference, safe='')}", {"amount_minor": amount_minor}
        )
        return str(told["dispute_id"])

    async def close_dispute(self, account: str, reference: str, outcome: Literal["won", "lost"]) -> None:
        """The dispute is decided: `won` by the merchant, or lost."""
        await self._call(
            "POST", f"{self._shop(account)}/dispute/{quote(reference, safe='')}/close", {"outcome": outcome}
        )

    async def pay_out(self, account: str) -> list[dict[str, Any]]:
        """What is there goes to the merchant's bank; returns [{payout_id, amount_minor}]."""
        told = await self._call("POST", f"{self._shop(account)}/payout")
        return list(told["payouts"])
