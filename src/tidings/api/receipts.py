"""Receipts: a vendor's later reports about deliveries, straight on ASGI: there are as many as notifications.

Vendors call this. They have no API key; their signature is checked instead.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl

from starlette.types import Receive, Scope

from tidings.api import bodies, paths
from tidings.api.services import Accepts, Limits
from tidings.model.sending import InboundRequest

PATH = "/v1/receipts/{provider}"

_PATH = re.compile(r"/v1/receipts/([^/]+)")


def provider_of(method: str, path: str) -> str | None:
    """The provider that a request brings receipts of; None if it is another request."""
    found = _PATH.fullmatch(path) if method == "POST" else None
    return None if found is None else found[1]


class Receipts:
    """Takes vendors' receipts."""

    def __init__(self, accept: Accepts, public_url: str, limits: Limits, body_memory: bodies.BodyMemory) -> None:
        self._accept = accept
        self._public_url = public_url
        self._most_bytes = limits.max_body_bytes
        self._body_memory = body_memory

    async def take(self, provider: str, scope: Scope, headers: dict[bytes, bytes], receive: Receive) -> None:
        """Return when the receipts in the request are durable. Raises TidingsError for every refusal."""
        raw_query: bytes = scope["query_string"]
        paths.refuse_nul(scope["path"], raw_query)
        body = await bodies.read(receive, headers, self._most_bytes, self._body_memory)
        path, query = scope["raw_path"].decode("latin-1"), raw_query.decode("latin-1")
        inbound = InboundRequest(
            url=f"{self._public_url}{path}{'?' + query if query else ''}",
            headers=_joined(scope["headers"]),
            query=dict(parse_qsl(query, keep_blank_values=True)),
            body=body,
        )
        await self._accept.receipts(provider, inbound)


def operation() -> dict[str, Any]:
    """The operation in the OpenAPI document."""
    return {
        "tags": ["Receipts"],
        "summary": "Take a vendor's receipts",
        "description": "The body has the vendor's own format. 403 without a valid signature; 204 when the receipts are "
        "durable.",
        "operationId": "take_receipts",
        "security": [],
        "parameters": [
            {
                "name": "provider",
                "in": "path",
                "required": True,
                "description": "the provider's name in the settings",
                "schema": {"type": "string", "pattern": r"^[a-z0-9_\-]{1,64}$", "examples": ["your-provider"]},
            }
        ],
        "responses": {"204": {"description": "Taken and durable"}},
    }


def _joined(headers: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """The headers, names in lower case. The values of a repeated header are joined as RFC 9110 section 5.3 says."""
    joined: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return joined
