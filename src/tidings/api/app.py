"""The API's app: FastAPI with the resources, behind the front that answers the hot routes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from http import HTTPMethod
from types import ModuleType
from typing import Any, NoReturn

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
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
    recurrences,
    replays,
    suppressions,
    templates,
    users,
)
from tidings.api.auth import Keyring
from tidings.api.bodies import BodyMemory
from tidings.api.front import BODY, REQUEST_ID, Front, log_refusal
from tidings.api.hot import BATCH, SINGLE, Hot
from tidings.api.problems import Refused
from tidings.api.receipts import Receipts
from tidings.api.services import Services
from tidings.model.errors import TidingsError

_ROUTERS = (
    notifications,
    recurrences,
    users,
    preferences,
    categories,
    suppressions,
    templates,
    inbox,
    dead_letters,
    replays,
    accounting,
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
    resources.state.operating = services.operating
    modules = [
        module
        for module in _ROUTERS
        if (services.operations or module is not operations) and (services.docs or module is not docs)
    ]
    for path, methods in [*_methods_to_refuse(_methods(modules)), (receipts.PATH, _all_but({"POST"}))]:
        resources.add_route(path, _refuse_method, methods=methods, include_in_schema=False)
    for module in modules:
        resources.include_router(module.router)
    _publish_document(resources, services)
    _answer_errors_with_problems(resources)
    keyring = Keyring(services.tenants, services.clock)
    memory = BodyMemory(services.limits.max_bodies_bytes)
    hot = Hot(services.accept, services.limits, memory, services.accepted)
    taking = Receipts(services.accept, services.public_url, services.limits, memory)
    return Front(resources, hot, taking, keyring, services.limiter, services.limits, memory, services.vitals)


class _PublishedDocument:
    """The OpenAPI document. It is made when it is first asked for, because most processes never are."""

    def __init__(self, resources: FastAPI, services: Services) -> None:
        self._resources = resources
        self._services = services

    @cached_property
    def document(self) -> dict[str, Any]:
        """The document as Python values."""
        services = self._services
        return openapi.document(self._resources, services.public_url, services.limits, services.clock.now())

    @cached_property
    def body(self) -> bytes:
        """The document as JSON."""
        return msgspec.json.encode(self.document)

    def methods_of(self, path: str) -> str | None:
        """The methods of a path, as `GET, POST`; None for a path outside the document."""
        paths = self.document["paths"]
        # A path that fits several templates belongs to the one with the fewest parameters.
        fitting = sorted(
            (template for template in paths if _fits(template, path)), key=lambda template: template.count("{")
        )
        if not fitting:
            return None
        return ", ".join(sorted(method.upper() for method in openapi.METHODS if method in paths[fitting[0]]))


def _fits(template: str, path: str) -> bool:
    """Whether the template covers the path. `path` may be a template too."""
    expected, given = template.split("/"), path.split("/")
    return len(expected) == len(given) and all(
        part == segment or segment.startswith("{") for segment, part in zip(expected, given, strict=True)
    )


def _methods(modules: Iterable[ModuleType]) -> Mapping[str, set[str]]:
    """The methods of each path, also of those that FastAPI does not serve."""
    methods = {SINGLE: {"POST"}, BATCH: {"POST"}}
    for module in modules:
        for route in module.router.routes:
            if isinstance(route, APIRoute):
                methods.setdefault(route.path, set()).update(route.methods or ())
    return methods


def _methods_to_refuse(methods: Mapping[str, set[str]]) -> Iterator[tuple[str, list[str]]]:
    """Each path that another path's template covers too, with the methods that it does not have.

    A literal path wins over a template (OpenAPI 3.1, "Path Templating Matching"), whatever the method. Otherwise
    `PUT /v1/users/batch` would store a user with the id `batch`.
    """
    for path, own_methods in methods.items():
        if any(other != path and _fits(other, path) for other in methods):
            yield path, _all_but(own_methods)


def _all_but(methods: set[str]) -> list[str]:
    return sorted(set(HTTPMethod) - methods)


async def _refuse_method(_: Request) -> NoReturn:
    raise HTTPException(405)


def _publish_document(resources: FastAPI, services: Services) -> None:
    resources.state.published = _PublishedDocument(resources, services)

    async def published(request: Request) -> Response:
        return Response(request.app.state.published.body, media_type="application/json")

    if services.docs:
        resources.add_route(docs.DOCUMENT, published, include_in_schema=False)


def _answer_errors_with_problems(resources: FastAPI) -> None:
    async def refuse(request: Request, error: Exception) -> Response:
        refused = _refused(request, error)
        if isinstance(error, TidingsError | RequestValidationError | HTTPException):
            log_refusal(request.scope, refused, error)  # FastAPI raises the others again, and the front logs them
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
            return problems.of_validation(error.errors(), request.scope.get(BODY))
        case HTTPException(status_code=404):
            return Refused(404, "not_found", f"there is nothing at {request.scope['path'][:200]}; see /docs")
        case HTTPException(status_code=405):
            published: _PublishedDocument = request.app.state.published
            allowed = published.methods_of(request.scope["path"]) or (error.headers or {}).get("Allow", "GET")
            detail = f"{request.method} is not possible here; possible: {allowed}"
            return problems.of_status(405, detail, [(b"allow", allowed.encode())])
        case HTTPException():
            return problems.of_status(error.status_code, str(error.detail))
        case _:
            return problems.internal()
