"""The names and labels of the metrics, on which dashboards and alerts rely."""

from __future__ import annotations

from bff.telemetry.metrics import CONNECTIONS_REFUSED, Metrics
from bff.version import __version__
from prometheus_client import Counter, Gauge, Histogram, generate_latest

LABELS = {
    "bff_audit_dropped_total": "",
    "bff_connections": "",
    "bff_connections_closed_total": "code by",
    "bff_connections_opened_total": "",
    "bff_connections_refused_total": "limit",
    "bff_deliveries_total": "",
    "bff_entries_reaped_total": "",
    "bff_frames_in_total": "type",
    "bff_frames_refused_total": "code",
    "bff_gaps_total": "stream",
    "bff_holes_total": "",
    "bff_http_rate_limited_total": "",
    "bff_index_repairs_total": "repair",
    "bff_info": "version",
    "bff_lease_losses_total": "",
    "bff_mesh_calls_total": "service outcome",
    "bff_mesh_connected": "mesh",
    "bff_mesh_consumers_down": "mesh",
    "bff_mesh_event_retry_seconds": "handler",
    "bff_mesh_events_total": "handler result",
    "bff_mesh_late_replies_total": "service",
    "bff_mesh_seconds_bucket": "service le",
    "bff_mesh_seconds_count": "service",
    "bff_mesh_seconds_sum": "service",
    "bff_mesh_served_total": "service outcome",
    "bff_messages_sent_total": "audience",
    "bff_pubsub_restarts_total": "",
    "bff_pubsub_subscribed": "",
    "bff_recoveries_total": "result",
}


def test_each_series_has_the_labels_that_dashboards_ask_for() -> None:
    metrics = Metrics()
    for one in (CONNECTIONS_REFUSED, *vars(metrics).values()):
        if isinstance(one, Counter | Gauge | Histogram) and one._labelnames:
            one.labels(*one._labelnames)
    found = {
        sample.name: " ".join(sample.labels)
        for family in metrics.registry.collect()
        for sample in family.samples
    }
    CONNECTIONS_REFUSED.remove("limit")
    assert found == LABELS
    metrics.deliveries.inc(3)
    texts = [generate_latest(one.registry).decode() for one in (metrics, Metrics())]
    assert "bff_deliveries_total 3.0" in texts[0]
    assert "bff_deliveries_total 0.0" in texts[1], "two apps of a process count apart"
    for text in texts:
        assert f'bff_info{{version="{__version__}"}} 1.0' in text
