"""accept: HTTP bodies to `requests`, vendors' receipts to `outcomes`. Returns only when what it took is durable."""

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
from tidings.pipeline.accept.receipts import named, outcome_of
from tidings.pipeline.compose import requests
from tidings.pipeline.compose.composer import Composer, Identify, queued
from tidings.pipeline.compose.recipients import Known, Recipients
from tidings.pipeline.runtime.packs import pack
from tidings.pipeline.runtime.sharing import shared_out
from tidings.pipeline.runtime.turns import Turns
from tidings.policy.admission import AdmissionRules
from tidings.policy.idempotency import check_key, fingerprint
from tidings.policy.shares import ShareRules, Shares
from tidings.ports.clock import Clock
from tidings.ports.history import History
from tidings.ports.idempotency import Idempotency
from tidings.ports.queue import Item, Queue
from tidings.ports.renderer import Renderer

RESERVATION_LEASE = 30.0
"""Seconds after which a reservation without an answer counts as abandoned by a process that died."""

_BITS = 16
_LEAST_URGENT = list(Lane).index

IN_FLIGHT = 1.0
"""Seconds after which the first request has probably been answered."""

LATEST_PUT = 10_000
"""Milliseconds after which a request whose reservation was slow puts nothing: another may take the key over soon."""

_SINGLE, _BATCH = "", "notifications/batch"
"""The operations that a key belongs to. 0.1.0 knew one, without a name, and its keys are known for a day."""

_Ids = Callable[[int, int], UUID]
"""The id of a request by its number in the body and the bucket of its person."""

_Result = Notification | Invalid

_Read = Callable[[_Ids, int, bool], Awaitable[list[_Result]]]
"""Reads a request made at an instant; the flag says whether its users are looked up."""

Admit = Callable[[int], Awaitable[None]]
"""Lets so many notifications in, or raises."""

ReceiptReader = Callable[[InboundRequest], list[Receipt]]
"""What a provider makes of a vendor's request. Raises BadReceipt."""


def _uncounted(tenant: str, ids: Sequence[UUID]) -> None:
    """Counts nothing: where nobody holds accounts."""


class Answer(Struct, frozen=True):
    """What became of each item, in order. `replayed`: an earlier request with this idempotency key was answered so."""

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

    `randomness` gives as many random bits as it is asked for. `count` is told which ids of which tenant are durable,
    each once, before they are answered. `unserved` are the channels that nobody configured. `held` is `Schedule.held`.
    `recipients` tells which users exist; without it nobody is looked up. `revisit` is told which ids of an abandoned
    request are put again: they may have been counted then.
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
        """Take one request.

        Raises:
            Invalid: nothing was stored.
            Conflict: the idempotency key was used for another request, or its first one is still under way.
            Unavailable: the queue or the store does not answer, or (Overloaded) there is too much to do already.
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
        """Take up to 1,000 requests; each stands for itself. Raises as `accept`, for what spoils the whole batch.

        `admit` is asked first whether so many may come in; what it raises is passed on, and nothing is stored. A replay
        is not asked for: nothing comes in with it. A batch is let in or turned away as its least urgent item is.
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
            if b'"notifications"' in body:  # no body of a single request, so 0.1.0 took it for a batch
                digests.append(fingerprint(body, _SINGLE))
            return await self._once(tenant, idempotency_key, digests, read)
        results = await read(self._fresh_id, self._clock.now())
        await self._put(_items(results))
        self._count(tenant, _ids_of(results))
        return _answer(results)

    async def receipts(self, provider: str, request: InboundRequest) -> int:
        """Take a vendor's receipts; the number of them.

        Raises:
            NotFound: no such provider is in use.
            BadReceipt: the vendor did not sign this.
            Unavailable: the queue does not answer; the vendor will send them again.
        """
        known = self._receipt_readers.get(provider)
        if known is None:
            raise NotFound("provider", provider)
        channel, read = known
        now = self._clock.now()
        received = await named(read(request), provider, self._history, now)
        if received:
            facts = [outcome_of(receipt, provider, channel, now) for receipt in received]
            await self._commits.others.put(pack(facts))
        return len(received)

    async def watch(self, stopping: asyncio.Event) -> None:
        """Know how much there is to do, until `stopping` is set."""
        await self._admission.watch(stopping)

    def _fresh_id(self, _number: int, bucket: int) -> UUID:
        return self._composer.fresh_id(self._clock.now(), bucket)

    def _admit(self, tenant: str, priority: Priority, count: int) -> None:
        """Let so many of a tenant in, within its share or as surplus. Raises Overloaded."""
        surplus = not self._shares.cover(tenant, priority, count, self._clock.elapsed())
        self._admission.admit(Lane.of(priority, surplus=surplus))

    def _turn_away(self, tenant: str, read: Callable[[], Sequence[bytes | msgspec.Raw]]) -> None:
        """While lanes are turned away, do it before a key is reserved for nothing. Raises Overloaded."""
        if self._admission.is_open():
            return
        with suppress(Invalid):  # whoever reads it next says what is wrong
            raws, let_in = read(), set()
            for raw in raws:
                priority = requests.decode_one(raw).lane
                if priority not in let_in:
                    self._admit(tenant, priority, len(raws))
                    let_in.add(priority)

    async def _put(self, items: Sequence[Item]) -> None:
        """Return when they are durable, all of them or none. Raises Unavailable."""
        if not items:
            return
        full = {priority for priority in Priority if not self._admission.takes(Lane.of(priority, surplus=True))}
        placed = shared_out(items, self._shares, self._clock.elapsed(), owing=full)
        waiting = Counter(topics.LANES[item.topic] for item in placed)
        for lane, number in waiting.items():
            self._admission.count(lane, number)
        await self._commits.of(max(waiting, key=_LEAST_URGENT)).put(placed)

    def _asked(self, tenant: str, raws: Sequence[msgspec.Raw]) -> list[requests.NotificationRequest | Invalid]:
        """The items of a batch, or what is wrong with them. Raises Overloaded for the lane of any."""
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
        """One item of a batch, or what is wrong with it."""
        try:
            if isinstance(request, Invalid):
                raise request
            return await self._composer.compose(tenant, request, size, now, identify, known)
        except Invalid as problem:
            return Invalid(problem.code, problem.detail, f"$.notifications[{index}]" + problem.path.removeprefix("$"))

    async def _once(self, tenant: str, key: str, digests: Sequence[bytes], read: _Read) -> Answer:
        """Answer what the key's first request was answered; be that one if there was none.

        `digests` stand for the request, the first as it is written, all as they are read.

        The key comes first, before the request is even read: what was accepted once is answered so, whatever has become
        of its template since.
        """
        check_key(key)
        began = self._clock.elapsed()
        seed = self._fresh_id(0, 0)
        held = await self._idempotency.reserve(tenant, key, digests[0], seed, RESERVATION_LEASE)
        if held.fingerprint not in digests:
            raise Conflict("idempotency_key_reused", "this Idempotency-Key was used with another body or another route")
        if not held.fresh:
            if held.answer is None:
                raise Conflict(
                    "idempotency_in_flight", "the first request with this Idempotency-Key is under way", IN_FLIGHT
                )
            return Answer(_read_answer(held.answer), replayed=True)
        try:
            # As of when it came first: what was in time then, and may be on its way, must not be refused now, not even
            # when its user was deleted since.
            results = await read(partial(seeded_id, held.seed), instant_of(held.seed), not held.retaken)
            if self._clock.elapsed() - began > LATEST_PUT:
                raise Unavailable("the store took too long to answer; nothing was stored, make the request again")
        except TidingsError:
            if held.retaken:  # the first request may have come through, and the key must go on to stand for it
                await self._idempotency.abandon(tenant, key, held.reserved_at)
            else:
                await self._idempotency.forget(tenant, key, held.reserved_at)
            raise
        try:
            await self._put(await self._missing(tenant, results) if held.retaken else _items(results))
        except Unavailable:
            # It may have come through. Whoever asks again need not wait for the lease: its copy will be marked.
            await self._idempotency.abandon(tenant, key, held.reserved_at)
            raise
        # The process that died may have counted what is retaken: too few is safe, too many is an alarm.
        (self._revisit if held.retaken else self._count)(tenant, _ids_of(results))
        answer = _answer(results)
        await self._idempotency.complete(tenant, key, _write_answer(answer))
        return answer

    async def _missing(self, tenant: str, results: Sequence[_Result]) -> list[Item]:
        """What the first request of an abandoned key may not have put: its process died before it could tell.

        It may have, and its copy wait unrecorded in a queue. So these have the same ids and are marked: `deliver` sends
        one of the two.
        """
        unknown = [
            result
            for result in results
            if isinstance(result, Notification) and await self._history.get(tenant, result.id) is None
        ]
        return _items(unknown, repeated=True)


def _items(results: Sequence[_Result], *, repeated: bool = False) -> list[Item]:
    """What is to be routed of the results."""
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
