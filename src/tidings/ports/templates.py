"""Templates and their versions.

Every method that takes a `tenant` sees only that tenant's rows. Adapters raise `Unavailable` when the database does not
answer; unless stated otherwise, nothing was written then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tidings.model.template import TemplateSummary, TemplateVersion, VersionSummary


class TemplateStore(Protocol):
    """Templates and their immutable versions."""

    async def add_version(self, tenant: str, version: TemplateVersion) -> TemplateVersion:
        """Store the next version of `version.name`, creating the template if needed; returns it with its number."""
        ...

    async def version(self, tenant: str, name: str, version: int) -> TemplateVersion | None:
        """The version, or None."""
        ...

    async def published(self, tenant: str, name: str) -> TemplateVersion | None:
        """The published version; None if there is none."""
        ...

    async def publish(self, tenant: str, name: str, version: int) -> bool:
        """Publish `version`, also an older one (a roll-back). False if there is no such version."""
        ...

    async def summary(self, tenant: str, name: str) -> TemplateSummary | None:
        """The template's summary, or None."""
        ...

    async def list(self, tenant: str, after: str | None, limit: int) -> Sequence[TemplateSummary]:
        """The tenant's templates, sorted by name, from `after` (exclusive) on."""
        ...

    async def versions(self, tenant: str, name: str, before: int | None, limit: int) -> Sequence[VersionSummary]:
        """Up to `limit` versions with numbers below `before` (None: all), newest first."""
        ...
