"""Templates in memory."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from tidings.model.template import TemplateSummary, TemplateVersion, VersionSummary


class MemoryTemplates:
    """See TemplateStore."""

    def __init__(self) -> None:
        self._versions: dict[tuple[str, str], list[TemplateVersion]] = {}
        self._published: dict[tuple[str, str], int] = {}

    async def add_version(self, tenant: str, version: TemplateVersion) -> TemplateVersion:
        """See TemplateStore."""
        versions = self._versions.setdefault((tenant, version.name), [])
        stored = replace(version, version=len(versions) + 1)
        versions.append(stored)
        return stored

    async def version(self, tenant: str, name: str, version: int) -> TemplateVersion | None:
        """See TemplateStore."""
        versions = self._versions.get((tenant, name), [])
        return versions[version - 1] if 0 < version <= len(versions) else None

    async def published(self, tenant: str, name: str) -> TemplateVersion | None:
        """See TemplateStore."""
        number = self._published.get((tenant, name))
        return None if number is None else await self.version(tenant, name, number)

    async def publish(self, tenant: str, name: str, version: int) -> bool:
        """See TemplateStore."""
        if await self.version(tenant, name, version) is None:
            return False
        self._published[tenant, name] = version
        return True

    async def summary(self, tenant: str, name: str) -> TemplateSummary | None:
        """See TemplateStore."""
        versions = self._versions.get((tenant, name))
        if not versions:
            return None
        return TemplateSummary(name, len(versions), self._published.get((tenant, name)), versions[-1].description)

    async def list(self, tenant: str, after: str | None, limit: int) -> Sequence[TemplateSummary]:
        """See TemplateStore."""
        names = sorted(name for owner, name in self._versions if owner == tenant and (after is None or name > after))
        return [summary for name in names[:limit] if (summary := await self.summary(tenant, name)) is not None]

    async def versions(self, tenant: str, name: str, before: int | None, limit: int) -> Sequence[VersionSummary]:
        """See TemplateStore."""
        versions = self._versions.get((tenant, name), [])
        older = versions if before is None else versions[: max(0, before - 1)]
        return [VersionSummary(name, one.version, one.description, one.created_at) for one in older[::-1][:limit]]
