"""The OpenAPI 3.1 document: FastAPI's routes, the hot routes, msgspec's schemas, and a command to paste for each."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from msgspec import Struct
from pydantic import TypeAdapter

from tidings.api import hot
from tidings.api.calls import PREPARATION
from tidings.api.dead_letters import LetterPage
from tidings.api.notifications import Cancelling, NotificationPage
from tidings.api.problems import MEDIA_TYPE, Problem
from tidings.api.recurrences import RecurrencePage, RecurrenceView
from tidings.api.replays import ReplayPage, ReplayRequest
from tidings.api.samples import BATCH, ORDER, commands
from tidings.api.schemas import plain
from tidings.api.services import Limits
from tidings.api.templates import (
    PreviewRequest,
    PublishRequest,
    TemplatePage,
    TemplateRequest,
    TemplateVariable,
    VersionPage,
    VersionRequest,
    VersionView,
)
from tidings.api.users import UserItem
from tidings.model.notification import EmailContent, InappContent, PushContent, SmsContent
from tidings.pipeline.changes.change import ChangeRequest
from tidings.pipeline.changes.recurrences import RecurrenceChange, RecurrenceRequest
from tidings.pipeline.compose.content import ContentRequest
from tidings.pipeline.compose.requests import MOST_ITEMS, BatchRequest, NotificationRequest
from tidings.report.accounting import AccountView
from tidings.report.letters import LetterDetail, LetterNotification
from tidings.report.notifications import NotificationView
from tidings.templating.templates import ChannelPreview, Preview

VERSION = "1"
_REF = "#/components/schemas/{name}"
METHODS = ("get", "put", "post", "patch", "delete")
_OBJECT = {"type": "object", "additionalProperties": True}

_TAGS = [
    {"name": "Notifications", "description": "Send, read, list, change and cancel."},
    {"name": "Recurrences", "description": "Send again and again."},
    {"name": "Users", "description": "The people who are notified."},
    {"name": "Preferences", "description": "What they want to hear, where and when."},
    {"name": "Categories", "description": "What they can opt out of."},
    {"name": "Suppressions", "description": "Addresses that must not be used any more."},
    {"name": "Templates", "description": "Versioned content, per channel and locale."},
    {"name": "Inbox", "description": "What a product shows under its bell."},
    {"name": "Dead letters", "description": "What ended without success, and sending it again."},
    {"name": "Accounts", "description": "Where everything that was accepted rests."},
    {"name": "Receipts", "description": "What vendors say later."},
    {"name": "Operations", "description": "For those who run Tidings."},
]

_ABOUT = """\
One API call, every channel: Tidings decides whether, when, where and in which language a person should hear about it.

Send the API key that `tidings up` printed as `Authorization: Bearer tk_…`. The commands below read it from a variable:

```bash
export TIDINGS_API_KEY=tk_…
```

- **202 means durable.** What was accepted is delivered or accounted for, whatever happens to a machine.
- **`Idempotency-Key`** (24 hours): the same key and body replays the first answer with `Idempotency-Replayed: true`;
  another body is 422, a first request still under way 409.
- **Errors** are problem details (RFC 9457): `code` is for programs, `path` the JSON path of the culprit, `request_id`
  stands in the header `X-Request-Id`, too, which you may choose yourself, and in our log where the fault is ours (5xx).
- **Limits**, where those who run Tidings set any, are told by the `RateLimit-*` headers; more than that is 429 with
  `Retry-After`. A batch counts as many notifications as it has.
- **Listings** go on with `next` as `cursor`.
- Times are RFC 3339 with an offset; seconds may be left out.
- **Ids** of users are your own text, percent-encoded in paths: a `/` in an id is written `%2F`.
- `null` is as if an optional field were left out. Only in `PATCH /v1/notifications/{id}` it takes `expires_at` away.
- A field or query parameter that an operation does not have is refused (`unknown_field`, `unknown_parameter`), so that
  a typo does not go unnoticed. Of a name that is repeated in a JSON object the last value counts.
"""


def document(app: FastAPI, public_url: str, limits: Limits, now: int) -> dict[str, Any]:
    """The whole document. `now` (milliseconds since the epoch) dates the examples that lie in the future."""
    doc = get_openapi(
        title="Tidings",
        version=VERSION,
        openapi_version="3.1.0",
        summary="The notification system that a team runs itself",
        description=_ABOUT,
        routes=app.routes,
        tags=_TAGS,
        servers=[{"url": ".", "description": "where this document was read"}],
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    doc["x-public-url"] = public_url
    doc["paths"] = _with_hot_routes(doc["paths"])
    schemas = doc.setdefault("components", {}).setdefault("schemas", {})
    _add_schemas(schemas, limits.max_items)
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    doc["components"]["securitySchemes"] = {
        "ApiKey": {"type": "http", "scheme": "bearer", "description": "an API key: `tk_…`"}
    }
    plain(doc)
    for path, operations in doc["paths"].items():
        for method in METHODS:
            if method in operations:
                _finish(public_url, now, path, method, operations[method])
    return doc


def _with_hot_routes(paths: dict[str, Any]) -> dict[str, Any]:
    """The paths with the hot routes in their place: first."""
    single = _hot("send_notification", "Send a notification", NotificationRequest, hot.Acceptance, ORDER)
    single["description"] = (
        "For one person: a stored user, or addresses given inline. Content comes from a template and its data, "
        "or is given per channel and taken literally. 202 when it is durable."
    )
    single["responses"]["202"]["headers"] |= {
        "Location": {"description": "where to read it", "schema": {"type": "string"}}
    }
    batch = _hot("send_notifications", "Send many notifications", BatchRequest, hot.Results, BATCH)
    batch["description"] = (
        f"Up to {MOST_ITEMS:,} at once, with an answer for each in order; a bad one does not spoil the others. 202 "
        "when all that were accepted are durable."
    )
    merged = {hot.SINGLE: {"post": single, **paths.pop(hot.SINGLE, {})}, hot.BATCH: {"post": batch}}
    return merged | paths


def _hot(name: str, summary: str, request: type[Struct], answer: type[Struct], example: Any) -> dict[str, Any]:
    return {
        "tags": ["Notifications"],
        "summary": summary,
        "operationId": name,
        "security": [{"ApiKey": []}],
        "x-scope": "send",
        "parameters": [
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": False,
                "description": "makes a repeated request harmless: any text of your own choosing, such as a UUID",
                "schema": {"type": "string", "minLength": 1, "maxLength": 255},
            }
        ],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _ref(request), "example": example}},
        },
        "responses": {
            "202": {
                "description": "Accepted and durable",
                "headers": {
                    "Idempotency-Replayed": {
                        "description": "`true` when this is the answer to an earlier request with the same key",
                        "schema": {"type": "string"},
                    }
                },
                "content": {"application/json": {"schema": _ref(answer)}},
            }
        },
    }


def _add_schemas(schemas: dict[str, Any], most_users: int) -> None:
    structs = [
        _published(NotificationRequest, data=dict[str, Any] | None, metadata=dict[str, Any] | None),
        _published(NotificationView, metadata=dict[str, Any]),
        _published(ChangeRequest, data=dict[str, Any] | None, metadata=dict[str, Any] | None),
        _published(RecurrenceRequest, request=dict[str, Any]),
        _published(RecurrenceChange, request=dict[str, Any] | None),
        _published(RecurrenceView, request=dict[str, Any]),
        _published(RecurrencePage, recurrences=list[_published(RecurrenceView, request=dict[str, Any])]),  # type: ignore[misc]
        BatchRequest,
        hot.Acceptance,
        hot.Results,
        NotificationPage,
        Cancelling,
        LetterPage,
        _published(LetterDetail, notification=_published(LetterNotification, metadata=dict[str, Any])),
        ReplayRequest,
        ReplayPage,
        AccountView,
        _published(TemplateRequest, contents=dict[str, ContentRequest], variables=dict[str, TemplateVariable] | None),
        _published(VersionRequest, contents=dict[str, ContentRequest], variables=dict[str, TemplateVariable] | None),
        PublishRequest,
        PreviewRequest,
        TemplatePage,
        VersionPage,
        VersionView,
        _published(Preview, channels=list[_published(ChannelPreview, content=dict[str, Any] | None)]),  # type: ignore[misc]
        Problem,
    ]
    for struct in structs:
        _, components = msgspec.json.schema_components([struct], ref_template=_REF)
        for name, schema in components.items():
            schemas.setdefault(name, schema)
    schemas["BatchRequest"]["properties"]["notifications"] = {
        "type": "array",
        "minItems": 1,
        "maxItems": MOST_ITEMS,
        "items": _ref(NotificationRequest),
    }
    for name in ("RecurrenceRequest", "RecurrenceChange", "RecurrenceView"):
        schemas[name]["properties"]["request"] = _ref(NotificationRequest)
    item = TypeAdapter(UserItem).json_schema(ref_template=_REF.replace("{name}", "{model}"))
    schemas |= {name: schema for name, schema in item.pop("$defs", {}).items() if name not in schemas}
    schemas["UserItem"] = item
    schemas["UsersRequest"]["properties"]["users"] = {
        "type": "array",
        "minItems": 1,
        "maxItems": most_users,
        "items": {"$ref": _REF.format(name="UserItem")},
    }
    schemas["ChannelPreview"]["properties"]["content"] = {
        "anyOf": [*(_ref(kind) for kind in (EmailContent, SmsContent, PushContent, InappContent)), {"type": "null"}]
    }
    schemas["RefusedItem"]["properties"]["error"] = _ref(Problem)


def _published(struct: type[Struct], **types: Any) -> type[Struct]:
    """The struct with other types for the fields that it keeps as undecoded JSON, for the sake of the schema."""
    fields: list[Any] = []
    for field in msgspec.structs.fields(struct):
        type_ = types.get(field.name, field.type)
        if field.required:
            fields.append((field.name, type_))
        elif field.default_factory is not msgspec.NODEFAULT:
            fields.append((field.name, type_, msgspec.field(default_factory=field.default_factory)))
        else:
            fields.append((field.name, type_, {} if field.name in types else field.default))
    return msgspec.defstruct(
        struct.__name__,
        fields,
        namespace={"__doc__": struct.__doc__},
        forbid_unknown_fields=struct.__struct_config__.forbid_unknown_fields,
        kw_only=True,
    )


def _finish(public_url: str, now: int, path: str, method: str, operation: dict[str, Any]) -> None:
    """What all operations have: problems, the request id, and an example to paste."""
    responses = operation["responses"]
    if "HTTPValidationError" in str(responses.get("422", "")):
        del responses["422"]
    responses["default"] = {
        "description": "A problem",
        "content": {MEDIA_TYPE: {"schema": _ref(Problem)}},
    }
    limited = operation.get("security") != []
    if limited:
        responses["429"] = _limited()
    for response in responses.values():
        headers = response.setdefault("headers", {})
        if limited:
            headers |= _RATE_LIMITS
        headers["X-Request-Id"] = {"description": "yours, or one of ours", "schema": {"type": "string"}}
    source = commands(public_url, now, path, method, operation, operation.pop(PREPARATION, {}))
    operation["x-codeSamples"] = [{"lang": "Shell", "label": "curl", "source": source}]
    operation["description"] = f"{operation.get('description', '')}\n\n```bash\n{source}\n```".strip()


_RATE_LIMITS = {
    name: {"description": description, "schema": {"type": kind}}
    for name, kind, description in (
        ("RateLimit-Limit", "integer", "what the nearest limit permits at once; absent where you have no limits"),
        ("RateLimit-Remaining", "integer", "what is left of that"),
        ("RateLimit-Reset", "integer", "seconds until all of it is there again"),
        ("RateLimit-Policy", "string", "all your limits: how much in how many seconds, of what"),
    )
}


def _limited() -> dict[str, Any]:
    return {
        "description": "Too much at once for this key or its tenant; nothing was done",
        "headers": {
            "Retry-After": {"description": "seconds until the same will be taken", "schema": {"type": "integer"}}
        },
        "content": {MEDIA_TYPE: {"schema": _ref(Problem)}},
    }


def _ref(schema: type[Struct]) -> dict[str, str]:
    return {"$ref": _REF.format(name=schema.__name__)}
