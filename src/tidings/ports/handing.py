"""What was handed to providers, for receipts that name no delivery."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from tidings.model.sending import Handed


class Handing(Protocol):
    """See `History`, whose part this is."""

    async def handed(
        self, provider: str, references: Collection[str], addresses: Collection[str], since: int, until: int
    ) -> Sequence[Handed]:
        """What was handed to a provider under one of these references, or to one of these addresses (in lower case).

        Of the notifications accepted from `since` (inclusive) to `until` (exclusive), milliseconds since the epoch. It
        looks through all of them, so the stretch must be short. Raises Unavailable, also when it takes too long.
        """
        ...
