"""Users: the people who are notified."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Body, Response
from pydantic import Field, TypeAdapter, ValidationError

from tidings.api import problems
from tidings.api.calls import Call, Caller, Shape, StrictRoute, UserId, operation
from tidings.api.preferences import PreferencesShape, preferences_of, preferences_shape
from tidings.api.problems import Refused
from tidings.model.errors import Invalid, NotFound, TidingsError
from tidings.model.tenant import Scope
from tidings.model.user import Preferences, Profile, User
from tidings.pipeline.requests import MOST_DEVICES
from tidings.policy import addresses
from tidings.report.notifications import rfc3339

router = APIRouter(prefix="/v1/users", tags=["Users"], route_class=StrictRoute)

MOST_ATTRIBUTE_BYTES = 16_384
_RESERVED = "batch"
"""`/v1/users/batch` is an operation: nobody could read or delete a user of that name."""
_USER_ID = re.compile(r"[^\x00-\x1f\x7f]{1,200}")
_LONE = {"email": "ada@example.com", "phone": "+4930901820", "locale": "de-DE", "timezone": "Europe/Berlin"}


class ProfileShape(Shape):
    """How a person is reached and addressed."""

    email: str | None = Field(default=None, description="an email address", examples=["ada@example.com"])
    phone: str | None = Field(default=None, description="a phone number in E.164", examples=["+4930901820"])
    devices: list[str] = Field(
        default=[],
        description=f"device tokens for push, at most {MOST_DEVICES}",
        json_schema_extra={"maxItems": MOST_DEVICES},
    )
    locale: str | None = Field(default=None, description="a BCP 47 language tag", examples=["de-DE"])
    timezone: str | None = Field(default=None, description="an IANA timezone", examples=["Europe/Berlin"])
    name: str | None = Field(default=None, description="the person's name, one line", examples=["Ada Lovelace"])
    attributes: dict[str, Any] = Field(default={}, description="anything else that is worth keeping, up to 16 KiB")


class UserRequest(ProfileShape):
    """A user to create or replace. Preferences stay as they are when left out."""

    preferences: PreferencesShape | None = None


class UserItem(UserRequest):
    """A user of a batch."""

    user_id: str = Field(examples=["ada"])


class UserAnswer(ProfileShape):
    """A stored user."""

    user_id: str
    preferences: PreferencesShape
    updated_at: str = Field(description="RFC 3339, UTC")


class UsersRequest(Shape):
    """Users to create or replace, at most 1,000."""

    users: list[Any]


class StoredItem(Shape):
    """A user of the batch that was stored."""

    user_id: str


class RefusedItem(Shape):
    """A user of the batch that was not stored; the others are not touched by it."""

    error: dict[str, Any]


class UsersAnswer(Shape):
    """For each user of the batch, in order, what became of it."""

    results: list[StoredItem | RefusedItem]


_item = TypeAdapter(UserItem)


@router.put("/{user_id}", **operation(Scope.MANAGE, "Create or replace a user", body=_LONE, user_id="ada"))
async def put_user(call: Caller, user_id: UserId, user: Annotated[UserRequest, Body()]) -> UserAnswer:
    """Store a profile. What is left out of it is forgotten, apart from the preferences."""
    profile, preferences = profile_of(user), _preferences(user, "$.preferences")
    await call.services.users.upsert(call.tenant, [(user_id, profile, preferences)], call.now)
    return user_answer(await known_user(call, user_id))


@router.post(
    "/batch",
    **operation(
        Scope.MANAGE,
        "Create or replace many users",
        body={"users": [{"user_id": "ada", **_LONE}, {"user_id": "bo", "email": "bo@example.com", "locale": "sv"}]},
    ),
)
async def put_users(call: Caller, batch: Annotated[UsersRequest, Body()]) -> UsersAnswer:
    """An answer for each, in order; a bad one does not spoil the others. Of two with one id the later one counts."""
    most = call.services.limits.max_items
    if not 1 <= len(batch.users) <= most:
        raise Invalid("batch_size", f"a batch has 1 to {most} users; this one has {len(batch.users)}", "$.users")
    good: dict[str, tuple[str, Profile, Preferences | None]] = {}
    results: list[StoredItem | RefusedItem] = []
    for index, raw in enumerate(batch.users):
        try:
            user_id, profile, preferences = _read_item(raw, f"$.users[{index}]")
        except TidingsError as error:
            results.append(RefusedItem(error=msgspec.to_builtins(problems.of_item(error))))
        else:
            good[user_id] = (user_id, profile, preferences)
            results.append(StoredItem(user_id=user_id))
    if good:
        await call.services.users.upsert(call.tenant, list(good.values()), call.now)
    return UsersAnswer(results=results)


@router.get("/{user_id}", **operation(Scope.READ, "Read a user"))
async def get_user(call: Caller, user_id: UserId) -> UserAnswer:
    """The profile and the preferences."""
    return user_answer(await known_user(call, user_id))


@router.delete(
    "/{user_id}",
    response_class=Response,
    **operation(Scope.MANAGE, "Delete a user", before=["user"], status=204, user_id="ada"),
)
async def delete_user(call: Caller, user_id: UserId) -> None:
    """Forget the profile, the preferences and the inbox. The history of what was sent stays until it is archived."""
    if not await call.services.users.delete(call.tenant, user_id):
        raise NotFound("user", user_id)


async def known_user(call: Call, user_id: str) -> User:
    """The user. Raises NotFound."""
    user = await call.services.users.get(call.tenant, user_id)
    if user is None:
        raise NotFound("user", user_id)
    return user


def user_answer(user: User) -> UserAnswer:
    """The user as the API shows it."""
    profile = user.profile
    return UserAnswer(
        user_id=user.user_id,
        email=profile.email,
        phone=profile.phone,
        devices=list(profile.devices),
        locale=profile.locale,
        timezone=profile.timezone,
        name=profile.name,
        attributes=profile.attributes,
        preferences=preferences_shape(user.preferences),
        updated_at=rfc3339(user.updated_at),
    )


def profile_of(shape: ProfileShape, path: str = "$") -> Profile:
    """The checked and normalised profile. Raises Invalid."""
    if len(shape.devices) > MOST_DEVICES:
        raise Invalid("too_many", f"a user has at most {MOST_DEVICES} devices", f"{path}.devices")
    if len(msgspec.json.encode(shape.attributes)) > MOST_ATTRIBUTE_BYTES:
        raise Invalid(
            "too_large", f"attributes have at most {MOST_ATTRIBUTE_BYTES} bytes as JSON", f"{path}.attributes"
        )
    devices = [addresses.device(token, f"{path}.devices[{index}]") for index, token in enumerate(shape.devices)]
    return Profile(
        email=_checked(addresses.email, shape.email, f"{path}.email"),
        phone=_checked(addresses.phone, shape.phone, f"{path}.phone"),
        devices=tuple(dict.fromkeys(devices)),
        locale=_checked(addresses.locale, shape.locale, f"{path}.locale"),
        timezone=_checked(addresses.timezone, shape.timezone, f"{path}.timezone"),
        name=_checked(addresses.name, shape.name, f"{path}.name"),
        attributes=dict(shape.attributes),
    )


def _checked(check: Callable[[str, str], str], text: str | None, path: str) -> str | None:
    return None if text is None else check(text, path)


def _preferences(user: UserRequest, path: str) -> Preferences | None:
    return None if user.preferences is None else preferences_of(user.preferences, path)


def _read_item(raw: Any, path: str) -> tuple[str, Profile, Preferences | None]:
    try:
        item = _item.validate_python(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        code, detail = problems.code_and_detail(first)
        where = path + problems.json_path(first["loc"]).removeprefix("$")
        raise Refused(422, code, detail, path=where) from error
    if not _USER_ID.fullmatch(item.user_id):
        raise Invalid("invalid_name", "a user_id is 1 to 200 characters without control characters", f"{path}.user_id")
    if item.user_id == _RESERVED:
        raise Invalid("invalid_name", f"a user cannot be called {_RESERVED!r}", f"{path}.user_id")
    return item.user_id, profile_of(item, path), _preferences(item, f"{path}.preferences")
