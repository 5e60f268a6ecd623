"""The whole flow over the memory adapters and a virtual clock, for the unit tests of the stages."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tidings.backends.memory.clock import VirtualClock
from tidings.backends.memory.queue import MemoryBroker, MemoryQueue
from tidings.backends.memory.store import MemoryStore
from tidings.backends.objects.folder import Folder
from tidings.backends.parquet.files import ParquetFiles
from tidings.config import Settings
from tidings.model import topics
from tidings.model.errors import SettingsError
from tidings.model.notification import Content
from tidings.model.sending import AnyDelivery, InboundRequest, Outbound, Receipt, SendResult, Sent
from tidings.model.template import TemplateVersion, Variable
from tidings.model.user import Preferences, Profile
from tidings.model.vocabulary import Channel, Priority
from tidings.parts import Parts
from tidings.pipeline.accept.accepted import AcceptedCounter
from tidings.pipeline.accept.stage import Accept, ReceiptReader
from tidings.pipeline.compose.composer import Composer
from tidings.pipeline.compose.recipients import Recipients
from tidings.pipeline.deliver.recovery import Recovery
from tidings.pipeline.runtime.reader import Reader, Reading
from tidings.pipeline.schedule.recur import Recur
from tidings.pipeline.schedule.replay import Replaying
from tidings.pipeline.schedule.stage import Schedule
from tidings.policy.shares import Shares
from tidings.ports.provider import Provider
from tidings.report.notifications import NotificationView, Reports
from tidings.roles.worker import outlets, readings
from tidings.telemetry.metrics import Metrics
from tidings.templating.renderer import TemplateRenderer

TENANT = "shop"
EVERYWHERE = {
    "email": {"subject": "Hi", "text": "Hello"},
    "sms": {"text": "Hello"},
    "push": {"title": "Hi", "body": "Hello"},
    "inapp": {"title": "Hi", "body": "Hello"},
}
"""The content of a request for every channel; the next four are for one each."""
MAIL, SMS, PUSH, INBOX = ({channel: content} for channel, content in EVERYWHERE.items())
Answers = Callable[[AnyDelivery], SendResult]


def instant(milliseconds: int) -> str:
    """The instant as a request names it."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat()


def is_surplus(topic: str) -> bool:
    """True if the topic is for surplus."""
    lane = topics.LANES.get(topic)
    return lane is not None and lane.is_surplus


def takes_it(outbound: AnyDelivery) -> SendResult:
    """The result of a provider that works."""
    return Sent(reference=f"ref-{outbound.id.hex[:8]}")


class Recorder(Provider[Any]):
    """A provider that keeps its deliveries and answers as the test says."""

    delivery = Outbound  # type: ignore[assignment]

    def __init__(self, name: str, channel: Channel, *, idempotent: bool = False) -> None:
        self.name = name
        self.channel = channel  # type: ignore[misc]
        self.delivery = _KINDS[channel]  # type: ignore[misc]
        self.idempotent = idempotent
        self.batch_size = 100
        self.answers: Answers = takes_it
        self.is_well: Callable[[], bool] = lambda: True
        self.sent: list[AnyDelivery] = []
        self.checks = 0

    async def send(self, batch: Sequence[AnyDelivery]) -> Sequence[SendResult]:
        """Keep and answer."""
        self.sent.extend(batch)
        return [self.answers(outbound) for outbound in batch]

    async def check(self) -> str:
        """See Provider. Raises SettingsError if the test says so."""
        self.checks += 1
        if not self.is_well():
            raise SettingsError(f"{self.name} does not answer")
        return f"{self.name} is well"


def _kinds() -> dict[Channel, type[AnyDelivery]]:
    return {provider.channel: provider.delivery for provider in _channel_roots()}


def _channel_roots() -> list[type[Provider[Any]]]:
    return [kind for kind in Provider.__subclasses__() if "channel" in vars(kind)]


_KINDS = _kinds()


class Flow:
    """All stages of the flow. They work one after the other until nothing moves."""

    def __init__(self, folder: Path, seed: int = 1) -> None:
        self.clock = VirtualClock()
        self.broker = MemoryBroker(self.clock)
        self.queue = MemoryQueue(self.broker)
        self.store = MemoryStore(self.clock.now)
        self.objects = Folder(folder)
        self.providers: dict[Channel, list[Provider[Any]]] = {
            channel: [Recorder(f"{channel.value}-one", channel)] for channel in Channel
        }
        self.renderer = TemplateRenderer(self.store.templates, self.clock)
        self.settings = Settings()
        self.metrics = Metrics()
        self.shares = Shares(self.settings.fairness.rules())
        self._readings: list[Reading[Any]] | None = None
        self._recovery: Recovery | None = None
        self._random_bits = random.Random(seed).getrandbits
        self.accepted = AcceptedCounter(self.store.accounts, self.clock, lambda: UUID(int=self._random_bits(128)))
        self.accept_stage = self._accept({})

    def _accept(
        self, readers: dict[str, tuple[Channel, ReceiptReader]], recipients: Recipients | None = None
    ) -> Accept:
        return Accept(
            self.queue,
            self.renderer,
            self.store.idempotency,
            self.store.history,
            self.clock,
            self._random_bits,
            readers,
            self.settings.overload.rules(),
            self.accepted.add,
            held=self.store.schedule.held,
            recipients=recipients,
            shares=self.shares,
        )

    def look_users_up(self, recipients: Recipients | None = None) -> None:
        """From now on look users up when a request is accepted, as the API does."""
        self.accept_stage = self._accept({}, recipients or Recipients(self.store.users, self.clock))

    async def receive(self, channel: Channel, *receipts: Receipt) -> int:
        """Let the first provider of `channel` report these receipts. Returns of how many the delivery is known."""
        name = self.providers[channel][0].name
        accept = self._accept({name: (channel, lambda _request: list(receipts))})
        return await accept.receipts(name, InboundRequest("", {}, {}, b""))

    async def start(self) -> Flow:
        """Declare the queues."""
        await self.queue.declare(topics.subscriptions())
        return self

    def parts(self) -> Parts:
        """The parts that wiring would create."""
        return Parts(
            settings=self.settings,
            clock=self.clock,
            queue=self.queue,
            directory=self.store,
            shard=self.store,
            ping=self.store.ping,
            objects=self.objects,
            providers=self.providers,
            archive=ParquetFiles(),
            renderer=self.renderer,
            metrics=self.metrics,
            accepted=self.accepted,
        )

    def provider(self, channel: Channel, place: int = 0) -> Recorder:
        """The recording provider of a channel."""
        provider = self.providers[channel][place]
        assert isinstance(provider, Recorder)
        return provider

    async def user(self, user_id: str = "ada", preferences: Preferences | None = None, **profile: Any) -> None:
        """Store a user."""
        known: dict[str, Any] = {"email": f"{user_id}@example.com", "phone": "+4915123456789", "devices": ("token-1",)}
        await self.store.users.upsert(TENANT, [(user_id, Profile(**(known | profile)), preferences)], self.clock.now())

    async def template(self, template: str, contents: dict[str, Content], **variables: Variable) -> None:
        """Store and publish a template."""
        version = TemplateVersion(name=template, version=0, contents=contents, variables=variables)
        stored = await self.store.templates.add_version(TENANT, version)
        await self.store.templates.publish(TENANT, template, stored.version)

    async def accept(self, key: str | None = None, **body: Any) -> Any:
        """Accept one request. Returns the notification's id."""
        answer = await self.accept_stage.accept(TENANT, json.dumps(body).encode(), key)
        return answer.results[0]

    def spend_share(self, tenant: str = TENANT) -> None:
        """Use up the tenant's share of every lane at this instant."""
        for priority in Priority:
            self.shares.take(tenant, priority, 1_000_000, self.clock.elapsed())

    async def settle(self, only: str | None = None, *, besides_surplus: bool = False) -> None:
        """Let every stage (or `only` one) work until nothing moves at this instant.

        With `besides_surplus`, the surplus stays in its queues.
        """
        parts = self.parts()
        if self._readings is None:
            self._readings = readings(parts)
            self._recovery = Recovery(outlets(self._readings), self.store.schedule, self.clock, parts.metrics)
        stages = [
            self._reader(reading, parts)
            for reading in self._readings
            if only in {None, reading.stage} and not (besides_surplus and is_surplus(reading.topic))
        ]
        composer = Composer(self.renderer, random.Random(1).getrandbits)
        recurring = Recur(
            self.store.recurrences,
            self.store.users,
            composer,
            self.queue,
            self.clock,
            parts.metrics,
            self.accepted.add,
            shares=self.shares,
        )
        schedule = Schedule(self.store.schedule, self.queue, self.objects, self.clock, parts.metrics, self.shares)
        replaying = Replaying(self.store, self.store, self.queue, self.clock, parts.metrics)
        if only is None and self._recovery is not None:
            await self._recovery.ask()
        while True:
            if only is None and self._recovery is not None:
                await self._recovery.once()
            moved = await schedule.once() + await recurring.once() + await replaying.once()
            for reader in stages:
                moved += await reader.once()
            if not moved:
                return

    async def advance(self, seconds: float) -> None:
        """Let time pass, then settle."""
        await self.clock.advance(seconds)
        await self.settle()

    async def view(self, id: Any) -> NotificationView:
        """The notification as the API shows it."""
        assert await self.store.history.get(TENANT, id) is not None
        return await Reports(self.store.history, self.store.days, self.store.schedule, self.clock).get(TENANT, id)

    def _reader(self, reading: Reading[Any], parts: Parts) -> Reader[Any]:
        at_once = Reading(
            stage=reading.stage,
            topic=reading.topic,
            decode=reading.decode,
            work=reading.work,
            max_items=reading.max_items,
            lease_s=reading.lease_s,
            max_wait_s=0.0,
            room=reading.room,
        )
        return Reader(at_once, parts.queue, parts.objects, parts.clock, parts.metrics)


async def wait(flow: Flow, seconds: float, step_s: float = 1.0) -> None:
    """Let time pass in steps, while all stages work."""
    for _ in range(int(seconds / step_s)):
        await flow.advance(step_s)


async def abandon(flow: Flow, key: str, **body: Any) -> None:
    """Make a request whose process dies between its put and its answer."""

    async def dies(*_: object) -> None:
        raise ConnectionError("killed here")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flow.store.idempotency, "complete", dies)
        with pytest.raises(ConnectionError):
            await flow.accept(key, **body)
