"""The request for a notification, and the checks that need nothing but the request itself."""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import UTC, datetime, time
from enum import StrEnum
from typing import Annotated, Any, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct
from msgspec.structs import replace

from tidings.model.errors import Invalid
from tidings.model.notification import Content, Recipient
from tidings.model.vocabulary import Channel, Priority, Strategy
from tidings.pipeline.compose.content import ContentRequest
from tidings.policy import addresses, instants, links, wall_clock
from tidings.policy.content import is_blank, unfit

MOST_ITEMS = 1_000
MOST_DEVICES = 50
DEEPEST = 32
LARGEST_BYTES = 256 * 1024
FARTHEST_MS = 366 * 24 * 3600 * 1000
_ONE_LINE = frozenset({"subject", "title", "link"})
_CONTROL = re.compile(r"[\x00-\x1f]")
_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,200}")
_CATEGORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_PROBLEM = re.compile(r"^(?P<what>.*?)(?: - at `(?P<path>\$.*)`)?$", re.DOTALL)
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_TYPES = re.compile(r"Expected `(?P<wanted>[^`]+)`, got `(?P<given>[^`]+)`")
_WORDS = {
    "array": "a list",
    "bool": "true or false",
    "float": "a number",
    "int": "a whole number",
    "object": "an object",
    "str": "a text",
}
_CHOICES: dict[str, type[StrEnum]] = {"$.priority": Priority, "$.strategy": Strategy}
_SQUARE = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"{}[]"))
_FIELD = re.compile(r"(?:unknown field|missing required field) `(?P<name>[^`]*)`")


Moment: TypeAlias = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
"""An instant in RFC 3339 (policy/instants.py)."""


S = TypeVar("S", bound=Struct)
_NULLS = (None, msgspec.Raw(b"null"))


class RecipientRequest(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """To whom: `user_id` of a stored user, or at least one inline address."""

    user_id: str | None = None
    email: str | None = None
    phone: str | None = None
    devices: list[str] | None = []
    locale: str | None = None
    timezone: str | None = None


class NotificationRequest(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """The body of `POST /v1/notifications`, and an item of a batch. A field that is null counts as left out."""

    to: RecipientRequest
    template: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"{}")
    content: ContentRequest | None = None
    channels: Annotated[list[Channel], Meta(min_length=1)] | None = None
    strategy: Strategy | None = Strategy.ALL
    category: str | None = "transactional"
    priority: Priority | None = Priority.NORMAL
    send_at: Moment | None = None
    expires_at: Moment | None = None
    metadata: msgspec.Raw = msgspec.Raw(b"{}")
    send_at_local: str | None = None

    @property
    def lane(self) -> Priority:
        """The priority that was given, or the default."""
        return self.priority or Priority.NORMAL


class BatchRequest(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """The body of `POST /v1/notifications/batch`."""

    notifications: list[msgspec.Raw]


_one = msgspec.json.Decoder(NotificationRequest)
_batch = msgspec.json.Decoder(BatchRequest)
_object = msgspec.json.Decoder(dict[str, Any])


def decode_one(body: bytes | msgspec.Raw) -> NotificationRequest:
    """The request in a body. Raises Invalid."""
    try:
        return _one.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise explain(error) from error


def decode_stored(body: bytes) -> NotificationRequest:
    """The request in a body that was accepted earlier. Raises Invalid.

    Fields that only the next version knows are left out: it may have stored the body before it was rolled back.
    """
    while True:
        try:
            return decode_one(body)
        except Invalid as problem:
            if problem.code != "unknown_field":
                raise
            body = _without(body, problem.path)


def _without(body: bytes, path: str) -> bytes:
    """The JSON object without the field at `path`, as in `$.content.email.subject`."""
    whole = value = _object.decode(body)
    *parents, field = path.removeprefix("$.").split(".")
    for name in parents:
        value = value[name]
    del value[field]
    return msgspec.json.encode(whole)


def decode_batch(body: bytes) -> list[msgspec.Raw]:
    """The items of a batch, each still undecoded. Raises Invalid."""
    try:
        items = _batch.decode(body).notifications
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise explain(error) from error
    if not 1 <= len(items) <= MOST_ITEMS:
        raise Invalid(
            "batch_size", f"a batch has 1 to {MOST_ITEMS} items; this one has {len(items)}", "$.notifications"
        )
    return items


def explain(error: Exception) -> Invalid:
    """A decoding error in our words, with the JSON path of the faulty field."""
    if isinstance(error, RecursionError):
        return Invalid("too_deep", f"the JSON is nested deeper than {DEEPEST} levels")
    if not isinstance(error, msgspec.ValidationError):
        return Invalid("malformed_json", f"the body is not valid JSON in UTF-8: {error}")
    match = _PROBLEM.match(str(error))
    what, path = (match["what"], match["path"] or "$") if match else (str(error), "$")
    field = _FIELD.search(what)
    if field and "unknown" in what:
        return Invalid("unknown_field", f"there is no field {field['name']!r} here", f"{path}.{field['name']}")
    if field:
        return Invalid("missing_field", f"the field {field['name']!r} is required", f"{path}.{field['name']}")
    if path == "$.channels" and "length" in what:
        return Invalid("no_channels", "name at least one channel, or leave channels out for all of them", path)
    if path.startswith("$.channels["):
        return Invalid("no_such_channel", f"a channel is one of {', '.join(Channel)}", path)
    if (choices := _CHOICES.get(path)) is not None and "enum" in what:
        return Invalid("wrong_type", f"this is one of {', '.join(choices)}", path)
    return Invalid("wrong_type", _in_words(what), path)


def _in_words(what: str) -> str:
    """A decoder's sentence about JSON types in plain words: `this must be a list or null, not a text`."""
    types = _TYPES.fullmatch(what)
    if types is None:
        return what
    wanted, given = ([_WORDS.get(name, name) for name in types[group].split(" | ")] for group in ("wanted", "given"))
    return f"this must be {' or '.join(wanted)}, not {given[0]}"


def recipient(to: RecipientRequest) -> Recipient:
    """The checked and normalised recipient. Raises Invalid."""
    devices = to.devices or ()
    if to.user_id is not None:
        if to.email is not None or to.phone is not None or devices:
            raise Invalid("ambiguous_recipient", "give either user_id or inline addresses, not both", "$.to")
        plain(to.user_id, "$.to.user_id")
    elif to.email is None and to.phone is None and not devices:
        raise Invalid("no_recipient", "give a user_id, or at least one of email, phone and devices", "$.to")
    if len(devices) > MOST_DEVICES:
        raise Invalid("too_many", f"at most {MOST_DEVICES} devices", "$.to.devices")
    return Recipient(
        user_id=to.user_id,
        email=None if to.email is None else addresses.email(to.email, "$.to.email"),
        phone=None if to.phone is None else addresses.phone(to.phone, "$.to.phone"),
        devices=tuple(addresses.device(token, f"$.to.devices[{i}]") for i, token in enumerate(devices)),
        locale=None if to.locale is None else addresses.locale(to.locale, "$.to.locale"),
        timezone=None if to.timezone is None else addresses.timezone(to.timezone, "$.to.timezone"),
    )


def json_object(raw: msgspec.Raw, path: str) -> dict[str, Any]:
    """The decoded object. Raises Invalid if it is no object, is nested too deeply, or holds a NUL character."""
    text = given(raw)
    if text == b"{}":
        return {}
    if is_too_deep(text):
        raise Invalid("too_deep", f"the JSON is nested deeper than {DEEPEST} levels", path)
    try:
        value = _object.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid("wrong_type", f"this must be a JSON object: {error}", path) from error
    if b"\\u0000" in text and has_nul(value):
        raise Invalid("nul_character", "NUL characters cannot be sent", path)
    return value


def without_nulls(change: S, keeping: Collection[str] = ()) -> S:
    """The change without its fields that are null, except those in `keeping`, for which null has a meaning."""
    empty = {
        name: UNSET for name in change.__struct_fields__ if name not in keeping and getattr(change, name) in _NULLS
    }
    return replace(change, **empty) if empty else change


def given(raw: msgspec.Raw) -> bytes:
    """The JSON object of an optional field; `{}` for null."""
    text = bytes(raw)
    return b"{}" if text == b"null" else text


def is_too_deep(text: bytes) -> bool:
    """Whether the JSON text is nested deeper than `DEEPEST`; brackets in strings do not count."""
    if text.count(b"{") + text.count(b"[") <= DEEPEST:
        return False
    # Only calls that go through the whole text at once: a text may have 100,000 brackets.
    brackets = _STRING.sub(b"", text).translate(_SQUARE, delete=_NO_BRACKETS)
    for _ in range(DEEPEST):
        brackets = brackets.replace(b"[]", b"")
    return bool(brackets)


def has_nul(value: object) -> bool:
    """Whether any text in the value holds U+0000."""
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(has_nul(key) or has_nul(inner) for key, inner in value.items())
    if isinstance(value, list):
        return any(has_nul(inner) for inner in value)
    return False


def literal(request: ContentRequest) -> Content:
    """The checked literal content. Raises Invalid."""
    content = request.content()
    for channel in content.channels():
        part = getattr(content, channel)
        for name in part.__struct_fields__:
            text = getattr(part, name)
            fault = None if text is None else _fault(name, text)
            if fault is not None:
                raise Invalid(*fault, f"$.content.{channel}.{name}")
    if content.email is not None and content.email.text is None and content.email.html is None:
        raise Invalid("missing_content", "an email needs text, html or both", "$.content.email")
    for channel in content.channels():
        problem = unfit(getattr(content, channel))
        if problem is not None:
            raise Invalid(problem.reason, problem.detail, f"$.content.{channel}.{problem.field}")
    return content


def _fault(field: str, text: str) -> tuple[str, str] | None:
    """Why a field of a literal content cannot be sent, as error code and detail; None if it can."""
    if "\0" in text:
        return "nul_character", "NUL characters cannot be sent"
    if field in _ONE_LINE and _CONTROL.search(text):
        return "control_character", "this is one line: no line breaks or control characters"
    if field == "link" and not links.is_safe(text):
        return "unsafe_link", links.UNSAFE
    if is_blank(text):
        return "empty", "this must not be empty, nor hold invisible characters alone"
    return None


class Times(Struct, frozen=True, gc=False):
    """When to send, and until when: instants in milliseconds since the epoch, or a local time of the user."""

    send_at: int | None = None
    expires_at: int | None = None
    send_at_local: str | None = None


def times(send_at: str | None, expires_at: str | None, send_at_local: str | None, now: int) -> Times:
    """The checked times of a request. Raises Invalid."""
    at = None if send_at is None else instants.parse(send_at, "$.send_at")
    until = None if expires_at is None else instants.parse(expires_at, "$.expires_at")
    if at is not None and at > now + FARTHEST_MS:
        raise Invalid("too_far", "send_at is more than a year ahead", "$.send_at")
    if until is not None and until <= max(now, at or 0):
        raise Invalid("already_expired", "expires_at must lie in the future, and after send_at", "$.expires_at")
    if send_at_local is not None:
        if at is not None:
            raise Invalid("ambiguous_time", "give either send_at or send_at_local, not both", "$.send_at_local")
        local_time(send_at_local, now)
    return Times(at, until, send_at_local)


def local_time(text: str, now: int) -> time | datetime:
    """The local time in `send_at_local`, with or without a date. Raises Invalid."""
    path = "$.send_at_local"
    try:
        wall = wall_clock.parse(text)
    except ValueError as error:
        why = str(error)
        if why == wall_clock.NEITHER:
            why = (
                "write 09:00 for the next nine o'clock in the user's timezone, or 2026-12-24T09:00 for that one; for a "
                "time with an offset there is send_at"
            )
        raise Invalid("invalid_local_time", why, path) from error
    if isinstance(wall, datetime) and wall_clock.instant_of(wall, UTC) > now + FARTHEST_MS:
        raise Invalid("too_far", "send_at_local is more than a year ahead", path)
    return wall


def category(name: str) -> str:
    """The checked name of a category. Raises Invalid."""
    if not _CATEGORY.fullmatch(name):
        raise Invalid("invalid_name", "a category is 1 to 64 letters, digits, '.', '_' or '-'", "$.category")
    return name


def is_plain(text: str) -> bool:
    """Whether the name is 1 to 200 characters long, none of them a control character."""
    return _NAME.fullmatch(text) is not None


def plain(text: str, path: str) -> None:
    """Raises Invalid unless the name is 1 to 200 characters long, none of them a control character."""
    if not is_plain(text):
        raise Invalid("invalid_name", "1 to 200 characters, none of them a control character", path)
