"""Who is let in when there is more than can be done: bulk is turned away first, critical last."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from tidings.model.vocabulary import Priority


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
    backlog: Mapping[Priority, int]


_PATIENCE = {Priority.BULK: 0.5, Priority.NORMAL: 0.8, Priority.CRITICAL: 1.0}
"""The share of what is too much at which a lane is turned away."""


def refusal(priority: Priority, load: Load, rules: AdmissionRules) -> str | None:
    """Why one more notification of this lane is turned away now; None lets it in.

    Critical is turned away only when memory is full.
    """
    patience = _PATIENCE[priority]
    if load.held >= rules.held * patience:
        return "more is waiting to be stored than memory may hold"
    if priority is Priority.CRITICAL:
        return None
    if load.lag > rules.lag * patience:
        return "storing takes too long"
    waiting = load.backlog.get(Priority.CRITICAL, 0) + load.backlog.get(Priority.NORMAL, 0)
    allowed = rules.backlog
    if priority is Priority.BULK:
        waiting += load.backlog.get(Priority.BULK, 0)
        allowed = int(rules.backlog * patience)
    if waiting > allowed:
        return "more is waiting to be sent than can be done soon"
    return None
