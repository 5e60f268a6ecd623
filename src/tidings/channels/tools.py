"""What a provider is given besides its own settings."""

from __future__ import annotations

from dataclasses import dataclass

from tidings.ports.clock import Clock
from tidings.ports.store import Inbox


@dataclass(frozen=True)
class Tools:
    """`inbox` is None where no store is at hand; `name` is what the settings call the provider.

    `receipts_url` is the public URL of `/v1/receipts/<name>`. The registry fills the name in, here and there.
    """

    receipts_url: str
    clock: Clock
    inbox: Inbox | None
    name: str = ""
