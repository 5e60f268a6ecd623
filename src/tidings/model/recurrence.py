"""Recurrences: notifications that are sent again and again, by a rule over the wall clock."""

from __future__ import annotations

from uuid import UUID

from msgspec import Struct

RECURRENCE_PREFIX = "rec"
OF_THE_USER = "user"
"""The timezone of a recurrence that follows its user, instead of an IANA name."""
GRACE = 3600
"""Seconds, where a recurrence says nothing else."""


class Progress(Struct, frozen=True, gc=False):
    """How far a recurrence is.

    `local` is the wall-clock time of the occurrence that comes next and `due` its instant in milliseconds since the
    epoch; both are None while it is paused, and when it has ended. `fired_at` is the instant of the latest occurrence
    that was sent, `skipped` how many were not, `problem` why the latest was not, "" when it was.
    """

    local: str | None = None
    due: int | None = None
    fired_at: int | None = None
    skipped: int = 0
    problem: str = ""


class Recurrence(Struct, frozen=True, gc=False):
    """A notification that is sent again and again.

    `id` has the user's bucket, like the notifications that come of it. `rrule` is a recurrence rule (RFC 5545), `start`
    the wall-clock time from which it counts, `timezone` an IANA name or `OF_THE_USER`. `request` is the body of the
    notification's request, JSON in UTF-8. An occurrence that was missed by more than `grace` seconds is skipped.
    `revision` counts the changes; the instants are in milliseconds since the epoch. `incarnation` is that of the known
    user it is meant for (model/user.py); None: whoever has the id.
    """

    id: UUID
    tenant: str
    name: str
    rrule: str
    start: str
    timezone: str
    request: bytes
    grace: int = GRACE
    paused: bool = False
    revision: int = 1
    created_at: int = 0
    updated_at: int = 0
    progress: Progress = Progress()
    incarnation: int | None = None
