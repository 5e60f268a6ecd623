"""Which vendors the sandbox stands in for."""

from __future__ import annotations

from collections.abc import Mapping

from tidings.model.vocabulary import Channel

STAND_INS: Mapping[Channel, tuple[str, ...]] = {
    Channel.EMAIL: ("sendgrid",),
    Channel.SMS: ("twilio",),
    Channel.PUSH: ("fcm",),
    Channel.INAPP: ("inbox",),
}
"""The providers that serve each channel while the sandbox runs, unless others are named."""
