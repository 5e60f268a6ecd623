"""Receipts: a vendor's later reports about deliveries. Vendors call this; they have no API key, but a signature."""

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
    """The body has the vendor's own format. 403 without a valid signature; 204 when the receipts are durable."""
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
    """The headers, names in lower case. The values of a repeated header are joined as RFC 9110 section 5.3 says."""
    joined: dict[str, str] = {}
    for name, value in request.headers.items():
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return joined
