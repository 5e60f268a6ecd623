"""Idempotency keys: each with the digest of its request and, once there is one, the answer."""

from __future__ import annotations

from typing import Protocol
from uuid import UUID

from msgspec import Struct


class Reservation(Struct, frozen=True, gc=False):
    """The result of `reserve`.

    If `fresh`, the caller owns the key now and must `complete` or `forget` it. The ids of the notifications that it
    accepts follow from `seed`. If `retaken`, an earlier request abandoned the key and `seed` is that request's.
    `reserved_at`, an instant of the store's clock, tells a fresh reservation from every other one of the key.

    If not `fresh`, `answer` is the answer to replay (None: the request is in flight), and `fingerprint` is the digest
    of the request that holds the key.
    """

    fresh: bool
    fingerprint: bytes
    seed: UUID
    answer: bytes | None = None
    retaken: bool = False
    reserved_at: int = 0


class Idempotency(Protocol):
    """Reservations of idempotency keys and their answers.

    `KEPT` milliseconds (policy/idempotency.py) after it was reserved, a key counts as never used. The store's clock
    measures all times, so a caller with a wrong clock cannot take over a reserved key.
    """

    async def reserve(self, tenant: str, key: str, fingerprint: bytes, seed: UUID, lease_s: float) -> Reservation:
        """Reserve the key for `lease_s` seconds, or return the reservation that holds it.

        A request with the same fingerprint takes over an unanswered reservation whose lease has ended.
        """
        ...

    async def complete(self, tenant: str, key: str, answer: bytes) -> None:
        """Store the answer, to be replayed."""
        ...

    async def forget(self, tenant: str, key: str, reserved_at: int) -> None:
        """Free the key after its request was refused, if the reservation of `reserved_at` still holds it."""
        ...

    async def abandon(self, tenant: str, key: str, reserved_at: int) -> None:
        """End the lease of the reservation of `reserved_at`, so that a repeated request can take over the key at once.

        For a request that failed and may still have been accepted.
        """
        ...

    async def prune(self, age_ms: int, most: int) -> int:
        """Delete up to `most` keys that were reserved more than `age_ms` ago; returns how many."""
        ...
