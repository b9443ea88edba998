"""Not a service: how every service moves messages. One way to consume, one way to publish."""

from services.bus.arrays import array, columns
from services.bus.consumer import Subscription
from services.bus.failures import Poison, Transient
from services.bus.settings import BusSettings
from services.bus.transaction import Cause, Received, Transaction

__all__ = [
    "BusSettings", "Cause", "Poison", "Received", "Subscription", "Transaction", "Transient", "array", "columns",
]  # fmt: skip
