"""What the storefront asks: the shop's API with its key, and the sandbox of the gateway as a buyer and their bank."""

import asyncio
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode

import httpx

TIMEOUT_S: Final = 15.0
PATIENCE_S: Final = 150.0
_AGAIN_S: Final = 0.5


class Refused(Exception):
    """The API refused: its status, its `code`, and all that it said."""

    def __init__(self, status: int, told: Mapping[str, Any]) -> None:
        super().__init__(f"{status} {told.get('code', '')}")
        self.status, self.code, self.told = status, str(told.get("code", "")), told


class Unreachable(Exception):
    """Nobody answers where the API should be."""


class ShopApi:
    """The shop's API for one shop."""

    def __init__(self, http: httpx.AsyncClient, base_url: str, api_key: str) -> None:
        self._http, self._base_url = http, base_url.rstrip("/")
        self._headers = {"authorization": f"Bearer {api_key}"}

    async def ask(self, method: str, path: str, body: Any = None, *, key: str = "") -> dict[str, Any]:
        """The answer's body. What is told to be tried again is, and what breaks off once it was begun, under the same
        key: whatever changes something can be asked twice.

        Raises `Refused` or, once patience has ended, `Unreachable`.
        """
        headers = self._headers | ({"idempotency-key": key} if key else {})
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        while True:
            try:
                answer = await self._http.request(method, self._base_url + path, json=body, headers=headers)
                told: dict[str, Any] = answer.json()
            except (httpx.HTTPError, ValueError) as error:
                failure: Exception = Unreachable(f"{method} {path}: {type(error).__name__}")
            else:
                if answer.is_success:
                    return told
                failure = Refused(answer.status_code, told)
                if told.get("code") != "try_again":
                    raise failure
            if asyncio.get_running_loop().time() > deadline:
                raise failure
            await asyncio.sleep(_AGAIN_S)

    async def products(self) -> list[dict[str, Any]]:
        """Everything the shop sells."""
        found: list[dict[str, Any]] = []
        after: str | None = ""
        while after is not None:
            page = await self.ask("GET", f"/v1/products?{urlencode({'after': after, 'limit': 500})}")
            found += page["products"]
            after = page["next"]
        return found

    async def basket(self, basket: str, *, after: int = 0, wait_s: float = 0) -> dict[str, Any]:
        """A basket, as soon as it has changed since `after`, or as it is after `wait_s`."""
        return await self.ask("GET", f"{self.path(basket)}?{urlencode({'after': after, 'wait_s': wait_s})}")

    @staticmethod
    def path(basket: str) -> str:
        """The address of a basket."""
        return f"/v1/baskets/{quote(basket, safe='')}"


class Bank:
    """A buyer's bank and wallet, at the gateway's sandbox."""

    def __init__(self, http: httpx.AsyncClient, base_url: str, token: str) -> None:
        self._http, self.base_url, self._token = http, base_url.rstrip("/"), token

    async def card(self, account: str, kind: str) -> str:
        """A card as a token, as if typed on the gateway's page."""
        answer = await self._http.post(
            f"{self.base_url}/_control/accounts/{quote(account, safe='')}/cards",
            json={"kind": kind},
            headers={"authorization": f"Bearer {self._token}"},
        )
        answer.raise_for_status()
        return str(answer.json()["token"])

    def pix_page(self, text: str, return_url: str) -> str:
        """Where a buyer pays this Pix."""
        return f"{self.base_url}/sandbox/pix?{urlencode({'text': text, 'return_url': return_url})}"

    async def pay_pix(self, text: str) -> bool:
        """Pay a Pix; False where the bank does not."""
        return (await self._http.post(self.pix_page(text, ""))).is_success

    async def accept(self, page: str) -> None:
        """Answer the bank's question whether it is really them."""
        await self._http.post(page, data={"accept": "yes"})
