"""VTEX's two ways of telling that an order changed: the feed, which is a queue of leases, and the hook.

The guide "Feed v3": an entry that was handed out is hidden for the visibility timeout and comes back under another
handle unless it was committed; a configuration without events for too long is removed, and so is a hook that fails.
"""

import json
import uuid
from typing import Any, Literal

from services.sandbox.books import Documents, Fact, now_ms
from services.sandbox.deliveries import Call, Deliveries, Delivery, Heard
from services.sandbox.market import Account, Market
from services.sandbox.shop import Order
from services.sandbox.vtex_objects import moment

RETENTION_S = (345_600, 1_209_600)


def states_of(order: Order, facts: list[Fact]) -> list[str]:
    """The states that an order went through in one change."""
    kinds = {kind for kind, _ in facts}
    steps = {fact["step"] for kind, fact in facts if kind == "told"}
    paid = ["payment-approved", "ready-for-handling"]
    if "sale" in kinds:
        return ["order-created", *(paid if "payment" in kinds else ["payment-pending"])]
    if "payment" in kinds:
        return paid
    if "cancel" in kinds:
        return ["cancel", "canceled"]
    if "handling" in steps:
        return ["start-handling", "handling"]
    return ["invoice", "invoiced"] if "invoice" in steps and order.status == "invoiced" else []


def problem_in_filter(given: Any) -> tuple[int, str] | None:
    """What is wrong with the filter of a feed or hook."""
    if not isinstance(given, dict) or given.get("type") not in ("FromWorkflow", "FromOrders"):
        return 400, "filter.type must be FromWorkflow or FromOrders"
    if given["type"] == "FromOrders":
        both = "status" in given
        return (409, "FromOrders takes no status") if both else (400, "this sandbox filters by FromWorkflow alone")
    if "expression" in given or "disableSingleFire" in given:
        return 409, "FromWorkflow takes neither expression nor disableSingleFire"
    status = given.get("status", [])
    valid = isinstance(status, list) and all(isinstance(one, str) for one in status)
    return None if valid else (400, "filter.status must be a list of statuses")


class Events:
    """Feed entries and hook calls of every account."""

    def __init__(self, market: Market) -> None:
        self._market = market
        self.deliveries = Deliveries(market, self, Delivery)
        market.announce = self.announce

    # -- configurations ------------------------------------------------------------------------------------------

    def config(self, account: Account, what: Literal["feed", "hook"]) -> dict[str, Any] | None:
        """What is configured, None where nothing is or where it has been silent for too long."""
        known = account.kept.get(("config", what))
        if known is None:
            return None
        settings = account.settings
        if what == "hook":
            silence_s = settings.hook_silence_s
        else:
            silence_s = settings.feed_silence_s or known["queue"]["MessageRetentionPeriodInSeconds"]
        if now_ms() - known["last_event_ms"] <= silence_s * 1000:
            return known
        self.remove(account, what, "silent")
        return None

    def configure(self, account: Account, what: Literal["feed", "hook"], config: dict[str, Any]) -> None:
        """Set a configuration; entries of an earlier feed stay."""
        account.keep("config", what, config | {"last_event_ms": now_ms()})
        self._market.commit(account, [("config", {"what": what, "action": "set"})], now_ms())

    def remove(self, account: Account, what: Literal["feed", "hook"], why: str) -> None:
        """Forget a configuration."""
        account.keep("config", what, None)
        self._market.commit(account, [("config", {"what": what, "action": f"removed: {why}"})], now_ms())

    def _wants(self, account: Account, what: Literal["feed", "hook"], state: str, at_ms: int) -> dict[str, Any] | None:
        config = self.config(account, what)
        if config is None or state not in (config["filter"].get("status") or [state]):
            return None
        account.keep("config", what, config | {"last_event_ms": at_ms})
        return config

    # -- telling -------------------------------------------------------------------------------------------------

    def announce(self, account: Account, order: Order, facts: list[Fact], at_ms: int) -> Documents:
        """Put each state of a change in the feed and send it to the hook, where they ask for it."""
        documents: Documents = {}
        for state in states_of(order, facts):
            last = account.kept.get(("state", order.order_id), {"state": "", "at_ms": at_ms})
            account.keep("state", order.order_id, {"state": state, "at_ms": at_ms})
            event = {
                "domain": "Marketplace",
                "orderId": order.order_id,
                "state": state,
                "lastState": last["state"],
                "lastChange": moment(last["at_ms"]),
                "currentChange": moment(order.updated_ms),
            }
            if self._wants(account, "feed", state, at_ms) is not None:
                self._enqueue(account, event, facts, at_ms)
            config = self._wants(account, "hook", state, at_ms)
            if config is not None:
                delivery = self._call(account, config, event, at_ms)
                documents |= self.deliveries.send(account, delivery, facts, at_ms)
        return documents

    def _enqueue(self, account: Account, event: dict[str, Any], facts: list[Fact], at_ms: int) -> None:
        number = account.kept.get(("feed_last", "number"), {"number": 0})["number"] + 1
        account.keep("feed_last", "number", {"number": number})
        entry = {"number": number, "event": event, "visible_ms": at_ms, "created_ms": at_ms, "deliveries": 0}
        account.keep("feed", str(number), entry | {"event_id": uuid.uuid4().hex.upper(), "handle": ""})
        facts.append(_row("queued", event, 0))

    def _call(self, account: Account, config: dict[str, Any], event: dict[str, Any], at_ms: int) -> Delivery:
        body = {name[0].upper() + name[1:]: value for name, value in event.items()}
        origin = {"Account": account.name, "Key": account.settings.credentials["app_key"]}
        return Delivery(
            delivery_id=str(uuid.uuid4()),
            event_id=str(uuid.uuid4()),
            subscription_id=0,
            topic=event["state"],
            order_id=event["orderId"],
            address=config["hook"]["url"],
            api_version="",
            body=json.dumps(body | {"Origin": origin}, separators=(",", ":")),
            triggered_ms=at_ms,
            due_ms=at_ms,
        )

    # -- the feed ------------------------------------------------------------------------------------------------

    def take(self, account: Account, config: dict[str, Any], most: int, at_ms: int) -> list[dict[str, Any]]:
        """Lease up to `most` entries; each gets a handle that is good until the entry is visible again."""
        queue = config["queue"]
        oldest_ms = at_ms - queue["MessageRetentionPeriodInSeconds"] * 1000
        entries = sorted(account.of_kind("feed").values(), key=lambda entry: int(entry["number"]))
        for entry in [entry for entry in entries if entry["created_ms"] < oldest_ms]:
            account.keep("feed", str(entry["number"]), None)
        ready = [entry for entry in entries if oldest_ms <= entry["created_ms"] and entry["visible_ms"] <= at_ms]
        if account.temper.strikes("queue_reordered", at_ms) is not None:
            account.temper.shuffle(ready)
        shown, facts = [], []
        for entry in ready[:most]:
            again_ms = account.temper.strikes("queue_redelivery", at_ms)
            hidden_ms = queue["visibilityTimeoutInSeconds"] * 1000 if again_ms is None else again_ms
            handle = uuid.uuid4().hex
            lease = {"handle": handle, "visible_ms": at_ms + hidden_ms, "deliveries": entry["deliveries"] + 1}
            account.keep("feed", str(entry["number"]), entry | lease)
            facts.append(_row("delivered", entry["event"], lease["deliveries"]))
            shown.append({"eventId": entry["event_id"], "handle": handle} | entry["event"])
        self._market.commit(account, facts, at_ms)
        return shown

    def commit(self, account: Account, handles: list[str], at_ms: int) -> None:
        """Take the leased entries out; a handle whose lease is over, or that is unknown, does nothing."""
        facts = []
        for key, entry in account.of_kind("feed").items():
            if entry["handle"] in handles and entry["handle"] and entry["visible_ms"] > at_ms:
                account.keep("feed", key, None)
                facts.append(_row("acknowledged", entry["event"], entry["deliveries"]))
        self._market.commit(account, facts, at_ms)

    # -- what a call looks like ----------------------------------------------------------------------------------

    def request(self, account: Account, delivery: Delivery) -> Call:
        """The event, under the headers that were configured."""
        hook = (account.kept.get(("config", "hook")) or {}).get("hook", {})
        headers = {"Content-Type": "application/json"} | hook.get("headers", {})
        return Call(delivery.address, headers, delivery.body.encode())

    def heard(self, account: Account, _delivery: Delivery, status: int | str) -> Heard:
        """200 alone will do; without a hook there is nobody to tell."""
        if status == 200:
            return "accepted"
        return "again" if ("config", "hook") in account.kept else "stop"

    def given_up(self, account: Account, _delivery: Delivery) -> Documents:
        """A hook that did not take an event in the end is removed, where the shop is set so."""
        if account.settings.webhook_removed_after_failures and ("config", "hook") in account.kept:
            self.remove(account, "hook", "failed")
        return {}


def _row(action: str, event: dict[str, Any], deliveries: int) -> Fact:
    fact = {"action": action, "order_id": event["orderId"], "status": event["state"]}
    return "queue", fact | {"deliveries": deliveries}
