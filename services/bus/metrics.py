"""Prometheus metrics of one process, in a registry of its own."""

from typing import final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


@final
class Metrics:
    """Named after OpenTelemetry's messaging metrics, in Prometheus spelling; services add theirs to `registry`."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.records = Counter(
            "saldo_records", "Records by what became of them.", ["stream", "outcome"], registry=registry
        )
        self.batch_records = Histogram(
            "saldo_batch_records", "Records a batch.", ["stream"], buckets=(1, 5, 20, 50, 100, 200, 500, 1_000),
            registry=registry,
        )  # fmt: skip
        self.process_seconds = Histogram(
            "messaging_process_duration_seconds", "A batch, from its records to its commit.", ["stream"],
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.lag = Gauge("kafka_consumer_group_lag", "Records behind.", ["stream", "partition"], registry=registry)
        self.waits = Counter("saldo_transient_waits", "Pauses before a new try.", ["stream", "kind"], registry=registry)
        self.commit_failures = Counter("saldo_offset_commit_failures", "Redelivered.", ["stream"], registry=registry)
        self.dead_letters = Gauge("saldo_dead_letters_open", "Open dead letters.", registry=registry)
        self.dead_letters_for_person = Gauge(
            "saldo_dead_letters_for_person", "Of these, replayed in vain too often.", registry=registry
        )
        self.dead_letters_age = Gauge(
            "saldo_dead_letters_oldest_age_seconds", "Age of the oldest open dead letter.", registry=registry
        )
        self.parked_keys = Gauge("saldo_parked_keys", "Aggregates whose events wait.", registry=registry)
        self.outbox_records = Gauge("saldo_outbox_records", "Records not yet sent.", registry=registry)
        self.outbox_age = Gauge(
            "saldo_outbox_oldest_age_seconds", "Age of the oldest unsent record.", registry=registry
        )
        self.sent = Counter("messaging_client_sent_messages", "Records acknowledged.", ["stream"], registry=registry)
        self.send_failures = Counter("saldo_relay_failures", "Chunks abandoned.", registry=registry)
        self.claim_seconds = Histogram(
            "saldo_outbox_claim_seconds", "To find the oldest rows of the outbox, also where there are none.",
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.send_seconds = Histogram(
            "saldo_relay_chunk_seconds", "A chunk, sent and marked.", buckets=_SECONDS, registry=registry
        )
