"""The API's limits: as options of commands, and as a line for people."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

from tidings.cli.plain import CannotGoOn
from tidings.model.tenant import Rate, Rates

PerSecond: TypeAlias = Annotated[
    float | None,
    typer.Option(min=0, help="Requests a second, on average; 0: no limit [as the settings say]."),
]
Burst: TypeAlias = Annotated[
    int | None, typer.Option(min=1, help="Requests at once [one second's worth].", show_default=False)
]
NotificationsPerSecond: TypeAlias = Annotated[
    float | None, typer.Option(min=0, help="Notifications a second, on average: a batch of 1,000 counts as 1,000.")
]
NotificationsBurst: TypeAlias = Annotated[
    int | None,
    typer.Option(min=1, help="Notifications at once; a larger batch is accepted whole, and later ones wait for it."),
]


def rates_of(
    per_second: float | None, burst: int | None, notifications_per_second: float | None, notifications_burst: int | None
) -> Rates:
    """The limits in the options.

    Raises:
        CannotGoOn: a burst is given without its rate.
    """
    return Rates(
        requests=_rate("--per-second", per_second, burst),
        notifications=_rate("--notifications-per-second", notifications_per_second, notifications_burst),
    )


def described(limits: Rates) -> str:
    """The limits as a line for people."""
    parts = [_words(limits.requests, "requests"), _words(limits.notifications, "notifications")]
    return ", ".join(part for part in parts if part) or "as the settings say"


def _rate(option: str, per_second: float | None, burst: int | None) -> Rate | None:
    if per_second is None:
        if burst is not None:
            raise CannotGoOn(f"a burst needs a rate: give {option} too")
        return None
    return Rate.of(per_second, burst)


def _words(rate: Rate | None, unit: str) -> str:
    if rate is None:
        return ""
    return f"{rate.per_second:g} {unit}/s, {rate.burst} at once" if rate.per_second else f"{unit} without limit"
