"""The renderer: finds and renders templates for the stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from tidings.model.delivery import Delivery
from tidings.model.errors import TemplateError
from tidings.model.notification import TemplateRef
from tidings.model.sending import RenderedContent
from tidings.model.vocabulary import Channel


class Published(Protocol):
    """A template version that is published or was once."""

    @property
    def ref(self) -> TemplateRef:
        """The template's name and the version's number."""
        ...

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The channels for which the version has content in some locale."""
        ...

    def missing(self, data: object) -> list[str]:
        """The required variables that are absent or null in `data`, a decoded JSON object."""
        ...

    def check(self, data: dict[str, Any], channels: Sequence[Channel]) -> None:
        """Raises Invalid if `data` cannot be rendered on `channels` (empty: all channels with content)."""
        ...


class Renderer(Protocol):
    """Finds and renders templates."""

    async def published(self, tenant: str, name: str) -> Published | None:
        """The published version; None if there is no such template or no published version."""
        ...

    async def pinned(self, tenant: str, ref: TemplateRef) -> Published:
        """The version that `ref` names, which must have been published once. Raises NotFound."""
        ...

    async def channels(self, tenant: str, ref: TemplateRef) -> tuple[Channel, ...]:
        """The channels for which the version has content. Raises NotFound."""
        ...

    async def render(
        self, batch: Sequence[Delivery], within_ms: float | None = None
    ) -> Sequence[RenderedContent | TemplateError]:
        """The content of each delivery on its channel, in the best locale, in order. An error stands for a failed one.

        With `within_ms`, rendering stops after the first delivery that is finished once so many milliseconds have
        passed. The result then holds the contents of the first deliveries, at least one.
        """
        ...
