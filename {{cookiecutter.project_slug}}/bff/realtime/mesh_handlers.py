"""Registers a router's event handlers and served methods with the mesh."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel
from redis.exceptions import (
    ClusterDownError,
    DataError,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from bff.cluster.messenger import Messenger
from bff.errors import Code, Outcome, Problem
from bff.mesh.client import MeshClient
from bff.mesh.events import REDELIVERY_SECONDS, EventHandler, MeshEvent, RetryEvent
from bff.mesh.messages import MeshRequest
from bff.mesh.service import Answer, Service
from bff.realtime.declarations import DeclaredEventHandler, ServedMethod
from bff.realtime.handlers import validate
from bff.realtime.injection import HandlerDependencies
from bff.realtime.router import RealtimeRouter
from bff.redis.client import UNAVAILABLE, why


def join_mesh(
    router: RealtimeRouter, dependencies: HandlerDependencies, redis_error: Callable[[], str]
) -> None:
    """Register the event handlers, and the service `APP_NAME` if the router serves methods.

    `redis_error` returns why Redis is unavailable, or an empty string. While it returns a reason,
    no event is taken from a queue.
    """
    for declared in router.event_handlers.values():
        event_handler = bind_event_handler(declared, dependencies)
        event_handler.unavailable = redis_error
        dependencies.mesh.add_event_handler(event_handler)
    if router.served_methods:
        key = dependencies.settings.mesh_private_key_file
        service = Service(
            dependencies.settings.app_name, private_key=key.read_text() if key else ""
        )
        for name, method in router.served_methods.items():
            service.add(
                name,
                _bind_method(method, dependencies),
                described_by=method.handler.function,
                encrypted=method.encrypted,
            )
        dependencies.mesh.add_service(service)


def bind_event_handler(
    declared: DeclaredEventHandler, dependencies: HandlerDependencies
) -> EventHandler:
    """The event handler for the mesh client, with its dependencies.

    The handler raises `RetryEvent` when Redis or another server cannot be reached (`OSError`), or
    when a mesh call fails with a `retryable` problem. Its messenger is idempotent: a redelivered
    event sends nothing twice.
    """

    async def handle(event: MeshEvent) -> None:
        messenger = dependencies.messenger.idempotent(
            f"{event.id}/{declared.name}", REDELIVERY_SECONDS
        )
        try:
            await declared.handler(dependencies.arguments({MeshEvent: event, Messenger: messenger}))
        except DataError:
            raise  # Redis cannot store this value: a retry would fail too
        except UNAVAILABLE as error:
            # In an outage of Redis no event can be handled: they wait, in their order.
            raise RetryEvent(why(error), limited=not _is_outage(error)) from error
        except Problem as problem:
            if problem.retryable:
                raise RetryEvent(str(problem)) from problem
            raise
        # An event that is retried or becomes a dead letter keeps its idempotency keys.
        event.on_settled.extend(messenger.key_releases())

    return EventHandler(name=declared.name, topic=declared.topic, handler=handle)


def _is_outage(error: Exception) -> bool:
    """Whether Redis executes no write, for any event. Other errors are those of one command."""
    if isinstance(error, RedisError) and str(error).startswith(("MISCONF", "NOREPLICAS")):
        return True
    return isinstance(
        error,
        RedisConnectionError
        | RedisTimeoutError
        | ReadOnlyError
        | OutOfMemoryError
        | ClusterDownError
        | MasterDownError,
    )


def _bind_method(method: ServedMethod, dependencies: HandlerDependencies) -> Answer:
    """The function that answers calls of a served method.

    Its messenger is idempotent: a redelivered call sends nothing twice.
    """

    async def answer(request: MeshRequest) -> Any:
        params = validate(method.handler.params, request.params)
        messenger = dependencies.messenger.idempotent(
            f"{request.id}/{request.method}", REDELIVERY_SECONDS
        )
        try:
            return await method.handler(
                dependencies.arguments(
                    {
                        BaseModel: params,
                        MeshRequest: request,
                        Messenger: messenger,
                        MeshClient: dependencies.mesh.with_context(request.context),
                    }
                )
            )
        except DataError:
            raise  # Redis is available, but cannot store this value
        except UNAVAILABLE as error:
            raise Problem(Code.SERVICE_UNAVAILABLE, outcome=Outcome.UNKNOWN) from error
        finally:  # whatever the answer, this call cannot come again once it is acknowledged
            request.on_settled.extend(messenger.key_releases())

    return answer
