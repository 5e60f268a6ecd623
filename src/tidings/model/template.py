"""Templates: versioned, per channel, per locale content."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from tidings.model.notification import Content


class Variable(Struct, frozen=True, omit_defaults=True):
    """A declared variable of a template. `example` is used by previews that are given no data."""

    required: bool = True
    description: str = ""
    example: Any = None


class TemplateVersion(Struct, frozen=True, omit_defaults=True):
    """One immutable version of a template.

    `contents` maps a BCP 47 locale to source text per channel. Email `html` that starts with `<mjml` was compiled to
    HTML when the version was created, and is stored compiled in `html`; `sources` keeps what the author wrote.
    """

    name: str
    version: int
    contents: dict[str, Content]
    default_locale: str = "en"
    variables: dict[str, Variable] = {}
    description: str = ""
    created_at: int = 0
    sources: dict[str, Content] = {}


class TemplateSummary(Struct, frozen=True):
    """A template's newest version, and the published one (None: nothing is published)."""

    name: str
    latest: int
    published: int | None
    description: str = ""


class VersionSummary(Struct, frozen=True):
    """A version without its contents. `created_at` is in milliseconds since the epoch."""

    name: str
    version: int
    description: str
    created_at: int
