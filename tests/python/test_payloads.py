"""What is sent as arguments is what the function gets, or it is refused when it is sent."""

from __future__ import annotations

import dataclasses
import enum
import math
import typing
from collections.abc import Callable, Sequence
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, Generic, Literal, NamedTuple, TypeVar
from uuid import UUID, uuid4

import asyncpg.pgproto.pgproto
import psycopg
import pydantic
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from typing_extensions import TypedDict

from sqlxmq import DecodingError, EncodingError, Job, JobBuilder, from_context, job, spawn_many
from tests.python.conftest import create_database
from tools.cluster import Cluster

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Size(str, enum.Enum):
    SMALL = "s"
    LARGE = "l"


class Point(NamedTuple):
    x: int
    y: int = 0


class Street(TypedDict):
    street: str


class Address(Street, total=False):
    number: int


@dataclasses.dataclass
class Item:
    name: str
    price: Decimal
    tags: frozenset[str] = frozenset()
    parts: list[Item] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Page(Generic[T]):
    items: list[T]
    next: UUID | None = None


class User(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(populate_by_name=True)

    email: str = pydantic.Field(alias="e-mail")
    born: date | None = None
    id: UUID = pydantic.Field(default_factory=uuid4)

    @pydantic.field_validator("email")
    @classmethod
    def _has_at(cls, email: str) -> str:
        if "@" not in email:
            raise ValueError("no @ in it")
        return email


class Team(pydantic.BaseModel, Generic[T]):
    users: list[User]
    extra: dict[str, T] = {}


@dataclasses.dataclass
class Invitation:
    host: User
    guests: dict[str, User | None]


def taking(annotation: Any, default: Any = dataclasses.MISSING) -> Job[..., ..., None]:
    """A job with one argument of this type."""

    def take(value: Any = default) -> None: ...

    if default is dataclasses.MISSING:
        take.__defaults__ = None
    if annotation is not dataclasses.MISSING:
        take.__annotations__["value"] = annotation
    else:
        del take.__annotations__["value"]
    return job("take")(take)


def round_trip(annotation: Any, value: Any) -> Any:
    taker = taking(annotation)
    return taker.arguments(taker.prepare(value).raw_json)["value"]


NOW = datetime(2026, 7, 9, 12, 30, 15, 123456)
ID = UUID("0190a3c5-0000-7000-8000-000000000001")
USER = User.model_validate({"e-mail": "a@b", "born": "2000-02-29"})

VALUES: list[tuple[Any, Any]] = [
    (int, 10**40),
    (int, -(2**63) - 1),
    (float, 1e-300),
    (float, 3),
    (bool, True),
    (None, None),
    (str, 'ünï\0cödé\n"\\\u2028 😀 %s $1 {}'),
    (bytes, b"\0\xff"),
    (datetime, NOW),
    (datetime, NOW.replace(tzinfo=timezone.utc)),
    (datetime, NOW.replace(tzinfo=timezone(timedelta(hours=-3, minutes=-30)))),
    (date, date.min),
    (time, time(23, 59, 59, 999999)),
    (timedelta, timedelta.max),
    (timedelta, timedelta(days=-1, microseconds=1)),
    (UUID, ID),
    (Decimal, Decimal("1.10")),
    (Colour, Colour.RED),
    (Level, Level.HIGH),
    (Size, Size.SMALL),
    (Literal["a", 1], 1),
    (Literal["a", 1], "a"),
    (list[UUID], [ID]),
    (set[date], {date.max, date.min}),
    (frozenset[str], frozenset({"a"})),
    (tuple[int, str], (1, "a")),
    (tuple[int, ...], (1, 2, 3)),
    (Sequence[int], [1]),
    (dict[int, str], {1: "a", -2: "b"}),
    (dict[UUID, Colour], {ID: Colour.GREEN}),
    (dict[date, list[Level]], {date.max: [Level.LOW]}),
    (int | None, None),
    (int | str | None, "1"),
    (list[int] | dict[str, int] | None, {"a": 1}),
    (Point, Point(1)),
    (list[Point], [Point(1, 2)]),
    (Address, {"street": "a", "number": 3}),
    (Address, {"street": "a"}),
    (Item, Item("a", Decimal("0.10"), frozenset({"x"}), [Item("b", Decimal(1))])),
    (Page[Item], Page([Item("a", Decimal(0))], ID)),
    (Page[int], Page([1])),
    (User, USER),
    (User | None, None),
    (list[User], [USER, USER]),
    (dict[str, User], {"a": USER}),
    (Invitation, Invitation(USER, {"a": USER, "b": None})),
    (Team[int], Team[int](users=[USER], extra={"a": 1})),
    (Any, {"a": [1, 2.5, None, "x", {"b": True}], "big": 10**30}),
    (object, [1, "a"]),
    (dataclasses.MISSING, {"a": 1}),
]


@pytest.mark.parametrize(("annotation", "value"), VALUES, ids=lambda part: f"{part!s:.60}")
def test_what_is_sent_is_what_arrives(annotation: Any, value: Any) -> None:
    got = round_trip(annotation, value)
    assert got == value
    assert type(got) is type(value) or annotation is float
    # As the only argument of a batch's item, and with a default of the same type.
    optional = taking(annotation, value)
    assert optional.arguments(optional.prepare(value).raw_json)["value"] == value
    assert optional.arguments(optional.prepare().raw_json) == {}


class Text(str): ...


class Number(int): ...


class Real(float): ...


class Moment(datetime): ...


class Data(bytes): ...


@pytest.mark.parametrize(
    ("annotation", "value", "plain"),
    [
        (str, Text("a"), "a"),
        (int, Number(3), 3),
        (float, Real(1.5), 1.5),
        (datetime, Moment(2026, 7, 9, tzinfo=timezone.utc), datetime(2026, 7, 9, tzinfo=timezone.utc)),
        (bytes, Data(b"a"), b"a"),
        (UUID, asyncpg.pgproto.pgproto.UUID(str(ID)), ID),
        (list[UUID], [asyncpg.pgproto.pgproto.UUID(str(ID))], [ID]),
        (dict[str, Any], {Text("a"): Number(1)}, {"a": 1}),
        (list[str], ("a", "b"), ["a", "b"]),
        (str, Colour.RED, "red"),
        (bytes, bytearray(b"a"), b"a"),
        (User, {"e-mail": "a@b", "id": str(ID)}, User.model_validate({"e-mail": "a@b", "id": ID})),
    ],
    ids=lambda part: f"{part!s:.40}",
)
def test_values_that_are_as_good(annotation: Any, value: Any, plain: Any) -> None:
    got = round_trip(annotation, value)
    assert got == plain
    assert type(got) is type(plain)


CIRCULAR: list[Any] = []
CIRCULAR.append(CIRCULAR)


class Secret:
    def __repr__(self) -> str:
        raise RuntimeError("not to be shown")


@pytest.mark.parametrize(
    ("annotation", "value", "match"),
    [
        (Any, object(), r"argument value is <object object at .*, which JSON cannot hold: objects of type object"),
        (Any, Secret(), r"argument value is a Secret \(whose repr raises RuntimeError\), which JSON cannot hold"),
        (Any, [{"a": math.nan}], r"argument value is \[\{'a': nan\}\], which JSON cannot hold: Out of range float"),
        (float, math.inf, r"argument value is inf, which JSON cannot hold"),
        (Page[float], Page([-math.inf]), r"argument value is Page\(items=\[-inf\].*JSON cannot hold"),
        (str, "a\ud800", r"argument value is 'a\\ud800', which JSON cannot hold: .*surrogates not allowed"),
        (Any, CIRCULAR, r"argument value is \[\[\.\.\.\]\], which JSON cannot hold: it is nested too deeply"),
        (Any, {(1, 2): 3}, r"argument value is \{\(1, 2\): 3\}, which JSON cannot hold: Only dicts with str-like"),
        (int, "1", r"argument value is '1', which the worker would refuse: Expected `int`, got `str` - at `\$.value`"),
        (int, 1.5, r"argument value is 1.5, .*Expected `int`, got `float`"),
        (int, True, r"argument value is True, .*Expected `int`, got `bool`"),
        (str, None, r"argument value is None, .*Expected `str`, got `null`"),
        (str, b"a", r"argument value is b'a', .*Expected `str`, got `bytes`"),
        (str, ID, r"argument value is UUID\(.*Expected `str`, got `uuid`"),
        (str, date.max, r"argument value is datetime.date.*Expected `str`, got `date`"),
        (UUID, "x", r"argument value is 'x', .*Expected `uuid`, got `str`"),
        (date, NOW, r"argument value is datetime.datetime.*Expected `date`, got `datetime`"),
        (list[str], ["a", ID], r"argument value is \['a', UUID.*Expected `str`, got `uuid` - at `\$.value\[1\]`"),
        (dict[str, str], {"$.a": 1}, r"argument value is \{'\$.a': 1\}, .*at `\$.value\[...\]`"),
        (dict[int, int], {"a": 1}, r"argument value is \{'a': 1\}, .*at `key` in `\$.value`"),
        (Literal["a", "b"], "c", r"argument value is 'c', .*Invalid enum value 'c'"),
        (Item, Item(3, Decimal(1)), r"argument value is Item.*Expected `str`, got `int` - at `\$.value.name`"),  # type: ignore[arg-type]
        (Item, {"name": "a"}, r"argument value is \{'name': 'a'\}, .*missing required field `price` - at `\$.value`"),
        (Address, {"number": 1}, r"argument value is \{'number': 1\}, .*missing required field `street`"),
        (User, {"e-mail": "nobody"}, r"argument value is \{'e-mail': 'nobody'\}, .*no @ in it"),
        (list[User], [{"e-mail": "nobody"}], r"argument value is .*no @ in it"),
        (User, 5, r"argument value is 5, .*Input should be a valid dictionary"),
    ],
    ids=lambda part: f"{part!s:.40}" if not isinstance(part, Secret) else "secret",
)  # fmt: skip
def test_what_cannot_be_sent_is_refused_at_once(annotation: Any, value: Any, match: str) -> None:
    with pytest.raises(EncodingError, match=r"(?s)job take: " + match):
        taking(annotation).prepare(value)


def test_the_right_argument_is_named() -> None:
    @job("many")
    def many(first: dict[str, Any], second: list[dict[str, int]], key: str = "") -> None: ...

    with pytest.raises(EncodingError, match=r"argument second is \[\{'first': '`\$.key`'\}\], which the worker would"):
        many.prepare({}, [{"first": "`$.key`"}])  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("annotation", "text", "match"),
    [
        (int, None, "the payload None does not fit the arguments: Object missing required field `value`"),
        (int, '{"value": "1"}', "Expected `int`, got `str` - at `\\$.value`"),
        (int, '{"value": 1, "other": 2}', "Object contains unknown field `other`"),
        (int, "[1]", "Expected `object`, got `array`"),
        (str, '{"value": "\\ud800"}', "does not fit the arguments"),
        (Any, '{"value": ' + "[" * 5000 + "]" * 5000 + "}", "does not fit the arguments"),
        (User, '{"value": {}}', "(?s)does not fit the arguments: .*e-mail.*Field required"),
        (Colour, '{"value": "blue"}', "Invalid enum value 'blue'"),
    ],
    ids=lambda part: f"{part!s:.40}",
)
def test_what_cannot_be_read(annotation: Any, text: str | None, match: str) -> None:
    with pytest.raises(DecodingError, match=match) as refused:
        taking(annotation).arguments(text)
    assert len(str(refused.value)) < 800


class Mailer: ...


class Checks(typing.Protocol):
    def check(self) -> None: ...


@dataclasses.dataclass
class WithMailer:
    mailer: Mailer


@pytest.mark.parametrize(
    ("annotation", "match"),
    [
        (Mailer, "JSON does not hold objects of type Mailer"),
        (list[Mailer], "JSON does not hold objects of type Mailer"),
        (Mailer | None, "JSON does not hold objects of type Mailer"),
        (dict[str, tuple[Mailer, int]], "JSON does not hold objects of type Mailer"),
        (WithMailer, "JSON does not hold objects of type Mailer"),
        (Checks, "JSON does not hold objects of type Checks"),
        (Callable[[int], int], "JSON does not hold objects of type Callable"),
        (complex, "JSON does not hold objects of type complex"),
        (psycopg.Connection[Any], "JSON does not hold objects of type Connection"),
        (User | int, "Type unions"),
        (str | UUID, "Type unions"),
        (list["Nowhere"], "Nowhere"),  # type: ignore[name-defined] # noqa: F821
    ],
    ids=lambda part: f"{part!s:.40}",
)
def test_types_that_json_cannot_hold(annotation: Any, match: str) -> None:
    with pytest.raises(TypeError, match=rf"job take: parameter value cannot be read from JSON: .*{match}") as refused:
        taking(annotation)
    assert "has the default from_context()" in str(refused.value)
    with pytest.raises(TypeError, match=rf"parameter value cannot be read from JSON: .*{match}"):
        taking(annotation, None)


def test_parameters_may_have_any_name() -> None:
    @job("odd")
    def odd(
        self: int, sender: str, payload: int = 0, *, args: int = 1, batch: int = 2, __struct_fields__: int = 3,
        größe: int = 4, _x: int = 5, name: str = "a", type: int = 6, cls: int = 7,
    ) -> dict[str, Any]:  # fmt: skip
        return locals()

    every = {
        "self": 10, "sender": "s", "payload": 11, "args": 12, "batch": 13, "__struct_fields__": 14, "größe": 15,
        "_x": 16, "name": "n", "type": 17, "cls": 18,
    }  # fmt: skip
    assert odd.arguments(odd.prepare(**every).raw_json) == every  # type: ignore[arg-type]
    assert odd(**every) == every  # type: ignore[arg-type]
    assert odd.arguments(odd.prepare(1, "s", args=3).raw_json) == {"self": 1, "sender": "s", "args": 3}


def test_defaults_are_the_functions_own() -> None:
    @job("defaults")
    def defaults(first: int, second: list[int] = [], *, third: int, fourth: User | None = None) -> Any:  # noqa: B006
        return first, second, third, fourth

    arguments = defaults.arguments(defaults.prepare(1, third=3).raw_json)
    assert arguments == {"first": 1, "third": 3}
    assert defaults.function(**arguments) == (1, [], 3, None)
    assert defaults.arguments('{"third": 3, "first": 1, "second": [2]}') == {"first": 1, "second": [2], "third": 3}
    with pytest.raises(TypeError, match="job defaults: missing a required argument: 'third'"):
        defaults.prepare(1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="job defaults: got an unexpected keyword argument 'colour'"):
        defaults.prepare(1, third=3, colour="red")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="job defaults: too many positional arguments"):
        defaults.prepare(1, [], 3)  # type: ignore[call-arg]


def test_positions_count_what_the_context_fills() -> None:
    @job("positions")
    def positions(first: int, mailer: Mailer = from_context(), second: int = 2) -> None: ...

    assert positions.prepare(1, second=3).raw_json == '{"first":1,"second":3}'
    with pytest.raises(TypeError, match="job positions: mailer is not sent: the worker gives it from its context"):
        positions.prepare(1, Mailer())


def test_a_function_without_arguments_takes_any_payload() -> None:
    @job("none")
    def none() -> None: ...

    assert none.prepare().raw_json == "{}"
    assert none.arguments("[1, 2]") == none.arguments(None) == {}


def test_the_payload_of_a_builder() -> None:
    assert JobBuilder("any").set_json({"at": NOW, "user": USER}).raw_json == (
        f'{{"at":"2026-07-09T12:30:15.123456","user":{{"e-mail":"a@b","born":"2000-02-29","id":"{USER.id}"}}}}'
    )
    for value in (object(), math.nan, "\ud800", CIRCULAR):
        with pytest.raises(EncodingError, match=r"job any: the payload is .*, which JSON cannot hold"):
            JobBuilder("any").set_json(value)


# Values that nobody has thought of

MOMENTS = st.datetimes(timezones=st.none() | st.just(timezone.utc) | st.just(timezone(timedelta(hours=5, minutes=45))))
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | TEXTS,
    lambda parts: st.lists(parts, max_size=4) | st.dictionaries(TEXTS, parts, max_size=4),
    max_leaves=10,
)
USERS = st.builds(
    lambda name, born, id: User.model_validate({"email": name + "@", "born": born, "id": id}),
    TEXTS,
    st.none() | st.dates(),
    st.uuids(),
)


@dataclasses.dataclass
class Everything:
    number: int
    real: float
    text: str
    data: bytes
    moment: datetime
    day: date
    hour: time
    duration: timedelta
    id: UUID
    amount: Decimal
    colours: set[Colour]
    level: Level | None
    pairs: dict[int, tuple[str, date]]
    point: Point
    user: User
    anything: Any


EVERYTHING = st.builds(
    Everything,
    number=st.integers(),
    real=FLOATS,
    text=TEXTS,
    data=st.binary(),
    moment=MOMENTS,
    day=st.dates(),
    hour=st.times(),
    duration=st.timedeltas(),
    id=st.uuids(),
    amount=st.decimals(allow_nan=False, allow_infinity=False),
    colours=st.sets(st.sampled_from(Colour)),
    level=st.none() | st.sampled_from(Level),
    pairs=st.dictionaries(st.integers(-(2**63), 2**63), st.tuples(TEXTS, st.dates()), max_size=3),
    point=st.builds(Point, st.integers(), st.integers()),
    user=USERS,
    anything=JSON,
)


@job("everything")
def everything(values: Everything) -> None: ...


@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(EVERYTHING)
def test_anything_arrives_as_it_was(values: Everything) -> None:
    assert everything.arguments(everything.prepare(values).raw_json) == {"values": values}


@pytest.fixture(scope="module")
def queue(server: Cluster) -> typing.Iterator[psycopg.Connection[Any]]:
    with create_database(server, "with_sqlxmq").connect() as session:
        yield session


@hypothesis_settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(EVERYTHING, min_size=1, max_size=10))
def test_anything_arrives_through_the_database(queue: psycopg.Connection[Any], many: list[Everything]) -> None:
    ids = spawn_many(queue, [everything.prepare(values) for values in many])
    rows = queue.execute("SELECT id, payload_json FROM mq_poll(NULL, 1000)").fetchall()
    queue.execute("SELECT mq_clear_all()")
    assert {id: everything.arguments(text)["values"] for id, text in rows} == dict(zip(ids, many, strict=True))


def test_nul_and_big_numbers_go_through_the_database(queue: psycopg.Connection[Any]) -> None:
    value = {"a\0": ["\0", 10**400, -0.0, 1e308, "\\u0000"]}
    taking(Any).spawn(queue, value)
    row = queue.execute("SELECT payload_json FROM mq_poll(NULL, 1)").fetchone()
    queue.execute("SELECT mq_clear_all()")
    assert row is not None
    assert taking(Any).arguments(row[0]) == {"value": value}
