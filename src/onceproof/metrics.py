"""Prometheus metrics of the pipeline: names, help texts and labels in one place.

A process registers all of them and counts in those that it has a part in.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

_LATENCY_BUCKETS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300,
)  # fmt: skip

messages_processed: Final = Counter(
    "onceproof_messages_processed_total",
    "Deliveries that the consumer settled, by outcome.",
    ["outcome"],
)
dedup_hits: Final = Counter(
    "onceproof_dedup_hits_total", "Deliveries that the inbox recognised as already processed."
)
redeliveries: Final = Counter(
    "onceproof_redeliveries_total", "Deliveries received with a delivery attempt above one."
)
outbox_pending: Final = Gauge("onceproof_outbox_pending", "Outbox rows that are not published yet.")
outbox_oldest_age: Final = Gauge(
    "onceproof_outbox_oldest_age_seconds", "Age of the oldest unpublished outbox row."
)
published: Final = Counter("onceproof_published_total", "Events that a broker confirmed.")
publish_failures: Final = Counter(
    "onceproof_publish_failures_total", "Events whose publish failed or had no known outcome."
)
visibility_extensions: Final = Counter(
    "onceproof_visibility_extensions_total", "Visibility timeouts that the heartbeat extended."
)
stale_acks: Final = Counter(
    "onceproof_stale_acks_total", "Acks that came after the visibility of the delivery had lapsed."
)
queue_messages: Final = Gauge(
    "onceproof_queue_messages", "Messages in the consumed queue, waiting or in flight; approximate."
)
dead_letters: Final = Gauge("onceproof_dead_letters", "Messages in the DLQ; approximate.")
inbox_retention: Final = Gauge(
    "onceproof_inbox_retention_seconds", "How long the inbox remembers an event."
)
dedup_window: Final = Gauge(
    "onceproof_dedup_window_seconds",
    "How long queue, DLQ and a redrive can bring an event back; 0 where the broker does not say.",
)
charge_seconds: Final = Histogram(
    "onceproof_charge_seconds",
    "Time from the start of a handler to its commit.",
    buckets=_LATENCY_BUCKETS,
)
end_to_end_seconds: Final = Histogram(
    "onceproof_end_to_end_seconds",
    "Time from the creation of an event to the commit of its handler.",
    buckets=_LATENCY_BUCKETS,
)
