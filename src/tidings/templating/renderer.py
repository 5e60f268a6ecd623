"""The port Renderer over a template store: what is published is asked for once a second, what is rendered is kept."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from tidings.model.delivery import Delivery
from tidings.model.errors import NotFound, TemplateError
from tidings.model.notification import TemplateRef
from tidings.model.sending import RenderedContent
from tidings.model.template import TemplateVersion
from tidings.model.vocabulary import Channel
from tidings.ports.clock import Clock
from tidings.ports.store import TemplateStore
from tidings.templating.compile import Compiled, compile_version

PUBLISHED_FOR = 1000
"""For how many milliseconds the answer to "which version is published" is good."""

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_Key = tuple[str, str, int]


class PublishedTemplate(Struct, frozen=True):
    """The published version of a template (the port's `Published`)."""

    ref: TemplateRef
    channels: tuple[Channel, ...]
    required: tuple[str, ...]

    def missing(self, data: object) -> list[str]:
        """The required variables that `data` (a decoded JSON object) lacks."""
        if not isinstance(data, Mapping):
            return list(self.required)
        return [name for name in self.required if name not in data]


class TemplateRenderer:
    """Finds and renders templates. `capacity` is how many compiled versions are kept."""

    def __init__(self, store: TemplateStore, clock: Clock, capacity: int = 1000) -> None:
        self._store = store
        self._clock = clock
        self._capacity = capacity
        self._compiled: OrderedDict[_Key, Compiled] = OrderedDict()
        self._channels: OrderedDict[_Key, tuple[Channel, ...]] = OrderedDict()
        self._published: OrderedDict[tuple[str, str], tuple[int, PublishedTemplate]] = OrderedDict()

    async def published(self, tenant: str, name: str) -> PublishedTemplate | None:
        """The published version; None when there is no such template or nothing of it is published."""
        key = (tenant, name)
        known = self._published.get(key)
        now = self._clock.elapsed()
        if known is not None and 0 <= now - known[0] < PUBLISHED_FOR:
            return known[1]
        version = await self._store.published(tenant, name)
        if version is None:
            self._published.pop(key, None)
            return None
        template = _published(version)
        self._published[key] = (now, template)
        self._published.move_to_end(key)
        while len(self._published) > self._capacity:
            self._published.popitem(last=False)
        return template

    async def pinned(self, tenant: str, ref: TemplateRef) -> PublishedTemplate:
        """A version that was published once, by its number. Raises NotFound."""
        version = await self._store.version(tenant, ref.name, ref.version)
        if version is None:
            raise NotFound("template version", f"{ref.name}@{ref.version}")
        return _published(version)

    def forget(self, tenant: str, name: str) -> None:
        """Ask the store again which version is published."""
        self._published.pop((tenant, name), None)

    async def channels(self, tenant: str, ref: TemplateRef) -> tuple[Channel, ...]:
        """The channels that this version has content for. Raises NotFound."""
        key = (tenant, ref.name, ref.version)
        known = self._channels.get(key)
        if known is None:
            version = await self._store.version(*key)
            if version is None:
                raise NotFound("template version", f"{ref.name}@{ref.version}")
            known = self._channels[key] = _channels(version)
            while len(self._channels) > self._capacity:
                self._channels.popitem(last=False)
        return known

    async def render(self, batch: Sequence[Delivery]) -> Sequence[RenderedContent | TemplateError]:
        """The content of each delivery on its channel, in the best locale, in order."""
        versions = await self._versions(batch)
        decoded: dict[bytes, Mapping[str, Any] | TemplateError] = {}
        results: list[RenderedContent | TemplateError] = []
        for delivery in batch:
            template = delivery.template
            if template is None:
                results.append(_literal(delivery))
                continue
            compiled = versions[delivery.tenant, template.name, template.version]
            if compiled is None:
                results.append(TemplateError(f"there is no version {template.version} of {template.name}"))
                continue
            if isinstance(compiled, TemplateError):
                results.append(compiled)
                continue
            data = decoded.get(delivery.data)
            if data is None:
                data = decoded[delivery.data] = _decoded(delivery.data)
            if isinstance(data, TemplateError):
                results.append(data)
                continue
            try:
                results.append(compiled.render(delivery.channel, delivery.locale, delivery.timezone, data))
            except TemplateError as error:
                results.append(error)
        return results

    async def _versions(self, batch: Sequence[Delivery]) -> dict[_Key, Compiled | TemplateError | None]:
        """What the batch renders with; None for a version that does not exist."""
        found: dict[_Key, Compiled | TemplateError | None] = {}
        absent: list[_Key] = []
        for delivery in batch:
            if delivery.template is None:
                continue
            key = (delivery.tenant, delivery.template.name, delivery.template.version)
            if key in found:
                continue
            compiled = self._compiled.get(key)
            found[key] = compiled
            if compiled is None:
                absent.append(key)
            else:
                self._compiled.move_to_end(key)
        if absent:
            loaded = await asyncio.gather(*(self._loaded(key) for key in absent))
            found.update(zip(absent, loaded, strict=True))
        return found

    async def _loaded(self, key: _Key) -> Compiled | TemplateError | None:
        """The version, compiled and kept; the error of one that cannot be compiled (any more)."""
        version = await self._store.version(*key)
        if version is None:
            return None
        try:
            compiled = self._compiled[key] = compile_version(version)
        except TemplateError as error:
            return error
        while len(self._compiled) > self._capacity:
            self._compiled.popitem(last=False)
        return compiled


def _published(version: TemplateVersion) -> PublishedTemplate:
    return PublishedTemplate(
        ref=TemplateRef(version.name, version.version),
        channels=_channels(version),
        required=tuple(name for name, variable in version.variables.items() if variable.required),
    )


def _channels(version: TemplateVersion) -> tuple[Channel, ...]:
    found = {channel for content in version.contents.values() for channel in content.channels()}
    return tuple(channel for channel in Channel if channel in found)


def _literal(delivery: Delivery) -> RenderedContent | TemplateError:
    """Inline content, exactly as it was given."""
    content: RenderedContent | None = None
    if delivery.content is not None:
        content = getattr(delivery.content, delivery.channel.value)
    return content or TemplateError(f"there is no content for {delivery.channel.value}", delivery.channel.value)


def _decoded(data: bytes) -> Mapping[str, Any] | TemplateError:
    try:
        return _decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return TemplateError(f"the data cannot be read: {error}")
