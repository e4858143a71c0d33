"""What the mesh asks of the BFF: event rules, and the methods that other services call."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from redis.exceptions import DataError

from bff.cluster.messenger import Messenger
from bff.errors import Code, Outcome, Problem
from bff.mesh.client import MeshClient
from bff.mesh.events import EventHandler, MeshEvent, RetryEvent
from bff.mesh.messages import MeshRequest
from bff.mesh.service import Answer, Service
from bff.realtime.handlers import validate
from bff.realtime.injection import HandlerDependencies
from bff.realtime.router import HandledEvent, RealtimeRouter, ServedMethod
from bff.redis.client import UNAVAILABLE


def join_mesh(router: RealtimeRouter, dependencies: HandlerDependencies) -> None:
    """Tell the mesh what a router declares: its rules, and the service `APP_NAME` if it serves."""
    for rule in router.rules.values():
        dependencies.mesh.add_event_handler(event_handler(rule, dependencies))
    if router.served:
        key = dependencies.settings.mesh_private_key_file
        service = Service(
            dependencies.settings.app_name, private_key=key.read_text() if key else ""
        )
        for method, served in router.served.items():
            answer, function = _answer(served, dependencies), served.handler.function
            service.add(method, answer, function, encrypted=served.encrypted)
        dependencies.mesh.add_service(service)


def event_handler(rule: HandledEvent, dependencies: HandlerDependencies) -> EventHandler:
    """An event rule as the mesh wants it.

    An event that cannot be worked off now, because Redis or something else is away or a call says
    `retryable`, waits in its place.
    """

    async def handle(event: MeshEvent) -> None:
        once = dependencies.messenger.idempotent(f"{event.id}/{rule.name}")
        try:
            await rule.handler(dependencies.arguments({MeshEvent: event, Messenger: once}))
        except DataError:
            raise  # what Redis cannot hold it will not hold later
        except UNAVAILABLE as error:
            raise RetryEvent(f"{type(error).__name__}: {error}") from error
        except Problem as problem:
            if problem.retryable:
                raise RetryEvent(str(problem)) from problem
            raise

    return EventHandler(name=rule.name, topic=rule.topic, handler=handle)


def _answer(served: ServedMethod, dependencies: HandlerDependencies) -> Answer:
    """A call that RabbitMQ delivers again sends nothing twice."""

    async def answer(request: MeshRequest) -> Any:
        params = validate(served.handler.params, request.params)
        once = dependencies.messenger.idempotent(f"{request.correlation_id}/{request.method}")
        try:
            return await served.handler(
                dependencies.arguments(
                    {
                        BaseModel: params,
                        MeshRequest: request,
                        Messenger: once,
                        MeshClient: dependencies.mesh.with_context(request.context),
                    }
                )
            )
        except UNAVAILABLE as error:
            raise Problem(Code.SERVICE_UNAVAILABLE, outcome=Outcome.UNKNOWN) from error

    return answer
