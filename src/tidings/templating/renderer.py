"""The port Renderer over a template store. It caches compiled versions, and for a second which one is published."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Struct, structs

from tidings.model.delivery import Delivery
from tidings.model.errors import NotFound, TemplateError
from tidings.model.notification import EmailContent, TemplateRef
from tidings.model.sending import RenderedContent
from tidings.model.template import TemplateVersion
from tidings.model.vocabulary import Channel, Reason
from tidings.policy.content import Unfit, is_blank, unfit
from tidings.ports.clock import Clock
from tidings.ports.templates import TemplateStore
from tidings.templating.compile import Compiled, compile_version
from tidings.templating.expectations import Path, check_printed, printed
from tidings.templating.markup import to_text

PUBLISHED_FOR_MS = 1000
"""How long it is remembered which version is published."""

MOST_MARKS = 4_000
"""How many tags and entities an inline mail's HTML may have for a text to be made from it."""

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_Key = tuple[str, str, int]
_Versions = dict[_Key, Compiled | TemplateError | None]
"""The compiled versions, or why one cannot be compiled; None for a version that does not exist."""
LARGE = 32_768
"""A version with more characters is compiled in a thread, so that the event loop stays free."""
LOADED_AT_ONCE = 4
"""How many versions are loaded before something is rendered with them: each may have a megabyte."""


class PublishedTemplate(Struct, frozen=True):
    """The published version of a template (the port's `Published`)."""

    ref: TemplateRef
    channels: tuple[Channel, ...]
    required: tuple[str, ...]
    printed: Mapping[Channel, tuple[Path, ...]] = {}

    def missing(self, data: object) -> list[str]:
        """The required variables that `data` (a decoded JSON object) lacks, or has as null."""
        if not isinstance(data, Mapping):
            return list(self.required)
        return [name for name in self.required if data.get(name) is None]

    def check(self, data: dict[str, Any], channels: Sequence[Channel]) -> None:
        """Raise Invalid for data that cannot be printed on `channels` (empty: every channel that has content)."""
        for channel, paths in self.printed.items():
            if not channels or channel in channels:
                check_printed(paths, data)


class TemplateRenderer:
    """Finds and renders templates. `capacity` is how many compiled versions are cached."""

    def __init__(self, store: TemplateStore, clock: Clock, capacity: int = 1000) -> None:
        self._store = store
        self._clock = clock
        self._capacity = capacity
        self._compiled: OrderedDict[_Key, Compiled] = OrderedDict()
        self._channels: OrderedDict[_Key, tuple[Channel, ...]] = OrderedDict()
        self._published: OrderedDict[tuple[str, str], tuple[int, PublishedTemplate]] = OrderedDict()

    async def published(self, tenant: str, name: str) -> PublishedTemplate | None:
        """The published version; None when there is no such template or none of its versions is published."""
        key = (tenant, name)
        known = self._published.get(key)
        now = self._clock.elapsed()
        if known is not None and 0 <= now - known[0] < PUBLISHED_FOR_MS:
            return known[1]
        version = await self._store.published(tenant, name)
        if version is None:
            self._published.pop(key, None)
            return None
        template = known[1] if known is not None and known[1].ref.version == version.version else _published(version)
        self._published[key] = (now, template)
        self._published.move_to_end(key)
        while len(self._published) > self._capacity:
            self._published.popitem(last=False)
        return template

    async def pinned(self, tenant: str, ref: TemplateRef) -> PublishedTemplate:
        """A version by its number, published or not. Raises NotFound."""
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

    async def render(
        self, batch: Sequence[Delivery], within_ms: float | None = None
    ) -> Sequence[RenderedContent | TemplateError]:
        """See Renderer."""
        rendering = _Rendering()
        results: list[RenderedContent | TemplateError] = []
        while len(results) < len(batch):
            versions, known = await self._versions(batch[len(results) :])
            began = self._clock.elapsed()  # after waiting for the store, which is no work
            for delivery in batch[len(results) : len(results) + known]:
                results.append(rendering.content(delivery, versions))
                if within_ms is not None and self._clock.elapsed() - began >= within_ms:
                    return results
            if within_ms is not None:
                break
        return results

    async def _versions(self, batch: Sequence[Delivery]) -> tuple[_Versions, int]:
        """The versions of the first deliveries of the batch, and the number of these deliveries."""
        versions: _Versions = {}
        absent: list[_Key] = []
        known = 0
        for delivery in batch:
            if delivery.template is not None:
                key = (delivery.tenant, delivery.template.name, delivery.template.version)
                if key not in versions:
                    compiled = self._compiled.get(key)
                    if compiled is not None:
                        self._compiled.move_to_end(key)
                    elif len(absent) == LOADED_AT_ONCE:
                        break
                    else:
                        absent.append(key)
                    versions[key] = compiled
            known += 1
        if absent:
            loaded = await asyncio.gather(*(self._loaded(key) for key in absent))
            versions.update(zip(absent, loaded, strict=True))
        return versions, known

    async def _loaded(self, key: _Key) -> Compiled | TemplateError | None:
        """The version, compiled and cached; the error if it cannot be compiled; None if it does not exist."""
        version = await self._store.version(*key)
        if version is None:
            return None
        try:
            large = _size(version) > LARGE
            compiled = await asyncio.to_thread(compile_version, version) if large else compile_version(version)
            self._compiled[key] = compiled
        except TemplateError as error:
            return error
        while len(self._compiled) > self._capacity:
            self._compiled.popitem(last=False)
        return compiled


class _Rendering:
    """The rendering of one batch. A newsletter has the same data for everybody: each content is rendered once."""

    def __init__(self) -> None:
        self._decoded: dict[bytes, Mapping[str, Any] | TemplateError] = {}
        self._rendered: dict[tuple[object, ...], RenderedContent | TemplateError] = {}

    def content(self, delivery: Delivery, versions: _Versions) -> RenderedContent | TemplateError:
        """The content of a delivery, or why it has none."""
        template = delivery.template
        if template is None:
            return _literal(delivery)
        version = (delivery.tenant, template.name, template.version)
        key = (version, delivery.channel.value, delivery.locale, delivery.timezone, delivery.data)
        content = self._rendered.get(key)
        if content is None:
            content = self._rendered[key] = self._of_template(delivery, version, versions[version])
        return content

    def _of_template(
        self, delivery: Delivery, version: _Key, compiled: Compiled | TemplateError | None
    ) -> RenderedContent | TemplateError:
        if compiled is None:
            _, name, number = version
            return TemplateError(f"there is no version {number} of {name}")
        if isinstance(compiled, TemplateError):
            return compiled
        data = self._decoded.get(delivery.data)
        if data is None:
            data = self._decoded[delivery.data] = _decoded(delivery.data)
        if isinstance(data, TemplateError):
            return data
        try:
            return _fit(delivery, compiled.render(delivery.channel, delivery.locale, delivery.timezone, data))
        except TemplateError as error:
            return error


def _size(version: TemplateVersion) -> int:
    """How many characters all texts of the version have."""
    texts = [
        text
        for content in version.contents.values()
        for channel in content.channels()
        for text in msgspec.structs.astuple(getattr(content, channel.value))
    ]
    return sum(len(text) for text in texts if isinstance(text, str))


def _published(version: TemplateVersion) -> PublishedTemplate:
    return PublishedTemplate(
        ref=TemplateRef(version.name, version.version),
        channels=_channels(version),
        required=tuple(name for name, variable in version.variables.items() if variable.required),
        printed=printed(version),
    )


def _channels(version: TemplateVersion) -> tuple[Channel, ...]:
    with_content = {channel for content in version.contents.values() for channel in content.channels()}
    return tuple(channel for channel in Channel if channel in with_content)


def _literal(delivery: Delivery) -> RenderedContent | TemplateError:
    """The inline content of the delivery as it was given; a mail with HTML alone gets a text too."""
    content: RenderedContent | None = None
    if delivery.content is not None:
        content = getattr(delivery.content, delivery.channel.value)
    if content is None:
        return TemplateError(f"there is no content for {delivery.channel.value}", delivery.channel.value)
    if isinstance(content, EmailContent) and content.text is None and content.html is not None:
        content = structs.replace(content, text=_text_of(content.html))
    return _fit(delivery, content)


@lru_cache(maxsize=64)
def _text_of(html: str) -> str | None:
    """The text for a mail that was given as HTML alone; None if the HTML shows none or has too many tags."""
    if _is_intricate(html):
        return None
    text = to_text(html)
    return None if is_blank(text) else text + "\n"


def _is_intricate(html: str) -> bool:
    """Whether the HTML has so many tags and entities that reading it would take long."""
    return html.count("<") + html.count("&") > MOST_MARKS


def _fit(delivery: Delivery, content: RenderedContent) -> RenderedContent | TemplateError:
    """The content, or the error that says why no vendor could send it."""
    problem = unfit(content)
    if problem is None and isinstance(content, EmailContent) and is_blank(content.text) and not _shows(content.html):
        problem = Unfit(Reason.EMPTY_CONTENT, "html", "the HTML shows nothing")
    if problem is None:
        return content
    return TemplateError(problem.detail, f"{delivery.channel.value}.{problem.field}", problem.reason)


def _shows(html: str | None) -> bool:
    return html is not None and (_is_intricate(html) or "<img" in html.lower() or _text_of(html) is not None)


def _decoded(data: bytes) -> Mapping[str, Any] | TemplateError:
    try:
        return _decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return TemplateError(f"the data cannot be read: {error}")
