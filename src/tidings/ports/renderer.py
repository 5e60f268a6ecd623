"""What the stages need of templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from tidings.model.delivery import Delivery
from tidings.model.errors import TemplateError
from tidings.model.notification import TemplateRef
from tidings.model.sending import RenderedContent
from tidings.model.vocabulary import Channel


class Published(Protocol):
    """A version of a template that is, or was, published."""

    @property
    def ref(self) -> TemplateRef:
        """Its name and number."""
        ...

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The channels that it has content for, in any locale."""
        ...

    def missing(self, data: object) -> list[str]:
        """The required variables that `data` (a decoded JSON object) lacks, or has as null."""
        ...

    def check(self, data: Mapping[str, Any], channels: Sequence[Channel]) -> None:
        """Raises Invalid for data that cannot be printed on `channels` (none: all that it has content for)."""
        ...


class Renderer(Protocol):
    """Finds and renders templates."""

    async def published(self, tenant: str, name: str) -> Published | None:
        """The published version; None when there is no such template or nothing of it is published."""
        ...

    async def pinned(self, tenant: str, ref: TemplateRef) -> Published:
        """A version that was published once, by its number. Raises NotFound."""
        ...

    async def channels(self, tenant: str, ref: TemplateRef) -> tuple[Channel, ...]:
        """The channels that this version has content for. Raises NotFound."""
        ...

    async def render(
        self, batch: Sequence[Delivery], within_ms: float | None = None
    ) -> Sequence[RenderedContent | TemplateError]:
        """The content of each delivery on its channel, in the best locale, in order.

        With `within_ms` it ends after the first one that is ready when so many milliseconds have passed: then these are
        the contents of the first deliveries, at least one.
        """
        ...
