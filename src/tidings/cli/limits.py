"""Limits of the API as options of the command line, and as a line to read."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

from tidings.cli.plain import CannotGoOn
from tidings.model.tenant import Rate, Rates

PerSecond: TypeAlias = Annotated[
    float | None,
    typer.Option(min=0, help="Requests a second, over time. 0: no limit. Without it, as the settings say."),
]
Burst: TypeAlias = Annotated[
    int | None, typer.Option(min=1, help="Requests at once. Without it, one second's worth.", show_default=False)
]
NotificationsPerSecond: TypeAlias = Annotated[
    float | None, typer.Option(min=0, help="The same for notifications: a batch of 1,000 is 1,000.")
]
NotificationsBurst: TypeAlias = Annotated[
    int | None, typer.Option(min=1, help="Notifications at once; a larger batch is taken whole and waited off.")
]


def rates_of(
    per_second: float | None, burst: int | None, notifications_per_second: float | None, notifications_burst: int | None
) -> Rates:
    """The limits that the options say.

    Raises:
        CannotGoOn: a burst without its rate.
    """
    return Rates(
        requests=_rate("--per-second", per_second, burst),
        notifications=_rate("--notifications-per-second", notifications_per_second, notifications_burst),
    )


def described(limits: Rates) -> str:
    """What a person reads about limits."""
    parts = [_words(limits.requests, "requests"), _words(limits.notifications, "notifications")]
    return ", ".join(part for part in parts if part) or "as the settings say"


def _rate(option: str, per_second: float | None, burst: int | None) -> Rate | None:
    if per_second is None:
        if burst is not None:
            raise CannotGoOn(f"a burst belongs to a rate: give {option}, too")
        return None
    return Rate.of(per_second, burst)


def _words(rate: Rate | None, unit: str) -> str:
    if rate is None:
        return ""
    return f"{rate.per_second:g} {unit}/s, {rate.burst} at once" if rate.per_second else f"{unit} without limit"
