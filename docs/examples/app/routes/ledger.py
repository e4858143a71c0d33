"""The ledger: a service that uses JSON-RPC, on its own vhost."""

from __future__ import annotations

from app import jsonrpc
from app.settings import Settings
from bff import Bff, RealtimeRouter, connect_mesh

realtime = RealtimeRouter()

realtime.expose("ledger", methods=["balance"], scopes=["invoices"])


def connect(bff: Bff) -> None:
    """Route calls of the service `ledger` to a second mesh client."""
    settings = bff.provided(Settings)
    own = {"amqp_url": settings.ledger_amqp_url, "rpc_exchange": ""}
    ledger = connect_mesh(
        settings.model_copy(update=own), bff.metrics, codec=jsonrpc, name="ledger"
    )
    bff.mesh.route(["ledger"], to=ledger)
