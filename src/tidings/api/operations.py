"""The operations: /healthz, /readyz and /metrics, for the operators of Tidings."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from starlette.types import ASGIApp

from tidings.api.calls import Shape
from tidings.api.services import Operating

router = APIRouter(tags=["Operations"])

OK = "ok"
STOPPING = "stopping"


def _operating_of(request: Request) -> Operating:
    operating: Operating = request.app.state.operating
    return operating


_Operating = Annotated[Operating, Depends(_operating_of)]
_OPEN: dict[str, list[str]] = {"security": []}


class Health(Shape):
    """The process answers."""

    status: str


class Readiness(Shape):
    """Whether each part that must work answers: `ok`, or its fault. `roles`: what the process runs."""

    status: str
    parts: dict[str, str]
    roles: tuple[str, ...]


@router.get("/healthz", summary="Is the process alive?", openapi_extra=_OPEN)
async def healthz() -> Health:
    """200 as long as the process answers; no other part is checked. Restart the process when this fails."""
    return Health(status=OK)


@router.get(
    "/readyz",
    summary="Can it take requests?",
    responses={503: {"model": Readiness, "description": "A part does not answer, or the process is stopping"}},
    openapi_extra=_OPEN,
)
async def readyz(operating: _Operating, response: Response) -> Readiness:
    """200 if every part that must work answers. On 503 send no requests to this process.

    `stopping` (503 too) means that the process was told to end and answers for a moment longer.
    """
    if operating.stopping():
        response.status_code = 503
        return Readiness(status=STOPPING, parts={}, roles=operating.roles)
    parts = dict(await operating.readiness())
    ready = all(state == OK for state in parts.values())
    if not ready:
        response.status_code = 503
    return Readiness(status=OK if ready else "not ready", parts=parts, roles=operating.roles)


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={200: {"description": "Metrics", "content": {"text/plain": {"schema": {"type": "string"}}}}},
    openapi_extra=_OPEN,
)
async def metrics(operating: _Operating) -> Response:
    """Counters and histograms in Prometheus' text format."""
    page, content_type = operating.metrics()
    return Response(page, headers={"content-type": content_type})


def create_operations(operating: Operating) -> ASGIApp:
    """The operations as an app of their own, for a separate listener."""
    app = FastAPI(title="Tidings operations", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.state.operating = operating
    app.include_router(router)
    return app
