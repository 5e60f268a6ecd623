"""Shared by the resource routes: the caller, common parameters, bodies, answers, and how operations are described."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, TypeVar, get_args, get_origin

import msgspec
from fastapi import Depends, Path, Query, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from msgspec import Struct
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetJsonSchemaHandler,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError
from starlette.routing import Match
from starlette.types import Scope as Scopes

from tidings.api import cursors, paths, problems
from tidings.api.auth import require
from tidings.api.front import BODY, CALLER
from tidings.api.services import Services
from tidings.model.errors import BadId, Invalid
from tidings.model.tenant import ApiKey, Scope
from tidings.pipeline.compose import requests
from tidings.pipeline.compose.requests import explain
from tidings.policy import instants

S = TypeVar("S", bound=Struct)
P = TypeVar("P")

BATCH = "batch"
"""No user may have this id: `/v1/users/batch` is an operation, so the user could not be read or deleted."""
NO_USER_ID = (
    f"a user_id is 1 to 200 characters without control characters, and none of {BATCH!r}, '.' and '..', which no path "
    "can hold"
)
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}$"
"""The names that categories and templates may have."""

PREPARATION = "x-preparation"
"""The key under which an operation says what its example needs; openapi.py removes it before publishing."""


class Shape(BaseModel):
    """The base of every request and answer of the resource API: strict, and closed to unknown fields.

    In a request, null for an optional field means that it is left out.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The schema. In a request's schema, optional fields may be null."""
        schema = handler(core_schema)
        if handler.mode == "validation":
            properties = handler.resolve_ref_schema(schema).get("properties", {})
            for name, field in cls.model_fields.items():
                if not field.is_required() and name in properties:
                    properties[name] = _or_null(properties[name])
        return schema

    @model_validator(mode="before")
    @classmethod
    def _without_nulls_and_whole_floats(cls, value: Any) -> Any:
        """The object without nulls for optional fields, and with 2 for 2.0: JSON clients may write either."""
        if not isinstance(value, dict):
            return value
        fields = cls.model_fields
        if any(given is None for given in value.values()):
            value = {
                name: given
                for name, given in value.items()
                if given is not None or name not in fields or fields[name].is_required()
            }
        whole = {
            name: int(given)
            for name, given in value.items()
            if isinstance(given, float) and given.is_integer() and name in fields and _is_int(fields[name].annotation)
        }
        return value | whole if whole else value


def _or_null(schema: JsonSchemaValue) -> JsonSchemaValue:
    """The schema of a property that may be null."""
    notes = {key: value for key, value in schema.items() if key in {"title", "description", "default", "examples"}}
    rest = {key: value for key, value in schema.items() if key not in notes}
    options = rest["anyOf"] if set(rest) == {"anyOf"} else [rest]
    null = {"type": "null"}
    return schema if null in options or not rest else notes | {"anyOf": [*options, null]}


def _is_int(annotation: Any) -> bool:
    return annotation is int or int in get_args(annotation)


@dataclass(frozen=True)
class Call:
    """One authenticated request."""

    services: Services
    key: ApiKey

    @property
    def tenant(self) -> str:
        """The tenant that the key belongs to."""
        return self.key.tenant

    @property
    def now(self) -> int:
        """Milliseconds since the epoch."""
        return self.services.clock.now()

    def may(self, scope: Scope) -> bool:
        """Whether the key has the scope."""
        return scope in self.key.scopes

    def page(self, limit: int | None) -> int:
        """How many items a page has: `limit`, the default, or the maximum."""
        limits = self.services.limits
        return min(limits.page if limit is None else limit, limits.max_page)

    def position(self, listing: str, cursor: str | None, read: Callable[[str], P]) -> P | None:
        """The position at which `listing` goes on, parsed by `read`; None without a cursor.

        Raises:
            Invalid: the listing did not give the cursor out, or `read` finds no position in it.
        """
        position = cursors.decode(self.tenant, listing, cursor)
        if position is None:
            return None
        try:
            return read(position)
        except (BadId, ValueError) as error:
            raise cursors.invalid() from error

    def cursor(self, listing: str, position: str | None) -> str | None:
        """The cursor for a position; None without one: the page is the last."""
        return None if position is None else cursors.encode(self.tenant, listing, position)


class StrictRequest(Request):
    """A request whose JSON body the front has decoded."""

    async def json(self) -> Any:
        """The decoded body."""
        return self.scope[BODY]


class StrictRoute(APIRoute):
    """A route of the resource API. It refuses query parameters that are not declared."""

    def matches(self, scope: Scopes) -> tuple[Match, Scopes]:
        """FastAPI's match, with the names in the path decoded (see paths.py)."""
        match, matched = super().matches(scope)
        if match is not Match.NONE and matched.get("path_params"):
            matched["path_params"] = paths.decoded_names(matched["path_params"])
        return match, matched

    def get_route_handler(self) -> Callable[[Request], Any]:
        """FastAPI's handler, on the body that the front decoded."""
        handler = super().get_route_handler()
        declared = dict(_query_parameters(self.dependant))

        async def strict(request: Request) -> Response:
            if request.scope["query_string"]:
                _check_query(request, declared)
            response: Response = await handler(StrictRequest(request.scope, request.receive))
            return response

        return strict


def _query_parameters(dependant: Dependant) -> Iterator[tuple[str, bool]]:
    """Each query parameter's name, and whether it takes more than one value."""
    for field in dependant.query_params:
        yield field.alias, _takes_many(field.field_info.annotation)
    for inner in dependant.dependencies:
        yield from _query_parameters(inner)


def _takes_many(annotation: Any) -> bool:
    return get_origin(annotation) in {list, set, tuple, frozenset} or any(map(_takes_many, get_args(annotation)))


def _check_query(request: Request, declared: dict[str, bool]) -> None:
    """Raises Refused (400) for unknown and repeated parameters: a mistyped filter must not silently list everything."""
    seen = set()
    for name, _ in request.query_params.multi_items():
        if name not in declared:
            raise problems.unknown_parameter(name, declared)
        if name in seen and not declared[name]:
            detail = f"{name} is given more than once; give one value"
            raise problems.Refused(400, "repeated_parameter", detail, parameter=name)
        seen.add(name)


def services_of(request: Request) -> Services:
    """The services that the app was created with."""
    services: Services = request.app.state.services
    return services


async def _call(request: Request) -> Call:
    key: ApiKey = request.scope[CALLER]
    return Call(services_of(request), key)


Caller = Annotated[Call, Depends(_call)]


def is_user_id(text: str) -> bool:
    """Whether a user may have this id. A stored user must be reachable by a path."""
    return requests.is_plain(text) and paths.is_addressable(text) and text != BATCH


def _user_id(text: str) -> str:
    if not is_user_id(text):
        raise PydanticCustomError("value_error", NO_USER_ID)
    return text


UserId = Annotated[
    str,
    AfterValidator(_user_id),
    Path(
        description="the user's id, of your own choosing, percent-encoded: a / in it is written %2F",
        examples=["demo"],
        json_schema_extra={"minLength": 1, "maxLength": 200, "pattern": r"^[^\x00-\x1f\x7f-\x9f]*$"},
    ),
]
NotificationId = Annotated[
    str, Path(description="a notification's id", examples=["ntf_01k00000000000000000000000"], max_length=64)
]
_LOST_PLUS = re.compile(r"[0-9] [0-9]{2}:?[0-9]{2}$", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // timedelta(milliseconds=1)


def _rfc3339(value: Any) -> Any:
    """The time in an RFC 3339 text. FastAPI by itself would take a bare number too."""
    if not isinstance(value, str):
        return value
    try:
        at = instants.parse(value)
    except Invalid as error:
        hint = "; in a URL the + is written %2B" if _LOST_PLUS.search(value) else ""
        raise PydanticCustomError("datetime_parsing", "{sentence}", {"sentence": error.detail + hint}) from error
    return _EPOCH + timedelta(milliseconds=min(max(at, 0), _LAST))


Instant = Annotated[AwareDatetime, BeforeValidator(_rfc3339)]
Limit = Annotated[int | None, Query(ge=1, le=200, description="how many items at most", examples=[20])]
Cursor = Annotated[str | None, Query(description="`next` of the page before; leave it out for the first page")]


def operation(
    scope: Scope,
    summary: str,
    *,
    takes: type[Struct] | None = None,
    required: bool = True,
    body: Any = None,
    answers: Any = None,
    before: Sequence[str] = (),
    status: int = 200,
    **path: str,
) -> dict[str, Any]:
    """The arguments of a route's decorator.

    `scope`: the scope that the API key must have. `takes`: the struct of the body, if the handler decodes it itself;
    `required`: whether there must be a body. `body` and `answers`: examples of the request and of the answer. `before`:
    the preparations (samples.py) that the example needs. `path`: the values of the example's path parameters.
    """

    async def permitted(request: Request) -> None:
        require(request.scope[CALLER], scope)

    extra: dict[str, Any] = {"security": [{"ApiKey": []}], "x-scope": scope.value}
    if body is not None:
        extra["requestBody"] = {"content": {"application/json": {"example": body}}}
    if takes is not None:
        extra["requestBody"]["required"] = required
        extra["requestBody"]["content"]["application/json"]["schema"] = {
            "$ref": f"#/components/schemas/{takes.__name__}"
        }
    if answers is not None:
        extra["responses"] = {str(status): {"content": {"application/json": {"example": answers}}}}
    extra[PREPARATION] = {"before": list(before), "path": path}
    return {
        "summary": summary,
        "status_code": status,
        "dependencies": [Depends(permitted)],
        "openapi_extra": extra,
    }


def read(request: Request, shape: type[S]) -> S:
    """The decoded body as a struct; an absent body counts as `{}`. Raises Invalid."""
    return converted(request.scope.get(BODY, {}), shape, "$")


def converted(raw: Any, shape: type[S], path: str) -> S:
    """`raw`, which stands at `path` in the body, as a struct. Raises Invalid."""
    try:
        return msgspec.convert(raw, shape)
    except msgspec.ValidationError as error:
        problem = explain(error)
        raise Invalid(problem.code, problem.detail, path + problem.path.removeprefix("$")) from error


class Brief(Struct, frozen=True):
    """The answer to a change by a key that may not read."""

    id: str
    state: str


_encoder = msgspec.json.Encoder()


def answer(value: Any, status: int = 200) -> Response:
    """A JSON response from msgspec structs; pydantic is not involved."""
    return Response(_encoder.encode(value), status, media_type="application/json")


def answered(schema: type[Struct], description: str, status: int = 200) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that answers with this struct; openapi.py adds the struct's schema."""
    return {
        status: {
            "description": description,
            "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema.__name__}"}}},
        }
    }


def instant(moment: datetime | None) -> int | None:
    """A parameter's time in milliseconds since the epoch, at least 0: no id is older than the epoch."""
    return None if moment is None else max(0, int(moment.timestamp() * 1000))
