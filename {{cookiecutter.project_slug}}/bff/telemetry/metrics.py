"""Every metric, in one list. Served on `/metrics` in Prometheus' text format."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from bff.version import __version__

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """One object per app, with a registry of its own, so that two apps can live in one process."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()

        self.info = Gauge(
            "bff_info",
            "Always 1: the version of the engine is the label",
            ["version"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.info.labels(__version__).set(1)
        self.connections = Gauge(
            "bff_connections", "Open sockets", registry=registry, multiprocess_mode="livesum"
        )
        self.connections_opened = Counter(
            "bff_connections_opened", "Sockets that were let in", registry=registry
        )
        self.connections_closed = Counter(
            "bff_connections_closed",
            "Sockets that ended, by close code",
            ["code"],
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
        self.messages_sent = Counter(
            "bff_messages_sent",
            "Messages given to Redis, by audience: connection, user, topic, all",
            ["audience"],
            registry=registry,
        )
        self.deliveries = Counter(
            "bff_deliveries", "Messages written to sockets of this instance", registry=registry
        )
        self.recoveries = Counter(
            "bff_recoveries",
            "Streams that a client came back to with a position: recovered or lost",
            ["result"],
            registry=registry,
        )
        self.holes = Counter(
            "bff_holes",
            "Times that a live stream's missing messages were fetched",
            registry=registry,
        )
        self.gaps = Counter(
            "bff_gaps",
            "Times that live sockets were told of a loss, by stream: user, all, topic",
            ["stream"],
            registry=registry,
        )
        self.pubsub_subscribed = Gauge(
            "bff_pubsub_subscribed",
            "1 while the relay hears Redis",
            registry=registry,
            multiprocess_mode="livemin",
        )
        self.pubsub_restarts = Counter(
            "bff_pubsub_restarts", "How often the relay had to listen anew", registry=registry
        )
        self.lease_losses = Counter(
            "bff_lease_losses",
            "How often this instance had to take a new generation",
            registry=registry,
        )
        self.entries_reaped = Counter(
            "bff_entries_reaped", "Index entries of dead instances removed", registry=registry
        )
        self.mesh_calls = Counter(
            "bff_mesh_calls",
            "Mesh calls, by service and outcome: ok or an error code",
            ["service", "outcome"],
            registry=registry,
        )
        self.mesh_seconds = Histogram(
            "bff_mesh_seconds",
            "Seconds from a mesh request to its answer",
            ["service"],
            registry=registry,
            buckets=_SECONDS,
        )
        self.mesh_late_replies = Counter(
            "bff_mesh_late_replies",
            "Replies nobody was waiting for any more, by service",
            ["service"],
            registry=registry,
        )
        self.mesh_served = Counter(
            "bff_mesh_served",
            "Calls of other services to this one, by service and outcome: answered, malformed",
            ["service", "outcome"],
            registry=registry,
        )
        self.mesh_connected = Gauge(
            "bff_mesh_connected",
            "1 while the mesh is connected, by client: mesh, and yours",
            ["mesh"],
            registry=registry,
            multiprocess_mode="livemin",
        )
        self.mesh_events = Counter(
            "bff_mesh_events",
            "Mesh events, by rule and result: handled, retried, dead_lettered",
            ["rule", "result"],
            registry=registry,
        )
