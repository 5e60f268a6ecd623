"""The token buckets of the API's limits, for all processes that limit together.

Promises, checked on every adapter by tests/conformance/test_tokens.py:

- From one bucket at most `burst` tokens come at once and `per_second` a second over time, however many draw.
- A draw gets what it needs at least, or nothing. One that needs more than `burst` is granted by a full bucket, which
  then owes the rest.
- Losing a bucket costs a burst, never a notification: it is full again.
"""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from tidings.model.tenant import Rate


class Drawn(Struct, frozen=True, gc=False):
    """What came of a draw: `tokens` are the caller's (0: none), `left` stay in the bucket.

    Seconds: `wait` until the draw would be granted (0 if it was), `full` until nothing is missing in the bucket.
    """

    tokens: float
    left: float
    wait: float
    full: float


class Tokens(Protocol):
    """Token buckets by name, made full when they are first drawn from."""

    @property
    def shared(self) -> bool:
        """Whether other processes draw as well, over a network: then it pays to draw ahead."""
        ...

    async def draw(self, bucket: str, rate: Rate, least: float, most: float) -> Drawn:
        """Take up to `most` tokens out of the bucket, which fills as `rate` says; none if there are not `least`.

        Raises:
            Unavailable: the counter does not answer.
        """
        ...
