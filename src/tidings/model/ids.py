"""Ids of notifications and deliveries: UUIDv7 with the user's bucket inside, prefixed for people.

Layout (RFC 9562, version 7): 48 bits of Unix milliseconds, version, `rand_a` = the user's bucket (12 bits), variant,
`rand_b` = 54 random bits and an 8-bit *slot*. Slot 0 is the notification itself; slots 1 to 255 are its deliveries. So
an id alone tells its shard, its day and, for a delivery, its notification, with no lookup table.

Outside the process ids are written as in the TypeID specification (0.3): a prefix, `_`, and the 128 bits in lower-case
Crockford base32 (26 characters).
"""

from __future__ import annotations

import hashlib
from uuid import UUID

from tidings.model.errors import BadId

BUCKETS = 4096
SLOTS = 256
NOTIFICATION_PREFIX = "ntf"
DELIVERY_PREFIX = "dlv"
REPLAY_PREFIX = "rpl"

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_VALUES = {character: value for value, character in enumerate(_ALPHABET)}
_PAIRS = [high + low for high in _ALPHABET for low in _ALPHABET]
_ENCODED_LENGTH = 26


def new_id(now: int, bucket: int, randomness: int) -> UUID:
    """A new notification id.

    `now` is in milliseconds since the epoch, `bucket` in 0..4095, `randomness` an integer of at least 54 random bits.
    """
    return UUID(
        int=(now & 0xFFFF_FFFF_FFFF) << 80
        | 0x7 << 76
        | (bucket & 0xFFF) << 64
        | 0b10 << 62
        | (randomness & 0x3F_FFFF_FFFF_FFFF) << 8
    )


def seeded_id(seed: UUID, number: int, bucket: int) -> UUID:
    """The id of notification `number` (from 0) of a request, at the instant of the id `seed` and in `bucket`.

    The same inputs always give the same id.
    """
    return new_id(instant_of(seed), bucket, (seed.int >> 8) + number)


def delivery_id(notification_id: UUID, slot: int) -> UUID:
    """The id of the notification's delivery in `slot` (1 to 255); the same inputs always give the same id."""
    if not 0 < slot < SLOTS:
        raise ValueError(f"slot {slot} is outside 1..{SLOTS - 1}")
    return UUID(int=notification_id.int | slot)


def notification_of(id: UUID) -> UUID:
    """The id of the notification that a delivery id (or a notification id) belongs to."""
    return UUID(int=id.int & ~0xFF)


def slot_of(id: UUID) -> int:
    """The slot of a delivery id; 0 for a notification id."""
    return id.int & 0xFF


def instant_of(id: UUID) -> int:
    """When the id was made, in milliseconds since the epoch."""
    return id.int >> 80


def bucket_of(id: UUID) -> int:
    """The bucket of the user that the id belongs to."""
    return (id.int >> 64) & 0xFFF


def stable_bucket(tenant: str, user_id: str) -> int:
    """The bucket (0..4095) of a user; the same in every process and version (BLAKE2b, 8 bytes, big-endian)."""
    digest = hashlib.blake2b(f"{tenant}\0{user_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % BUCKETS


def to_text(prefix: str, id: UUID) -> str:
    """The id in the TypeID form: `ntf_01h…`."""
    value = id.int
    # 13 groups of 10 bits: the table of pairs halves the number of steps on the hot path.
    return prefix + "_" + "".join([_PAIRS[(value >> shift) & 0x3FF] for shift in range(120, -1, -10)])


def from_text(prefix: str, text: str) -> UUID:
    """The id in `text`.

    Raises:
        BadId: not of the form `prefix_` and 26 base32 characters, or more than 128 bits.
    """
    head, separator, tail = text.rpartition("_")
    if not separator or head != prefix or len(tail) != _ENCODED_LENGTH:
        raise BadId(prefix, text)
    value = 0
    for character in tail:
        digit = _VALUES.get(character)
        if digit is None:
            raise BadId(prefix, text)
        value = value << 5 | digit
    if value >> 128:
        raise BadId(prefix, text)
    return UUID(int=value)
