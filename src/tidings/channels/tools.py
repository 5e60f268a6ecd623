"""What a provider gets besides its own settings."""

from __future__ import annotations

from dataclasses import dataclass

from tidings.ports.clock import Clock
from tidings.ports.inbox import Inbox


@dataclass(frozen=True)
class Tools:
    """The clock, the inbox and the addresses that a provider may use.

    `inbox` is None in a process without a store. `name` is the provider's name in the settings, `receipts_url` the
    public URL of `/v1/receipts/<name>`. The registry completes both with the provider's name.
    """

    receipts_url: str
    clock: Clock
    inbox: Inbox | None
    name: str = ""
