"""Times and durations for people."""

from __future__ import annotations

from datetime import datetime


def local(instant: int) -> str:
    """`instant` (milliseconds since the epoch) to the minute, in this machine's timezone."""
    return datetime.fromtimestamp(instant / 1000).astimezone().strftime("%Y-%m-%d %H:%M")


def moment(text: str) -> datetime:
    """The RFC 3339 time in `text`, in this machine's timezone."""
    return datetime.fromisoformat(text).astimezone()


def duration(seconds: float) -> str:
    """A duration as `850 ms`, `12.3 s`, `4 min 05 s` or `3 h 20 min`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min"
