"""The token buckets of the API's limits, shared by all processes that enforce the same limits.

Promises, checked on every adapter by tests/conformance/test_tokens.py:

- A bucket gives at most `burst` tokens at once and `per_second` tokens a second over time, however many callers draw.
- A draw returns at least `least` tokens, or none. A draw whose `least` is above `burst` is granted by a full bucket,
  which then owes the rest.
- A lost bucket starts full again: callers may get an extra burst, and no notification is lost.
"""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from tidings.model.tenant import Rate


class Drawn(Struct, frozen=True, gc=False):
    """The result of a draw: `tokens` went to the caller (0 if the draw was refused), `left` stay in the bucket.

    `wait_s` is in how many seconds the draw would be granted (0 if it was), `full_s` in how many the bucket is full.
    """

    tokens: float
    left: float
    wait_s: float
    full_s: float


class Tokens(Protocol):
    """Token buckets by name. A bucket is created full by the first draw."""

    @property
    def shared(self) -> bool:
        """True if other processes draw from the same buckets over a network, so that drawing ahead saves calls."""
        ...

    async def draw(self, bucket: str, rate: Rate, least: float, most: float) -> Drawn:
        """Take up to `most` tokens from the bucket, or none if it has fewer than `least`. `rate` says how it fills.

        Raises:
            Unavailable: the server that holds the buckets does not answer.
        """
        ...
