"""Who is let in when there is too much to do: what exceeds a tenant's share is turned away first, critical last."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from tidings.model.vocabulary import Lane, Priority


class AdmissionRules(Struct, frozen=True, kw_only=True):
    """How much is too much.

    `held` notifications may wait in memory for their commit; commits should take no longer than `lag` seconds; and
    `backlog` items of bulk and normal may wait in the queues.
    """

    held: int = 20_000
    lag: float = 0.5
    backlog: int = 50_000


class Load(Struct, frozen=True):
    """How much there is: in memory, as the age (seconds) of the oldest that waits there, and in the queues by lane."""

    held: int
    lag: float
    backlog: Mapping[Lane, int]


_PATIENCE = {
    Lane.CRITICAL: 1.0,
    Lane.CRITICAL_SURPLUS: 0.9,
    Lane.NORMAL: 0.8,
    Lane.NORMAL_SURPLUS: 0.6,
    Lane.BULK: 0.5,
    Lane.BULK_SURPLUS: 0.4,
}
"""The share of what is too much at which a lane is turned away."""

_BACKLOG = {Priority.CRITICAL: 1.0, Priority.NORMAL: 1.0, Priority.BULK: 0.5}
"""The same for what waits in the queues."""

_AHEAD = {
    Lane.CRITICAL_SURPLUS: (Lane.CRITICAL, Lane.CRITICAL_SURPLUS),
    Lane.NORMAL: (Lane.CRITICAL, Lane.NORMAL),
    Lane.NORMAL_SURPLUS: (Lane.CRITICAL, Lane.CRITICAL_SURPLUS, Lane.NORMAL, Lane.NORMAL_SURPLUS),
    Lane.BULK: (Lane.CRITICAL, Lane.NORMAL, Lane.BULK),
    Lane.BULK_SURPLUS: tuple(Lane),
}
"""What waits before a newcomer in a lane. Nobody within its share waits for the surplus of others."""

_BEYOND = "this exceeds the tenant's share, and "


def refusal(lane: Lane, load: Load, rules: AdmissionRules) -> str | None:
    """Why one more notification of this lane is turned away now; None lets it in.

    Critical is turned away only when memory is full; its surplus also for its own backlog.
    """
    patience, why = _PATIENCE[lane], _BEYOND if lane.is_surplus else ""
    if load.held >= rules.held * patience:
        return f"{why}more is waiting to be stored than memory may hold"
    if lane is Lane.CRITICAL:
        return None
    if load.lag > rules.lag * patience and lane is not Lane.CRITICAL_SURPLUS:
        return f"{why}storing takes too long"
    waiting = sum(load.backlog.get(one, 0) for one in _AHEAD[lane])
    if waiting > int(rules.backlog * _BACKLOG[lane.priority]):
        return f"{why}more is waiting to be sent than can be done soon"
    return None
