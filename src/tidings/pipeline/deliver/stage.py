"""deliver: a delivery is checked once more, rendered and handed to a provider; what came of it goes to `outcomes`."""

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
from tidings.model.user import Category
from tidings.model.vocabulary import Channel, Lane, Reason, State
from tidings.pipeline.deliver import copies
from tidings.pipeline.deliver.attempts import Tried, end, fact, hold, judge, put_off, second_copy
from tidings.pipeline.deliver.capping import Capping
from tidings.pipeline.deliver.copies import attempt_of
from tidings.pipeline.deliver.in_hand import Attempt, InHand
from tidings.pipeline.deliver.line import Line, is_unbegun
from tidings.pipeline.deliver.rendering import Rendering
from tidings.pipeline.deliver.switchboard import Switchboard
from tidings.pipeline.runtime.beginning import Begin
from tidings.pipeline.runtime.categories import Categories
from tidings.pipeline.runtime.packs import pack
from tidings.pipeline.runtime.reader import Partly, Taken
from tidings.policy.presence import aimed
from tidings.policy.retry import RetryPolicy
from tidings.policy.routing import Hold, Stop, gate
from tidings.ports.cancellations import Cancellations
from tidings.ports.clock import Clock
from tidings.ports.history import History
from tidings.ports.queue import Item
from tidings.ports.users import Person, UserKey, Users

HELD_AT_ONCE = 100
"""Deliveries that one claim takes while no provider may be used: they are put off, or go to another channel."""
RECORDED_WITHIN = 10.0
"""Seconds in which the facts of a claim that has ended are in history, unless the recorder is down."""
NOBODY = Person()
T = TypeVar("T")
_log = structlog.get_logger("tidings.deliver")


class Needs(Struct, frozen=True):
    """What deliver asks of the world."""

    users: Users
    cancellations: Cancellations
    history: History
    categories: Categories
    capping: Capping
    rendering: Rendering
    clock: Clock
    randomness: Callable[[], float]


class _Ready(Struct, frozen=True, gc=False):
    delivery: Delivery
    category: Category
    place: int
    copy: Delivery | None = None
    """The delivery as it came, where it may be a second copy and was not begun."""


class _Left(Struct):
    """Places of a batch that were not begun: for want of a turn, or because something failed."""

    unbegun: list[int] = []
    failed: dict[int, str] = {}


class Deliver:
    """The third stage, for one channel and lane. It raises only before it has begun anything.

    `lease` (seconds) is that of the claims over these deliveries. `in_hand` is shared by all lanes of a channel.
    """

    def __init__(
        self,
        switchboard: Switchboard,
        lane: Lane,
        needs: Needs,
        policy: RetryPolicy,
        lease: float = 60.0,
        in_hand: InHand | None = None,
    ) -> None:
        self._switchboard = switchboard
        self._lane = lane
        self._needs = needs
        self._policy = policy
        self._claims_end = math.ceil((lease + RECORDED_WITHIN) * 1000)
        self._in_hand = in_hand or InHand(needs.clock, RECORDED_WITHIN)

    def room(self) -> int:
        """How many deliveries will have their turn soon; 0 when the providers have enough to do."""
        if self._switchboard.is_open():
            return self._switchboard.room(self._lane)
        return HELD_AT_ONCE

    def outlet(self) -> int:
        """How many that waited for a provider could begin at once; 0 unless one is known to be well."""
        return self._switchboard.outlet(self._lane)

    def fails(self) -> bool:
        """Whether every provider fails, as far as is known."""
        return self._switchboard.fails()

    def asks_in(self) -> float:
        """Seconds until a provider that fails is to be asked whether it is well; infinite when none fails."""
        return self._switchboard.asks_in()

    async def ask(self) -> None:
        """Ask the providers that fail whether they are well again, where it is time to."""
        await self._switchboard.ask()

    def watch(self, on_change: Callable[[], None]) -> None:
        """Call `on_change` whenever a provider begins to fail or is left alone, and when it is back."""
        self._switchboard.watch(on_change)

    def stop(self) -> None:
        """The process is to stop: provider calls under way go on, no other is begun."""
        self._switchboard.stop()

    async def __call__(self, batch: Sequence[Taken[Delivery]], begin: Begin) -> list[Item] | Partly:
        """Send what may be sent; the outcomes, and what was not begun: its turn did not come, or the lease is over."""
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
        """What follows. Where that cannot be told the call was made all the same."""
        now = self._needs.clock.now()
        if not tried.was_asked and (waits := self._left_to_original(tried.copy, now)):
            return waits
        try:
            return judge(tried, self._policy, now, self._needs.randomness())
        except Exception as error:
            _log.exception("an answer could not be judged", provider=tried.provider, result=type(tried.result).__name__)
            return [fact(tried.delivery, now, State.UNCERTAIN, "error", tried.provider, detail=repr(error))]

    async def _without_repeats(self, batch: Sequence[Taken[Delivery]], outcomes: list[Outcome]) -> list[_Ready]:
        """Drop copies of attempts that were made, or with which another copy goes on; end those that are in doubt.

        A marked copy of which nothing is recorded may run beside its original. It waits for as long as another worker
        may have that in its hands. When nothing is recorded then, it goes on, and an original that comes later finds
        that a copy has waited: of all copies of an attempt only the one that has waited most often is sent.
        """
        known = await copies.known(batch, self._needs.history, self._needs.clock.now())
        await self._needs.categories.load({taken.value.tenant for taken in batch})
        now = self._needs.clock.now()
        fresh: list[_Ready] = []
        seen: set[Attempt] = set()
        # Of copies that waited for different reasons the furthest goes on: what the others decide is recorded already.
        for taken in sorted(batch, key=lambda taken: taken.value.step, reverse=True):
            delivery, attempt = taken.value, attempt_of(taken.value)
            category = self._needs.categories.get(delivery.tenant, delivery.category)
            if attempt in known.over or attempt in seen:
                continue
            if not category.allow_doubles and not self._switchboard.drops_repeats(delivery):
                if attempt in known.begun:
                    outcomes.append(fact(delivery, now, State.UNCERTAIN, Reason.MAY_HAVE_BEEN_SENT))
                    seen.add(attempt)
                    continue
                if known.waited.get(attempt, 0) > delivery.step:
                    continue
                if taken.repeated:
                    outcomes.append(second_copy(delivery, now, self._claims_end, surplus=self._lane.is_surplus))
                    continue
            seen.add(attempt)
            in_doubt = attempt in known.begun or taken.repeated
            copy = delivery if taken.repeated and attempt not in known.begun else None
            as_known = self._switchboard.in_doubt(delivery) if in_doubt else delivery
            fresh.append(_Ready(as_known, category, taken.place, copy))
        return fresh

    async def _allowed(self, batch: Sequence[_Ready], outcomes: list[Outcome]) -> list[_Ready]:
        """Those that may be sent at this moment. What was decided when it was routed may have changed."""
        if not batch:
            return []
        people = await self._needs.users.people(
            {(ready.delivery.tenant, ready.delivery.user_id) for ready in batch if ready.delivery.user_id is not None}
        )
        batch = [_aimed(ready, people) for ready in batch]
        suppressed = await self._needs.users.suppressed(
            {
                (ready.delivery.tenant, ready.delivery.address)
                for ready in batch
                if ready.delivery.channel is not Channel.INAPP
            }
        )
        cancelled = await self._needs.cancellations.cancelled({notification_of(ready.delivery.id) for ready in batch})
        now = self._needs.clock.now()
        allowed: list[_Ready] = []
        for ready in batch:
            delivery = ready.delivery
            person = people.get((delivery.tenant, delivery.user_id or ""), NOBODY)
            verdict = gate(
                delivery,
                profile=person.profile,
                preferences=person.preferences,
                category=ready.category,
                suppressed=suppressed,
                cancelled=cancelled,
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
        if not self._switchboard.is_open():
            # What cannot go out now must not be counted as if it did.
            outcomes += [outcome for ready in allowed for outcome in self._nowhere(ready)]
            return []
        capped = await self._needs.capping.refused([ready.delivery for ready in allowed], now)
        for place, outcome in capped.items():
            outcomes += self._not_now(allowed[place], outcome, now)
        return [ready for place, ready in enumerate(allowed) if place not in capped] if capped else allowed

    async def _rendered(
        self, batch: Sequence[_Ready], outcomes: list[Outcome], left: _Left
    ) -> list[tuple[_Ready, RenderedContent]]:
        """The batch with its contents; what was not rendered in time is `left`."""
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
        """Hand the batch to the providers, each getting pieces of the size that it takes."""
        picking = self._switchboard.picking(self._lane)
        by_line: dict[Line, list[tuple[_Ready, RenderedContent]]] = {}
        for ready, content in batch:
            line = picking.line(ready.delivery, self._needs.randomness())
            if line is None:
                outcomes += self._nowhere(ready)
            # One that was begun goes on in any case: the claim that had begun it may put no facts any more.
            elif self._in_hand.take(attempt_of(ready.delivery), ready.delivery.step) or ready.delivery.doubtful:
                by_line.setdefault(line, []).append((ready, content))
            elif self._in_hand.is_itself(attempt_of(ready.delivery), ready.delivery.step):
                left.unbegun.append(ready.place)
        pieces = [
            self._call(line, piece, left, begin)
            for line, placed in by_line.items()
            for piece in _pieces(placed, line.most_at_once(self._lane, len(placed)))
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
            results = await line.call(outbound, self._lane, begin_these)
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
                delivery=self._at_its_step(ready.delivery),
                category=ready.category,
                provider=provider.name,
                idempotent=provider.idempotent,
                others=self._switchboard.has_others(line, ready.delivery),
                result=result,
                refused_by_all=self._switchboard.is_refused_by_all_but(line, ready.delivery),
                copy=ready.copy,
            )
            for (ready, _), result in zip(piece, results, strict=True)
        ]
        # What used up no try is made again under the same number.
        self._in_hand.give_back(attempt_of(one.delivery) for one in tried if not one.was_asked)
        self._in_hand.end(attempt_of(one.delivery) for one in tried if one.was_asked)
        return tried

    def _at_its_step(self, delivery: Delivery) -> Delivery:
        step = self._in_hand.step_of(attempt_of(delivery), delivery.step)
        return delivery if step == delivery.step else msgspec.structs.replace(delivery, step=step)

    def _ended(self, ready: _Ready, ending: Outcome, now: int) -> list[Outcome]:
        """It ends unsent, unless it is a copy."""
        return self._left_to_original(ready.copy, now) or end(ready.delivery, ready.category, ending, now)

    def _not_now(self, ready: _Ready, outcome: Outcome, now: int) -> list[Outcome]:
        """It is not sent now, for the reason of `outcome`, unless it is a copy."""
        return self._left_to_original(ready.copy, now) or [outcome]

    def _left_to_original(self, copy: Delivery | None, now: int) -> list[Outcome]:
        """A copy that is not handed over, to whom a repetition does no harm, waits until history tells of its original.

        It must not rest as `uncertain`, nor wait in doubt: nobody may ever have been asked to send it.
        """
        if copy is None or copy.doubtful:
            return []
        return [second_copy(copy, now, self._claims_end, surplus=self._lane.is_surplus)]

    def _nowhere(self, ready: _Ready) -> list[Outcome]:
        """No provider may be used now: another address takes over, or the delivery waits. It uses up no attempt."""
        now, delivery = self._needs.clock.now(), ready.delivery
        if waits := self._left_to_original(ready.copy, now):
            return waits
        reason, detail = self._switchboard.obstacle(delivery)
        why = fact(delivery, now, State.DEFERRED, reason, detail=detail)
        if delivery.alternatives and not delivery.doubtful:
            return end(delivery, ready.category, msgspec.structs.replace(why, state=State.DEAD), now)
        known_s, chance = self._switchboard.next_try(delivery), self._needs.randomness()
        return put_off(delivery, ready.category, self._policy, now, chance, why, known_s)


def _aimed(ready: _Ready, people: Mapping[UserKey, Person]) -> _Ready:
    """The same, at the address that the person has now."""
    delivery = ready.delivery
    if delivery.user_id is None:
        return ready
    person = people.get((delivery.tenant, delivery.user_id), NOBODY)
    now = aimed(delivery, person.profile, person.incarnation)
    return ready if now is delivery else msgspec.structs.replace(ready, delivery=now)


def _outbound(kind: type[AnyDelivery], delivery: Delivery, content: RenderedContent) -> AnyDelivery:
    return kind(
        id=delivery.id,
        tenant=delivery.tenant,
        to=delivery.address.value,
        # A replay is a new send: a provider that knows the old key would answer with the old result.
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
