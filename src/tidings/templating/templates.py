"""The API's operations on templates: make versions, publish and roll back, list, preview."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct, structs

from tidings.model.errors import Conflict, NotFound, TemplateError
from tidings.model.notification import EmailContent, SmsContent
from tidings.model.sending import RenderedContent
from tidings.model.template import TemplateSummary, TemplateVersion, VersionSummary
from tidings.model.vocabulary import Channel
from tidings.policy import addresses
from tidings.policy.content import unfit
from tidings.policy.locale import Direction, direction
from tidings.policy.sms import SmsSize, segments
from tidings.ports.clock import Clock
from tidings.ports.templates import TemplateStore
from tidings.templating.bench import Bench
from tidings.templating.check import checked, examples, path_of
from tidings.templating.compile import Compiled, compile_version
from tidings.templating.renderer import TemplateRenderer

MOST_VERSIONS = 10_000
"""How many versions one template may have."""


class ChannelPreview(Struct, frozen=True):
    """What a reader would get on one channel, or why it cannot be rendered or sent.

    `locale` is the locale of the content. `sms` is the size of a text message. `characters` counts the text that a
    reader sees first: the subject of an email, else the body. `path` is the JSON path of the text that `error` is
    about.
    """

    channel: Channel
    locale: str
    direction: Direction
    content: RenderedContent | None = None
    characters: int = 0
    sms: SmsSize | None = None
    error: str = ""
    path: str = ""


class Preview(Struct, frozen=True):
    """A version as a reader of `locale` would get it. `missing` are the required variables that the data lacks."""

    name: str
    version: int
    locale: str
    direction: Direction
    missing: tuple[str, ...]
    channels: tuple[ChannelPreview, ...]


class Templates:
    """The templates of all tenants. `renderer`, if given, forgets at once what was published before."""

    def __init__(self, store: TemplateStore, clock: Clock, renderer: TemplateRenderer | None = None) -> None:
        self._store = store
        self._clock = clock
        self._renderer = renderer
        self._bench = Bench()

    async def create_version(self, tenant: str, draft: TemplateVersion) -> TemplateVersion:
        """Check and compile a draft, and store it as the next version of its template (its number is ignored).

        Raises:
            Invalid: the draft cannot be a version; says why, with the JSON path.
            Conflict: the template has `MOST_VERSIONS` versions already.
            Overloaded: the tenant has too many checks and previews under way.
        """
        known = await self._store.summary(tenant, draft.name)
        if known is not None and known.latest >= MOST_VERSIONS:
            raise Conflict("too_many", f"a template has at most {MOST_VERSIONS:,} versions; go on under another name")
        version = await self._bench.run(tenant, lambda: checked(draft))
        return await self._store.add_version(tenant, structs.replace(version, version=0, created_at=self._clock.now()))

    async def publish(self, tenant: str, name: str, version: int) -> TemplateSummary:
        """Publish a version: new notifications use it from now on. Raises NotFound."""
        if not await self._store.publish(tenant, name, version):
            raise NotFound("template version", f"{name}@{version}")
        if self._renderer is not None:
            self._renderer.forget(tenant, name)
        return await self.summary(tenant, name)

    async def rollback(self, tenant: str, name: str) -> TemplateSummary:
        """Publish the version before the published one. Raises NotFound, or Conflict when there is none before it."""
        published = (await self.summary(tenant, name)).published
        if published is None:
            raise Conflict("not_published", f"nothing of {name} is published, so there is nothing to roll back")
        older = await self._store.versions(tenant, name, published, 1)
        if not older:
            raise Conflict("nothing_before", f"version {published} of {name} is the first one; publish another instead")
        return await self.publish(tenant, name, older[0].version)

    async def preview(
        self, tenant: str, name: str, version: int | None, locale: str | None, data: Mapping[str, Any] | None
    ) -> Preview:
        """Every channel as a reader of `locale` (None: the default locale) would get it.

        `version` None means the newest one, `data` None the variables' examples. If a channel cannot be rendered, its
        preview says why, and the other channels are rendered.

        Raises:
            NotFound: no such template or version.
            Invalid: `locale` is no language tag.
            Overloaded: the tenant has too many checks and previews under way.
        """
        shown = await self._version_or_newest(tenant, name, version)
        return await self._bench.run(tenant, lambda: _preview(shown, locale, data))

    async def summary(self, tenant: str, name: str) -> TemplateSummary:
        """The summary of one template. Raises NotFound."""
        summary = await self._store.summary(tenant, name)
        if summary is None:
            raise NotFound("template", name)
        return summary

    async def list(self, tenant: str, after: str | None, limit: int) -> Sequence[TemplateSummary]:
        """Templates by name, from `after` (exclusive) on."""
        return await self._store.list(tenant, after, limit)

    async def versions(self, tenant: str, name: str, before: int | None, limit: int) -> Sequence[VersionSummary]:
        """Up to `limit` versions without contents, newest first, from `before` (exclusive) on. Raises NotFound."""
        versions = await self._store.versions(tenant, name, before, limit)
        if not versions:
            await self.summary(tenant, name)
        return versions

    async def version(self, tenant: str, name: str, version: int) -> TemplateVersion:
        """One version. Raises NotFound."""
        found = await self._store.version(tenant, name, version)
        if found is None:
            raise NotFound("template version", f"{name}@{version}")
        return found

    async def _version_or_newest(self, tenant: str, name: str, version: int | None) -> TemplateVersion:
        number = version if version is not None else (await self.summary(tenant, name)).latest
        return await self.version(tenant, name, number)


def _preview(version: TemplateVersion, locale: str | None, data: Mapping[str, Any] | None) -> Preview:
    reader = addresses.locale(locale) if locale is not None else version.default_locale
    values = examples(version) if data is None else data
    compiled = compile_version(version)
    return Preview(
        name=version.name,
        version=version.version,
        locale=reader,
        direction=direction(reader),
        missing=tuple(name for name in compiled.required if values.get(name) is None),
        channels=tuple(_channel_preview(compiled, channel, reader, values) for channel in compiled.channels),
    )


def _channel_preview(compiled: Compiled, channel: Channel, locale: str, values: Mapping[str, Any]) -> ChannelPreview:
    content = compiled.choose(channel, locale).content
    try:
        rendered = compiled.render(channel, locale, None, values)
    except TemplateError as error:
        return ChannelPreview(channel, content.locale, content.direction, error=error.detail, path=path_of(error.path))
    problem = unfit(rendered)
    return ChannelPreview(
        channel,
        content.locale,
        content.direction,
        rendered,
        error="" if problem is None else problem.detail,
        path="" if problem is None else path_of(f"{content.locale}.{channel.value}.{problem.field}"),
        characters=len(_seen_first(rendered)),
        sms=segments(rendered.text) if isinstance(rendered, SmsContent) else None,
    )


def _seen_first(rendered: RenderedContent) -> str:
    if isinstance(rendered, SmsContent):
        return rendered.text
    return rendered.subject if isinstance(rendered, EmailContent) else rendered.body
