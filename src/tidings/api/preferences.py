"""Preferences: which categories a user wants, on which channels, and when."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
)
from pydantic_core import PydanticCustomError

from tidings.api.calls import NAME, Caller, Shape, StrictRoute, UserId, operation
from tidings.model.errors import Invalid, NotFound
from tidings.model.tenant import Scope
from tidings.model.user import Preferences, QuietHours
from tidings.model.vocabulary import Channel
from tidings.policy.preferences import EVERY_CATEGORY

router = APIRouter(prefix="/v1/users/{user_id}/preferences", tags=["Preferences"], route_class=StrictRoute)

MOST_CATEGORIES = 500
_CATEGORY = re.compile(NAME)
_TIME = re.compile(r"^([01][0-9]|2[0-3]):[0-5][0-9]$")
_EVERY_CHANNEL = "all"

ChannelName = Annotated[Channel, Field(strict=False)]


def _time_of_day(text: str) -> str:
    if not _TIME.fullmatch(text):
        raise PydanticCustomError("time_of_day", "a time of day is written HH:MM, from 00:00 to 23:59")
    return text


def _without_nulls(given: Any) -> Any:
    """As everywhere, null counts as left out."""
    return {name: value for name, value in given.items() if value is not None} if isinstance(given, dict) else given


def _only_all(given: Any, check: ValidatorFunctionWrapHandler) -> Any:
    try:
        return check(given)
    except ValidationError:
        words = f"write {_EVERY_CHANNEL!r}, or a list of channels, such as ['email', 'sms']"
        raise PydanticCustomError("channels_or_all", words) from None


_LIST, _NO_LIST = "[list]", "[no list]"
"""Names of the branches. No field may have them: error paths leave branches out."""
TimeOfDay = Annotated[str, AfterValidator(_time_of_day), WithJsonSchema({"type": "string", "pattern": _TIME.pattern})]
OptOut = Annotated[
    Annotated[Literal["all"], WrapValidator(_only_all), Tag(_NO_LIST)] | Annotated[list[ChannelName], Tag(_LIST)],
    Discriminator(lambda given: _LIST if isinstance(given, list) else _NO_LIST),
]


class QuietHoursShape(Shape):
    """A daily span, in the user's timezone, in which only critical categories are sent. It may span midnight."""

    start: TimeOfDay = Field(description="HH:MM", examples=["22:00"])
    end: TimeOfDay = Field(description="HH:MM", examples=["07:00"])


class PreferencesShape(Shape):
    """What a user has refused. Critical categories are sent nevertheless."""

    opted_out: Annotated[dict[str, OptOut], BeforeValidator(_without_nulls)] = Field(
        default={},
        description="for a category (or `*` for every one) the refused channels, or `all`",
        examples=[{"marketing": "all", "social": ["email", "sms"]}],
        json_schema_extra={
            "maxProperties": MOST_CATEGORIES,
            "propertyNames": {"anyOf": [{"const": EVERY_CATEGORY}, {"pattern": NAME}]},
        },
    )
    quiet_hours: QuietHoursShape | None = None
    muted: bool = Field(default=False, description="refuse everything that is not critical")


_EXAMPLE = {
    "opted_out": {"marketing": "all", "social": ["email", "sms"]},
    "quiet_hours": {"start": "22:00", "end": "07:00"},
    "muted": False,
}


@router.get("", **operation(Scope.READ, "Read a user's preferences", answers=_EXAMPLE))
async def get_preferences(call: Caller, user_id: UserId) -> PreferencesShape:
    """The opt-outs, the quiet hours and the mute."""
    user = await call.services.users.get(call.tenant, user_id)
    if user is None:
        raise NotFound("user", user_id)
    return preferences_shape(user.preferences)


@router.put(
    "", **operation(Scope.MANAGE, "Replace a user's preferences", body=_EXAMPLE, before=["user"], user_id="ada")
)
async def put_preferences(
    call: Caller, user_id: UserId, preferences: Annotated[PreferencesShape, Body()]
) -> PreferencesShape:
    """They take effect at once, also for notifications that are accepted and not sent yet."""
    checked = preferences_of(preferences, "$")
    if not await call.services.users.set_preferences(call.tenant, user_id, checked, call.now):
        raise NotFound("user", user_id)
    return preferences_shape(checked)


def preferences_of(shape: PreferencesShape, path: str) -> Preferences:
    """The checked preferences. Raises Invalid."""
    if len(shape.opted_out) > MOST_CATEGORIES:
        raise Invalid("too_many", f"at most {MOST_CATEGORIES} categories", f"{path}.opted_out")
    opted_out: dict[str, tuple[Channel, ...]] = {}
    for category, refused in shape.opted_out.items():
        if category != EVERY_CATEGORY and not _CATEGORY.fullmatch(category):
            raise Invalid(
                "invalid_name",
                "a category is * or 1 to 64 letters, digits, '.', '_' or '-', and starts with a letter or digit",
                f"{path}.opted_out",
            )
        if refused == _EVERY_CHANNEL:
            opted_out[category] = ()
        elif refused:
            # In `Preferences` an empty tuple refuses every channel; in the API an empty list refuses none.
            opted_out[category] = tuple(channel for channel in Channel if channel in refused)
    quiet = shape.quiet_hours
    hours = None if quiet is None else QuietHours(_minutes(quiet.start), _minutes(quiet.end))
    return Preferences(opted_out=opted_out, quiet_hours=hours, muted=shape.muted)


def preferences_shape(preferences: Preferences) -> PreferencesShape:
    """The preferences as the API shows them."""
    quiet = preferences.quiet_hours
    return PreferencesShape(
        opted_out={category: list(refused) or "all" for category, refused in preferences.opted_out.items()},
        quiet_hours=None if quiet is None else QuietHoursShape(start=_clock(quiet.start), end=_clock(quiet.end)),
        muted=preferences.muted,
    )


def _minutes(text: str) -> int:
    hours, minutes = text.split(":")
    return int(hours) * 60 + int(minutes)


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02}:{minutes % 60:02}"
