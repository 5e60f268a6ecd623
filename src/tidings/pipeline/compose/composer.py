"""Making a notification from a request: every check of `accept`, with the template pinned at its published version."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any
from uuid import UUID

from tidings.model import topics
from tidings.model.errors import Invalid
from tidings.model.ids import new_id, stable_bucket
from tidings.model.notification import Content, Notification, TemplateRef
from tidings.model.vocabulary import Channel, Strategy
from tidings.model.wire import encode
from tidings.pipeline.compose import requests
from tidings.pipeline.compose.recipients import Known, Recipients
from tidings.pipeline.runtime.reader import REPEATED
from tidings.ports.queue import Item
from tidings.ports.renderer import Published, Renderer

Identify = Callable[[int], UUID]
"""Makes the id of a notification from its user's bucket."""


class Composer:
    """Composes notifications.

    `randomness` gives as many random bits as it is asked for. `unserved`: channels that nobody configured. A request
    that names one is refused; a template is sent on its other channels. `recipients`: knows which users exist; without
    it, users are not looked up.
    """

    def __init__(
        self,
        renderer: Renderer,
        randomness: Callable[[int], int],
        unserved: Collection[Channel] = (),
        recipients: Recipients | None = None,
    ) -> None:
        self._renderer = renderer
        self._randomness = randomness
        self._unserved = frozenset(unserved)
        self._recipients = recipients

    async def known(self, tenant: str, asked: Iterable[requests.NotificationRequest]) -> Known:
        """The existing users among the recipients of these requests; None if users cannot be looked up."""
        if self._recipients is None:
            return None
        return await self._recipients.known(
            tenant, {user_id for request in asked if (user_id := request.to.user_id) and requests.is_plain(user_id)}
        )

    def fresh_id(self, now: int, bucket: int) -> UUID:
        """A new, unique id."""
        return new_id(now, bucket, self._randomness(54))

    async def compose(
        self,
        tenant: str,
        request: requests.NotificationRequest,
        size: int,
        now: int,
        identify: Identify | None = None,
        known: Known = None,
    ) -> Notification:
        """The notification that a request of `size` bytes asks for at `now` (milliseconds since the epoch).

        Without `identify` it gets a new id. `known`: the result of `known` for this request; None: accept any user.

        Raises:
            Invalid: the request cannot be accepted.
            Unavailable: the store does not answer.
        """
        if size > requests.LARGEST_BYTES:
            raise Invalid(
                "too_large", f"a notification may have at most {requests.LARGEST_BYTES} bytes; this has {size}"
            )
        to = requests.recipient(request.to)
        incarnation = None
        if to.user_id is not None and known is not None:
            incarnation = known.get(to.user_id)
            if incarnation is None:
                raise Invalid("unknown_user", f"there is no user {to.user_id!r}", "$.to.user_id")
        data = requests.json_object(request.data, "$.data")
        requests.json_object(request.metadata, "$.metadata")
        times = requests.times(request.send_at, request.expires_at, request.send_at_local, now)
        channels = tuple(request.channels or ())
        template, content, available = await self._template_or_content(tenant, request, data)
        if not available:
            raise Invalid("no_content", "there is no content for any channel", "$.content")
        for index, channel in enumerate(channels):
            if channel not in available:
                raise Invalid("no_such_channel", f"there is no content for {channel.value}", f"$.channels[{index}]")
        channels = self._served(request, channels, available)
        bucket = stable_bucket(tenant, to.key)
        return Notification(
            id=self.fresh_id(now, bucket) if identify is None else identify(bucket),
            tenant=tenant,
            to=to,
            accepted_at=now,
            template=template,
            content=content,
            data=requests.given(request.data),
            channels=channels,
            strategy=request.strategy or Strategy.ALL,
            category="transactional" if request.category is None else requests.category(request.category),
            priority=request.lane,
            send_at=times.send_at,
            expires_at=times.expires_at,
            metadata=requests.given(request.metadata),
            send_at_local=times.send_at_local,
            incarnation=incarnation,
        )

    def _served(
        self, request: requests.NotificationRequest, asked: tuple[Channel, ...], available: Sequence[Channel]
    ) -> tuple[Channel, ...]:
        """The channels to put into the notification: those `asked` for, or a template's channels that have a provider.

        Empty: all channels that there is content for. Raises Invalid for a channel without a provider.
        """
        if not self._unserved:
            return asked
        for index, channel in enumerate(asked):
            if channel in self._unserved:
                raise _not_configured(channel, f"$.channels[{index}]")
        if asked:
            return asked
        served = tuple(channel for channel in available if channel not in self._unserved)
        if len(served) == len(available):
            return ()
        if request.content is not None or not served:
            missing = next(channel for channel in available if channel in self._unserved)
            raise _not_configured(
                missing, f"$.content.{missing.value}" if request.content is not None else "$.template"
            )
        return served

    async def _template_or_content(
        self, tenant: str, request: requests.NotificationRequest, data: dict[str, Any]
    ) -> tuple[TemplateRef | None, Content | None, tuple[Channel, ...]]:
        """The template or the content (exactly one of them), and the channels that it has content for."""
        if request.template is not None and request.content is None:
            requests.plain(request.template, "$.template")
            published = await self._renderer.published(tenant, request.template)
            if published is None:
                raise Invalid("unknown_template", f"no template {request.template!r} is published", "$.template")
            check_variables(published, data, request.channels or ())
            return published.ref, None, published.channels
        if request.content is not None and request.template is None:
            content = requests.literal(request.content)
            return None, content, content.channels()
        raise Invalid("content_or_template", "give exactly one of template and content")


def _not_configured(channel: Channel, path: str) -> Invalid:
    return Invalid(
        "channel_not_configured",
        f"this installation has no provider for {channel.value}; name one under [channels] in its settings",
        path,
    )


def check_variables(template: Published, data: dict[str, Any], channels: Sequence[Channel]) -> None:
    """Raises Invalid unless `data` has the variables that the template needs for `channels` (empty: all of its own)."""
    missing = template.missing(data)
    if missing:
        raise Invalid("missing_variables", f"the template needs {', '.join(missing)}", f"$.data.{missing[0]}")
    template.check(data, channels)


def queued(notification: Notification, *, repeated: bool = False) -> Item:
    """The queue item of the notification, for its lane. `repeated`: mark it as a possible copy."""
    key, headers = f"{notification.tenant}/{notification.to.key}", {REPEATED: "1"} if repeated else {}
    return Item(topics.requests(notification.priority), key, encode(notification), headers)
