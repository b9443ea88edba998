"""What the stock side tells Prometheus."""

from prometheus_client import CollectorRegistry, Gauge, Histogram

_SECONDS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 5, 10, 30, 60)


class StockMetrics:
    """Made once by `app.py`, which registers them with the service's own."""

    def __init__(self) -> None:
        self.breaker_state = Gauge(
            "saldo_channel_breaker_state", "0 closed, 1 half open, 2 open.", ["connection"], registry=None
        )
        self.propagation = Histogram(
            "saldo_propagation_seconds",
            "From the receipt of a sale to the acceptance of a number that covers it, at each other channel.",
            ["connection"],
            buckets=_SECONDS,
            registry=None,
        )

    def register(self, registry: CollectorRegistry) -> None:
        """Show them in `/metrics`."""
        registry.register(self.breaker_state)
        registry.register(self.propagation)
