"""Receipts: what providers say later about a delivery. Vendors call this, and sign instead of having a key."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request, Response

from tidings.api.calls import services_of
from tidings.api.services import Services
from tidings.model.sending import InboundRequest

router = APIRouter(prefix="/v1/receipts", tags=["Receipts"])


@router.post(
    "/{provider}",
    status_code=204,
    response_class=Response,
    summary="Take a vendor's receipts",
    openapi_extra={"security": []},
)
async def take_receipts(
    request: Request,
    services: Annotated[Services, Depends(services_of)],
    provider: Annotated[
        str,
        Path(
            pattern=r"^[a-z0-9_\-]{1,64}$",
            description="the provider's name in the settings",
            examples=["your-provider"],
        ),
    ],
) -> None:
    """The vendor's own format, verified by its signature: 403 without a valid one. 204 when it is durable."""
    raw = request.scope["query_string"].decode("latin-1")
    path = request.scope.get("raw_path", request.scope["path"].encode()).decode("latin-1")
    inbound = InboundRequest(
        url=f"{services.public_url}{path}{'?' + raw if raw else ''}",
        headers=_headers(request),
        query=dict(request.query_params),
        body=await request.body(),
    )
    await services.accept.receipts(provider, inbound)


def _headers(request: Request) -> dict[str, str]:
    """Header names in lower case; one that was sent twice has both values, as RFC 9110 section 5.3 joins them."""
    joined: dict[str, str] = {}
    for name, value in request.headers.items():
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return joined
