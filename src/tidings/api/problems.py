"""Problem details (RFC 9457): the shape of every refusal of the API.

`code` is stable and meant for programs; `detail` is a sentence for the person who reads the log. If a field of the body
is at fault, `path` is its JSON path; if a part of the URL or a header is, `parameter` is its name.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from msgspec import Struct

from tidings.model.errors import (
    Archived,
    BadId,
    BadReceipt,
    Conflict,
    Invalid,
    NotFound,
    Overloaded,
    TemplateError,
    TidingsError,
    Unavailable,
)

MEDIA_TYPE = "application/problem+json"

_BAD_REQUEST = frozenset({"malformed_json", "invalid_cursor", "invalid_idempotency_key"})
_UNPROCESSABLE_CONFLICTS = frozenset({"idempotency_key_reused"})
_encoder = msgspec.json.Encoder()
_SHOWN_CHARS = 100
"""How much of a caller's own text an answer repeats."""


class Problem(Struct, frozen=True, omit_defaults=True):
    """The body of a refusal."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    path: str | None = None
    parameter: str | None = None
    state: str | None = None
    request_id: str | None = None


class Refused(TidingsError):
    """A request is refused with this status, problem and `headers`."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        path: str | None = None,
        parameter: str | None = None,
        state: str | None = None,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.path = path
        self.parameter = parameter
        self.state = state
        self.headers = tuple(headers)

    def problem(self, request_id: str | None = None) -> Problem:
        """The body of the answer."""
        return Problem(
            type=f"urn:problem-type:tidings:{self.code}",
            title=self.code.replace("_", " ").capitalize(),
            status=self.status,
            detail=self.detail,
            code=self.code,
            path=self.path,
            parameter=self.parameter,
            state=self.state,
            request_id=request_id,
        )


def refusal(error: TidingsError) -> Refused:
    """The refusal that HTTP gives for an error of the stages, services and backends."""
    match error:
        case Refused():
            return error
        case Invalid():
            status = 400 if error.code in _BAD_REQUEST else 404 if error.code == "unknown_user" else 422
            if error.code == "too_large" and error.path == "$":
                status = 413
            if error.path.startswith("$"):
                return Refused(status, error.code, error.detail, path=error.path)
            return Refused(status, error.code, error.detail, parameter=error.path)
        case BadId():
            return Refused(404, "not_found", f"{error}; so there is nothing under it")
        case Archived():
            return Refused(410, "archived", str(error))
        case NotFound():
            return Refused(404, "not_found", str(error))
        case Conflict():
            status = 422 if error.code in _UNPROCESSABLE_CONFLICTS else 409
            return Refused(status, error.code, error.detail, headers=_retry_after(error.retry_after_s))
        case BadReceipt():
            # The caller may be anyone: only the log says which setting or signature is wrong.
            return Refused(403, "invalid_receipt", "nothing proves that this comes from the vendor; the log says why")
        case TemplateError():
            return Refused(422, "template_error", error.detail, path=f"$.{error.path}" if error.path else "$")
        case Unavailable():
            code = "overloaded" if isinstance(error, Overloaded) else "unavailable"
            return Refused(503, code, str(error), headers=_retry_after(error.retry_after_s))
        case _:
            return internal()


def _retry_after(seconds: float | None) -> list[tuple[bytes, bytes]]:
    return [] if seconds is None else [(b"retry-after", b"%d" % max(1, round(seconds)))]


def internal() -> Refused:
    """The refusal for an unforeseen error. It reveals nothing of the error."""
    return Refused(500, "internal_error", "something went wrong on our side; the log has it under this request id")


def of_status(status: int, detail: str, headers: Sequence[tuple[bytes, bytes]] = ()) -> Refused:
    """The refusal for an error of the web framework's own (no such route, method not allowed)."""
    phrase = HTTPStatus(status).phrase
    return Refused(status, phrase.lower().replace(" ", "_").replace("-", "_"), detail, headers=headers)


def unknown_parameter(name: str, known: Collection[str]) -> Refused:
    """The refusal of a query parameter that the operation does not have; `known` are the ones that it has."""
    shown = name[:_SHOWN_CHARS]
    near = difflib.get_close_matches(shown, known, n=1)
    if near:
        hint = f"; did you mean {near[0]}?"
    else:
        hint = f"; possible: {', '.join(sorted(known))}" if known else "; this operation takes none"
    return Refused(400, "unknown_parameter", f"there is no query parameter {shown!r} here{hint}", parameter=shown)


def of_item(error: TidingsError) -> Problem:
    """The problem of one item of a batch, without the request id: the answer's header has it."""
    return refusal(error).problem()


def encode(refused: Refused, request_id: str | None) -> bytes:
    """The bytes of the body."""
    return _encoder.encode(refused.problem(request_id))


def _is_branch(part: int | str) -> bool:
    """Whether this part of a location names a branch of a pydantic union: fields of ours are all identifiers."""
    return not isinstance(part, str) or not part.isidentifier()


_CODES_OF_TYPES = {"missing": "missing_field", "extra_forbidden": "unknown_field", "json_invalid": "malformed_json"}


def of_validation(errors: Sequence[Any], body: Any = None) -> Refused:
    """The refusal for pydantic's errors: the first one, with a JSON path or a parameter's name.

    `errors` come from `ValidationError.errors()`; their locations start with `body`, `query`, `path` or `header`.
    `body` is the decoded body.
    """
    first = errors[0]
    place, *inner = first["loc"]
    code, detail = code_and_detail(first)
    rest = f" ({len(errors) - 1} more like this)" if len(errors) > 1 else ""
    if place == "body":
        return Refused(422, code, detail + rest, path=json_path(inner, body))
    name = str(inner[0]) if inner else str(place)
    return Refused(400, "invalid_parameter", f"{name}: {detail}{rest}", parameter=name)


def code_and_detail(error: Any) -> tuple[str, str]:
    """Our code and sentence for one of pydantic's errors."""
    kind = str(error["type"])
    if kind == "missing":
        return "missing_field", "this field is required"
    if kind == "extra_forbidden":
        return "unknown_field", "there is no such field here; remove it or correct its name"
    text = str(error["msg"])
    detail = text[:1].lower() + text[1:]
    if kind.endswith(("_type", "_parsing")) or kind in {"dict_type", "list_type", "none_required"}:
        return "wrong_type", detail
    return _CODES_OF_TYPES.get(kind, "invalid_value"), detail


def json_path(parts: Sequence[int | str], body: Any) -> str:
    """`$.users[0].email` for `("users", 0, "email")` (RFC 9535); names that are no identifiers are quoted.

    A pydantic location also names branches of unions (`literal['all']`). So a part counts only if it is in `body`, or
    if it is the last one, which names a missing field.
    """
    path = "$"
    for number, part in enumerate(parts):
        if isinstance(body, dict) and (part in body or (number == len(parts) - 1 and not _is_branch(part))):
            body = body.get(str(part))
        elif isinstance(body, list) and isinstance(part, int) and 0 <= part < len(body):
            body = body[part]
        else:
            continue
        if isinstance(part, int):
            path += f"[{part}]"
        elif part.isidentifier():
            path += f".{part}"
        else:
            path += "['" + part.replace("\\", "\\\\").replace("'", "\\'") + "']"
    return path
