"""Dead letters for the API: find them, say which can be replayed, and order replays (which schedule/replay.py does)."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import msgspec

from tidings.model.days import day_of, day_text
from tidings.model.errors import Archived, Conflict, NotFound
from tidings.model.ids import DELIVERY_PREFIX, REPLAY_PREFIX, new_id, notification_of, slot_of, to_text
from tidings.model.letters import LetterFilter, Replay
from tidings.model.tenant import ApiKey
from tidings.pipeline.schedule.judging import Judged, judge
from tidings.policy.idempotency import RESERVATION_LEASE_S, check_key, fingerprint, in_flight
from tidings.policy.letters import WHY, letter_of
from tidings.ports.clock import Clock
from tidings.ports.store import Directory, Shard


class DeadLetters:
    """Reads dead letters, and orders, lists and cancels replays, for the API."""

    def __init__(self, directory: Directory, shard: Shard, clock: Clock, randomness: Callable[[int], int]) -> None:
        self._directory = directory
        self._shard = shard
        self._clock = clock
        self._randomness = randomness

    async def find(
        self, tenant: str, filter: LetterFilter, before: UUID | None, limit: int
    ) -> tuple[list[Judged], UUID | None]:
        """A page of letters, newest first, and the delivery id below which the next page begins (None: no more)."""
        page = await self._shard.letters.find(tenant, filter, before, limit)
        return await judge(page.letters, self._shard.standings, self._clock.now()), page.cursor

    async def get(self, tenant: str, id: UUID) -> Judged:
        """One dead letter, which may be an uncertain delivery. Raises NotFound, or Archived if its day is archived."""
        record = await self._shard.history.get(tenant, notification_of(id)) if slot_of(id) else None
        letter = None if record is None else letter_of(record, id)
        if record is None and any(state.archived for state in await self._shard.days.states(day_of(id), day_of(id))):
            raise Archived(
                f"what was accepted on {day_text(day_of(id))} is archived: its dead letters cannot be replayed any more"
            )
        if letter is None:
            raise NotFound("dead letter", to_text(DELIVERY_PREFIX, id))
        [judged] = await judge([letter], self._shard.standings, self._clock.now())
        return judged

    async def replay_one(self, key: ApiKey, id: UUID) -> Replay:
        """Order the replay of one letter.

        Raises:
            NotFound: the delivery is no dead letter.
            Conflict: the letter cannot be replayed; the code is the obstacle's name.
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
        """Order the replay of all letters that match; the replay, and whether an earlier request ordered it.

        Raises:
            Invalid: the idempotency key is malformed.
            Conflict: the key was used for another body, or its first request is still under way.
        """
        replay = self._new(key, filter, per_second, expected=None)
        if idempotency_key is not None:
            check_key(idempotency_key)
            digest = fingerprint(body, "replays")
            held = await self._directory.idempotency.reserve(
                key.tenant, idempotency_key, digest, replay.id, RESERVATION_LEASE_S
            )
            if held.fingerprint != digest:
                raise Conflict("idempotency_key_reused", "this Idempotency-Key was used with another body")
            if not held.fresh and held.answer is None:
                raise in_flight()
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
        """A page of replays, newest first, and the id below which the next page begins (None: no more)."""
        found = list(await self._directory.replays.list(tenant, before, limit + 1))
        return found[:limit], found[limit - 1].id if len(found) > limit else None

    async def cancel(self, tenant: str, id: UUID) -> Replay:
        """End a replay: no more of its letters are sent. Raises NotFound, or Conflict if it has ended already."""
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
