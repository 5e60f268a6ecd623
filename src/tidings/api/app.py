"""The app: FastAPI with the resources, behind the front that answers the hot routes."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from tidings.api import (
    categories,
    docs,
    inbox,
    notifications,
    openapi,
    operations,
    preferences,
    problems,
    receipts,
    suppressions,
    users,
)
from tidings.api.auth import Keyring
from tidings.api.front import REQUEST_ID, Front, log_refusal
from tidings.api.hot import Hot
from tidings.api.problems import Refused
from tidings.api.services import Services
from tidings.model.errors import TidingsError

_ROUTERS = (notifications, users, preferences, categories, suppressions, inbox, receipts, operations, docs)


def create_app(services: Services) -> ASGIApp:
    """The API as one ASGI app."""
    resources = FastAPI(
        title="Tidings",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    resources.state.services = services
    for module in _ROUTERS:
        resources.include_router(module.router)
    _publish_document(resources, services)
    _tell_problems(resources)
    keyring = Keyring(services.tenants, services.clock)
    hot = Hot(services.accept, keyring, services.limits, services.accepted)
    return Front(resources, hot, keyring, services.limits)


def _publish_document(resources: FastAPI, services: Services) -> None:
    """Written once, when the app is made, so that a document that cannot be written is noticed at start."""
    document = openapi.document(resources, services.public_url, services.limits, services.clock.now())
    resources.state.allowed = openapi.allowed_methods(document)
    body = msgspec.json.encode(document)

    async def published(_: Request) -> Response:
        return Response(body, media_type="application/json")

    resources.add_route(docs.DOCUMENT, published, include_in_schema=False)


def _tell_problems(resources: FastAPI) -> None:
    async def refuse(request: Request, error: Exception) -> Response:
        refused = _refused(request, error)
        if isinstance(error, TidingsError):
            log_refusal(request.scope, refused, error)  # others are raised again, and logged by the front
        return Response(
            problems.encode(refused, request.scope.get(REQUEST_ID)),
            refused.status,
            headers={name.decode("latin-1"): value.decode("latin-1") for name, value in refused.headers},
            media_type=problems.MEDIA_TYPE,
        )

    for kind in (TidingsError, RequestValidationError, HTTPException, Exception):
        resources.add_exception_handler(kind, refuse)


def _refused(request: Request, error: Exception) -> Refused:
    match error:
        case TidingsError():
            return problems.refusal(error)
        case RequestValidationError():
            return problems.of_validation(error.errors())
        case HTTPException(status_code=404):
            return Refused(404, "not_found", f"there is nothing at {request.url.path[:200]}; see /docs")
        case HTTPException(status_code=405):
            allowed = _allowed(request) or (error.headers or {}).get("Allow", "GET")
            detail = f"{request.method} is not possible here; possible: {allowed}"
            return problems.of_status(405, detail, [(b"allow", allowed.encode())])
        case HTTPException():
            return problems.of_status(error.status_code, str(error.detail))
        case _:
            return problems.internal()


def _allowed(request: Request) -> str | None:
    """The methods of the path, those of the hot routes included."""
    table: list[tuple[list[str], str]] = request.app.state.allowed
    path: Any = request.url.path.split("/")
    for segments, methods in table:
        if len(segments) == len(path) and all(
            expected == given or expected.startswith("{") for expected, given in zip(segments, path, strict=True)
        ):
            return methods
    return None
