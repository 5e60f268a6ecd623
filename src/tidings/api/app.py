"""The app: FastAPI with the resources, behind the front that answers the hot routes."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from tidings.api import (
    accounting,
    categories,
    dead_letters,
    docs,
    inbox,
    notifications,
    openapi,
    operations,
    preferences,
    problems,
    receipts,
    replays,
    suppressions,
    templates,
    users,
)
from tidings.api.auth import Keyring
from tidings.api.front import REQUEST_ID, Front, log_refusal
from tidings.api.hot import Hot
from tidings.api.problems import Refused
from tidings.api.services import Services
from tidings.model.errors import TidingsError

_ROUTERS = (
    notifications,
    users,
    preferences,
    categories,
    suppressions,
    templates,
    inbox,
    dead_letters,
    replays,
    accounting,
    receipts,
    operations,
    docs,
)


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
    return Front(resources, hot, keyring, services.limits, services.vitals)


class _Published:
    """The document, written when it is first asked for: most processes are never asked."""

    def __init__(self, resources: FastAPI, services: Services) -> None:
        self._resources = resources
        self._services = services

    @cached_property
    def document(self) -> dict[str, Any]:
        """As Python values."""
        services = self._services
        return openapi.document(self._resources, services.public_url, services.limits, services.clock.now())

    @cached_property
    def body(self) -> bytes:
        """As JSON."""
        return msgspec.json.encode(self.document)

    def allowed(self, path: str) -> str | None:
        """The methods of the path, those of the hot routes included; None for a path outside the document."""
        given = path.split("/")
        for template, methods in self.document["paths"].items():
            segments = template.split("/")
            if len(segments) == len(given) and all(
                expected == part or expected.startswith("{") for expected, part in zip(segments, given, strict=True)
            ):
                return ", ".join(sorted(method.upper() for method in openapi.METHODS if method in methods))
        return None


def _publish_document(resources: FastAPI, services: Services) -> None:
    resources.state.published = _Published(resources, services)

    async def published(request: Request) -> Response:
        return Response(request.app.state.published.body, media_type="application/json")

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
            return Refused(404, "not_found", f"there is nothing at {request.scope['path'][:200]}; see /docs")
        case HTTPException(status_code=405):
            published: _Published = request.app.state.published
            allowed = published.allowed(request.scope["path"]) or (error.headers or {}).get("Allow", "GET")
            detail = f"{request.method} is not possible here; possible: {allowed}"
            return problems.of_status(405, detail, [(b"allow", allowed.encode())])
        case HTTPException():
            return problems.of_status(error.status_code, str(error.detail))
        case _:
            return problems.internal()
