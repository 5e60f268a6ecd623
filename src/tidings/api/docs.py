"""The page at /docs: Swagger UI out of an installed package, so that it works without a network.

The assets come from `fastapi-offline`, which releases them with each Swagger UI; its app class is not used, because it
would serve its own routes. The page may load nothing from elsewhere: its content security policy forbids it.
"""

from __future__ import annotations

from importlib.resources import files

import fastapi_offline
from fastapi import APIRouter
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, Response

from tidings.model.errors import NotFound

router = APIRouter(include_in_schema=False)

PAGE = "/docs"
DOCUMENT = "/openapi.json"
_ASSETS = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
    "favicon.png": "image/png",
}
_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


@router.get(PAGE)
async def docs() -> HTMLResponse:
    """Swagger UI over our OpenAPI document."""
    page = get_swagger_ui_html(
        openapi_url=DOCUMENT,
        title="Tidings API",
        swagger_js_url=f"{PAGE}/swagger-ui-bundle.js",
        swagger_css_url=f"{PAGE}/swagger-ui.css",
        swagger_favicon_url=f"{PAGE}/favicon.png",
        swagger_ui_parameters={
            "displayRequestDuration": True,
            "persistAuthorization": True,
            "tryItOutEnabled": True,
            "defaultModelsExpandDepth": 0,
            "validatorUrl": None,
        },
    )
    page.headers["content-security-policy"] = _POLICY
    return page


@router.get(f"{PAGE}/{{name}}")
async def asset(name: str) -> Response:
    """One of Swagger UI's files."""
    content_type = _ASSETS.get(name)
    if content_type is None:
        raise NotFound("file", name)
    body = (files(fastapi_offline) / "static" / name).read_bytes()
    return Response(body, headers={"content-type": content_type, "cache-control": "public, max-age=86400"})
