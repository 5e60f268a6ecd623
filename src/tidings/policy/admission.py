"""Which notifications are turned away under overload: each tenant's surplus first, critical ones last."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from tidings.model.vocabulary import Lane, Priority


class AdmissionRules(Struct, frozen=True, kw_only=True):
    """The limits of the load.

    `in_memory` notifications may wait for their commit; a commit may take `lag_s`; `backlog` bulk and normal items may
    wait in the queues.
    """

    in_memory: int = 20_000
    lag_s: float = 0.5
    backlog: int = 50_000


class Load(Struct, frozen=True):
    """The load now.

    `in_memory`: notifications that wait for their commit; `lag_s`: the age of the oldest of them; `backlog`: queued
    items by lane.
    """

    in_memory: int
    lag_s: float
    backlog: Mapping[Lane, int]


_REFUSED_AT = {
    Lane.CRITICAL: 1.0,
    Lane.CRITICAL_SURPLUS: 0.9,
    Lane.NORMAL: 0.8,
    Lane.NORMAL_SURPLUS: 0.6,
    Lane.BULK: 0.5,
    Lane.BULK_SURPLUS: 0.4,
}
"""The fraction of `in_memory` and `lag_s` at which each lane is turned away."""

_BACKLOG_REFUSED_AT = {Priority.CRITICAL: 1.0, Priority.NORMAL: 1.0, Priority.BULK: 0.5}
"""The fraction of `backlog` at which each priority is turned away."""

_AHEAD = {
    Lane.CRITICAL_SURPLUS: (Lane.CRITICAL, Lane.CRITICAL_SURPLUS),
    Lane.NORMAL: (Lane.CRITICAL, Lane.NORMAL),
    Lane.NORMAL_SURPLUS: (Lane.CRITICAL, Lane.CRITICAL_SURPLUS, Lane.NORMAL, Lane.NORMAL_SURPLUS),
    Lane.BULK: (Lane.CRITICAL, Lane.NORMAL, Lane.BULK),
    Lane.BULK_SURPLUS: tuple(Lane),
}
"""The lanes whose backlog counts for a newcomer in a lane. Within its share nobody waits for the others' surplus."""

_BEYOND = "this exceeds the tenant's share, and "


def refusal(lane: Lane, load: Load, rules: AdmissionRules) -> str | None:
    """Why one more notification of this lane is turned away now; None lets it in.

    Critical is turned away only when memory is full, its surplus also for its own backlog.
    """
    fraction, why = _REFUSED_AT[lane], _BEYOND if lane.is_surplus else ""
    if load.in_memory >= rules.in_memory * fraction:
        return f"{why}more is waiting to be stored than memory may hold"
    if lane is Lane.CRITICAL:
        return None
    if load.lag_s > rules.lag_s * fraction and lane is not Lane.CRITICAL_SURPLUS:
        return f"{why}storing takes too long"
    waiting = sum(load.backlog.get(ahead, 0) for ahead in _AHEAD[lane])
    if waiting > int(rules.backlog * _BACKLOG_REFUSED_AT[lane.priority]):
        return f"{why}more is waiting to be sent than can be done soon"
    return None
