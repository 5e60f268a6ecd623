"""deliver: a delivery is checked once more, rendered and handed to a provider; what came of it goes to `outcomes`."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar
from uuid import UUID

import structlog
from msgspec import Struct

from tidings.model.delivery import Delivery
from tidings.model.errors import TemplateError
from tidings.model.ids import notification_of
from tidings.model.outcome import Outcome
from tidings.model.sending import AnyDelivery, RenderedContent, SendResult, Uncertain
from tidings.model.user import Category
from tidings.model.vocabulary import Channel, Reason, State
from tidings.pipeline.attempts import RetryPolicy, Tried, fact, fall_back, hold, judge
from tidings.pipeline.categories import Categories
from tidings.pipeline.packs import pack
from tidings.pipeline.stage import Taken
from tidings.policy.routing import Hold, Stop, gate
from tidings.ports.clock import Clock
from tidings.ports.meter import Meter
from tidings.ports.provider import Provider
from tidings.ports.queue import Item
from tidings.ports.renderer import Renderer
from tidings.ports.store import Cancellations, History, Person, Users

REMEMBERED = 100_000
NOBODY = Person()
T = TypeVar("T")
_log = structlog.get_logger("tidings.deliver")


class Needs(Struct, frozen=True):
    """What deliver asks of the world."""

    users: Users
    cancellations: Cancellations
    history: History
    categories: Categories
    renderer: Renderer
    clock: Clock
    meter: Meter
    randomness: Callable[[], float]


class _Ready(Struct, frozen=True, gc=False):
    delivery: Delivery
    category: Category


class Deliver:
    """The third stage, for one channel and lane.

    Raises Unavailable only before the first provider call of a batch. `providers` are in order of preference; each
    gets at most its own `concurrency` of calls at once from this lane, so that lanes never wait for each other.
    """

    def __init__(self, providers: Sequence[Provider[Any]], needs: Needs, policy: RetryPolicy) -> None:
        self._providers = providers
        self._needs = needs
        self._policy = policy
        self._limits = {provider.name: asyncio.Semaphore(provider.concurrency) for provider in providers}
        self._begun: set[tuple[UUID, int]] = set()
        self._order: deque[tuple[UUID, int]] = deque()

    async def __call__(self, batch: Sequence[Taken[Delivery]]) -> list[Item]:
        """Send what may be sent; the outcomes."""
        outcomes: list[Outcome] = []
        fresh = await self._without_repeats(batch, outcomes)
        ready = await self._allowed(fresh, outcomes)
        rendered = await self._rendered(ready, outcomes)
        self._remember(rendered)
        for tried in await self._send(rendered):
            outcomes += judge(tried, self._policy, self._needs.clock.now(), self._needs.randomness())
        return pack(outcomes)

    async def _without_repeats(self, batch: Sequence[Taken[Delivery]], outcomes: list[Outcome]) -> list[_Ready]:
        """Drop second copies of attempts that were made; end those that may have been and must not be doubled."""
        doubtful = {_attempt(taken.value) for taken in batch if taken.begun or taken.repeated}
        made = await self._needs.history.attempted(list(doubtful)) if doubtful else set()
        await self._needs.categories.load({taken.value.tenant for taken in batch})
        fresh: list[_Ready] = []
        seen: set[tuple[UUID, int]] = set()
        for taken in batch:
            delivery, attempt = taken.value, _attempt(taken.value)
            category = self._needs.categories.get(delivery.tenant, delivery.category)
            if attempt in made or attempt in seen or (attempt in doubtful and attempt in self._begun):
                continue
            if taken.begun and not category.allow_doubles and not self._provider(delivery).idempotent:
                now = self._needs.clock.now()
                outcomes.append(fact(delivery, now, State.UNCERTAIN, Reason.MAY_HAVE_BEEN_SENT))
                continue
            seen.add(attempt)
            fresh.append(_Ready(delivery, category))
        return fresh

    async def _allowed(self, batch: Sequence[_Ready], outcomes: list[Outcome]) -> list[_Ready]:
        """Those that may be sent at this moment. What was decided when it was routed may have changed."""
        if not batch:
            return []
        people = await self._needs.users.people(
            {(ready.delivery.tenant, ready.delivery.user_id) for ready in batch if ready.delivery.user_id is not None}
        )
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
            )
            if isinstance(verdict, Stop):
                ending = fact(delivery, now, verdict.state, verdict.reason, detail=verdict.detail)
                outcomes += [ending] if verdict.state is State.CANCELLED else fall_back(delivery, ending, now)
            elif isinstance(verdict, Hold):
                outcomes.append(hold(delivery, now, verdict.due, verdict.reason))
            else:
                allowed.append(ready)
        return allowed

    async def _rendered(self, batch: Sequence[_Ready], outcomes: list[Outcome]) -> list[tuple[_Ready, RenderedContent]]:
        if not batch:
            return []
        contents = await self._needs.renderer.render([ready.delivery for ready in batch])
        rendered: list[tuple[_Ready, RenderedContent]] = []
        for ready, content in zip(batch, contents, strict=True):
            if isinstance(content, TemplateError):
                ending = fact(
                    ready.delivery, self._needs.clock.now(), State.FAILED, Reason.TEMPLATE_ERROR, detail=content.detail
                )
                outcomes += fall_back(ready.delivery, ending, self._needs.clock.now())
            else:
                rendered.append((ready, content))
        return rendered

    async def _send(self, batch: Sequence[tuple[_Ready, RenderedContent]]) -> list[Tried]:
        """Hand the batch to the providers, each getting pieces of the size that it takes."""
        by_provider: dict[str, list[tuple[_Ready, RenderedContent]]] = {}
        for ready, content in batch:
            by_provider.setdefault(self._provider(ready.delivery).name, []).append((ready, content))
        pieces = [
            self._call(provider, piece)
            for provider in self._providers
            for piece in _pieces(by_provider.get(provider.name, ()), provider.batch_size)
        ]
        if len(pieces) == 1:
            return await pieces[0]
        return [tried for piece in await asyncio.gather(*pieces) for tried in piece]

    async def _call(self, provider: Provider[Any], piece: Sequence[tuple[_Ready, RenderedContent]]) -> list[Tried]:
        outbound = [_outbound(provider.delivery, ready.delivery, content) for ready, content in piece]
        async with self._limits[provider.name]:
            started = time.perf_counter()
            results = await self._results(provider, outbound)
            seconds = time.perf_counter() - started
        for name, count in Counter(type(result).__name__.lower() for result in results).items():
            self._needs.meter.results(provider.name, name, count, seconds)
        return [
            Tried(
                delivery=ready.delivery,
                category=ready.category,
                provider=provider.name,
                idempotent=provider.idempotent,
                others=any(
                    other.name != provider.name and other.name not in ready.delivery.tried for other in self._providers
                ),
                result=result,
            )
            for (ready, _), result in zip(piece, results, strict=True)
        ]

    async def _results(self, provider: Provider[Any], outbound: Sequence[AnyDelivery]) -> Sequence[SendResult]:
        try:
            async with asyncio.timeout(provider.timeout):
                results = await provider.send(outbound)
        except TimeoutError:
            return [Uncertain("timeout", f"no answer within {provider.timeout:g} s")] * len(outbound)
        except Exception as error:
            # A mistake in the provider's file: what the vendor took is unknown, and the batch must not be lost.
            _log.exception("a provider raised", provider=provider.name)
            return [Uncertain("provider_error", repr(error))] * len(outbound)
        if len(results) != len(outbound):
            _log.error("a provider lost count", provider=provider.name, sent=len(outbound), answered=len(results))
            return [Uncertain("provider_error", "the provider answered for another number of deliveries")] * len(
                outbound
            )
        return results

    def _provider(self, delivery: Delivery) -> Provider[Any]:
        """The best provider that has not refused this delivery; the best one when all have."""
        for provider in self._providers:
            if provider.name not in delivery.tried:
                return provider
        return self._providers[0]

    def _remember(self, batch: Sequence[tuple[_Ready, RenderedContent]]) -> None:
        """Know what this process has begun: a second copy may come before the first is recorded."""
        for ready, _ in batch:
            attempt = _attempt(ready.delivery)
            self._begun.add(attempt)
            self._order.append(attempt)
        while len(self._order) > REMEMBERED:
            self._begun.discard(self._order.popleft())


def _attempt(delivery: Delivery) -> tuple[UUID, int]:
    return delivery.id, delivery.attempt


def _outbound(kind: type[AnyDelivery], delivery: Delivery, content: RenderedContent) -> AnyDelivery:
    return kind(
        id=delivery.id,
        tenant=delivery.tenant,
        to=delivery.address.value,
        idempotency_key=str(delivery.id),
        attempt=delivery.attempt,
        user_id=delivery.user_id,
        name=delivery.name,
        locale=delivery.locale,
        category=delivery.category,
        content=content,  # type: ignore[arg-type]  # the renderer gives the content of the delivery's channel
    )


def _pieces(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
