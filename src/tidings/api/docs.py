"""The page at /docs: Swagger UI from an installed package, so that it works without a network.

The assets come from `fastapi-offline`, which makes a release for each release of Swagger UI; its app class is not used,
because it would serve its own routes. The content security policy forbids to load anything from elsewhere. All links
are relative, so that the page works under any host name and below any path of a proxy.
"""

from __future__ import annotations

from importlib.resources import files

import fastapi_offline
from fastapi import APIRouter
from fastapi.responses import Response

from tidings.model.errors import NotFound

router = APIRouter(include_in_schema=False)

PAGE = "/docs"
DOCUMENT = "/openapi.json"
_SCRIPT, _STYLE = "text/javascript; charset=utf-8", "text/css; charset=utf-8"
_ASSETS = {
    "swagger-ui-bundle.js": (fastapi_offline.__name__, "static", _SCRIPT),
    "swagger-ui.css": (fastapi_offline.__name__, "static", _STYLE),
    "favicon.png": (fastapi_offline.__name__, "static", "image/png"),
    "docs.js": ("tidings.api", "page", _SCRIPT),
    "docs.css": ("tidings.api", "page", _STYLE),
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


@router.get(PAGE)
async def docs() -> Response:
    """Swagger UI over our OpenAPI document."""
    body = files("tidings.api").joinpath("page", "docs.html").read_bytes()
    return Response(body, headers={"content-type": "text/html; charset=utf-8", "content-security-policy": _POLICY})


@router.get(f"{PAGE}/{{name}}")
async def asset(name: str) -> Response:
    """One of the page's files."""
    if name not in _ASSETS:
        raise NotFound("file", name)
    package, folder, content_type = _ASSETS[name]
    body = files(package).joinpath(folder, name).read_bytes()
    return Response(body, headers={"content-type": content_type, "cache-control": "public, max-age=86400"})
