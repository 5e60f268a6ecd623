"""The devices of a person, in the order in which they were registered: the newest is the last."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from msgspec.structs import replace

from tidings.model.user import Preferences, Profile

Put = tuple[str, Profile, Preferences | None]
"""A user to store: id, profile, and preferences where they are given."""


def registered(profile: Profile, token: str, most: int) -> Profile:
    """The profile with `token` as its newest device; of more than `most` the oldest are dropped."""
    others = [device for device in profile.devices if device != token]
    return replace(profile, devices=(*others, token)[-most:])


def without(profile: Profile, tokens: Collection[str]) -> Profile:
    """The profile without these devices; itself where it has none of them."""
    kept = tuple(device for device in profile.devices if device not in tokens)
    return profile if len(kept) == len(profile.devices) else replace(profile, devices=kept)


def settled(users: Sequence[Put]) -> dict[str, tuple[Profile, Preferences | None]]:
    """What is to be stored of each user where some come twice, or several claim one device: the later one counts.

    Preferences that only an earlier entry of a user has are kept.
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
