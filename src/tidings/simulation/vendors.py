"""The simulated vendors, and the providers through which a process reaches them.

A vendor's mood decides what it answers. The observers rely on the vendor's own log of its calls.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import msgspec
from msgspec import Struct

from tidings.channels.inapp.inbox import Inbox, InboxConfig
from tidings.channels.tools import Tools
from tidings.model.errors import BadReceipt, SettingsError
from tidings.model.notification import EmailContent, SmsContent
from tidings.model.sending import (
    About,
    AnyDelivery,
    EmailDelivery,
    InappDelivery,
    InboundRequest,
    PushDelivery,
    Receipt,
    Rejected,
    RenderedContent,
    Retry,
    SendResult,
    Sent,
    SmsDelivery,
    Uncertain,
)
from tidings.model.user import Address
from tidings.model.vocabulary import Channel, State
from tidings.ports.inbox import Inbox as InboxStore
from tidings.ports.provider import Provider
from tidings.simulation.departures import Departures
from tidings.simulation.processes import BATCH_READS, BatchReads, Process, Storm

_KINDS: dict[Channel, type[AnyDelivery]] = {
    Channel.EMAIL: EmailDelivery,
    Channel.SMS: SmsDelivery,
    Channel.PUSH: PushDelivery,
}
_PAUSES_S = (0.0, -5.0, 0.5, 30.0, 4_000.0, 1e12, float("inf"), float("nan"))
"""The pauses that a throttling vendor may ask for, absurd ones too."""

_receipts = msgspec.json.Decoder(list[Receipt])


def first_text(content: RenderedContent) -> str:
    """The subject, text or title of a content."""
    match content:
        case EmailContent():
            return content.subject
        case SmsContent():
            return content.text
        case _:
            return content.title


class Traits(Struct, frozen=True):
    """The properties of a vendor that do not change during a run."""

    name: str
    channel: Channel
    idempotent: bool
    batch_size: int
    concurrency: int
    timeout_s: float


class Call(Struct, frozen=True):
    """One delivery of one call, as the vendor logged it.

    `at_s` is in virtual seconds; `clock_ms` is the calling process's clock, since the epoch. `took`: the vendor sent
    something because of this call. `repeated`: it recognised the idempotency key and sent nothing. `declined`: it
    answered that it took nothing; `refused`: that it never will.
    """

    vendor: Traits
    at_s: float
    clock_ms: int
    process: str
    delivery: UUID
    tenant: str
    user_id: str | None
    to: str
    category: str
    attempt: int
    key: str
    reads: BatchReads | None
    took: bool = False
    repeated: bool = False
    declined: bool = False
    refused: bool = False
    first_text: str = ""


class Mood(Struct, frozen=True):
    """How a vendor behaves: its manners with their weights, and how long its answers take at most."""

    manners: tuple[str, ...]
    weights: tuple[int, ...]
    latency_s: float


HEALTHY = Mood(("well",), (1,), 0.2)
MOODS = (
    HEALTHY,
    Mood(("well", "throttled"), (1, 3), 0.2),
    Mood(("well", "rejected", "throttled"), (3, 2, 1), 0.5),
    Mood(("hung", "late", "well"), (3, 2, 1), 1.0),
    Mood(("unsure_taken", "unsure_lost", "well"), (2, 2, 2), 0.3),
    Mood(("raised_taken", "raised_lost", "miscounted", "well"), (1, 1, 1, 2), 0.3),
    Mood(("mixed",), (1,), 0.3),
    Mood(("well",), (1,), 8.0),
    Mood(("throttled",), (1,), 0.05),
    Mood(("well", "account"), (3, 1), 0.3),
)
DOWN = ("unreachable", "service_unavailable", "unauthorized", "provider_error")
"""The reasons that a vendor which is down may give."""
MOST_REMEMBERED = 20
"""After so many answers, a refusal about the account may be taken to be about one recipient: no pause is expected."""


class Vendor:
    """A vendor. `deliver_receipts` posts its receipts to the API, as webhooks do.

    `unanswered` counts, by delivery, the calls whose answer the caller never got: it does not know the answer, nor
    whether the vendor got the request.
    """

    def __init__(
        self, traits: Traits, chance: random.Random, storm: Storm, deliver_receipts: Callable[[Vendor, bytes], None]
    ) -> None:
        self.down_until = 0.0
        self.down_reason = ""
        self.traits = traits
        self.mood = HEALTHY
        self.log: list[Call] = []
        self.departures = Departures(traits.timeout_s)
        self.chance = chance
        self._storm = storm
        self._taken: dict[str, str] = {}
        self.under_way: set[str] = set()
        self.unanswered: Counter[UUID] = Counter()
        self.ignored_pauses: list[str] = []
        self.suppressing: set[tuple[str, Address]] = set()
        self._deliver_receipts = deliver_receipts
        self.loop = asyncio.get_running_loop()

    def go_down(self, seconds: float, reason: str) -> None:
        """Take nothing for `seconds`, and answer with `reason`."""
        self.down_until = max(self.down_until, self.loop.time() + seconds)
        self.down_reason = reason

    def is_down(self) -> bool:
        """Whether the vendor takes nothing now."""
        return self.loop.time() < self.down_until

    def manner(self) -> str:
        """The manner in which the vendor treats the next call."""
        if self.is_down():
            return "down"
        mood = self.mood if self._storm.raging else HEALTHY
        return self.chance.choices(mood.manners, mood.weights)[0]

    def draw_latency_s(self) -> float:
        """A random duration, in seconds, for one way to the vendor or back."""
        return self.chance.random() * (self.mood if self._storm.raging else HEALTHY).latency_s

    def has_taken(self, outbound: AnyDelivery) -> bool:
        """Whether the vendor recognises the idempotency key as taken; never if it ignores keys."""
        return self.traits.idempotent and outbound.idempotency_key in self._taken

    def take(self, outbound: AnyDelivery, process: Process, reads: BatchReads | None) -> Sent:
        """Send the delivery, unless the vendor recognises its key."""
        repeated = self.has_taken(outbound)
        reference = self._taken.get(outbound.idempotency_key) if repeated else f"{self.traits.name}-{len(self.log)}"
        self._taken[outbound.idempotency_key] = str(reference)
        self.under_way.discard(outbound.idempotency_key)
        self._log_call(outbound, process, reads, took=not repeated, repeated=repeated, declined=False)
        if not repeated:
            self._send_receipts(outbound, str(reference))
        return Sent(str(reference))

    def turn_away(
        self, outbound: AnyDelivery, process: Process, reads: BatchReads | None, *, declined: bool, refused: bool
    ) -> None:
        """Log an offer that was not taken. `declined`: the answer says so; `refused`: for good."""
        self._log_call(outbound, process, reads, took=False, repeated=False, declined=declined, refused=refused)

    def suppress_address(self, outbound: AnyDelivery) -> None:
        """Note that the vendor told us to suppress this address."""
        self.suppressing.add((outbound.tenant, Address(self.traits.channel, outbound.to)))

    def _log_call(
        self,
        outbound: AnyDelivery,
        process: Process,
        reads: BatchReads | None,
        *,
        took: bool,
        repeated: bool,
        declined: bool,
        refused: bool = False,
    ) -> None:
        process.trace(
            f"{self.traits.name} is offered {outbound.id} attempt {outbound.attempt} by {process.name}:"
            f" {'taken' if took else 'a repetition' if repeated else 'not taken'}"
        )
        self.log.append(
            Call(
                vendor=self.traits,
                at_s=self.loop.time(),
                clock_ms=process.now(),
                process=process.name,
                delivery=outbound.id,
                tenant=outbound.tenant,
                user_id=outbound.user_id,
                to=outbound.to,
                category=outbound.category,
                attempt=outbound.attempt,
                key=outbound.idempotency_key,
                reads=reads,
                took=took,
                repeated=repeated,
                declined=declined,
                refused=refused,
                first_text=first_text(outbound.content),
            )
        )

    def _send_receipts(self, outbound: AnyDelivery, reference: str) -> None:
        """Send receipts, in random number and order."""
        receipts: list[Receipt] = []
        if self.chance.random() < 0.5:
            receipts.append(Receipt(outbound.id, outbound.tenant, State.DELIVERED, "delivered", outbound.attempt))
            if self.chance.random() < 0.3:
                receipts.append(Receipt(outbound.id, outbound.tenant, State.SENT, "opened", outbound.attempt))
        elif self.chance.random() < 0.2:
            bounce = Receipt(
                outbound.id,
                outbound.tenant,
                State.FAILED,
                "bounced",
                outbound.attempt,
                reason="no_such_mailbox",
                address=outbound.to,
                suppress=self.chance.random() < 0.5,
            )
            if bounce.suppress:
                self.suppress_address(outbound)
            receipts.append(bounce)
        if receipts and self.chance.random() < 0.2:
            receipts.append(receipts[0])
        self.chance.shuffle(receipts)
        for receipt in receipts:
            body = msgspec.json.encode([msgspec.structs.replace(receipt, reference=reference)])
            self._deliver_receipts(self, body)


class SimulatedInbox(Inbox):
    """The provider of the inbox. A whole batch counts as in transit until it is written."""

    def __init__(self, inbox: InboxStore, process: Process, departures: Departures) -> None:
        super().__init__(InboxConfig(), Tools(receipts_url="", clock=process, inbox=inbox))
        self._process = process
        self._departures = departures

    async def send(self, batch: Sequence[InappDelivery]) -> Sequence[SendResult]:
        """Write the batch."""
        with self._departures.leave([outbound.id for outbound in batch], self._process):
            return await super().send(batch)


class SimulatedProvider(Provider[Any]):
    """A process's provider for one vendor."""

    def __init__(self, vendor: Vendor, process: Process, longest_pause_s: float) -> None:
        traits = vendor.traits
        self.name = traits.name
        self.channel = traits.channel  # type: ignore[misc]
        self.delivery = _KINDS[traits.channel]  # type: ignore[misc]
        self.batch_size = traits.batch_size
        self.concurrency = traits.concurrency
        self.idempotent = traits.idempotent
        self.timeout_s = traits.timeout_s
        self._vendor = vendor
        self._process = process
        self._longest_pause_s = longest_pause_s
        self._paused_until = 0.0
        self._during_pause = 0
        self._dealt_with = 0

    async def send(self, batch: Sequence[AnyDelivery]) -> Sequence[SendResult]:
        """Offer the batch to the vendor."""
        vendor, reads = self._vendor, BATCH_READS.get()
        during_pause = self._vendor.loop.time() < self._paused_until
        self._during_pause += during_pause
        if during_pause and self._during_pause > self.concurrency:  # so many calls may have begun before the pause
            vendor.ignored_pauses.append(f"{self._process.name} went on asking {self.name} during a pause")
        vendor.unanswered.update(outbound.id for outbound in batch)
        with vendor.departures.leave([outbound.id for outbound in batch], self._process):
            await self._process.between(f"{self.name}.send, on the way")
            await asyncio.sleep(vendor.draw_latency_s())
        manner = vendor.manner()
        results = [self._answer(manner, outbound, reads) for outbound in batch]
        if manner in {"hung", "late"}:
            await asyncio.sleep(10_000.0)
        await asyncio.sleep(vendor.draw_latency_s())
        await self._process.between(f"{self.name}.send, on the way back")
        if manner.startswith("raised"):
            raise ZeroDivisionError(f"a mistake in the file of {self.name}")
        if manner == "miscounted":
            return results[:-1]
        self._ask_for_pause(results)
        vendor.unanswered.subtract(outbound.id for outbound in batch)
        return results

    def _ask_for_pause(self, results: Sequence[SendResult]) -> None:
        """Note until when this process must not use the account."""
        self._dealt_with += sum(isinstance(result, Sent | Rejected) for result in results)
        asked = [
            result.after_s or 0.0
            for result in results
            if isinstance(result, Retry) and result.about is About.ACCOUNT and (result.after_s or 0.0) > 0.0
        ]
        if not asked or self._dealt_with >= MOST_REMEMBERED:
            return
        now = self._vendor.loop.time()
        if now >= self._paused_until:
            self._during_pause = 0
        self._paused_until = max(self._paused_until, now + min(max(asked), self._longest_pause_s))

    async def check(self) -> str:
        """Check the vendor. Raises SettingsError while it is down."""
        await self._process.between(f"{self.name}.check")
        await asyncio.sleep(self._vendor.draw_latency_s())
        if self._vendor.is_down():
            raise SettingsError(f"{self.name} does not answer")
        return f"{self.name} is well"

    def receipts(self, request: InboundRequest) -> list[Receipt]:
        """The receipts in the body. Raises BadReceipt."""
        try:
            return _receipts.decode(request.body)
        except msgspec.MsgspecError as error:
            raise BadReceipt(str(error)) from error

    def _answer(self, manner: str, outbound: AnyDelivery, reads: BatchReads | None) -> SendResult:
        vendor, chance = self._vendor, self._vendor.chance
        if manner == "mixed":
            manner = chance.choice(("well", "throttled", "rejected", "unsure_taken", "unsure_lost"))
        if manner == "hung":
            manner = chance.choice(("unsure_taken", "unsure_lost"))
        if outbound.idempotency_key in vendor.under_way and vendor.traits.idempotent:
            vendor.turn_away(outbound, self._process, reads, declined=False, refused=False)
            return Uncertain("under_way")  # a call with this key is not decided yet
        if manner == "late":
            vendor.under_way.add(outbound.idempotency_key)
            # The vendor takes it only after the caller's timeout.
            vendor.loop.call_later(
                self.timeout_s + chance.random() * 60,
                vendor.take,
                outbound,
                self._process,
                reads,
                context=self._process.outside.copy(),
            )
            return Uncertain("unknown")
        if manner in {"well", "miscounted", "raised_taken"}:
            return vendor.take(outbound, self._process, reads)
        if manner == "unsure_taken":
            vendor.take(outbound, self._process, reads)
            return Uncertain("connection_lost")
        if manner == "rejected" and vendor.has_taken(outbound):
            return vendor.take(outbound, self._process, reads)  # the same answer as before for this key
        declined = manner in {"rejected", "throttled", "account", "down"}
        vendor.turn_away(outbound, self._process, reads, declined=declined, refused=manner == "rejected")
        if manner == "rejected":
            rejected = Rejected("refused", suppress=chance.random() < 0.3, fallback=chance.random() < 0.4)
            if rejected.suppress:
                vendor.suppress_address(outbound)
            return rejected
        if manner == "down":
            return Retry(vendor.down_reason)
        if manner == "account":
            return Retry("throttled", chance.choice((None, *_PAUSES_S)), about=About.ACCOUNT)
        if manner == "throttled":
            return Retry("throttled", chance.choice((None, *_PAUSES_S)))
        return Uncertain("connection_lost")
