"""All metrics. Served at `/metrics` in Prometheus' text format."""

from __future__ import annotations

from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)

from bff.version import __version__

CONNECTIONS_REFUSED: Final = Counter(
    "bff_connections_refused",
    "Connections and handshakes refused, by limit: max_connections, address, total, user",
    ["limit"],
    registry=None,
)
"""Counted by the server, which knows no app: part of the metrics of each app of the process."""
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


disable_created_metrics()  # type: ignore[no-untyped-call]
"""Otherwise each counter and histogram has a second series, `…_created`. Read at each scrape, so it
holds for the app's own metrics and in each worker too."""


class Metrics:
    """The metrics of one app, in their own registry, so that one process can run two apps."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        registry.register(CONNECTIONS_REFUSED)

        self.info = Gauge(
            "bff_info",
            "Always 1; the label is the version of the engine",
            ["version"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.info.labels(__version__).set(1)
        self.connections = Gauge(
            "bff_connections", "Open connections", registry=registry, multiprocess_mode="livesum"
        )
        self.connections_opened = Counter(
            "bff_connections_opened", "Connections admitted", registry=registry
        )
        self.connections_closed = Counter(
            "bff_connections_closed",
            "Connections closed, by close code, and by the side that closed: server, client",
            ["code", "by"],
            registry=registry,
        )
        self.frames_in = Counter(
            "bff_frames_in", "Frames received, by type", ["type"], registry=registry
        )
        self.frames_refused = Counter(
            "bff_frames_refused",
            "Frames answered with an error, by code",
            ["code"],
            registry=registry,
        )
        self.http_rate_limited = Counter(
            "bff_http_rate_limited",
            "HTTP requests refused because their user sent too many",
            registry=registry,
        )
        self.audit_dropped = Counter(
            "bff_audit_dropped",
            "Audit entries that are only in the log: too many waited for the database, or too many "
            "acts were refused in a minute",
            registry=registry,
        )
        self.messages_sent = Counter(
            "bff_messages_sent",
            "Messages published to Redis, by audience: connection, user, topic, all",
            ["audience"],
            registry=registry,
        )
        self.deliveries = Counter(
            "bff_deliveries", "Messages written to connections of this instance", registry=registry
        )
        self.recoveries = Counter(
            "bff_recoveries",
            "Streams resumed from a client's position, by result: recovered, lost",
            ["result"],
            registry=registry,
        )
        self.holes = Counter(
            "bff_holes",
            "Missing offsets in live streams that were filled from Redis",
            registry=registry,
        )
        self.gaps = Counter(
            "bff_gaps",
            "Gap events sent because messages were lost, by stream: user, all, topic",
            ["stream"],
            registry=registry,
        )
        self.pubsub_subscribed = Gauge(
            "bff_pubsub_subscribed",
            "1 while the pub/sub listener is subscribed",
            registry=registry,
            multiprocess_mode="livemin",
        )
        self.pubsub_restarts = Counter(
            "bff_pubsub_restarts", "Times the pub/sub listener resubscribed", registry=registry
        )
        self.lease_losses = Counter(
            "bff_lease_losses",
            "Times this instance lost its lease and took a new generation",
            registry=registry,
        )
        self.entries_reaped = Counter(
            "bff_entries_reaped",
            "Index entries of dead instances removed",
            registry=registry,
        )
        self.index_repairs = Counter(
            "bff_index_repairs",
            "Index entries that differed from the connections of this instance, by repair: "
            "restored, removed",
            ["repair"],
            registry=registry,
        )
        self.mesh_calls = Counter(
            "bff_mesh_calls",
            "Mesh calls, by service and outcome: ok, an error code, or cancelled",
            ["service", "outcome"],
            registry=registry,
        )
        self.mesh_seconds = Histogram(
            "bff_mesh_seconds",
            "Seconds from a mesh call to its reply",
            ["service"],
            registry=registry,
            buckets=_SECONDS,
        )
        self.mesh_late_replies = Counter(
            "bff_mesh_late_replies",
            "Replies that arrived after the caller stopped waiting, by service",
            ["service"],
            registry=registry,
        )
        self.mesh_served = Counter(
            "bff_mesh_served",
            "Calls by other services to this instance, by service and outcome: answered, "
            "malformed, failed",
            ["service", "outcome"],
            registry=registry,
        )
        self.mesh_connected = Gauge(
            "bff_mesh_connected",
            "1 while the mesh client is connected, by client",
            ["mesh"],
            registry=registry,
            multiprocess_mode="livemin",
        )
        self.mesh_event_retry_seconds = Gauge(
            "bff_mesh_event_retry_seconds",
            "Seconds for which an event handler has been retrying one event, or 0",
            ["handler"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.mesh_consumers_down = Gauge(
            "bff_mesh_consumers_down",
            "Queues of event handlers and services that are not consumed, by client",
            ["mesh"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.mesh_events = Counter(
            "bff_mesh_events",
            "Mesh events, by event handler and result: handled, retried, dead_lettered",
            ["handler", "result"],
            registry=registry,
        )
