"""A service of the mesh inside this process: methods in, NuroPb replies out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from app.errors import Problem
from app.mesh import nuropb
from app.mesh.nuropb import Delivery, MalformedMessage

Methods = Mapping[str, Callable[..., Awaitable[Any]]]
"""Async functions by method name. Each takes its parameters and `context` as keywords, and may
raise `Problem`: it reaches the caller as the NuroPb class of its code."""


async def answer(methods: Methods, request: Delivery, reply_to: str) -> list[bytes]:
    """Carry out a request or command; the replies are those that the NuroPb library sends.

    After an exception there are two: the true one, then one whose result is the error's text.
    """
    try:
        call = nuropb.decode_call(request.body)
        method = methods.get(call.method)
        if method is None:
            return _failed(
                request, reply_to, "NuropbHandlingError", f"Unknown method {call.method}"
            )
        result = await method(**call.params, context=call.context)
        return [nuropb.response(request, reply_to, result)]
    except MalformedMessage:
        return []
    except Problem as problem:
        name = problem.as_error()["error"]
        return _failed(request, reply_to, name, problem.description)
    except Exception as error:
        return _failed(request, reply_to, type(error).__name__, str(error))


def _failed(request: Delivery, reply_to: str, name: str, description: str) -> list[bytes]:
    error = {"error": name, "description": description}
    return [
        nuropb.response(request, reply_to, None, error),
        nuropb.response(request, reply_to, description),
    ]
