"""Recurrences: notifications that are sent again and again, by a rule over the wall clock."""

from __future__ import annotations

from uuid import UUID

from msgspec import Struct

RECURRENCE_PREFIX = "rec"
OF_THE_USER = "user"
"""The timezone of a recurrence that follows its user, instead of an IANA name."""
GRACE_S = 3600
"""How late an occurrence may be sent where the recurrence does not say."""


class Progress(Struct, frozen=True, gc=False):
    """How far a recurrence is. Instants are milliseconds since the epoch.

    `local` is the wall-clock time of the next occurrence and `due` its instant; both are None while the recurrence is
    paused and after its end. `fired_at` is the instant of the latest occurrence that was sent, `skipped` counts those
    that were not. `problem` says why the latest was not sent, "" if it was.
    """

    local: str | None = None
    due: int | None = None
    fired_at: int | None = None
    skipped: int = 0
    problem: str = ""


class Recurrence(Struct, frozen=True, gc=False):
    """A notification that is sent again and again. Instants are milliseconds since the epoch.

    `id` has the user's bucket, like the notifications of the recurrence. `rrule` is a recurrence rule (RFC 5545),
    `start` the wall-clock time from which it counts, `timezone` an IANA name or `OF_THE_USER`. `request` is the body of
    the notification's request, JSON in UTF-8. An occurrence that is more than `grace` seconds late is skipped.
    `revision` counts the changes. `incarnation` is the known user's (model/user.py); None: whoever has the user id.
    """

    id: UUID
    tenant: str
    name: str
    rrule: str
    start: str
    timezone: str
    request: bytes
    grace: int = GRACE_S
    paused: bool = False
    revision: int = 1
    created_at: int = 0
    updated_at: int = 0
    progress: Progress = Progress()
    incarnation: int | None = None
