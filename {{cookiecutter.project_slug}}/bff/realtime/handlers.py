"""Dependency injection for handlers: parameters are resolved by type, when one is declared."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from fastapi.params import Depends
from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings

from bff.auth.access_token import AccessToken
from bff.auth.caller import Caller
from bff.errors import Code, Problem, describe

Arguments = Mapping[type, Any]
"""The values that a call can inject, by type."""
_Source = Callable[[Arguments], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Handler:
    """A coroutine function, and the source of each of its parameters."""

    function: Callable[..., Awaitable[Any]]
    params: type[BaseModel] | None
    sources: dict[str, _Source]
    resources: frozenset[type]
    """Types that the app must provide with `Bff(provide=...)`."""

    async def __call__(self, arguments: Arguments) -> Any:
        return await self.function(
            **{name: await source(arguments) for name, source in self.sources.items()}
        )


def handler(
    function: Callable[..., Awaitable[Any]], injectable: frozenset[type], *, params: bool
) -> Handler:
    """Find the source of each parameter of a coroutine function, by its annotation.

    A parameter may have a type in `injectable`; if `params` is true, one may be a Pydantic model,
    which gets the parameters of the call; any other class must be provided by the app; and
    `Annotated[T, Depends(f)]` gets the result of `f`, which may take the same except the model.

    Raises:
        TypeError: it is not a coroutine function, or a parameter cannot be resolved.
    """
    if not inspect.iscoroutinefunction(function):
        raise TypeError(f"{_name(function)} must be an `async def` function")
    model: type[BaseModel] | None = None
    sources: dict[str, _Source] = {}
    resources: set[type] = set()
    for name, hint in _hints(function).items():
        if params and hint not in injectable and _is_model(hint):
            if model is not None:
                raise TypeError(
                    f"{_name(function)} has two Pydantic models: only one can get the parameters"
                )
            model = hint
            sources[name] = _by_type(BaseModel)
        else:
            sources[name] = _source(function, name, hint, injectable, resources)
    return Handler(function, model, sources, frozenset(resources))


def check_resources(handler: Handler, injectable: Collection[type]) -> None:
    """
    Raises:
        TypeError: a parameter has a type that is not injectable.
    """
    for missing in handler.resources - set(injectable):
        raise TypeError(
            f"{_name(handler.function)} has a parameter of type {missing.__name__}: provide it "
            f"with Bff(provide=...), or use one of {_choices(injectable)}"
        )


def _is_model(hint: Any) -> bool:
    """Settings are Pydantic models too, but not the parameters of a call."""
    is_class = isinstance(hint, type)
    return is_class and issubclass(hint, BaseModel) and not issubclass(hint, BaseSettings)


def validate(model: type[BaseModel] | None, params: dict[str, Any]) -> BaseModel | None:
    """Validate the parameters of a call; None when the handler has no model.

    Raises:
        Problem: `invalid_params`; the description names the wrong field.
    """
    if model is None:
        return None
    try:
        return model.model_validate(params)
    except ValidationError as error:
        raise Problem(Code.INVALID_PARAMS, describe(error)) from None


def _source(
    function: Callable[..., Any],
    name: str,
    hint: Any,
    injectable: frozenset[type],
    resources: set[type],
) -> _Source:
    if hint in injectable:
        return _access_token if hint is AccessToken else _by_type(hint)
    if get_origin(hint) is Annotated:
        for mark in get_args(hint)[1:]:
            if isinstance(mark, Depends) and mark.dependency is not None:
                return _depends(mark.dependency, injectable, resources)
    if _may_be_provided(hint):
        resources.add(hint)
        return _by_type(hint)
    raise TypeError(
        f"{_name(function)}: parameter {name!r} must be annotated with one of "
        f"{_choices(injectable)}, with a type of your own that Bff(provide=...) names, "
        "or be Annotated[..., Depends(...)]"
    )


def _may_be_provided(hint: Any) -> bool:
    """A class of the app. Classes of the engine are injectable here, or not available."""
    if not isinstance(hint, type) or _is_model(hint):
        return False
    return hint.__module__.split(".")[0] not in ("builtins", "bff")


def _choices(injectable: Collection[type]) -> str:
    return ", ".join(sorted(kind.__name__ for kind in injectable))


def _by_type(kind: type) -> _Source:
    async def source(arguments: Arguments) -> Any:
        return arguments[kind]

    return source


async def _access_token(arguments: Arguments) -> Any:
    """Fetched for the call: it may have to be refreshed."""
    return await arguments[AccessToken](arguments[Caller])


def _depends(
    dependency: Callable[..., Any], injectable: frozenset[type], resources: set[type]
) -> _Source:
    if inspect.isgeneratorfunction(dependency) or inspect.isasyncgenfunction(dependency):
        raise TypeError(f"{_name(dependency)}: a dependency of a handler cannot use `yield`")
    sources = {
        name: _source(dependency, name, hint, injectable, resources)
        for name, hint in _hints(dependency).items()
    }

    async def source(arguments: Arguments) -> Any:
        result = dependency(**{name: await inner(arguments) for name, inner in sources.items()})
        return await result if inspect.isawaitable(result) else result

    return source


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    hints = get_type_hints(function, include_extras=True)
    return {name: hints.get(name) for name in inspect.signature(function).parameters}


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", repr(function))
