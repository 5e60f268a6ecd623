"""Templates: versioned content, per channel and locale."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Path, Request, Response
from msgspec import Struct

from tidings.api.calls import Caller, Cursor, Limit, StrictRoute, answer, answered, converted, operation, read
from tidings.api.samples import DEMO_TEMPLATE, VERSION, WELCOME
from tidings.model.errors import Conflict, NotFound
from tidings.model.notification import Content
from tidings.model.template import TemplateSummary, TemplateVersion, Variable
from tidings.model.tenant import Scope
from tidings.pipeline.compose.content import ContentRequest
from tidings.report.notifications import rfc3339
from tidings.templating.check import is_name, path_of
from tidings.templating.templates import Preview

router = APIRouter(prefix="/v1/templates", tags=["Templates"], route_class=StrictRoute)

_LISTING, _VERSIONS = "templates", "template versions"
_MOST_VERSIONS = 1_000_000

WholeNumber = Annotated[
    float, msgspec.Meta(ge=1, le=_MOST_VERSIONS, multiple_of=1, extra_json_schema={"type": "integer"})
]
"""A version's number in a body, written 2 or 2.0: JSON does not distinguish them."""


class TemplateVariable(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A declared variable of a template. Previews without data use `example`."""

    required: bool | None = True
    description: str | None = ""
    example: Any = None

    @property
    def variable(self) -> Variable:
        """The variable as it is stored."""
        return Variable(self.required is not False, self.description or "", self.example)


class VersionRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """A version to create.

    `contents` maps a BCP 47 locale to source text per channel, in the Jinja language; email `html` may be MJML. The
    default locale needs content for every channel that another locale has. Besides Jinja's own filters there are
    `date`, `time`, `datetime`, `number`, `percent`, `currency`, `plural`, `times` and `plus`. Optional `variables` that
    are left out print nothing. Null means that a field is left out.
    """

    contents: dict[str, Any]
    default_locale: str | None = "en"
    variables: dict[str, Any] | None = {}
    description: str | None = ""


class TemplateRequest(VersionRequest, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A template to create, with its first version."""

    name: str


class PublishRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """The version to send from now on."""

    version: WholeNumber


class PreviewRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """The `version` to preview (or the newest), for a reader of `locale`, with `data` (or the variables' examples)."""

    version: WholeNumber | None = None
    locale: str | None = None
    data: dict[str, Any] | None = None


class VersionView(Struct, frozen=True):
    """A version as its author wrote it. `created_at` is RFC 3339, UTC."""

    name: str
    version: int
    contents: dict[str, Content]
    default_locale: str
    variables: dict[str, Variable]
    description: str
    created_at: str


class TemplatePage(Struct, frozen=True):
    """Templates, sorted by name. `next` is the cursor of the following page, null at the end."""

    templates: list[TemplateSummary]
    next: str | None


class VersionRow(Struct, frozen=True):
    """A version without its contents and variables; read the version to get them. `created_at` is RFC 3339, UTC."""

    name: str
    version: int
    description: str
    created_at: str


class VersionPage(Struct, frozen=True):
    """Versions of a template, newest first. `next` is the cursor of the following page, null at the end."""

    versions: list[VersionRow]
    next: str | None


TemplateName = Annotated[str, Path(max_length=100, description="the template's name", examples=[DEMO_TEMPLATE])]
VersionNumber = Annotated[int, Path(ge=1, le=_MOST_VERSIONS, description="counts from 1", examples=[1])]


@router.post(
    "",
    response_class=Response,
    responses=answered(VersionView, "Created", 201),
    **operation(Scope.MANAGE, "Create a template", takes=TemplateRequest, body=WELCOME, status=201),
)
async def create_template(call: Caller, request: Request) -> Response:
    """With its first version, which is checked and compiled. Nothing uses it until it is published."""
    new = read(request, TemplateRequest)
    if await _exists(call, new.name):
        raise Conflict(
            "template_exists",
            f"the template {new.name!r} exists already; create a new version of it, or use another name",
        )
    return answer(_view(await call.services.templates.create_version(call.tenant, _draft(new.name, new))), 201)


@router.get(
    "",
    response_class=Response,
    responses=answered(TemplatePage, "A page"),
    **operation(Scope.READ, "List templates"),
)
async def list_templates(call: Caller, cursor: Cursor = None, limit: Limit = None) -> Response:
    """Sorted by name, each with the numbers of its newest and its published version."""
    size = call.page(limit)
    templates = list(await call.services.templates.list(call.tenant, call.position(_LISTING, cursor, _name), size + 1))
    position = templates[size - 1].name if len(templates) > size else None
    return answer(TemplatePage(templates[:size], call.cursor(_LISTING, position)))


@router.get(
    "/{name}",
    response_class=Response,
    responses=answered(TemplateSummary, "The template"),
    **operation(Scope.READ, "Read a template"),
)
async def get_template(call: Caller, name: TemplateName) -> Response:
    """The numbers of its newest and its published version."""
    return answer(await call.services.templates.summary(call.tenant, name))


@router.post(
    "/{name}/versions",
    response_class=Response,
    responses=answered(VersionView, "Created", 201),
    **operation(
        Scope.MANAGE,
        "Create a new version",
        takes=VersionRequest,
        body=VERSION,
        before=["template"],
        status=201,
        name="welcome",
    ),
)
async def create_version(call: Caller, name: TemplateName, request: Request) -> Response:
    """A version never changes. The published version stays published until another one is."""
    new = read(request, VersionRequest)
    await call.services.templates.summary(call.tenant, name)
    return answer(_view(await call.services.templates.create_version(call.tenant, _draft(name, new))), 201)


@router.get(
    "/{name}/versions",
    response_class=Response,
    responses=answered(VersionPage, "A page"),
    **operation(Scope.READ, "List a template's versions"),
)
async def list_versions(call: Caller, name: TemplateName, cursor: Cursor = None, limit: Limit = None) -> Response:
    """Newest first, without their contents."""
    size, listing = call.page(limit), f"{_VERSIONS}/{name}"
    before = call.position(listing, cursor, _number)
    versions = await call.services.templates.versions(call.tenant, name, before, size + 1)
    rows = [
        VersionRow(version.name, version.version, version.description, rfc3339(version.created_at))
        for version in versions[:size]
    ]
    position = str(rows[-1].version) if len(versions) > size else None
    return answer(VersionPage(rows, call.cursor(listing, position)))


@router.get(
    "/{name}/versions/{version}",
    response_class=Response,
    responses=answered(VersionView, "The version"),
    **operation(Scope.READ, "Read a version"),
)
async def get_version(call: Caller, name: TemplateName, version: VersionNumber) -> Response:
    """Contents and variables, as they were written."""
    return answer(_view(await call.services.templates.version(call.tenant, name, version)))


@router.post(
    "/{name}/publish",
    response_class=Response,
    responses=answered(TemplateSummary, "Published"),
    **operation(Scope.MANAGE, "Publish a version", takes=PublishRequest, body={"version": 1}),
)
async def publish_version(call: Caller, name: TemplateName, request: Request) -> Response:
    """Notifications that are accepted from now on use it; every process does so within a second.

    Any version can be published, older ones too.
    """
    version = int(read(request, PublishRequest).version)
    return answer(await call.services.templates.publish(call.tenant, name, version))


@router.post(
    "/{name}/rollback",
    response_class=Response,
    responses=answered(TemplateSummary, "Rolled back"),
    **operation(Scope.MANAGE, "Roll back to the version before", before=["versions"], name="welcome"),
)
async def roll_back(call: Caller, name: TemplateName) -> Response:
    """Publish the version before the published one. 409 if there is none."""
    return answer(await call.services.templates.rollback(call.tenant, name))


@router.post(
    "/{name}/preview",
    response_class=Response,
    responses=answered(Preview, "The preview"),
    **operation(Scope.READ, "Preview a template", takes=PreviewRequest, required=False, body={"locale": "pt-BR"}),
)
async def preview_template(call: Caller, name: TemplateName, request: Request) -> Response:
    """Every channel as a reader of the locale would get it; for a text message also its size and segments."""
    asked = read(request, PreviewRequest)
    version = None if asked.version is None else int(asked.version)
    return answer(await call.services.templates.preview(call.tenant, name, version, asked.locale, asked.data))


def _name(position: str) -> str:
    """A cursor's position, checked to be a template's name. Raises ValueError."""
    if not is_name(position):
        raise ValueError(position)
    return position


def _number(position: str) -> int:
    """The version number in a cursor's position. Raises ValueError if there is none."""
    number = int(position) if position.isascii() and position.isdigit() else 0
    if not 1 <= number <= _MOST_VERSIONS:
        raise ValueError("this is no version")
    return number


async def _exists(call: Caller, name: str) -> bool:
    try:
        await call.services.templates.summary(call.tenant, name)
    except NotFound:
        return False
    return True


def _draft(name: str, new: VersionRequest) -> TemplateVersion:
    """The version, without a number yet. Raises Invalid for contents and variables of a wrong shape."""
    return TemplateVersion(
        name=name,
        version=0,
        contents={
            locale: converted(raw, ContentRequest, path_of(locale)).content() for locale, raw in new.contents.items()
        },
        default_locale=new.default_locale or "en",
        variables={
            variable: converted(raw, TemplateVariable, f"$.variables.{variable}").variable
            for variable, raw in (new.variables or {}).items()
        },
        description=new.description or "",
    )


def _view(version: TemplateVersion) -> VersionView:
    return VersionView(
        name=version.name,
        version=version.version,
        contents=version.contents | version.sources,
        default_locale=version.default_locale,
        variables=version.variables,
        description=version.description,
        created_at=rfc3339(version.created_at),
    )
