"""replay: carry out replays: give each dead letter a new attempt, page by page, at the rate that was asked for."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence

import msgspec
import structlog

from tidings.model.errors import Unavailable
from tidings.model.ids import DELIVERY_PREFIX, REPLAY_PREFIX, notification_of, slot_of, to_text
from tidings.model.letters import DeadLetter, Replay, ReplayState
from tidings.model.outcome import Outcome
from tidings.model.vocabulary import Reason, State
from tidings.pipeline.runtime.deliveries import build, wait_for
from tidings.pipeline.runtime.packs import pack
from tidings.pipeline.runtime.setbacks import Setbacks
from tidings.pipeline.runtime.stopping import pause
from tidings.pipeline.schedule.judging import Judged, judge
from tidings.policy.stuck import STUCK_AFTER_MS
from tidings.ports.clock import Clock
from tidings.ports.meter import Meter
from tidings.ports.queue import Queue
from tidings.ports.store import Directory, Shard

LARGEST_PAGE = 500
PAGE_S = 2
"""A page holds the letters that leave in so many seconds. A cancelled replay stops after about as long."""
AHEAD_MS = 1_000
"""The next page is taken this long before the last letter of a page leaves."""
LEASE_S = 60.0
LONGEST_SLEEP_S = 2.0
"""Longest pause between two looks. A replay that another process writes is noticed within it."""

FAILED = "failed"
"""A reason for skipping a letter: an error in Tidings, which the log has."""

_log = structlog.get_logger("tidings.replay")


class Replaying:
    """Puts, for each dead letter of a replay, the fact that it waits for a new attempt. `record` writes fact and wait.

    A crash between putting the facts and storing the progress repeats a page. That is harmless: the facts are the same,
    and a fact is recorded once.
    """

    def __init__(self, directory: Directory, shard: Shard, queue: Queue, clock: Clock, meter: Meter) -> None:
        self._directory = directory
        self._shard = shard
        self._queue = queue
        self._clock = clock
        self._meter = meter

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until `stopping` is set."""
        setbacks = Setbacks(_log, self._meter, "replay")
        while not stopping.is_set():
            try:
                rest = 0.0 if await self.once() else LONGEST_SLEEP_S
                setbacks.over()
            except Exception as error:
                rest = setbacks.note(error)
            if rest:
                await pause(rest, stopping, self._clock)

    async def once(self) -> bool:
        """Take one page of the replay that has waited longest; False if none waits."""
        now = self._clock.now()
        replay = await self._directory.replays.claim(now, LEASE_S)
        if replay is None:
            return False
        started = time.perf_counter()
        limit = min(LARGEST_PAGE, PAGE_S * replay.per_second)
        page = await self._shard.letters.find(replay.tenant, replay.filter, replay.position, limit)
        judged = await self._judged(page.letters, now)
        begin = max(now, replay.next_due)
        facts = _facts(replay, [one for one in judged if one.obstacle is None], begin, now)
        if facts:
            await self._shard.watched.watch([(notification_of(one.id), _due(one) + STUCK_AFTER_MS) for one in facts])
            await self._queue.put(pack(facts))
        skipped = Counter(replay.skipped) + Counter(one.obstacle.value for one in judged if one.obstacle is not None)
        skipped[FAILED] += len(page.letters) - len(facts) - sum(one.obstacle is not None for one in judged)
        next_due = begin + _after(len(facts), replay.per_second)
        ended = page.cursor is None
        further = msgspec.structs.replace(
            replay,
            state=ReplayState.FINISHED if ended else ReplayState.RUNNING,
            finished_at=self._clock.now() if ended else None,
            found=replay.found + len(page.letters),
            replayed=replay.replayed + len(facts),
            skipped=dict(+skipped),
            position=page.cursor,
            next_due=next_due,
        )
        if not await self._directory.replays.progress(further, max(now, next_due - AHEAD_MS)):
            self._meter.failure("replay", "", "lease_lost")
            _log.warning("a lease was lost", replay=to_text(REPLAY_PREFIX, replay.id))
        self._meter.batch("replay", "", len(page.letters), time.perf_counter() - started)
        return True

    async def _judged(self, letters: Sequence[DeadLetter], now: int) -> list[Judged]:
        """The letters with what is known now. A letter that cannot be judged is left out, and stops no other."""
        standings = self._shard.standings
        try:
            return await judge(letters, standings, now)
        except Unavailable:
            raise
        except Exception:
            _log.exception("letters could not be judged; going on one by one", count=len(letters))
        judged: list[Judged] = []
        for letter in letters:
            try:
                judged += await judge([letter], standings, now)
            except Unavailable:
                raise
            except Exception:
                self._meter.failure("replay", "", "error")
                _log.exception("a letter could not be judged", delivery=to_text(DELIVERY_PREFIX, letter.id))
        return judged


def _facts(replay: Replay, letters: Sequence[Judged], begin: int, now: int) -> list[Outcome]:
    """For each letter the fact that it waits for its turn; the first turn is at `begin`."""
    facts: list[Outcome] = []
    for judged in letters:
        try:
            facts.append(_fact(replay, judged, begin + _after(len(facts), replay.per_second), now))
        except Exception:
            _log.exception("a letter cannot be sent again", delivery=to_text(DELIVERY_PREFIX, judged.letter.id))
    return facts


def _fact(replay: Replay, judged: Judged, due: int, now: int) -> Outcome:
    letter = judged.letter
    notification, address, attempt = letter.record.notification, judged.address, letter.last.attempt + 1
    # The step must follow from the attempt alone: else two replays of one letter would be two facts.
    delivery = build(notification, slot_of(letter.id), address, judged.person.profile, attempt=attempt, step=1)
    return Outcome(
        id=letter.id,
        tenant=notification.tenant,
        at=now,
        state=State.DEFERRED,
        attempt=attempt,
        step=0,
        reason=Reason.REPLAYED,
        detail=to_text(REPLAY_PREFIX, replay.id),
        address=address,
        wait=wait_for(delivery, due),
    )


def _due(fact: Outcome) -> int:
    return fact.at if fact.wait is None else fact.wait.due


def _after(count: int, per_second: int) -> int:
    """Milliseconds in which `count` letters leave, rounded up."""
    return -(-count * 1000 // per_second)
