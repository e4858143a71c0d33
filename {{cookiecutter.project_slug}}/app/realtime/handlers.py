"""What a handler may ask for, decided once, when it is declared."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from fastapi.params import Depends
from pydantic import BaseModel, ValidationError

from app.errors import Code, Problem, describe

Arguments = Mapping[type, Any]
"""What is at hand during a call, by type."""
_Source = Callable[[Arguments], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Handler:
    """A function and where each of its parameters comes from."""

    function: Callable[..., Awaitable[Any]]
    params: type[BaseModel] | None
    sources: dict[str, _Source]

    async def __call__(self, arguments: Arguments) -> Any:
        return await self.function(
            **{name: await source(arguments) for name, source in self.sources.items()}
        )


def handler(
    function: Callable[..., Awaitable[Any]], offered: frozenset[type], *, params: bool
) -> Handler:
    """Bind a coroutine function.

    Its parameters are recognised by type: those in `offered`; one Pydantic model, if `params`;
    and `Annotated[T, Depends(f)]`, where `f` may ask for the same except the model.

    Raises:
        TypeError: it is no coroutine function, or asks for something else.
    """
    if not inspect.iscoroutinefunction(function):
        raise TypeError(f"{_name(function)} must be an `async def` function")
    model: type[BaseModel] | None = None
    sources: dict[str, _Source] = {}
    for name, hint in _hints(function).items():
        if params and hint not in offered and _is_model(hint):
            if model is not None:
                raise TypeError(f"{_name(function)} asks for two parameter models")
            model = hint
            sources[name] = _at_hand(BaseModel)
        else:
            sources[name] = _source(function, name, hint, offered)
    return Handler(function, model, sources)


def _is_model(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, BaseModel)


def validate(model: type[BaseModel] | None, params: dict[str, Any]) -> BaseModel | None:
    """The caller's parameters as the handler's model.

    Raises:
        Problem: `invalid_params`, saying which one is wrong.
    """
    if model is None:
        return None
    try:
        return model.model_validate(params)
    except ValidationError as error:
        raise Problem(Code.INVALID_PARAMS, describe(error)) from None


def _source(
    function: Callable[..., Any], name: str, hint: Any, offered: frozenset[type]
) -> _Source:
    if hint in offered:
        return _at_hand(hint)
    if get_origin(hint) is Annotated:
        for mark in get_args(hint)[1:]:
            if isinstance(mark, Depends) and mark.dependency is not None:
                return _depends(mark.dependency, offered)
    choices = ", ".join(sorted(kind.__name__ for kind in offered))
    raise TypeError(
        f"{_name(function)}: parameter {name!r} must be annotated with one of {choices}, "
        "or be Annotated[..., Depends(...)]"
    )


def _at_hand(kind: type) -> _Source:
    async def source(arguments: Arguments) -> Any:
        return arguments[kind]

    return source


def _depends(dependency: Callable[..., Any], offered: frozenset[type]) -> _Source:
    if inspect.isgeneratorfunction(dependency) or inspect.isasyncgenfunction(dependency):
        raise TypeError(f"{_name(dependency)}: dependencies of handlers cannot `yield`")
    sources = {
        name: _source(dependency, name, hint, offered) for name, hint in _hints(dependency).items()
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
