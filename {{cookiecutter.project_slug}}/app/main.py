"""Every part made and joined, on one screen."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from app import routes
from app.auth.authenticator import Authenticator
from app.auth.origins import Origins
from app.auth.tickets import Tickets
from app.auth.tokens import TokenVerifier
from app.broadcasts.service import BroadcastService
from app.cluster import redis as cluster_redis
from app.cluster.instance import Instance
from app.cluster.presence import presence_topic
from app.db.database import Database
from app.development import setup
from app.lifespan import lifespan
from app.mesh import client as mesh_client
from app.mesh.memory import MemoryBroker
from app.realtime.at_hand import AtHand
from app.realtime.dispatcher import Dispatcher
from app.realtime.drain import Draining
from app.realtime.router import RealtimeRouter
from app.realtime.serving import join_mesh
from app.realtime.sessions import Sessions
from app.routes import problems, websocket
from app.settings import Settings
from app.telemetry import logs
from app.telemetry.metrics import Metrics


def create_app(settings: Settings | None = None, *, broker: MemoryBroker | None = None) -> FastAPI:
    """The whole BFF, connected to nothing yet: that is the lifespan's work.

    `broker` is the in-process mesh of `AMQP_URL=memory://`, if services are to join it.
    """
    settings = settings or Settings()
    broker = broker or MemoryBroker()
    logs.configure(settings)
    metrics = Metrics()
    database = Database(settings)

    realtime = RealtimeRouter()
    for router in routes.REALTIME:
        realtime.include(router)

    redis = cluster_redis.connect(settings.redis_url)
    instance = Instance(
        redis, settings, metrics, presence_is_watched=realtime.offers(presence_topic("anybody"))
    )
    broadcasts = BroadcastService(database, instance.pipeline, instance.messenger, settings)

    verifier = TokenVerifier(settings)
    tickets = Tickets(instance.pipeline, settings)

    mesh = mesh_client.connect(settings, metrics, broker=broker)
    at_hand = AtHand(instance.messenger, mesh, instance.presence, database, settings)
    dispatcher = Dispatcher(realtime, at_hand)
    join_mesh(realtime, at_hand)

    app = FastAPI(title=settings.app_name, lifespan=lifespan, max_body_size=settings.max_body_bytes)
    app.state.settings = settings
    app.state.metrics = metrics
    app.state.database = database
    app.state.redis = redis
    app.state.pipeline = instance.pipeline
    app.state.index = instance.index
    app.state.feeds = instance.feeds
    app.state.relay = instance.relay
    app.state.messenger = instance.messenger
    app.state.presence = instance.presence
    app.state.broadcasts = broadcasts
    app.state.authenticator = Authenticator(settings, verifier, tickets)
    app.state.tickets = tickets
    app.state.verifier = verifier
    app.state.realtime = realtime
    app.state.mesh = mesh
    app.state.dispatcher = dispatcher
    app.state.sessions = sessions = Sessions(
        instance.id,
        instance.registry,
        instance.subscriptions,
        dispatcher,
        broadcasts,
        verifier.verify,
        settings,
        metrics,
    )
    app.state.draining = Draining(sessions, instance.registry, settings.drain_seconds)

    problems.install(app)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=Origins(settings.allowed_origins).allowed,
        allow_credentials=True,
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=["Location"],
    )
    app.add_middleware(websocket.SocketsFirst)
    for http_router in routes.HTTP:
        app.include_router(http_router)
    if settings.development:
        setup.install(app, broker)
    return app
