"""Not a service: what every service runs on. One way to consume, one way to publish."""

from services.bus.transaction import Cause, Received, Transaction

__all__ = ["Cause", "Received", "Transaction"]
