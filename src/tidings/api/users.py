"""Users: the people who are notified."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Body, Path, Response
from pydantic import Field, TypeAdapter, ValidationError

from tidings.api import problems
from tidings.api.calls import NO_USER_ID, Call, Caller, Shape, StrictRoute, UserId, is_user_id, operation
from tidings.api.preferences import PreferencesShape, preferences_of, preferences_shape
from tidings.api.problems import Refused
from tidings.model.errors import Invalid, NotFound, TidingsError
from tidings.model.tenant import Scope
from tidings.model.user import Preferences, Profile, User
from tidings.pipeline.compose.requests import MOST_DEVICES
from tidings.policy import addresses, pasted
from tidings.report.notifications import rfc3339

router = APIRouter(prefix="/v1/users", tags=["Users"], route_class=StrictRoute)

MOST_ATTRIBUTE_BYTES = 16_384
_PROFILE = {"email": "ada@example.com", "phone": "+4930901820", "locale": "de-DE", "timezone": "Europe/Berlin"}


class ProfileShape(Shape):
    """How a person is reached and addressed."""

    email: str | None = Field(default=None, description="an email address", examples=["ada@example.com"])
    phone: str | None = Field(default=None, description="a phone number in E.164", examples=["+4930901820"])
    devices: list[str] = Field(
        default=[],
        description=f"device tokens for push, the newest last, at most {MOST_DEVICES}; another user of the tenant who "
        "has one of them loses it",
        json_schema_extra={"maxItems": MOST_DEVICES},
    )
    locale: str | None = Field(default=None, description="a BCP 47 language tag", examples=["de-DE"])
    timezone: str | None = Field(default=None, description="an IANA timezone", examples=["Europe/Berlin"])
    name: str | None = Field(default=None, description="the person's name, one line", examples=["Ada Lovelace"])
    attributes: dict[str, Any] = Field(default={}, description="any other data about the person, up to 16 KiB")


class UserRequest(ProfileShape):
    """A user to create or replace. Preferences that are left out stay as they are."""

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
    """A user of the batch that was not stored. The others are not affected."""

    error: dict[str, Any]


class UsersAnswer(Shape):
    """The result for each user of the batch, in order."""

    results: list[StoredItem | RefusedItem]


class DeviceRequest(Shape):
    """A device to register."""

    token: str = Field(
        description="the device's token for push",
        examples=["device-token-1"],
        json_schema_extra={"minLength": 1, "maxLength": addresses.MAX_DEVICE_TOKEN, "pattern": "^[!-~]*$"},
    )


class DevicesAnswer(Shape):
    """The user's devices, the newest last."""

    devices: list[str]


DeviceToken = Annotated[str, Path(description="percent-encoded", examples=["device-token-1"])]
_item = TypeAdapter(UserItem)


@router.put("/{user_id}", **operation(Scope.MANAGE, "Create or replace a user", body=_PROFILE, user_id="ada"))
async def put_user(call: Caller, user_id: UserId, user: Annotated[UserRequest, Body()]) -> UserAnswer:
    """Store a profile. Fields that are left out are deleted; preferences that are left out stay."""
    profile, preferences = profile_of(user), _preferences(user, "$.preferences")
    await call.services.users.upsert(call.tenant, [(user_id, profile, preferences)], call.now)
    return user_answer(await known_user(call, user_id))


@router.post(
    "/batch",
    **operation(
        Scope.MANAGE,
        "Create or replace many users",
        body={"users": [{"user_id": "ada", **_PROFILE}, {"user_id": "bo", "email": "bo@example.com", "locale": "sv"}]},
    ),
)
async def put_users(call: Caller, batch: Annotated[UsersRequest, Body()]) -> UsersAnswer:
    """A result for each user, in order; a refused one does not affect the others.

    If two have the same id, the later one is stored. If two have the same device, the later one gets it.
    """
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
            good.pop(user_id, None)  # a repeated user moves to the end: the order decides who gets a shared device
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
    """Delete the profile, the preferences and the inbox. The history stays until its day is dropped."""
    if not await call.services.users.delete(call.tenant, user_id):
        raise NotFound("user", user_id)


@router.post(
    "/{user_id}/devices",
    **operation(Scope.MANAGE, "Register a device", body={"token": "device-token-1"}, before=["user"], user_id="ada"),
)
async def add_device(call: Caller, user_id: UserId, device: Annotated[DeviceRequest, Body()]) -> DevicesAnswer:
    """Make it the user's newest device; it may be registered before.

    Another user of the tenant who has the device loses it. Of more than 50 devices the oldest are dropped.
    """
    token = addresses.device(device.token, "$.token")
    profile = await call.services.users.add_device(call.tenant, user_id, token, MOST_DEVICES, call.now)
    if profile is None:
        raise NotFound("user", user_id)
    return DevicesAnswer(devices=list(profile.devices))


@router.delete(
    "/{user_id}/devices/{device}",
    response_class=Response,
    **operation(Scope.MANAGE, "Remove a device", before=["user"], status=204, user_id="ada", device="device-token-1"),
)
async def remove_device(call: Caller, user_id: UserId, device: DeviceToken) -> None:
    """Use this when the person signs out of the app or removes it. 204 even if the user does not have the device."""
    if not await call.services.users.remove_device(call.tenant, user_id, pasted.visible(device), call.now):
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
        where = path + problems.json_path(first["loc"], raw).removeprefix("$")
        raise Refused(422, code, detail, path=where) from error
    if not is_user_id(item.user_id):
        raise Invalid("invalid_name", NO_USER_ID, f"{path}.user_id")
    return item.user_id, profile_of(item, path), _preferences(item, f"{path}.preferences")
