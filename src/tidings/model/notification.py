"""A notification: one accepted request for one user, as it travels in the queue `requests`."""

from __future__ import annotations

import itertools
from uuid import UUID

from msgspec import Struct

from tidings.model.vocabulary import Channel, Priority, Strategy


class EmailContent(Struct, frozen=True, gc=False, omit_defaults=True):
    """An email. At least one of `text` and `html` is set."""

    subject: str
    text: str | None = None
    html: str | None = None


class SmsContent(Struct, frozen=True, gc=False, omit_defaults=True):
    """A text message."""

    text: str


class PushContent(Struct, frozen=True, gc=False, omit_defaults=True):
    """A push notification; `link` is opened when it is tapped."""

    title: str
    body: str
    link: str | None = None


class InappContent(Struct, frozen=True, gc=False, omit_defaults=True):
    """An item of the user's inbox; `link` is opened when it is clicked."""

    title: str
    body: str
    link: str | None = None


_CHANNELS_OF = {
    has: tuple(channel for channel, has_it in zip(Channel, has, strict=True) if has_it)
    for has in itertools.product((False, True), repeat=len(Channel))
}
"""The channels that have content, by whether each channel has, in the order of `Channel`."""


class Content(Struct, frozen=True, gc=False, omit_defaults=True):
    """Content per channel: literal, or (in a template) source text."""

    email: EmailContent | None = None
    sms: SmsContent | None = None
    push: PushContent | None = None
    inapp: InappContent | None = None

    def channels(self) -> tuple[Channel, ...]:
        """The channels that have content, in the order of `Channel`."""
        return _CHANNELS_OF[self.email is not None, self.sms is not None, self.push is not None, self.inapp is not None]


class TemplateRef(Struct, frozen=True, gc=False, array_like=True):
    """A template at the version that was published when the request was accepted."""

    name: str
    version: int


class Recipient(Struct, frozen=True, gc=False, omit_defaults=True):
    """Whom to notify: a known user, or addresses given inline (then `user_id` is None)."""

    user_id: str | None = None
    email: str | None = None
    phone: str | None = None
    devices: tuple[str, ...] = ()
    locale: str | None = None
    timezone: str | None = None

    @property
    def key(self) -> str:
        """What identifies the person: orders their notifications in a queue and picks their bucket."""
        return self.user_id or self.email or self.phone or (self.devices[0] if self.devices else "")


class Notification(Struct, frozen=True, gc=False, array_like=True):
    """One accepted request. Instants are milliseconds since the epoch.

    - Exactly one of `template` and `content` is set.
    - `data`, `metadata`: JSON objects as UTF-8 text, because most stages pass them on unread.
    - `channels`: empty means every channel that has content.
    - `send_at_local`: a wall-clock time in the user's timezone, `2026-01-31T09:00`; or a time of day, `09:00`, which
      the first routing replaces by the next such date and time.
    - `step`: how often it has waited for its send time.
    - `incarnation`: the known user's (model/user.py); None where the user was not looked up at acceptance.

    Add new fields at the end, with a default, so that readers of the previous version still work (see `wire.py`).
    """

    id: UUID
    tenant: str
    to: Recipient
    accepted_at: int
    template: TemplateRef | None = None
    content: Content | None = None
    data: bytes = b"{}"
    channels: tuple[Channel, ...] = ()
    strategy: Strategy = Strategy.ALL
    category: str = "transactional"
    priority: Priority = Priority.NORMAL
    send_at: int | None = None
    expires_at: int | None = None
    metadata: bytes = b"{}"
    send_at_local: str | None = None
    step: int = 0
    incarnation: int | None = None
