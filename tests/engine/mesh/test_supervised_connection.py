"""Every error that ends a connection to RabbitMQ is converted to `ConnectionLost`."""

from __future__ import annotations

import asyncio

import pytest
from aiormq.exceptions import AMQPConnectionError, DeliveryError
from bff.mesh.rabbitmq.connection import broker_errors
from bff.mesh.transport import ConnectionLost

ENDS = [
    AMQPConnectionError("reset"),
    StopAsyncIteration(),
    RuntimeError("Writer is closed"),
    ConnectionResetError(),
    TimeoutError(),
    asyncio.CancelledError(),
]


@pytest.mark.parametrize("end", ENDS, ids=lambda end: type(end).__name__)
async def test_each_error_of_a_connection_is_converted(end: BaseException) -> None:
    with pytest.raises(ConnectionLost), broker_errors():
        raise end


async def test_a_refused_message_does_not_end_the_connection() -> None:
    with pytest.raises(DeliveryError), broker_errors():
        raise DeliveryError(None, None)  # type: ignore[arg-type]


async def test_the_cancellation_of_a_task_is_kept() -> None:
    async def wait() -> None:
        with broker_errors():
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
