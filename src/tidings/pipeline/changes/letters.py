"""Dead letters as a person meets them: found, judged, and asked to be sent again. The stage `replay` does it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from uuid import UUID

import msgspec
from msgspec import Struct

from tidings.model.days import day_of, day_text
from tidings.model.errors import Archived, Conflict, NotFound
from tidings.model.ids import DELIVERY_PREFIX, REPLAY_PREFIX, new_id, notification_of, slot_of, to_text
from tidings.model.letters import DeadLetter, LetterFilter, Replay
from tidings.model.tenant import ApiKey
from tidings.model.user import Address
from tidings.model.vocabulary import Channel
from tidings.policy.idempotency import check_key, fingerprint
from tidings.policy.letters import WHY, Obstacle, letter_of, obstacle, present_address_of
from tidings.policy.presence import is_meant
from tidings.ports.cancellations import Cancellations
from tidings.ports.clock import Clock
from tidings.ports.store import Directory, Shard
from tidings.ports.users import Person, Users

NOBODY = Person()
IN_FLIGHT = 1.0
"""Seconds after which a first request has probably been answered."""
RESERVATION_LEASE = 30.0
"""Seconds after which a first request that never answered gives its idempotency key up."""


class Judged(Struct, frozen=True, gc=False):
    """A dead letter with its recipient as they are now, why it cannot be replayed (None: it can), and where it goes."""

    letter: DeadLetter
    person: Person
    obstacle: Obstacle | None
    address: Address


class DeadLetters:
    """What the API asks about dead letters and replays."""

    def __init__(self, directory: Directory, shard: Shard, clock: Clock, randomness: Callable[[int], int]) -> None:
        self._directory = directory
        self._shard = shard
        self._clock = clock
        self._randomness = randomness

    async def find(
        self, tenant: str, filter: LetterFilter, before: UUID | None, limit: int
    ) -> tuple[list[Judged], UUID | None]:
        """A page, newest first, and the delivery id to go on below (None: no more)."""
        page = await self._shard.letters.find(tenant, filter, before, limit)
        return await judge(page.letters, self._shard.users, self._shard.cancellations, self._clock.now()), page.cursor

    async def get(self, tenant: str, id: UUID) -> Judged:
        """One dead letter, uncertain ones included. Raises NotFound, or Archived when its day has been."""
        record = await self._shard.history.get(tenant, notification_of(id)) if slot_of(id) else None
        letter = None if record is None else letter_of(record, id)
        if record is None and any(state.archived for state in await self._shard.days.states(day_of(id), day_of(id))):
            raise Archived(
                f"what was accepted on {day_text(day_of(id))} is archived: its dead letters cannot be replayed any more"
            )
        if letter is None:
            raise NotFound("dead letter", to_text(DELIVERY_PREFIX, id))
        [judged] = await judge([letter], self._shard.users, self._shard.cancellations, self._clock.now())
        return judged

    async def replay_one(self, key: ApiKey, id: UUID) -> Replay:
        """Ask for one letter to be sent again.

        Raises:
            NotFound: it is no dead letter.
            Conflict: it cannot be replayed; the code is the obstacle's name.
        """
        judged = await self.get(key.tenant, id)
        if judged.obstacle is not None:
            raise Conflict(judged.obstacle.value, f"this dead letter cannot be replayed: {WHY[judged.obstacle]}")
        chosen = LetterFilter(state=judged.letter.last.state, delivery_id=id)
        replay = self._new(key, chosen, 1, expected=1)
        await self._directory.replays.add(replay)
        return replay

    async def replay(
        self, key: ApiKey, filter: LetterFilter, per_second: int, idempotency_key: str | None, body: bytes
    ) -> tuple[Replay, bool]:
        """Ask for all letters that match to be sent again; the replay, and whether an earlier request made it.

        Raises:
            Invalid: the idempotency key is none.
            Conflict: it was used for another body, or its first request is still under way.
        """
        replay = self._new(key, filter, per_second, expected=None)
        if idempotency_key is not None:
            check_key(idempotency_key)
            digest = fingerprint(body, "replays")
            held = await self._directory.idempotency.reserve(
                key.tenant, idempotency_key, digest, replay.id, RESERVATION_LEASE
            )
            if held.fingerprint != digest:
                raise Conflict("idempotency_key_reused", "this Idempotency-Key was used with another body")
            if not held.fresh and held.answer is None:
                raise Conflict(
                    "idempotency_in_flight", "the first request with this Idempotency-Key is under way", IN_FLIGHT
                )
            if not held.fresh and held.answer is not None:
                return await self.known(key.tenant, UUID(bytes=held.answer)), True
            replay = msgspec.structs.replace(replay, id=held.seed)
        replay = msgspec.structs.replace(replay, expected=await self._shard.letters.count(key.tenant, filter))
        await self._directory.replays.add(replay)
        if idempotency_key is not None:
            await self._directory.idempotency.complete(key.tenant, idempotency_key, replay.id.bytes)
        return replay, False

    async def known(self, tenant: str, id: UUID) -> Replay:
        """One replay. Raises NotFound."""
        found = await self._directory.replays.get(tenant, id)
        if found is None:
            raise NotFound("replay", to_text(REPLAY_PREFIX, id))
        return found

    async def replays(self, tenant: str, before: UUID | None, limit: int) -> tuple[list[Replay], UUID | None]:
        """Replays, newest first, and the id to go on below (None: no more)."""
        found = list(await self._directory.replays.list(tenant, before, limit + 1))
        return found[:limit], found[limit - 1].id if len(found) > limit else None

    async def cancel(self, tenant: str, id: UUID) -> Replay:
        """Take no further letters of a replay. Raises NotFound; Conflict when it has ended."""
        cancelled = await self._directory.replays.cancel(tenant, id, self._clock.now())
        replay = await self.known(tenant, id)
        if not cancelled:
            raise Conflict("already_ended", f"this replay is {replay.state.value}; nothing is left to stop")
        return replay

    def _new(self, key: ApiKey, filter: LetterFilter, per_second: int, expected: int | None) -> Replay:
        now = self._clock.now()
        return Replay(
            id=new_id(now, 0, self._randomness(54)),
            tenant=key.tenant,
            filter=filter,
            per_second=per_second,
            key_id=key.id,
            key_prefix=key.prefix,
            created_at=now,
            expected=expected,
        )


async def judge(letters: Sequence[DeadLetter], users: Users, cancellations: Cancellations, now: int) -> list[Judged]:
    """Each letter with what is known now."""
    if not letters:
        return []
    named = [(letter, letter.record.notification) for letter in letters]
    people = await users.people(
        {(about.tenant, about.to.user_id) for _, about in named if about.to.user_id is not None}
    )
    asked = [people.get((about.tenant, about.to.user_id or ""), NOBODY) for _, about in named]
    presents = [present_address_of(letter, person.profile) for (letter, _), person in zip(named, asked, strict=True)]
    suppressed = await users.suppressed(
        {
            (about.tenant, address)
            for (_, about), address in zip(named, presents, strict=True)
            if address.channel is not Channel.INAPP
        }
    )
    cancelled = await cancellations.cancelled({about.id for _, about in named})
    judged: list[Judged] = []
    for (letter, about), person, address in zip(named, asked, presents, strict=True):
        why = obstacle(
            letter,
            known=about.to.user_id is None or person.profile is not None,
            meant=is_meant(about.incarnation, person.incarnation),
            address=address,
            suppressed=suppressed,
            cancelled=cancelled,
            now=now,
        )
        judged.append(Judged(letter, person, why, address))
    return judged
