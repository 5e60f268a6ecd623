"""The devices of a user, in the order in which they were registered: the newest is the last."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from msgspec.structs import replace

from tidings.model.user import Preferences, Profile

Put = tuple[str, Profile, Preferences | None]
"""A user to store: id, profile, and preferences where they are given."""


def registered(profile: Profile, token: str, most: int) -> Profile:
    """The profile with `token` as its newest device, and no more than the newest `most` devices."""
    others = [device for device in profile.devices if device != token]
    return replace(profile, devices=(*others, token)[-most:])


def without(profile: Profile, tokens: Collection[str]) -> Profile:
    """The profile without these devices; the same object if it has none of them."""
    kept = tuple(device for device in profile.devices if device not in tokens)
    return profile if len(kept) == len(profile.devices) else replace(profile, devices=kept)


def settled(users: Sequence[Put]) -> dict[str, tuple[Profile, Preferences | None]]:
    """The profile and preferences to store for each user.

    Of several entries for one user the last counts, but preferences that only an earlier entry has are kept. A device
    that several users claim goes to the last of them.
    """
    latest: dict[str, tuple[Profile, Preferences | None]] = {}
    for user_id, profile, preferences in users:
        earlier = latest.pop(user_id, (profile, None))[1]
        latest[user_id] = (profile, earlier if preferences is None else preferences)
    owners = {token: user_id for user_id, (profile, _) in latest.items() for token in profile.devices}
    return {
        user_id: (without(profile, {token for token in profile.devices if owners[token] != user_id}), preferences)
        for user_id, (profile, preferences) in latest.items()
    }
