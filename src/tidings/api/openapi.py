"""The OpenAPI 3.1 document: FastAPI's routes, the hot routes, msgspec's schemas, and a command to paste for each."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from msgspec import Struct
from pydantic import TypeAdapter

from tidings.api import hot, receipts
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
from tidings.pipeline.compose.content import ContentRequest
from tidings.pipeline.compose.requests import MOST_ITEMS, BatchRequest, NotificationRequest
from tidings.report.accounting import AccountView
from tidings.report.letters import LetterDetail, LetterNotification
from tidings.report.notifications import NotificationView
from tidings.services.change import ChangeRequest
from tidings.services.recurrences import RecurrenceChange, RecurrenceRequest
from tidings.templating.templates import ChannelPreview, Preview

VERSION = "1"
_REF = "#/components/schemas/{name}"
METHODS = ("get", "put", "post", "patch", "delete")
_OBJECT = {"type": "object", "additionalProperties": True}

_TAGS = [
    {"name": "Notifications", "description": "Send, read, list, change and cancel."},
    {"name": "Recurrences", "description": "Send again and again."},
    {"name": "Users", "description": "The people who are notified."},
    {"name": "Preferences", "description": "Which categories a user wants, on which channels, and when."},
    {"name": "Categories", "description": "Kinds of notifications that users can opt out of."},
    {"name": "Suppressions", "description": "Addresses that must not be used any more."},
    {"name": "Templates", "description": "Versioned content, per channel and locale."},
    {"name": "Inbox", "description": "The items that a product shows under its bell."},
    {"name": "Dead letters", "description": "Deliveries that ended without success, and how to send them again."},
    {"name": "Accounts", "description": "How many notifications were accepted, and in which states they are."},
    {"name": "Receipts", "description": "Vendors' later reports about deliveries."},
    {"name": "Operations", "description": "Health and metrics, for the operators of Tidings."},
]

_ABOUT = """\
One API call, every channel: Tidings decides whether, when, where and in which language a person should hear about it.

Send the API key that `tidings up` printed as `Authorization: Bearer tk_…`. The commands below read it from a variable:

```bash
export TIDINGS_API_KEY=tk_…
```

- **202 means durable.** An accepted notification is delivered or accounted for, whatever happens to a machine.
- **`Idempotency-Key`** (24 hours): repeating the key with the same body replays the first answer, with
  `Idempotency-Replayed: true`. With another body it is 422; while the first request is under way, 409.
- **Errors** are problem details (RFC 9457). `code` is for programs; `path` is the JSON path of the field at fault.
  `request_id` is the value of the header `X-Request-Id`, which you may choose yourself; our log has it for errors on
  our side (5xx).
- **Limits**, if the operator sets any, are shown by the `RateLimit-*` headers; a request beyond them is 429 with
  `Retry-After`. A batch counts as many notifications as it has.
- **Listings**: pass `next` as `cursor` to get the next page.
- Times are RFC 3339 with an offset; seconds may be left out.
- **Ids** of users are your own text, percent-encoded in paths: a `/` in an id is written `%2F`.
- `null` for an optional field means that it is left out, except in `PATCH /v1/notifications/{id}`, where it removes
  `expires_at`.
- A field or query parameter that an operation does not have is refused (`unknown_field`, `unknown_parameter`), so that
  a typo does not go unnoticed. If a name is repeated in a JSON object, the last value counts.
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
        servers=[{"url": ".", "description": "the server of this document"}],
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
    """The paths, with those that FastAPI does not serve: the hot routes first, receipts last."""
    single = _hot("send_notification", "Send a notification", NotificationRequest, hot.Acceptance, ORDER)
    single["description"] = (
        "To one person: a stored user, or addresses given inline. The content comes from a template and its data, "
        "or is given per channel and taken literally. 202 when the notification is durable."
    )
    single["responses"]["202"]["headers"] |= {
        "Location": {"description": "where to read it", "schema": {"type": "string"}}
    }
    batch = _hot("send_notifications", "Send many notifications", BatchRequest, hot.Results, BATCH)
    batch["description"] = (
        f"Up to {MOST_ITEMS:,} at once. The answer has a result for each, in order; a refused one does not affect the "
        "others. 202 when all accepted ones are durable."
    )
    merged = {hot.SINGLE: {"post": single, **paths.pop(hot.SINGLE, {})}, hot.BATCH: {"post": batch}}
    return merged | paths | {receipts.PATH: {"post": receipts.operation()}}


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
                        "description": "`true` if this is the answer to an earlier request with the same key",
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
    """A copy of the struct for its schema. `types` replace the types of fields that hold undecoded JSON."""
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
    """Add to an operation: the problem answers, the common headers, and a command to paste."""
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
        headers["X-Request-Id"] = {"description": "the one you sent, or a new one", "schema": {"type": "string"}}
    source = commands(public_url, now, path, method, operation, operation.pop(PREPARATION, {}))
    operation["x-codeSamples"] = [{"lang": "Shell", "label": "curl", "source": source}]
    operation["description"] = f"{operation.get('description', '')}\n\n```bash\n{source}\n```".strip()


_RATE_LIMITS = {
    name: {"description": description, "schema": {"type": kind}}
    for name, kind, description in (
        ("RateLimit-Limit", "integer", "how much the nearest limit permits at once; absent if you have no limits"),
        ("RateLimit-Remaining", "integer", "how much of the nearest limit is left"),
        ("RateLimit-Reset", "integer", "seconds until the nearest limit is unused again"),
        ("RateLimit-Policy", "string", "all your limits: how much in how many seconds, of what"),
    )
}


def _limited() -> dict[str, Any]:
    return {
        "description": "Too much at once for this key or its tenant; nothing was done",
        "headers": {"Retry-After": {"description": "seconds until you may try again", "schema": {"type": "integer"}}},
        "content": {MEDIA_TYPE: {"schema": _ref(Problem)}},
    }


def _ref(schema: type[Struct]) -> dict[str, str]:
    return {"$ref": _REF.format(name=schema.__name__)}
