"""Buyers of the storefront who need no browser: they walk the same way through the API, page by page."""

import asyncio
import uuid
from typing import Any, Final

from services.sandbox.books import Fact, now_ms
from services.sandbox.buyers import buyer
from services.sandbox.storefront_api import PATIENCE_S, Refused
from services.sandbox.storefront_shops import LOCATION, Store, Stores

_PAGE_S: Final = 5.0


def drawn_key() -> str:
    """A new idempotency key."""
    return str(uuid.uuid4())


def person(seed: int) -> dict[str, Any]:
    """What the buyer of this seed types into the address form."""
    one = buyer(seed)
    return {
        "name": one.name,
        "email": one.email,
        "document": one.document,
        "phone": one.phone,
        "address": {
            "street": one.street,
            "number": one.street_number,
            "district": one.neighborhood,
            "city": one.city,
            "region": one.region,
            "postal_code": one.postcode,
            "country": "BR",
        },
    }


class Buyers:
    """What they do."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores

    async def buy(self, store: Store, lines: list[tuple[str, int]], *, seed: int, pay: bool) -> tuple[int, Any]:
        """(status, answer) as every sandbox's `buy` gives them; paid for where `pay` and everything goes well."""
        at_ms = now_ms()
        wanted = [{"sku": sku, "quantity": quantity} for sku, quantity in lines]
        try:
            basket = await store.api.ask("POST", "/v1/baskets", {"lines": wanted}, key=drawn_key())
        except Refused as refused:
            return self._refused(store, wanted, refused, at_ms)
        basket = await self._until(store, basket, lambda one: one["held"])
        self._stores.keep_order(store, basket)
        if pay and basket["held"]:
            basket = await self.check_out(store, basket, seed)
        told = [
            {"line_id": one["line_id"], "sku": one["sku"], "location": LOCATION, "quantity": one["quantity"]}
            | {"number_after": store.numbers.get(one["sku"], 0)}
            for one in basket["lines"]
        ]
        paid = basket["state"] == "placed"
        names = {"order_id": basket["number"], "basket": basket["basket"]}
        return 201, {**names, "sold_at_ms": at_ms, "paid": paid, "lines": told}

    def _refused(self, store: Store, wanted: list[Any], refused: Refused, at_ms: int) -> tuple[int, Any]:
        reasons = {"sold_out": "sold_out", "no_such_product": "unknown_sku"}
        reason = reasons.get(refused.code)
        if reason is None:
            return refused.status, {"error": refused.told}
        sku = refused.told.get("sku", wanted[0]["sku"])
        number = refused.told.get("available", 0)
        fact: Fact = ("sale_refused", {"lines": wanted, "sku": sku, "reason": reason, "number": number})
        self._stores.commit(store, [fact], at_ms)
        return 409, {"reason": reason, "sku": sku, "refused_at_ms": at_ms}

    async def check_out(self, store: Store, basket: dict[str, Any], seed: int) -> dict[str, Any]:
        """Address, delivery, payment; the basket as it stands when nothing more is to be done. Who left while the
        payment was under way goes on with that."""
        api, path = store.api, store.api.path(basket["basket"])
        try:
            if basket["state"] == "paying":
                basket = await self._finish(store, basket)
            else:
                await api.ask("PUT", f"{path}/address", person(seed))
                options = await self._options(store, path)
                if not options:
                    return await api.ask("DELETE", path)
                basket = await api.ask("PUT", f"{path}/delivery", {"option_id": options[0]["option_id"]})
                basket = await self._pay(store, basket, seed)
        except Refused:
            # Somebody else was quicker, or the hold is over: the buyer sees so on the next page.
            basket = await api.basket(basket["basket"])
        self._stores.keep_order(store, basket)
        return basket

    async def _options(self, store: Store, path: str) -> list[dict[str, Any]]:
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        while asyncio.get_running_loop().time() < deadline:
            found = await store.api.ask("GET", f"{path}/delivery-options")
            if found["ready"]:
                return list(found["options"])
            await asyncio.sleep(0.1)
        return []

    async def _pay(self, store: Store, basket: dict[str, Any], seed: int) -> dict[str, Any]:
        path = store.api.path(basket["basket"])
        offered = [one["method"] for one in (await store.api.ask("GET", f"{path}/payment-methods"))["methods"]]
        method = offered[seed % len(offered)]
        given = {"method": method}
        if method == "card":
            given["token"] = await self._stores.bank.card(store.settings.gateway_account, "ok")
        return await self._finish(store, await store.api.ask("POST", f"{path}/pay", given, key=drawn_key()))

    async def _finish(self, store: Store, basket: dict[str, Any]) -> dict[str, Any]:
        """What the gateway or the bank wants of the buyer; the basket once it is known what came of it."""
        basket = await self._until(store, basket, lambda one: bool((one["payment"] or {}).get("status") != "asked"))
        payment = basket["payment"] or {}
        if basket["state"] == "paying" and payment.get("pix_text"):
            await self._stores.bank.pay_pix(payment["pix_text"])
        elif basket["state"] == "paying" and payment.get("next_url"):
            await self._stores.bank.accept(payment["next_url"])
        return await self._until(store, basket, lambda one: (one["payment"] or {}).get("status") != "pending")

    async def _until(self, store: Store, basket: dict[str, Any], good: Any) -> dict[str, Any]:
        """The basket as soon as it is as wanted, paid or cancelled; or as it is when patience ends."""
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        while basket["state"] not in ("placed", "cancelled") and not good(basket):
            if asyncio.get_running_loop().time() > deadline:
                break
            basket = await store.api.basket(basket["basket"], after=basket["change"], wait_s=_PAGE_S)
        return basket

    async def pay_later(self, store: Store, number: str, seed: int) -> dict[str, Any]:
        """The buyer of an order that was left unpaid pays."""
        basket = await store.api.basket(store.orders[number]["basket"])
        return await self.check_out(store, basket, seed) if basket["state"] != "placed" else basket

    async def cancel(self, store: Store, number: str) -> dict[str, Any]:
        """The buyer does not want it: an unpaid basket is let go, a paid order is asked to be cancelled."""
        order = store.orders[number]
        try:
            return await store.api.ask("DELETE", store.api.path(order["basket"]))
        except Refused as refused:
            if refused.code != "paid":
                raise
        path = f"/v1/orders/{order['order_id']}/cancel-request"
        return await store.api.ask("POST", path, key=drawn_key())
