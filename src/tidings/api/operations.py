"""The operations: /healthz, /readyz and /metrics, for the operators of Tidings."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Response

from tidings.api.calls import Shape, services_of
from tidings.api.services import Services

router = APIRouter(tags=["Operations"])

OK = "ok"
STOPPING = "stopping"
_Services = Annotated[Services, Depends(services_of)]
_OPEN: dict[str, list[str]] = {"security": []}


class Health(Shape):
    """The process answers."""

    status: str


class Readiness(Shape):
    """Whether each part that must work answers: `ok`, or its fault."""

    status: str
    parts: dict[str, str]


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
async def readyz(services: _Services, response: Response) -> Readiness:
    """200 if every part that must work answers. On 503 send no requests to this process.

    `stopping` (503 too) means that the process was told to end and answers for a moment longer.
    """
    if services.stopping():
        response.status_code = 503
        return Readiness(status=STOPPING, parts={})
    parts = dict(await services.readiness())
    ready = all(state == OK for state in parts.values())
    if not ready:
        response.status_code = 503
    return Readiness(status=OK if ready else "not ready", parts=parts)


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={200: {"description": "Metrics", "content": {"text/plain": {"schema": {"type": "string"}}}}},
    openapi_extra=_OPEN,
)
async def metrics(services: _Services) -> Response:
    """Counters and histograms in Prometheus' text format."""
    page, content_type = services.metrics()
    return Response(page, headers={"content-type": content_type})
