"""What a worker gives its jobs beside their arguments: connections, clients, settings."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from sqlxmq._errors import MissingContextError


class FromContext:
    """The default that marks a parameter as one for the registry's context."""

    def __init__(self, name: str | None) -> None:
        self.name = name

    def __repr__(self) -> str:
        return "from_context()" if self.name is None else f"from_context({self.name!r})"


def from_context(name: str | None = None) -> Any:
    """Marks a parameter of a job as one that the worker fills from its registry's context, and that is
    not sent: `async def send_mail(to: str, *, mailer: Mailer = from_context()) -> None`.

    Args:
        name: the name that set_context was given. None: the value is found by the parameter's type (the same, else
            the first that is an instance of it), then by the parameter's name.
    """
    return FromContext(name)


class Context:
    """The values that a registry was given, by type and by name."""

    def __init__(self) -> None:
        self._values: list[Any] = []
        self._by_type: dict[type[Any], Any] = {}
        self._by_name: dict[str, Any] = {}

    def add(self, value: Any, name: str | None) -> None:
        """Adds a value; one of the same name, or without a name of the same type, is replaced."""
        if name is not None:
            self._by_name[name] = value
        else:
            self._by_type[type(value)] = value

    def by_type(self, kind: type[Any]) -> Any:
        """The value of exactly this type, else the first that is an instance of it; raises LookupError."""
        if kind in self._by_type:
            return self._by_type[kind]
        if isinstance(kind, type):
            for value in self._by_type.values():
                if _is_instance(value, kind):
                    return value
        raise MissingContextError(
            f"no context of type {getattr(kind, '__qualname__', kind)} has been set in the registry"
        )

    def for_parameter(self, parameter: inspect.Parameter) -> Any:
        """What a parameter marked with from_context() gets; raises LookupError."""
        name = parameter.default.name
        if name is not None:
            if name in self._by_name:
                return self._by_name[name]
            raise MissingContextError(f"no context named {name!r} has been set in the registry")
        if parameter.annotation not in (parameter.empty, Any):
            try:
                return self.by_type(parameter.annotation)
            except LookupError:
                pass
        if parameter.name in self._by_name:
            return self._by_name[parameter.name]
        kind = getattr(parameter.annotation, "__qualname__", parameter.annotation)
        raise MissingContextError(
            f"no context of type {kind}, or named {parameter.name!r}, has been set in the registry"
        )

    def for_parameters(self, parameters: Iterable[inspect.Parameter]) -> dict[str, Any]:
        """The arguments for parameters that are marked with from_context(); raises LookupError."""
        return {parameter.name: self.for_parameter(parameter) for parameter in parameters}


def _is_instance(value: Any, kind: type[Any]) -> bool:
    try:
        return isinstance(value, kind)
    except TypeError:  # a protocol that cannot be checked at run time
        return False
