"""deliver: check each delivery once more, render it, hand it to a provider, and put the facts into `outcomes`.

docs/how-it-works/one-delivery.md describes the five steps, and what copies, doubt and begun are.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import msgspec
import structlog
from msgspec import Struct

from tidings.model.delivery import Delivery
from tidings.model.errors import TemplateError
from tidings.model.ids import notification_of
from tidings.model.outcome import Outcome
from tidings.model.sending import AnyDelivery, RenderedContent, SendResult, Uncertain
from tidings.model.user import Address, Category
from tidings.model.vocabulary import Lane, Reason, State
from tidings.pipeline.deliver import copies
from tidings.pipeline.deliver.answers import is_unbegun
from tidings.pipeline.deliver.attempts import Tried, end, fact, hold, judge, put_off, second_copy
from tidings.pipeline.deliver.capping import Capping
from tidings.pipeline.deliver.copies import attempt_of
from tidings.pipeline.deliver.in_hand import Attempt, InHand, Turn
from tidings.pipeline.deliver.line import Line
from tidings.pipeline.deliver.rendering import Rendering
from tidings.pipeline.deliver.switchboard import Switchboard
from tidings.pipeline.runtime.beginning import Begin
from tidings.pipeline.runtime.categories import Categories
from tidings.pipeline.runtime.packs import pack
from tidings.pipeline.runtime.reader import Claimed, Partly
from tidings.policy.presence import aimed
from tidings.policy.retry import RetryPolicy
from tidings.policy.routing import Hold, Stop, gate
from tidings.ports.clock import Clock
from tidings.ports.history import History
from tidings.ports.queue import Item
from tidings.ports.standings import Standings, suppressible
from tidings.ports.users import NO_USER, Person, UserKey

MOST_WHILE_CLOSED = 100
"""The most deliveries in a claim while no provider may be used. They wait, or an alternative takes over."""
RECORDED_WITHIN_S = 10.0
"""Seconds after the end of a claim within which `record` writes its facts into the history, unless it is down."""
T = TypeVar("T")
_log = structlog.get_logger("tidings.deliver")


class Needs(Struct, frozen=True):
    """The ports and services that all lanes and channels of deliver share."""

    standings: Standings
    history: History
    categories: Categories
    capping: Capping
    rendering: Rendering
    clock: Clock
    randomness: Callable[[], float]


class _Ready(Struct, frozen=True, gc=False):
    """A delivery that is on its way through the steps, with its category and its place in the claim."""

    delivery: Delivery
    category: Category
    place: int
    copy: Delivery | None = None
    """The delivery as the queue gave it, if it is marked repeated and was not begun; else None."""


class _Left(Struct):
    """Places of the claim that were not begun: `unbegun` go back to the queue, `failed` raised an error (its text)."""

    unbegun: list[int] = []
    failed: dict[int, str] = {}


class Deliver:
    """The third stage, for one channel and lane. It raises only before it has begun anything.

    `lease_s` is the lease of the claims that it works on, in seconds. All lanes of a channel share one `in_hand`.
    """

    def __init__(
        self,
        switchboard: Switchboard,
        lane: Lane,
        needs: Needs,
        policy: RetryPolicy,
        lease_s: float = 60.0,
        in_hand: InHand | None = None,
    ) -> None:
        self.switchboard = switchboard
        self.lane = lane
        self._needs = needs
        self._policy = policy
        self._copy_wait_ms = math.ceil((lease_s + RECORDED_WITHIN_S) * 1000)
        self._in_hand = in_hand or InHand(needs.clock, RECORDED_WITHIN_S)

    def room(self) -> int:
        """How many deliveries to claim now; 0 when the providers have enough to do."""
        if self.switchboard.is_open():
            return self.switchboard.room(self.lane)
        return MOST_WHILE_CLOSED

    def stop(self) -> None:
        """Begin no other provider call, because the process is to stop. Calls under way go on."""
        self.switchboard.stop()

    async def __call__(self, batch: Sequence[Claimed[Delivery]], begin: Begin) -> list[Item] | Partly:
        """Take the batch through the five steps; the outcomes to put, and the places that were not begun."""
        outcomes: list[Outcome] = []
        fresh = await self._without_repeats(batch, outcomes)
        ready = await self._allowed(fresh, outcomes)
        left = _Left()
        rendered = await self._rendered(ready, outcomes, left)
        for tried in await self._send(rendered, outcomes, left, begin):
            outcomes += self._judged(tried)
        if left.unbegun or left.failed:
            return Partly(outputs=pack(outcomes), unbegun=left.unbegun, failed=left.failed)
        return pack(outcomes)

    def _judged(self, tried: Tried) -> list[Outcome]:
        """The outcomes of one provider call for one delivery; `uncertain` if judging it raises: the call was made."""
        now = self._needs.clock.now()
        if not tried.was_asked and (waits := self._wait_for_original(tried.copy, now)):
            return waits
        try:
            return judge(tried, self._policy, now, self._needs.randomness())
        except Exception as error:
            _log.exception("an answer could not be judged", provider=tried.provider, result=type(tried.result).__name__)
            return [fact(tried.delivery, now, State.UNCERTAIN, "error", tried.provider, detail=repr(error))]

    async def _without_repeats(self, batch: Sequence[Claimed[Delivery]], outcomes: list[Outcome]) -> list[_Ready]:
        """The deliveries that go on: not made yet, not in doubt, and the furthest copy of their attempt.

        "Copies and doubt" in docs/how-it-works/one-delivery.md has the rules, in the order of the branches below.
        """
        known = await copies.known(batch, self._needs.history, self._needs.clock.now())
        await self._needs.categories.load({claimed.value.tenant for claimed in batch})
        now = self._needs.clock.now()
        fresh: list[_Ready] = []
        seen: set[Attempt] = set()
        # Of several copies keep the one with the highest `step`: the history has the waits of the others.
        for claimed in sorted(batch, key=lambda claimed: claimed.value.step, reverse=True):
            delivery, attempt = claimed.value, attempt_of(claimed.value)
            category = self._needs.categories.get(delivery.tenant, delivery.category)
            if attempt in known.over or attempt in seen:
                continue
            if not category.allow_doubles and not self.switchboard.drops_repeats(delivery):
                if attempt in known.begun or self.switchboard.has_lost_its_pin(delivery):
                    outcomes.append(fact(delivery, now, State.UNCERTAIN, Reason.MAY_HAVE_BEEN_SENT))
                    self._in_hand.end([attempt])  # a copy may come before this fact is recorded
                    seen.add(attempt)
                    continue
                if known.waited.get(attempt, 0) > delivery.step:
                    continue
                if claimed.repeated:
                    outcomes.append(self._second_copy(delivery, now))
                    continue
            seen.add(attempt)
            in_doubt = attempt in known.begun or claimed.repeated
            copy = delivery if claimed.repeated and attempt not in known.begun else None
            as_known = self.switchboard.in_doubt(delivery) if in_doubt else delivery
            fresh.append(_Ready(as_known, category, claimed.place, copy))
        return fresh

    async def _allowed(self, batch: Sequence[_Ready], outcomes: list[Outcome]) -> list[_Ready]:
        """The deliveries that may be sent now. Much may have changed since they were routed."""
        if not batch:
            return []
        routed_to = _addresses(batch)
        standing = await self._needs.standings.look_up(
            {(ready.delivery.tenant, ready.delivery.user_id) for ready in batch if ready.delivery.user_id is not None},
            routed_to,
            {notification_of(ready.delivery.id) for ready in batch},
        )
        people, suppressed = standing.people, standing.suppressed
        batch = [_aimed(ready, people) for ready in batch]
        if changed := _addresses(batch) - routed_to:
            suppressed = {**suppressed, **(await self._needs.standings.look_up(addresses=changed)).suppressed}
        now = self._needs.clock.now()
        allowed: list[_Ready] = []
        for ready in batch:
            delivery = ready.delivery
            person = people.get((delivery.tenant, delivery.user_id or ""), NO_USER)
            verdict = gate(
                delivery,
                profile=person.profile,
                preferences=person.preferences,
                category=ready.category,
                suppressed=suppressed,
                cancelled=standing.cancelled,
                now=now,
                incarnation=person.incarnation,
            )
            if isinstance(verdict, Stop):
                ending = fact(delivery, now, verdict.state, verdict.reason, detail=verdict.detail)
                outcomes += self._ended(ready, ending, now)
            elif isinstance(verdict, Hold):
                outcomes += self._not_now(ready, hold(delivery, now, verdict.due, verdict.reason), now)
            else:
                allowed.append(ready)
        if not self.switchboard.is_open():
            # Before the caps: they count only what is about to be sent.
            outcomes += [outcome for ready in allowed for outcome in self._no_provider(ready)]
            return []
        capped = await self._needs.capping.refused([ready.delivery for ready in allowed], now)
        for place, outcome in capped.items():
            outcomes += self._not_now(allowed[place], outcome, now)
        return [ready for place, ready in enumerate(allowed) if place not in capped] if capped else allowed

    async def _rendered(
        self, batch: Sequence[_Ready], outcomes: list[Outcome], left: _Left
    ) -> list[tuple[_Ready, RenderedContent]]:
        """The deliveries with their contents. Those that were not rendered within the budget are `left`."""
        contents, late = await self._needs.rendering.render([ready.delivery for ready in batch])
        left.unbegun += [batch[place].place for place in late]
        rendered: list[tuple[_Ready, RenderedContent]] = []
        for place, content in contents:
            ready = batch[place]
            if isinstance(content, TemplateError):
                ending = fact(
                    ready.delivery, self._needs.clock.now(), State.FAILED, content.reason, detail=content.detail
                )
                outcomes += self._ended(ready, ending, self._needs.clock.now())
            else:
                rendered.append((ready, content))
        return rendered

    async def _send(
        self,
        batch: Sequence[tuple[_Ready, RenderedContent]],
        outcomes: list[Outcome],
        left: _Left,
        begin: Begin,
    ) -> Iterable[Tried]:
        """Hand the batch to the providers, in calls of the size that each of them takes."""
        picking = self.switchboard.picking(self.lane)
        by_line: dict[Line, list[tuple[_Ready, RenderedContent]]] = {}
        for ready, content in batch:
            line = picking.line(ready.delivery, self._needs.randomness())
            if line is None:
                outcomes += self._no_provider(ready)
                continue
            turn = self._in_hand.take(attempt_of(ready.delivery), ready.delivery.step)
            # Always call for a delivery in doubt: the lost claim that began it can no longer record its result.
            if turn is Turn.GO or ready.delivery.doubtful:
                by_line.setdefault(line, []).append((ready, content))
            elif turn is Turn.GIVE_BACK:
                left.unbegun.append(ready.place)
            elif turn is Turn.WAIT:
                outcomes.append(self._second_copy(ready.delivery, self._needs.clock.now()))
        pieces = [
            self._call(line, piece, left, begin)
            for line, placed in by_line.items()
            for piece in _pieces(placed, line.most_at_once(self.lane, len(placed)))
        ]
        if len(pieces) == 1:
            return await pieces[0]
        return [tried for piece in await asyncio.gather(*pieces) for tried in piece]

    async def _call(
        self, line: Line, piece: Sequence[tuple[_Ready, RenderedContent]], left: _Left, begin: Begin
    ) -> list[Tried]:
        provider = line.provider
        attempts = [attempt_of(ready.delivery) for ready, _ in piece]
        places = [ready.place for ready, _ in piece]
        begun = False

        async def begin_these() -> None:
            nonlocal begun
            await begin(places)
            begun = True

        results: Sequence[SendResult]
        try:
            outbound = [_outbound(provider.delivery, ready.delivery, content) for ready, content in piece]
            results = await line.call(outbound, self.lane, begin_these)
        except Exception as error:
            _log.exception("a call failed", provider=provider.name, begun=begun)
            if not begun:
                self._in_hand.give_back(attempts)
                left.failed.update(dict.fromkeys(places, repr(error)))
                return []
            results = [Uncertain("provider_error", repr(error))] * len(piece)
        if is_unbegun(results[0]):
            self._in_hand.give_back(attempts)
            left.unbegun += places
            return []
        tried = [
            Tried(
                delivery=ready.delivery,
                category=ready.category,
                provider=provider.name,
                idempotent=provider.idempotent,
                has_others=self.switchboard.has_others(line, ready.delivery),
                result=result,
                refused_by_all_others=self.switchboard.is_refused_by_all_but(line, ready.delivery),
                copy=ready.copy,
            )
            for (ready, _), result in zip(piece, results, strict=True)
        ]
        # A delivery that the provider was not asked to send comes again with the same attempt number.
        self._in_hand.give_back(attempt_of(one.delivery) for one in tried if not one.was_asked)
        self._in_hand.end(attempt_of(one.delivery) for one in tried if one.was_asked)
        return tried

    def _ended(self, ready: _Ready, ending: Outcome, now: int) -> list[Outcome]:
        """The outcomes if the delivery ends with `ending` before it is sent; a copy waits for its original instead."""
        return self._wait_for_original(ready.copy, now) or end(ready.delivery, ready.category, ending, now)

    def _not_now(self, ready: _Ready, outcome: Outcome, now: int) -> list[Outcome]:
        """`outcome`, by which the delivery is not sent now; a copy waits for its original instead."""
        return self._wait_for_original(ready.copy, now) or [outcome]

    def _wait_for_original(self, copy: Delivery | None, now: int) -> list[Outcome]:
        """The wait of a copy until the history has its original's facts; empty unless this delivery is a copy.

        For copies whose repetition is harmless, but which no provider is asked to send after all. They must neither end
        `uncertain` nor wait as doubtful, because it may be that no provider was ever asked.
        """
        if copy is None or copy.doubtful:
            return []
        return [self._second_copy(copy, now)]

    def _second_copy(self, copy: Delivery, now: int) -> Outcome:
        return second_copy(copy, now, self._copy_wait_ms, surplus=self.lane.is_surplus)

    def _no_provider(self, ready: _Ready) -> list[Outcome]:
        """The outcomes if no provider may be used now: an alternative takes over, else the delivery waits as held."""
        now, delivery = self._needs.clock.now(), ready.delivery
        if waits := self._wait_for_original(ready.copy, now):
            return waits
        reason, detail = self.switchboard.obstacle(delivery)
        why = fact(delivery, now, State.DEFERRED, reason, detail=detail)
        if delivery.alternatives and not delivery.doubtful:
            return end(delivery, ready.category, msgspec.structs.replace(why, state=State.DEAD), now)
        usable_in_s, chance = self.switchboard.usable_in_s(delivery), self._needs.randomness()
        return put_off(delivery, ready.category, self._policy, now, chance, why, usable_in_s)


def _addresses(batch: Sequence[_Ready]) -> set[tuple[str, Address]]:
    """The addresses of a batch that may be on the suppression list."""
    return suppressible((ready.delivery.tenant, ready.delivery.address) for ready in batch)


def _aimed(ready: _Ready, people: Mapping[UserKey, Person]) -> _Ready:
    """`ready` with the delivery at the address that the person has now."""
    delivery = ready.delivery
    if delivery.user_id is None:
        return ready
    person = people.get((delivery.tenant, delivery.user_id), NO_USER)
    now = aimed(delivery, person.profile, person.incarnation)
    return ready if now is delivery else msgspec.structs.replace(ready, delivery=now)


def _outbound(kind: type[AnyDelivery], delivery: Delivery, content: RenderedContent) -> AnyDelivery:
    return kind(
        id=delivery.id,
        tenant=delivery.tenant,
        to=delivery.address.value,
        # A replay needs a key of its own: to the old key the provider would answer with the old result.
        idempotency_key=str(delivery.id) + (f".{delivery.first_attempt}" if delivery.first_attempt > 1 else ""),
        attempt=delivery.attempt,
        user_id=delivery.user_id,
        name=delivery.name,
        locale=delivery.locale,
        category=delivery.category,
        expires_at=delivery.expires_at,
        priority=delivery.priority,
        content=content,  # type: ignore[arg-type]  # the renderer gives the content of the delivery's channel
    )


def _pieces(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
