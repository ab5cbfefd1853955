"""How arguments become JSON and come back, by their types.

Done by msgspec: dataclasses, named tuples, TypedDicts, enums, dates and times, UUIDs, decimals, sets
and more as its documentation lists them; models of pydantic through pydantic, where it is installed.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Generic, TypeVar
from uuid import UUID

import msgspec

from sqlxmq._errors import DecodingError, EncodingError

T = TypeVar("T")

# What JSON has no form of its own for, and becomes text there.
_WRITTEN_AS_TEXT = (bytes, bytearray, memoryview, datetime, date, time, timedelta, UUID, Decimal)

# Libraries have classes of their own that are text, numbers and times all the same; msgspec takes these
# very types only. A datetime is a date, and comes before it.
_PLAIN: tuple[tuple[type[Any], Callable[[Any], Any]], ...] = (
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
    (bytes, lambda value: memoryview(value).tobytes()),
    (datetime, lambda value: datetime.combine(_plain_date(value), _plain_time(value))),
    (date, lambda value: _plain_date(value)),
    (time, lambda value: _plain_time(value)),
    (timedelta, lambda value: timedelta(value.days, value.seconds, value.microseconds)),
    (Decimal, Decimal),
)


def _plain_date(value: date) -> date:
    return date(value.year, value.month, value.day)


def _plain_time(value: datetime | time) -> time:
    return time(value.hour, value.minute, value.second, value.microsecond, value.tzinfo, fold=value.fold)


# Made once: json.dumps makes one for each call that has settings.
_ENCODER = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def _is_pydantic_model(kind: Any) -> bool:
    # Nobody has a model of pydantic without having imported pydantic.
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and isinstance(kind, type) and issubclass(kind, pydantic.BaseModel)


def _encode_other(value: Any) -> Any:
    if _is_pydantic_model(type(value)):
        return value.model_dump(mode="json", by_alias=True)
    for kind, plain in _PLAIN:
        if isinstance(value, kind):
            return plain(value)
    raise TypeError(f"objects of type {type(value).__qualname__} cannot be written as JSON")


def _decode_other(kind: type[Any], value: Any) -> Any:
    if _is_pydantic_model(kind):
        return kind.model_validate(value)
    if isinstance(value, kind):
        return value
    raise TypeError(f"expected {kind.__qualname__}")


def to_json(value: Any) -> str:
    """A value as JSON text.

    Raises TypeError or ValueError for what JSON cannot hold, not-a-number and infinity, half a surrogate
    pair, and what contains itself included.
    """
    try:
        builtins = msgspec.to_builtins(value, str_keys=True, enc_hook=_encode_other)
        text = _ENCODER.encode(builtins)
    except RecursionError:
        raise ValueError("it is nested too deeply, or contains itself") from None
    text.encode()
    return text


def _check_type(value: Any, kind: Any) -> None:
    """Raises TypeError or ValueError if a value is not of a type. What comes out of JSON could be all the
    same: bytes, a date or a UUID become text there, which a parameter for text would get."""
    tree = msgspec.to_builtins(value, builtin_types=_WRITTEN_AS_TEXT, enc_hook=_encode_other)
    msgspec.convert(tree, kind, builtin_types=_WRITTEN_AS_TEXT, dec_hook=_decode_other)


def _refused_part(kind: Any, seen: set[int]) -> str | None:
    """The name of a class, in an annotation, that is neither msgspec's nor pydantic's; None if there is none."""
    if id(kind) in seen:
        return None
    seen.add(id(kind))
    if isinstance(kind, msgspec.inspect.CustomType):
        return None if kind.cls is object or _is_pydantic_model(kind.cls) else kind.cls.__qualname__
    if isinstance(kind, msgspec.inspect.Type | msgspec.inspect.Field):
        kind = [getattr(kind, name) for name in kind.__struct_fields__]
    if isinstance(kind, list | tuple):
        for part in kind:
            if (refused := _refused_part(part, seen)) is not None:
                return refused
    return None


def check_annotation(where: str, annotation: Any) -> None:
    """Raises TypeError, beginning with where, if values of this type cannot come out of JSON."""
    reason: object
    try:
        refused = _refused_part(msgspec.inspect.type_info(annotation), set())
        reason = refused and f"JSON does not hold objects of type {refused}"
    except Exception as error:  # of many kinds: a name inside of a class that is not known, a wrong default …
        reason = error
    if reason is not None:
        raise TypeError(
            f"{where} cannot be read from JSON: {reason}; what the worker is to give it from the registry's context "
            "has the default from_context()"
        )


class ValuePayload(Generic[T]):
    """A payload that is one value of one type."""

    def __init__(self, where: str, annotation: Any) -> None:
        """Raises TypeError, beginning with where, if values of this type cannot come out of JSON."""
        check_annotation(where, annotation)
        self._where = where
        self._kind = annotation
        self._decoder: msgspec.json.Decoder[T] = msgspec.json.Decoder(annotation, dec_hook=_decode_other)

    def encode(self, value: T) -> str:
        """The value as JSON. Raises EncodingError if it cannot be written, or is not of the type."""
        try:
            text = to_json(value)
            _check_type(value, self._kind)
            self._decoder.decode(text)
        except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
            raise EncodingError(f"{self._where} is {shown(value)}, which cannot be sent: {error}") from None
        return text

    def decode(self, text: str | None) -> T:
        """The value. Raises DecodingError if the payload is none of the type."""
        try:
            return self._decoder.decode("null" if text is None else text)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise DecodingError(f"the payload {text!s:.200} does not fit: {error}") from None


class ArgumentsPayload:
    """A payload that is a JSON object of a function's arguments."""

    def __init__(
        self, job_name: str, parameters: Iterable[inspect.Parameter], from_context: Iterable[inspect.Parameter]
    ) -> None:
        """
        Args:
            job_name: for messages.
            parameters: the function's, without the one for the current job.
            from_context: those of them that the worker fills.

        Raises TypeError, naming the parameter, if a parameter cannot be part of a payload.
        """
        self._job_name = job_name
        # With those from the context, so that positions mean what they mean to the function.
        self._signature = inspect.Signature(list(parameters))
        self._from_context = {parameter.name for parameter in from_context}
        self._needed = {
            name
            for name, parameter in self._signature.parameters.items()
            if parameter.default is parameter.empty and name not in self._from_context
        }
        # The names of the arguments, and those of the fields that they are decoded into.
        self._fields: dict[str, str] = {}
        fields: list[Any] = []
        for parameter in self._signature.parameters.values():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
                raise TypeError(f"job {job_name}: parameter {parameter.name} must have a name to be sent under")
            if parameter.name in self._from_context:
                continue
            kind = Any if parameter.annotation is parameter.empty else parameter.annotation
            check_annotation(f"job {job_name}: parameter {parameter.name}", kind)
            default = msgspec.NODEFAULT if parameter.default is parameter.empty else msgspec.UNSET
            field = f"argument_{len(fields)}"
            fields.append((field, kind, msgspec.field(default=default, name=parameter.name)))
            self._fields[parameter.name] = field
        self._kind = msgspec.defstruct("Arguments", fields, kw_only=True, forbid_unknown_fields=True)
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(self._kind, dec_hook=_decode_other)

    def encode(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """The arguments as a JSON object.

        Raises:
            TypeError: these are not the function's arguments.
            EncodingError: an argument cannot be written as JSON, or is not of its parameter's type.
        """
        arguments = self._bound(args, kwargs)
        try:
            text = to_json(arguments)
        except (TypeError, ValueError, msgspec.MsgspecError) as error:
            name, value, reason = self._unwritable(arguments, error)
            raise EncodingError(
                f"job {self._job_name}: argument {name} is {shown(value)}, which JSON cannot hold: {reason}"
            ) from None
        try:
            _check_type(arguments, self._kind)
            self._decoder.decode(text)
        except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
            # The message ends with the place, $.name…, where the value does not fit its type.
            name = str(error).rpartition("`$.")[2].partition("`")[0].partition(".")[0].partition("[")[0]
            what = f"argument {name} is {shown(arguments[name])}" if name in arguments else f"arguments {text:.200}"
            raise EncodingError(f"job {self._job_name}: {what}, which the worker would refuse: {error}") from None
        return text

    def _bound(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        """The arguments by name. Raises TypeError if they are not the function's, or not for the sender to give."""
        # All of them by name, as most calls have it, needs no signature to be gone through.
        if not args and self._needed <= kwargs.keys() <= self._fields.keys():
            return kwargs
        try:
            arguments = self._signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise TypeError(f"job {self._job_name}: {error}") from None
        for name in arguments:
            if name in self._from_context:
                raise TypeError(f"job {self._job_name}: {name} is not sent: the worker gives it from its context")
        return arguments

    def _unwritable(self, arguments: Mapping[str, Any], error: Exception) -> tuple[str, Any, Exception]:
        """The first argument that cannot be written as JSON, its name first, and why; error is that of all."""
        for name, value in arguments.items():
            try:
                to_json(value)
            except (TypeError, ValueError, msgspec.MsgspecError) as reason:
                return name, value, reason
        # Each by itself can: together they are nested too deeply.
        return ", ".join(arguments), dict(arguments), error

    def decode(self, text: str | None) -> dict[str, Any]:
        """The arguments by name; those that were not sent are left to the function's defaults.

        Raises DecodingError if the payload does not fit.
        """
        if not self._fields:
            # A function without arguments takes whatever payload there is from its CurrentJob.
            return {}
        try:
            decoded = self._decoder.decode("{}" if text is None else text)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise DecodingError(f"the payload {text!s:.200} does not fit the arguments: {error}") from None
        return {
            name: value
            for name, field in self._fields.items()
            if (value := getattr(decoded, field)) is not msgspec.UNSET
        }

    def with_defaults(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments, and the function's defaults for those that are missing."""
        parameters = [self._signature.parameters[name] for name in self._fields]
        return {p.name: p.default for p in parameters if p.default is not p.empty} | dict(arguments)

    def some(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Some of the arguments, by name. Raises TypeError if they are not the function's."""
        try:
            return dict(self._signature.bind_partial(*args, **kwargs).arguments)
        except TypeError as error:
            raise TypeError(f"job {self._job_name}: {error}") from None


def shown(value: Any) -> str:
    """A value for a message: the beginning of its repr, or, where that fails, its type."""
    try:
        return f"{value!r:.200}"
    except Exception as error:
        return f"a {type(value).__qualname__} (whose repr raises {type(error).__name__})"
