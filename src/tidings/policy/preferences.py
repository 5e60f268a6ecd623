"""What a user refuses, by category and channel."""

from __future__ import annotations

from tidings.model.user import Category, Preferences
from tidings.model.vocabulary import Channel, Reason

EVERY_CATEGORY = "*"


def refusal(preferences: Preferences, category: Category, channel: Channel) -> Reason | None:
    """Why the user does not get `category` on `channel`; None when they may.

    A critical category is never refused. An opt-out of `*` counts for all categories, an empty tuple of channels for
    all channels.
    """
    if category.critical:
        return None
    if preferences.muted:
        return Reason.MUTED
    opted_out = preferences.opted_out
    if opted_out:
        for name in (category.name, EVERY_CATEGORY):
            channels = opted_out.get(name)
            if channels is not None and (not channels or channel in channels):
                return Reason.OPTED_OUT
    return None
