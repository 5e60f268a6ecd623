"""accept: put HTTP bodies into `requests` and vendors' receipts into `outcomes`; return once they are durable."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from uuid import UUID

import msgspec
from msgspec import Struct

from tidings.model import topics
from tidings.model.errors import Conflict, Invalid, NotFound, TidingsError, Unavailable
from tidings.model.ids import instant_of, seeded_id
from tidings.model.notification import Notification
from tidings.model.sending import InboundRequest, Receipt
from tidings.model.vocabulary import Channel, Lane, Priority
from tidings.pipeline.accept.admission import Admission, Commits, Held, nothing_held
from tidings.pipeline.accept.receipts import matched, outcome_of
from tidings.pipeline.compose import requests
from tidings.pipeline.compose.composer import Composer, Identify, queued
from tidings.pipeline.compose.recipients import Known, Recipients
from tidings.pipeline.runtime.packs import pack
from tidings.pipeline.runtime.sharing import shared_out
from tidings.pipeline.runtime.turns import Turns
from tidings.policy.admission import AdmissionRules
from tidings.policy.idempotency import RESERVATION_LEASE_S, check_key, fingerprint, in_flight
from tidings.policy.shares import ShareRules, Shares
from tidings.ports.clock import Clock
from tidings.ports.history import History
from tidings.ports.idempotency import Idempotency
from tidings.ports.queue import Item, Queue
from tidings.ports.renderer import Renderer

_BITS = 16
_LEAST_URGENT = list(Lane).index

LATEST_PUT_MS = 10_000
"""A request that has taken longer than this puts nothing: another request may soon take over its key."""

_SINGLE, _BATCH = "", "notifications/batch"
"""The operations in the fingerprint of a key. Version 0.1.0 used one for both, without a name; keys live for a day."""

_Ids = Callable[[int, int], UUID]
"""Makes the id of a notification from its index in the body and the bucket of its recipient."""

_Result = Notification | Invalid

_Read = Callable[[_Ids, int, bool], Awaitable[list[_Result]]]
"""Reads a request that was made at an instant (milliseconds since the epoch); True: look its users up."""

Admit = Callable[[int], Awaitable[None]]
"""Lets that many notifications in, or raises."""

ReceiptReader = Callable[[InboundRequest], list[Receipt]]
"""Reads the receipts in a vendor's request. Raises BadReceipt."""


def _uncounted(tenant: str, ids: Sequence[UUID]) -> None:
    """Counts nothing."""


class Answer(Struct, frozen=True):
    """The id of each item, or its problem, in order. `replayed`: this repeats the answer to an earlier request."""

    results: tuple[UUID | Invalid, ...]
    replayed: bool = False


class _StoredProblem(Struct, frozen=True, array_like=True):
    code: str
    detail: str
    path: str


_answer_encoder = msgspec.msgpack.Encoder()
_answer_decoder = msgspec.msgpack.Decoder(list[UUID | _StoredProblem])


class Accept:
    """The first stage.

    `randomness` gives as many random bits as it is asked for. `receipt_readers` are keyed by provider. `count` gets the
    tenant and the ids that are durable now, each id once, before the answer. `revisit` gets ids of abandoned requests
    that are put again: they may have been counted before. `unserved`: channels that nobody configured. `held`:
    `Schedule.held`. `recipients`: knows which users exist; without it, users are not looked up.
    """

    def __init__(
        self,
        queue: Queue,
        renderer: Renderer,
        idempotency: Idempotency,
        history: History,
        clock: Clock,
        randomness: Callable[[int], int],
        receipt_readers: Mapping[str, tuple[Channel, ReceiptReader]],
        rules: AdmissionRules,
        count: Callable[[str, Sequence[UUID]], None] = _uncounted,
        unserved: Collection[Channel] = (),
        held: Held = nothing_held,
        shares: Shares | None = None,
        recipients: Recipients | None = None,
        revisit: Callable[[str, Sequence[UUID]], None] = _uncounted,
    ) -> None:
        self._commits = Commits(queue)
        self._admission = Admission(queue, self._commits, clock, rules, lambda: randomness(_BITS) / (1 << _BITS), held)
        self._shares = shares or Shares(ShareRules())
        self._turns = Turns(clock)
        self._composer = Composer(renderer, randomness, unserved, recipients)
        self._idempotency = idempotency
        self._history = history
        self._clock = clock
        self._receipt_readers = receipt_readers
        self._count = count
        self._revisit = revisit

    async def accept(self, tenant: str, body: bytes, idempotency_key: str | None = None) -> Answer:
        """Accept one notification.

        Raises:
            Invalid: the request cannot be accepted. Nothing was stored.
            Conflict: the idempotency key was used for another request, or its first request is still under way.
            Unavailable: the queue or the store does not answer, or (Overloaded) there is too much to do.
        """

        async def read(ids: _Ids, now: int, seen: bool = True) -> list[_Result]:
            request = requests.decode_one(body)
            self._admit(tenant, request.lane, 1)
            known = await self._composer.known(tenant, [request]) if seen else None
            return [await self._composer.compose(tenant, request, len(body), now, partial(ids, 0), known)]

        if idempotency_key is not None:
            self._turn_away(tenant, lambda: [body])
            return await self._once(tenant, idempotency_key, (fingerprint(body, _SINGLE),), read)
        results = await read(self._fresh_id, self._clock.now())
        await self._put(_items(results))
        self._count(tenant, _ids_of(results))
        return _answer(results)

    async def accept_batch(
        self, tenant: str, body: bytes, idempotency_key: str | None = None, admit: Admit | None = None
    ) -> Answer:
        """Accept up to 1,000 notifications. An invalid item does not affect the others.

        Raises as `accept` does, if the whole batch cannot be accepted. `admit` is asked first whether so many may come
        in; if it raises, nothing is stored. It is not asked for a repeated request, whose answer is stored already. A
        batch is let in or refused like its least urgent item.
        """

        async def read(ids: _Ids, now: int, seen: bool = True) -> list[_Result]:
            raws = requests.decode_batch(body)
            if admit is not None:
                await admit(len(raws))
            results: list[_Result] = []
            async with self._turns.of(tenant) as turn:
                asked = self._asked(tenant, raws)
                named = [one for one in asked if not isinstance(one, Invalid)]
                known = await self._composer.known(tenant, named) if seen else None
                for at, (request, raw) in enumerate(zip(asked, raws, strict=True)):
                    results.append(await self._item(tenant, request, len(bytes(raw)), now, partial(ids, at), at, known))
                    await turn.pause()
            return results

        if idempotency_key is not None:
            self._turn_away(tenant, lambda: requests.decode_batch(body))
            digests = [fingerprint(body, _BATCH)]
            if b'"notifications"' in body:  # surely a batch; version 0.1.0 made its fingerprint like this
                digests.append(fingerprint(body, _SINGLE))
            return await self._once(tenant, idempotency_key, digests, read)
        results = await read(self._fresh_id, self._clock.now())
        await self._put(_items(results))
        self._count(tenant, _ids_of(results))
        return _answer(results)

    async def receipts(self, provider: str, request: InboundRequest) -> int:
        """Accept the receipts in a vendor's request; the number of receipts that match a delivery.

        Raises:
            NotFound: no such provider is in use.
            BadReceipt: the vendor did not sign this request.
            Unavailable: the queue does not answer. The vendor will send the receipts again.
        """
        known = self._receipt_readers.get(provider)
        if known is None:
            raise NotFound("provider", provider)
        channel, read = known
        now = self._clock.now()
        received = await matched(read(request), provider, self._history, now)
        if received:
            facts = [outcome_of(receipt, provider, channel, now) for receipt in received]
            await self._commits.others.put(pack(facts))
        return len(received)

    async def watch(self, stopping: asyncio.Event) -> None:
        """Measure the load for admission until `stopping` is set."""
        await self._admission.watch(stopping)

    def _fresh_id(self, _number: int, bucket: int) -> UUID:
        return self._composer.fresh_id(self._clock.now(), bucket)

    def _admit(self, tenant: str, priority: Priority, count: int) -> None:
        """Let `count` notifications of a tenant in, within its share or as surplus. Raises Overloaded."""
        surplus = not self._shares.cover(tenant, priority, count, self._clock.elapsed())
        self._admission.admit(Lane.of(priority, surplus=surplus))

    def _turn_away(self, tenant: str, read: Callable[[], Sequence[bytes | msgspec.Raw]]) -> None:
        """When overloaded, refuse before reserving the idempotency key. Raises Overloaded."""
        if self._admission.is_open():
            return
        with suppress(Invalid):  # `_once` reads the body again and reports what is wrong
            raws, let_in = read(), set()
            for raw in raws:
                priority = requests.decode_one(raw).lane
                if priority not in let_in:
                    self._admit(tenant, priority, len(raws))
                    let_in.add(priority)

    async def _put(self, items: Sequence[Item]) -> None:
        """Return once `items` are durable. Raises Unavailable: they may be durable all the same."""
        if not items:
            return
        full = {priority for priority in Priority if not self._admission.takes(Lane.of(priority, surplus=True))}
        placed = shared_out(items, self._shares, self._clock.elapsed(), owing=full)
        waiting = Counter(topics.LANES[item.topic] for item in placed)
        for lane, number in waiting.items():
            self._admission.count(lane, number)
        await self._commits.of(max(waiting, key=_LEAST_URGENT)).put(placed)

    def _asked(self, tenant: str, raws: Sequence[msgspec.Raw]) -> list[requests.NotificationRequest | Invalid]:
        """The decoded items of a batch, or their problems. Raises Overloaded if the lane of any item is refused."""
        asked: list[requests.NotificationRequest | Invalid] = []
        let_in: set[Priority] = set()
        for raw in raws:
            try:
                request = requests.decode_one(raw)
            except Invalid as problem:
                asked.append(problem)
                continue
            if request.lane not in let_in:
                self._admit(tenant, request.lane, len(raws))
                let_in.add(request.lane)
            asked.append(request)
        return asked

    async def _item(
        self,
        tenant: str,
        request: requests.NotificationRequest | Invalid,
        size: int,
        now: int,
        identify: Identify,
        index: int,
        known: Known,
    ) -> _Result:
        """The notification of one item of a batch, or its problem with the path in the batch."""
        try:
            if isinstance(request, Invalid):
                raise request
            return await self._composer.compose(tenant, request, size, now, identify, known)
        except Invalid as problem:
            return Invalid(problem.code, problem.detail, f"$.notifications[{index}]" + problem.path.removeprefix("$"))

    async def _once(self, tenant: str, key: str, digests: Sequence[bytes], read: _Read) -> Answer:
        """Repeat the answer to the key's first request; if this is the first, carry it out and store the answer.

        `digests` are fingerprints of the request: the first is stored with the key, each of them matches a stored one.
        The key is looked up before the request is read, so that an accepted request gets the same answer even if its
        template has changed since.
        """
        check_key(key)
        began = self._clock.elapsed()
        seed = self._fresh_id(0, 0)
        held = await self._idempotency.reserve(tenant, key, digests[0], seed, RESERVATION_LEASE_S)
        if held.fingerprint not in digests:
            raise Conflict("idempotency_key_reused", "this Idempotency-Key was used with another body or another route")
        if not held.fresh:
            if held.answer is None:
                raise in_flight()
            return Answer(_read_answer(held.answer), replayed=True)
        try:
            # Read it as of its first request, without looking users up if that one was abandoned: its notifications may
            # be on their way, so they must not be refused now for a time that passed or a user who was deleted since.
            results = await read(partial(seeded_id, held.seed), instant_of(held.seed), not held.retaken)
            if self._clock.elapsed() - began > LATEST_PUT_MS:
                raise Unavailable("the store took too long to answer; nothing was stored, make the request again")
        except TidingsError:
            if held.retaken:  # the first request may have been accepted, so the key must still stand for it
                await self._idempotency.abandon(tenant, key, held.reserved_at)
            else:
                await self._idempotency.forget(tenant, key, held.reserved_at)
            raise
        try:
            await self._put(await self._missing(tenant, results) if held.retaken else _items(results))
        except Unavailable:
            # The items may be durable. Abandon the key, so that a repeated request need not wait for the lease; its
            # items will be marked as repeated.
            await self._idempotency.abandon(tenant, key, held.reserved_at)
            raise
        # The process that died may have counted a retaken request. Counting too few is safe; too many raises an alarm.
        (self._revisit if held.retaken else self._count)(tenant, _ids_of(results))
        answer = _answer(results)
        await self._idempotency.complete(tenant, key, _write_answer(answer))
        return answer

    async def _missing(self, tenant: str, results: Sequence[_Result]) -> list[Item]:
        """The items of an abandoned request that the history does not know: its process may have died before the put.

        If it did put them, they wait unrecorded in a queue. So these items have the same ids and are marked as
        repeated: `deliver` sends only one of the two.
        """
        unknown = [
            result
            for result in results
            if isinstance(result, Notification) and await self._history.get(tenant, result.id) is None
        ]
        return _items(unknown, repeated=True)


def _items(results: Sequence[_Result], *, repeated: bool = False) -> list[Item]:
    """The queue items of the notifications among the results."""
    return [queued(result, repeated=repeated) for result in results if isinstance(result, Notification)]


def _ids_of(results: Sequence[_Result]) -> list[UUID]:
    return [result.id for result in results if isinstance(result, Notification)]


def _answer(results: Sequence[_Result]) -> Answer:
    return Answer(tuple(result.id if isinstance(result, Notification) else result for result in results))


def _write_answer(answer: Answer) -> bytes:
    return _answer_encoder.encode(
        [
            _StoredProblem(result.code, result.detail, result.path) if isinstance(result, Invalid) else result
            for result in answer.results
        ]
    )


def _read_answer(stored: bytes) -> tuple[UUID | Invalid, ...]:
    return tuple(
        Invalid(result.code, result.detail, result.path) if isinstance(result, _StoredProblem) else result
        for result in _answer_decoder.decode(stored)
    )
