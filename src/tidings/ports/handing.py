"""Look-up of deliveries by provider reference or address, for receipts that name no delivery."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from tidings.model.sending import Handed


class Handing(Protocol):
    """A part of `History`."""

    async def handed(
        self, provider: str, references: Collection[str], addresses: Collection[str], since: int, until: int
    ) -> Sequence[Handed]:
        """Attempts that a provider got under one of these references, or to one of these addresses (in lower case).

        Only notifications accepted from `since` (inclusive) to `until` (exclusive), in milliseconds since the epoch,
        are searched. The search reads all of them, so keep the period short.

        Raises:
            Unavailable: the store does not answer, or the search takes too long.
        """
        ...
