"""What a handler may ask for, decided once, when it is declared."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from fastapi.params import Depends
from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings

from bff.errors import Code, Problem, describe

Arguments = Mapping[type, Any]
"""What is at hand during a call, by type."""
_Source = Callable[[Arguments], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Handler:
    """A function and where each of its parameters comes from."""

    function: Callable[..., Awaitable[Any]]
    params: type[BaseModel] | None
    sources: dict[str, _Source]
    resources: frozenset[type]
    """Types that the engine does not know: the app must provide them (`Bff(provide=...)`)."""

    async def __call__(self, arguments: Arguments) -> Any:
        return await self.function(
            **{name: await source(arguments) for name, source in self.sources.items()}
        )


def handler(
    function: Callable[..., Awaitable[Any]], offered: frozenset[type], *, params: bool
) -> Handler:
    """Bind a coroutine function.

    Its parameters are recognised by type: those in `offered`; one Pydantic model, if `params`;
    other classes, which the app provides; and `Annotated[T, Depends(f)]`, where `f` may ask for
    the same except the model.

    Raises:
        TypeError: it is no coroutine function, or a parameter's annotation is no class.
    """
    if not inspect.iscoroutinefunction(function):
        raise TypeError(f"{_name(function)} must be an `async def` function")
    model: type[BaseModel] | None = None
    sources: dict[str, _Source] = {}
    resources: set[type] = set()
    for name, hint in _hints(function).items():
        if params and hint not in offered and _is_model(hint):
            if model is not None:
                raise TypeError(f"{_name(function)} asks for two parameter models")
            model = hint
            sources[name] = _by_type(BaseModel)
        else:
            sources[name] = _source(function, name, hint, offered, resources)
    return Handler(function, model, sources, frozenset(resources))


def check_resources(handler: Handler, offered: Collection[type]) -> None:
    """
    Raises:
        TypeError: the handler asks for a type that is not offered.
    """
    for missing in handler.resources - set(offered):
        raise TypeError(
            f"{_name(handler.function)} asks for {missing.__name__}, which is neither "
            f"{_choices(offered)} nor named in Bff(provide=...)"
        )


def _is_model(hint: Any) -> bool:
    """Settings are Pydantic models too, but never the parameters of a call."""
    is_class = isinstance(hint, type)
    return is_class and issubclass(hint, BaseModel) and not issubclass(hint, BaseSettings)


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
    function: Callable[..., Any],
    name: str,
    hint: Any,
    offered: frozenset[type],
    resources: set[type],
) -> _Source:
    if hint in offered:
        return _by_type(hint)
    if get_origin(hint) is Annotated:
        for mark in get_args(hint)[1:]:
            if isinstance(mark, Depends) and mark.dependency is not None:
                return _depends(mark.dependency, offered, resources)
    if _may_be_provided(hint):
        resources.add(hint)
        return _by_type(hint)
    raise TypeError(
        f"{_name(function)}: parameter {name!r} must be annotated with one of "
        f"{_choices(offered)}, with a type of your own that is named in Bff(provide=...), "
        "or be Annotated[..., Depends(...)]"
    )


def _may_be_provided(hint: Any) -> bool:
    """A class of the app: the engine's own are offered, or are not to be had here."""
    if not isinstance(hint, type) or _is_model(hint):
        return False
    return hint.__module__.split(".")[0] not in ("builtins", "bff")


def _choices(offered: Collection[type]) -> str:
    return ", ".join(sorted(kind.__name__ for kind in offered))


def _by_type(kind: type) -> _Source:
    async def source(arguments: Arguments) -> Any:
        return arguments[kind]

    return source


def _depends(
    dependency: Callable[..., Any], offered: frozenset[type], resources: set[type]
) -> _Source:
    if inspect.isgeneratorfunction(dependency) or inspect.isasyncgenfunction(dependency):
        raise TypeError(f"{_name(dependency)}: dependencies of handlers cannot `yield`")
    sources = {
        name: _source(dependency, name, hint, offered, resources)
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
