"""Idempotency keys: who asked for what, and what they were answered."""

from __future__ import annotations

from typing import Protocol
from uuid import UUID

from msgspec import Struct


class Reservation(Struct, frozen=True, gc=False):
    """What is known of an idempotency key.

    `fresh`: the caller owns it now and must `complete` or `forget` it; the ids of what it accepts follow from `seed`
    (kept from an abandoned earlier try, if there was one: `retaken`). Otherwise `answer` is the answer to replay (None:
    in flight) and `fingerprint` the digest of the request that it was for. `reserved_at` tells a fresh reservation from
    every other of the key; it is an instant of the store's clock.
    """

    fresh: bool
    fingerprint: bytes
    seed: UUID
    answer: bytes | None = None
    retaken: bool = False
    reserved_at: int = 0


class Idempotency(Protocol):
    """Idempotency keys. One that was reserved `KEPT_MS` ago (policy/idempotency.py) is as if it had never been used.

    Time is the store's: a caller whose clock is wrong takes nobody's key.
    """

    async def reserve(self, tenant: str, key: str, fingerprint: bytes, seed: UUID, lease: float) -> Reservation:
        """Take the key, or say who has it.

        An unanswered reservation older than `lease` seconds is retaken by a request with the same fingerprint.
        """
        ...

    async def complete(self, tenant: str, key: str, answer: bytes) -> None:
        """Keep the answer for replays."""
        ...

    async def forget(self, tenant: str, key: str, reserved_at: int) -> None:
        """Free a key that was reserved at this instant and whose request was refused; no other one."""
        ...

    async def abandon(self, tenant: str, key: str, reserved_at: int) -> None:
        """Let a reservation of this instant, whose request may have come through, be retaken at once: end its lease."""
        ...

    async def sweep(self, age_ms: int, most: int) -> int:
        """Delete up to `most` keys that were reserved longer than this ago; how many."""
        ...
