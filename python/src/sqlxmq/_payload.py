"""How arguments become JSON and come back, by their types.

Done by msgspec: dataclasses, named tuples, TypedDicts, enums, dates and times, UUIDs, decimals, sets
and more as its documentation lists them; models of pydantic through pydantic, where it is installed.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Generic, TypeVar, Union

import msgspec

from sqlxmq._errors import DecodingError, EncodingError

T = TypeVar("T")


def _is_pydantic_model(kind: Any) -> bool:
    # Nobody has a model of pydantic without having imported pydantic.
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and isinstance(kind, type) and issubclass(kind, pydantic.BaseModel)


def _encode_other(value: Any) -> Any:
    if _is_pydantic_model(type(value)):
        return value.model_dump(mode="json", by_alias=True)
    raise TypeError(f"objects of type {type(value).__qualname__} cannot be written as JSON")


def _decode_other(kind: type[Any], value: Any) -> Any:
    if _is_pydantic_model(kind):
        return kind.model_validate(value)
    if isinstance(value, kind):
        return value
    raise TypeError(f"expected {kind.__qualname__}")


def to_json(value: Any) -> str:
    """A value as JSON text.

    Raises TypeError or ValueError for what JSON cannot hold, not-a-number and infinity included.
    """
    builtins = msgspec.to_builtins(value, str_keys=True, enc_hook=_encode_other)
    return json.dumps(builtins, allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def _refused_part(kind: Any, seen: set[int]) -> str | None:
    """The name of a class, in an annotation, that is neither msgspec's nor pydantic's; None if there is none."""
    if id(kind) in seen:
        return None
    seen.add(id(kind))
    if isinstance(kind, msgspec.inspect.CustomType):
        return None if _is_pydantic_model(kind.cls) else kind.cls.__qualname__
    if isinstance(kind, msgspec.inspect.Type | msgspec.inspect.Field):
        kind = [getattr(kind, name) for name in kind.__struct_fields__]
    if isinstance(kind, list | tuple):
        for part in kind:
            if (refused := _refused_part(part, seen)) is not None:
                return refused
    return None


def check_annotation(where: str, annotation: Any) -> None:
    """Raises TypeError, beginning with where, if values of this type cannot come out of JSON."""
    try:
        refused = _refused_part(msgspec.inspect.type_info(annotation), set())
    except TypeError as error:
        raise TypeError(f"{where} cannot be read from JSON: {error}") from None
    if refused is not None:
        raise TypeError(
            f"{where} cannot be read from JSON, which does not hold objects of type {refused}; what the worker is to "
            "give it from the registry's context has the default from_context()"
        )


class ValuePayload(Generic[T]):
    """A payload that is one value of one type."""

    def __init__(self, where: str, annotation: Any) -> None:
        """Raises TypeError, beginning with where, if values of this type cannot come out of JSON."""
        check_annotation(where, annotation)
        self._where = where
        self._decoder: msgspec.json.Decoder[T] = msgspec.json.Decoder(annotation, dec_hook=_decode_other)

    def encode(self, value: T) -> str:
        """The value as JSON. Raises EncodingError if it cannot be written, or is not of the type."""
        try:
            text = to_json(value)
            self._decoder.decode(text)
        except (TypeError, ValueError, msgspec.MsgspecError) as error:
            raise EncodingError(f"{self._where} is {value!r:.200}, which cannot be sent: {error}") from None
        return text

    def decode(self, text: str | None) -> T:
        """The value. Raises DecodingError if the payload is none of the type."""
        try:
            return self._decoder.decode("null" if text is None else text)
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise DecodingError(f"the payload {text!s:.200} does not fit: {error}") from None


class ArgumentsPayload:
    """A payload that is a JSON object of a function's arguments."""

    def __init__(self, job_name: str, parameters: Iterable[inspect.Parameter]) -> None:
        """Raises TypeError, naming the parameter, if a parameter cannot be part of a payload."""
        self._job_name = job_name
        self._signature = inspect.Signature([parameter.replace(default=parameter.default) for parameter in parameters])
        fields: list[Any] = []
        for parameter in self._signature.parameters.values():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
                raise TypeError(f"job {job_name}: parameter {parameter.name} must have a name to be sent under")
            kind = Any if parameter.annotation is parameter.empty else parameter.annotation
            check_annotation(f"job {job_name}: parameter {parameter.name}", kind)
            if parameter.default is parameter.empty:
                fields.append((parameter.name, kind))
            else:
                fields.append((parameter.name, Union[kind, msgspec.UnsetType], msgspec.UNSET))  # noqa: UP007 (evaluated)
        # Required fields have to come first; the order of keys in an object means nothing.
        fields.sort(key=len)
        self._names = [field[0] for field in fields]
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(
            msgspec.defstruct("Arguments", fields, forbid_unknown_fields=True), dec_hook=_decode_other
        )

    def encode(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """The arguments as a JSON object.

        Raises:
            TypeError: these are not the function's arguments.
            EncodingError: an argument cannot be written as JSON, or is not of its parameter's type.
        """
        try:
            arguments = self._signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise TypeError(f"job {self._job_name}: {error}") from None
        parts = []
        for name, value in arguments.items():
            try:
                parts.append(f'"{name}":{to_json(value)}')
            except (TypeError, ValueError, msgspec.MsgspecError) as error:
                raise EncodingError(
                    f"job {self._job_name}: argument {name} is {value!r:.200}, which JSON cannot hold: {error}"
                ) from None
        text = "{" + ",".join(parts) + "}"
        try:
            self._decoder.decode(text)
        except (msgspec.MsgspecError, UnicodeError) as error:
            # The message ends with the place, $.name…, where the value does not fit its type.
            name = str(error).rpartition("`$.")[2].partition("`")[0].partition(".")[0].partition("[")[0]
            what = f"argument {name} is {arguments[name]!r:.200}" if name in arguments else f"arguments {text:.200}"
            raise EncodingError(f"job {self._job_name}: {what}, which the worker would refuse: {error}") from None
        return text

    def decode(self, text: str | None) -> dict[str, Any]:
        """The arguments by name; those that were not sent are left to the function's defaults.

        Raises DecodingError if the payload does not fit.
        """
        if not self._names:
            # A function without arguments takes whatever payload there is from its CurrentJob.
            return {}
        try:
            decoded = self._decoder.decode("{}" if text is None else text)
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise DecodingError(f"the payload {text!s:.200} does not fit the arguments: {error}") from None
        arguments = {}
        for name in self._names:
            value = getattr(decoded, name)
            if value is not msgspec.UNSET:
                arguments[name] = value
        return arguments

    def with_defaults(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments, and the function's defaults for those that are missing."""
        parameters = self._signature.parameters.values()
        return {p.name: p.default for p in parameters if p.default is not p.empty} | dict(arguments)

    def some(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Some of the arguments, by name. Raises TypeError if they are not the function's."""
        try:
            return dict(self._signature.bind_partial(*args, **kwargs).arguments)
        except TypeError as error:
            raise TypeError(f"job {self._job_name}: {error}") from None
