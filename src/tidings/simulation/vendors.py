"""The vendors outside, with logs of their own, and the providers through which a process reaches them.

What a vendor does follows from its mood of the moment. Its log is what the observers believe.
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
from tidings.simulation.processes import LOOK, Look, Process, Storm

_KINDS: dict[Channel, type[AnyDelivery]] = {
    Channel.EMAIL: EmailDelivery,
    Channel.SMS: SmsDelivery,
    Channel.PUSH: PushDelivery,
}
_ABSURD = (0.0, -5.0, 0.5, 30.0, 4_000.0, 1e12, float("inf"), float("nan"))
"""What a throttling vendor may ask for, in seconds."""

_receipts = msgspec.json.Decoder(list[Receipt])


def said(content: RenderedContent) -> str:
    """The first that a content says."""
    match content:
        case EmailContent():
            return content.subject
        case SmsContent():
            return content.text
        case _:
            return content.title


class Traits(Struct, frozen=True):
    """What a vendor is like. `timeout` in seconds."""

    name: str
    channel: Channel
    idempotent: bool
    batch_size: int
    concurrency: int
    timeout: float


class Call(Struct, frozen=True):
    """One delivery of one call, as the vendor logged it.

    `at` is in virtual seconds, `clock` what the calling process's clock showed, in milliseconds. `took`: from this call
    the vendor sent something. `repeated`: it recognised the idempotency key and sent nothing. `declined`: it says that
    it took nothing, `refused`: nor ever will. `said` is the first that the content says.
    """

    vendor: Traits
    at: float
    clock: int
    process: str
    delivery: UUID
    tenant: str
    user_id: str | None
    to: str
    category: str
    attempt: int
    key: str
    look: Look | None
    took: bool = False
    repeated: bool = False
    declined: bool = False
    refused: bool = False
    said: str = ""


class Mood(Struct, frozen=True):
    """How a vendor behaves: weights of its manners, and how long its answers take, in seconds."""

    manners: tuple[str, ...]
    weights: tuple[int, ...]
    latency: float


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
"""What a vendor that takes nothing may say."""
MOST_REMEMBERED = 20
"""After so many that were dealt with, one recipient who is refused again is meant alone, whatever the answer says."""


class Vendor:
    """A vendor. `deliver_receipts` hands its receipts over to the API, as its webhooks do.

    `unheard` counts by delivery the calls that were made and whose answer did not come back: what it says, or whether
    the vendor was reached at all, the caller does not know.
    """

    def __init__(
        self, traits: Traits, chance: random.Random, storm: Storm, deliver_receipts: Callable[[Vendor, bytes], None]
    ) -> None:
        self.down_until = 0.0
        self.down_reason = ""
        self.traits = traits
        self.mood = HEALTHY
        self.log: list[Call] = []
        self.departures = Departures(traits.timeout)
        self.chance = chance
        self._storm = storm
        self._taken: dict[str, str] = {}
        self.under_way: set[str] = set()
        self.unheard: Counter[UUID] = Counter()
        self.disregarded: list[str] = []
        self.barring: set[tuple[str, Address]] = set()
        self._deliver_receipts = deliver_receipts
        self.loop = asyncio.get_running_loop()

    def go_down(self, seconds: float, reason: str) -> None:
        """Take nothing for so long."""
        self.down_until = max(self.down_until, self.loop.time() + seconds)
        self.down_reason = reason

    def is_down(self) -> bool:
        """Whether it takes nothing now."""
        return self.loop.time() < self.down_until

    def manner(self) -> str:
        """How the next call is treated."""
        if self.is_down():
            return "down"
        mood = self.mood if self._storm.raging else HEALTHY
        return self.chance.choices(mood.manners, mood.weights)[0]

    def latency(self) -> float:
        """Seconds from here to there, or back."""
        return self.chance.random() * (self.mood if self._storm.raging else HEALTHY).latency

    def has_taken(self, outbound: AnyDelivery) -> bool:
        """Whether it knows the key, if it minds keys."""
        return self.traits.idempotent and outbound.idempotency_key in self._taken

    def take(self, outbound: AnyDelivery, process: Process, look: Look | None) -> Sent:
        """Send it, unless the key was here before and the vendor minds keys."""
        repeated = self.has_taken(outbound)
        reference = self._taken.get(outbound.idempotency_key) if repeated else f"{self.traits.name}-{len(self.log)}"
        self._taken[outbound.idempotency_key] = str(reference)
        self.under_way.discard(outbound.idempotency_key)
        self._write(outbound, process, look, took=not repeated, repeated=repeated, declined=False)
        if not repeated:
            self._tell(outbound, str(reference))
        return Sent(str(reference))

    def turn_away(
        self, outbound: AnyDelivery, process: Process, look: Look | None, *, declined: bool, refused: bool = False
    ) -> None:
        """Note that it was offered, and was not taken; `declined`: the answer says so, `refused`: for good."""
        self._write(outbound, process, look, took=False, repeated=False, declined=declined, refused=refused)

    def bar(self, outbound: AnyDelivery) -> None:
        """Say that the address must not be used any more."""
        self.barring.add((outbound.tenant, Address(self.traits.channel, outbound.to)))

    def _write(
        self,
        outbound: AnyDelivery,
        process: Process,
        look: Look | None,
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
                at=self.loop.time(),
                clock=process.now(),
                process=process.name,
                delivery=outbound.id,
                tenant=outbound.tenant,
                user_id=outbound.user_id,
                to=outbound.to,
                category=outbound.category,
                attempt=outbound.attempt,
                key=outbound.idempotency_key,
                look=look,
                took=took,
                repeated=repeated,
                declined=declined,
                refused=refused,
                said=said(outbound.content),
            )
        )

    def _tell(self, outbound: AnyDelivery, reference: str) -> None:
        """Receipts, in any order and number."""
        told: list[Receipt] = []
        if self.chance.random() < 0.5:
            told.append(Receipt(outbound.id, outbound.tenant, State.DELIVERED, "delivered", outbound.attempt))
            if self.chance.random() < 0.3:
                told.append(Receipt(outbound.id, outbound.tenant, State.SENT, "opened", outbound.attempt))
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
                self.bar(outbound)
            told.append(bounce)
        if told and self.chance.random() < 0.2:
            told.append(told[0])
        self.chance.shuffle(told)
        for receipt in told:
            body = msgspec.json.encode([msgspec.structs.replace(receipt, reference=reference)])
            self._deliver_receipts(self, body)


class SimulatedInbox(Inbox):
    """The inbox, which is a vendor too. A call is under way with all that it is to write."""

    def __init__(self, inbox: InboxStore, process: Process, departures: Departures) -> None:
        super().__init__(InboxConfig(), Tools(receipts_url="", clock=process, inbox=inbox))
        self._process = process
        self._departures = departures

    async def send(self, batch: Sequence[InappDelivery]) -> Sequence[SendResult]:
        """Write the batch."""
        with self._departures.leave([outbound.id for outbound in batch], self._process):
            return await super().send(batch)


class SimulatedProvider(Provider[Any]):
    """The provider of a vendor in one process."""

    def __init__(self, vendor: Vendor, process: Process, longest_pause_s: float) -> None:
        traits = vendor.traits
        self.name = traits.name
        self.channel = traits.channel  # type: ignore[misc]
        self.delivery = _KINDS[traits.channel]  # type: ignore[misc]
        self.batch_size = traits.batch_size
        self.concurrency = traits.concurrency
        self.idempotent = traits.idempotent
        self.timeout = traits.timeout
        self._vendor = vendor
        self._process = process
        self._longest_pause_s = longest_pause_s
        self._paused_until = 0.0
        self._during_pause = 0
        self._dealt_with = 0

    async def send(self, batch: Sequence[AnyDelivery]) -> Sequence[SendResult]:
        """Offer the batch to the vendor."""
        vendor, look = self._vendor, LOOK.get()
        during_pause = self._vendor.loop.time() < self._paused_until
        self._during_pause += during_pause
        if during_pause and self._during_pause > self.concurrency:  # so many may have had their turn already
            vendor.disregarded.append(f"{self._process.name} went on asking {self.name} during a pause")
        vendor.unheard.update(outbound.id for outbound in batch)
        with vendor.departures.leave([outbound.id for outbound in batch], self._process):
            await self._process.between(f"{self.name}.send, on the way")
            await asyncio.sleep(vendor.latency())
        manner = vendor.manner()
        results = [self._answer(manner, outbound, look) for outbound in batch]
        if manner in {"hung", "late"}:
            await asyncio.sleep(10_000.0)
        await asyncio.sleep(vendor.latency())
        await self._process.between(f"{self.name}.send, on the way back")
        if manner.startswith("raised"):
            raise ZeroDivisionError(f"a mistake in the file of {self.name}")
        if manner == "miscounted":
            return results[:-1]
        self._ask_for_pause(results)
        vendor.unheard.subtract(outbound.id for outbound in batch)
        return results

    def _ask_for_pause(self, results: Sequence[SendResult]) -> None:
        """Note for how long the account must not be used by this process."""
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
        """Ask the vendor how it is. Raises SettingsError while it is down."""
        await self._process.between(f"{self.name}.check")
        await asyncio.sleep(self._vendor.latency())
        if self._vendor.is_down():
            raise SettingsError(f"{self.name} does not answer")
        return f"{self.name} is well"

    def receipts(self, request: InboundRequest) -> list[Receipt]:
        """What is in the body. Raises BadReceipt."""
        try:
            return _receipts.decode(request.body)
        except msgspec.MsgspecError as error:
            raise BadReceipt(str(error)) from error

    def _answer(self, manner: str, outbound: AnyDelivery, look: Look | None) -> SendResult:
        vendor, chance = self._vendor, self._vendor.chance
        if manner == "mixed":
            manner = chance.choice(("well", "throttled", "rejected", "unsure_taken", "unsure_lost"))
        if manner == "hung":
            manner = chance.choice(("unsure_taken", "unsure_lost"))
        if outbound.idempotency_key in vendor.under_way and vendor.traits.idempotent:
            vendor.turn_away(outbound, self._process, look, declined=False)
            return Uncertain("under_way")  # it minds keys, and has not made up its mind about this one
        if manner == "late":
            vendor.under_way.add(outbound.idempotency_key)
            # The caller has given up by then.
            vendor.loop.call_later(
                self.timeout + chance.random() * 60,
                vendor.take,
                outbound,
                self._process,
                look,
                context=self._process.outside.copy(),
            )
            return Uncertain("unknown")
        if manner in {"well", "miscounted", "raised_taken"}:
            return vendor.take(outbound, self._process, look)
        if manner == "unsure_taken":
            vendor.take(outbound, self._process, look)
            return Uncertain("connection_lost")
        if manner == "rejected" and vendor.has_taken(outbound):
            return vendor.take(outbound, self._process, look)  # the answer that it gave to this key
        declined = manner in {"rejected", "throttled", "account", "down"}
        vendor.turn_away(outbound, self._process, look, declined=declined, refused=manner == "rejected")
        if manner == "rejected":
            rejected = Rejected("refused", suppress=chance.random() < 0.3, fallback=chance.random() < 0.4)
            if rejected.suppress:
                vendor.bar(outbound)
            return rejected
        if manner == "down":
            return Retry(vendor.down_reason)
        if manner == "account":
            return Retry("throttled", chance.choice((None, *_ABSURD)), about=About.ACCOUNT)
        if manner == "throttled":
            return Retry("throttled", chance.choice((None, *_ABSURD)))
        return Uncertain("connection_lost")
