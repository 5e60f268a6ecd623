"""accept: HTTP bodies to `requests`, vendors' receipts to `outcomes`. Returns only when what it took is durable."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from uuid import UUID

import msgspec
from msgspec import Struct

from tidings.model import topics
from tidings.model.errors import Conflict, Invalid, NotFound
from tidings.model.ids import new_id, stable_bucket
from tidings.model.notification import Notification
from tidings.model.outcome import Outcome
from tidings.model.sending import InboundRequest, Receipt
from tidings.model.user import Address
from tidings.model.vocabulary import Channel, State
from tidings.model.wire import encode, encode_outcomes
from tidings.pipeline import requests
from tidings.pipeline.admission import Admission
from tidings.pipeline.group_commit import GroupCommit
from tidings.pipeline.stage import REPEATED
from tidings.policy.admission import AdmissionRules
from tidings.policy.idempotency import check_key, fingerprint
from tidings.ports.clock import Clock
from tidings.ports.queue import Item, Queue
from tidings.ports.renderer import Renderer
from tidings.ports.store import History, Idempotency

RESERVATION_LEASE = 30.0
"""Seconds after which a reservation without an answer counts as abandoned by a process that died."""

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
    each once, before they are answered.
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
    ) -> None:
        commits = GroupCommit(queue)
        self._put = commits.put
        self._admission = Admission(queue, commits, clock, rules)
        self._renderer = renderer
        self._idempotency = idempotency
        self._history = history
        self._clock = clock
        self._randomness = randomness
        self._receipt_readers = receipt_readers
        self._count = count

    async def accept(self, tenant: str, body: bytes, idempotency_key: str | None = None) -> Answer:
        """Take one request.

        Raises:
            Invalid: nothing was stored.
            Conflict: the idempotency key was used for another body, or its first request is still under way.
            Unavailable: the queue or the store does not answer, or (Overloaded) there is too much to do already.
        """
        request = requests.decode_one(body)
        notification = await self._notification(tenant, request, len(body))
        if idempotency_key is not None:
            return await self._once(tenant, idempotency_key, body, [notification])
        await self._put([_item(notification)])
        self._count(tenant, (notification.id,))
        return Answer((notification.id,))

    async def accept_batch(self, tenant: str, body: bytes, idempotency_key: str | None = None) -> Answer:
        """Take up to 1,000 requests; each stands for itself. Raises as `accept`, for what spoils the whole batch.

        A batch is let in or turned away as its least urgent item is.
        """
        results: list[Notification | Invalid] = []
        for index, raw in enumerate(requests.decode_batch(body)):
            try:
                results.append(await self._notification(tenant, requests.decode_one(raw), len(bytes(raw))))
            except Invalid as problem:
                path = f"$.notifications[{index}]" + problem.path.removeprefix("$")
                results.append(Invalid(problem.code, problem.detail, path))
        if idempotency_key is not None:
            return await self._once(tenant, idempotency_key, body, results)
        accepted = [result for result in results if isinstance(result, Notification)]
        await self._put([_item(notification) for notification in accepted])
        self._count(tenant, [notification.id for notification in accepted])
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
        received = read(request)
        if received:
            now = self._clock.now()
            facts = [_outcome(receipt, provider, channel, now) for receipt in received]
            await self._put([Item(topics.OUTCOMES, facts[0].tenant, encode_outcomes(facts))])
        return len(received)

    async def watch(self, stopping: asyncio.Event) -> None:
        """Know how much there is to do, until `stopping` is set."""
        await self._admission.watch(stopping)

    async def _notification(self, tenant: str, request: requests.NotificationRequest, size: int) -> Notification:
        if size > requests.LARGEST:
            raise Invalid("too_large", f"a notification may have at most {requests.LARGEST} bytes; this has {size}")
        self._admission.admit(request.priority)
        now = self._clock.now()
        to = requests.recipient(request.to)
        data = requests.json_object(request.data, "$.data")
        requests.json_object(request.metadata, "$.metadata")
        send_at, expires_at = requests.instants(request, now)
        if (request.template is None) == (request.content is None):
            raise Invalid("content_or_template", "give exactly one of template and content")
        template = content = None
        if request.template is not None:
            requests.plain(request.template, "$.template")
            published = await self._renderer.published(tenant, request.template)
            if published is None:
                raise Invalid("unknown_template", f"no template {request.template!r} is published", "$.template")
            missing = published.missing(data)
            if missing:
                raise Invalid("missing_variables", f"the template needs {', '.join(missing)}", f"$.data.{missing[0]}")
            template, available = published.ref, published.channels
        else:
            content = requests.literal(request.content) if request.content is not None else None
            available = content.channels() if content is not None else ()
        if not available:
            raise Invalid("no_content", "there is no content for any channel", "$.content")
        for index, channel in enumerate(request.channels):
            if channel not in available:
                raise Invalid("no_such_channel", f"there is no content for {channel.value}", f"$.channels[{index}]")
        return Notification(
            id=new_id(now, stable_bucket(tenant, to.key), self._randomness(54)),
            tenant=tenant,
            to=to,
            accepted_at=now,
            template=template,
            content=content,
            data=bytes(request.data),
            channels=tuple(request.channels),
            strategy=request.strategy,
            category=requests.category(request.category),
            priority=request.priority,
            send_at=send_at,
            expires_at=expires_at,
            metadata=bytes(request.metadata),
        )

    async def _once(self, tenant: str, key: str, body: bytes, results: Sequence[Notification | Invalid]) -> Answer:
        """Put the batch unless the key's first request has done so already."""
        check_key(key)
        digest = fingerprint(body)
        fresh_ids = [result.id for result in results if isinstance(result, Notification)]
        held = await self._idempotency.reserve(tenant, key, digest, fresh_ids, self._clock.now(), RESERVATION_LEASE)
        if held.fingerprint != digest:
            raise Conflict("idempotency_key_reused", "this Idempotency-Key was used with another body")
        if not held.fresh:
            if held.answer is None:
                raise Conflict("idempotency_in_flight", "the first request with this Idempotency-Key is under way")
            return Answer(_read_answer(held.answer), replayed=True)
        results = _with_ids(results, held.ids)
        notifications = [result for result in results if isinstance(result, Notification)]
        if held.retaken and notifications:
            notifications = [n for n in notifications if await self._history.get(tenant, n.id) is None]
        await self._put([_item(notification, repeated=held.retaken) for notification in notifications])
        if not held.retaken:  # else the process that died may have counted them: too few is safe, too many is an alarm
            self._count(tenant, [notification.id for notification in notifications])
        answer = _answer(results)
        await self._idempotency.complete(tenant, key, _write_answer(answer))
        return answer


def _item(notification: Notification, *, repeated: bool = False) -> Item:
    return Item(
        topics.requests(notification.priority),
        f"{notification.tenant}/{notification.to.key}",
        encode(notification),
        {REPEATED: "1"} if repeated else {},
    )


def _answer(results: Sequence[Notification | Invalid]) -> Answer:
    return Answer(tuple(result.id if isinstance(result, Notification) else result for result in results))


def _with_ids(results: Sequence[Notification | Invalid], ids: Sequence[UUID]) -> list[Notification | Invalid]:
    """The same results under the ids that the key's first request chose."""
    kept = iter(ids)
    return [
        msgspec.structs.replace(result, id=next(kept, result.id)) if isinstance(result, Notification) else result
        for result in results
    ]


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


PROMPT = 5_000
"""Milliseconds. Vendors date their receipts in whole seconds; one that comes at once is dated by our own clock."""

_RECEIPT_STEPS = {"opened": 1, "clicked": 2, "replied": 3, "complained": 4, "unsubscribed": 5}


def _outcome(receipt: Receipt, provider: str, channel: Channel, now: int) -> Outcome:
    state = receipt.state if receipt.state in {State.SENT, State.DELIVERED, State.FAILED} else State.SENT
    return Outcome(
        id=receipt.delivery_id,
        tenant=receipt.tenant,
        at=receipt.at if 0 < receipt.at < now - PROMPT else now,
        state=state,
        attempt=receipt.attempt,
        step=_RECEIPT_STEPS.get(receipt.kind, 0),
        reason=receipt.reason or receipt.kind,
        provider=provider,
        reference=receipt.reference,
        detail=receipt.detail,
        address=None if receipt.address is None else Address(channel, receipt.address),
        suppress=receipt.suppress and receipt.address is not None,
    )
