from __future__ import annotations

import asyncio
import json
import re
from typing import Any, Literal

import pytest
from axe_playwright_python.async_playwright import Axe
from msgspec.structs import replace
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from playwright.async_api import Route, async_playwright

from support import needs
from support.api import Api
from support.parts import chromium_executable
from tidings.api.samples import DEMO_USER, UNREACHABLE
from tidings.model.history import InboxItem
from tidings.model.ids import NOTIFICATION_PREFIX, delivery_id, from_text
from tidings.model.notification import Content, Notification, Recipient, SmsContent
from tidings.model.outcome import Outcome, Wait
from tidings.model.user import Address
from tidings.model.vocabulary import Channel, State
from tidings.model.wire import encode

METHODS = {"get", "put", "post", "delete", "patch"}
UNSIGNED = "take_receipts"
"""The only operation whose pasted example is refused: only a vendor that is in use can sign a receipt."""


async def document(api: Api) -> dict[str, Any]:
    answer = await api.get("/openapi.json", key=None)
    assert answer.status == 200
    doc: dict[str, Any] = answer.json()
    return doc


def operations(doc: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (method, path, operation)
        for path, item in doc["paths"].items()
        for method, operation in item.items()
        if method in METHODS
    ]


async def test_the_document_is_valid_openapi_31(api: Api) -> None:
    doc = await document(api)
    assert doc["openapi"] == "3.1.0"
    OpenAPIV31SpecValidator(doc).validate()
    assert "HTTPValidationError" not in json.dumps(doc)
    assert "x-preparation" not in json.dumps(doc)


async def test_every_operation_says_what_it_does_and_how_it_fails(api: Api) -> None:
    found = operations(await document(api))
    assert len(found) > 25
    names = [operation["operationId"] for _, _, operation in found]
    assert len(set(names)) == len(names)
    for _, path, operation in found:
        assert operation["summary"], path
        assert operation["tags"], path
        assert "application/problem+json" in operation["responses"]["default"]["content"], path
        assert "422" not in operation["responses"], path
        assert operation["x-codeSamples"][0]["source"].splitlines()[-1].startswith("curl "), path
        assert operation["x-codeSamples"][0]["source"] in operation["description"], path
        is_open = path in {"/healthz", "/readyz", "/metrics"} or path.startswith("/v1/receipts/")
        assert operation["security"] == ([] if is_open else [{"ApiKey": []}]), path


async def test_the_hot_routes_stand_first_with_their_schemas(api: Api) -> None:
    doc = await document(api)
    assert list(doc["paths"])[:2] == ["/v1/notifications", "/v1/notifications/batch"]
    assert set(doc["paths"]["/v1/notifications"]) == {"post", "get"}
    request = doc["components"]["schemas"]["NotificationRequest"]
    assert {"to", "template", "data", "content", "channels", "send_at", "metadata"} <= set(request["properties"])
    assert {option["type"] for option in request["properties"]["data"]["anyOf"]} == {"object", "null"}
    assert request["required"] == ["to"]
    assert request["additionalProperties"] is False


def examples(doc: dict[str, Any]) -> list[tuple[str, dict[str, Any], Any]]:
    found: list[tuple[str, dict[str, Any], Any]] = []
    for method, path, operation in operations(doc):
        bodies = [("request", operation.get("requestBody", {}))]
        bodies += [(status, response) for status, response in operation["responses"].items()]
        for where, body in bodies:
            content = [media for media in body.get("content", {}).values() if "example" in media]
            found += [(f"{method} {path} {where}", media["schema"], media["example"]) for media in content]
    return found


async def test_every_example_is_valid_by_its_schema(api: Api) -> None:
    doc = await document(api)
    found = examples(doc)
    for where, schema, example in found:
        errors = list(OAS31Validator({**schema, "components": doc["components"]}).iter_errors(example))
        assert errors == [], (where, errors)
    with_example = {where for where, _, _ in found}
    for method, path, operation in operations(doc):
        if "requestBody" in operation and not path.startswith("/v1/receipts/"):
            assert f"{method} {path} request" in with_example


async def test_every_example_works_as_pasted(api: Api) -> None:
    await _recorder(api)
    item = InboxItem(
        delivery_id(from_text(NOTIFICATION_PREFIX, "ntf_01k00000000000000000000000"), 3), "demo", "Hi", "x"
    )
    await api.world.store.inbox.add("shop", [item])
    assert DEMO_USER == "demo"
    failed = []
    for method, path, operation in operations(await document(api)):
        source = operation["x-codeSamples"][0]["source"].replace(api.services.public_url, api.url)
        lines = source.splitlines()
        lines[-1] += " -w '\\n%{http_code}'"
        output = await bash("\n".join(lines), api)
        wanted = {status for status in operation["responses"] if status.isdigit() and status < "400"}
        status = output.rsplit("\n", 1)[-1]
        if status not in ({"403", "404"} if operation["operationId"] == UNSIGNED else wanted):
            failed.append((method, path, source, output))
    assert failed == []


async def bash(script: str, api: Api) -> str:
    environment = {"TIDINGS_API_KEY": await api.key(), "PATH": "/usr/bin:/bin"}
    process = await asyncio.create_subprocess_exec(
        "bash", "-euc", script, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    return output.decode()


async def _recorder(api: Api) -> None:
    """Record accepted notifications at once, in place of the recorder: pending, waiting, or, if unreachable, failed."""
    accept = api.services.accept.accept
    history = api.world.store.history

    async def recorded(tenant: str, body: bytes, idempotency_key: str | None) -> Any:
        answer = await accept(tenant, body, idempotency_key)
        id, now = answer.results[0], api.world.clock.now()
        assert not isinstance(id, Exception)
        noted = Notification(id, tenant, Recipient(user_id="demo"), now, content=Content(sms=SmsContent("x")))
        fact = Outcome(id, tenant, now, State.PENDING, notification=noted)
        if "send_at" in json.loads(body):
            wait = Wait(now + 86_400_000, "requests.normal", "shop/demo", encode(replace(noted, step=1)))
            fact = replace(fact, state=State.DEFERRED, wait=wait)
        await history.append([fact])
        if json.loads(body)["to"].get("phone") == UNREACHABLE["to"]["phone"]:
            number = Address(Channel.SMS, UNREACHABLE["to"]["phone"])
            failed = Outcome(delivery_id(id, 2), tenant, now, State.FAILED, 1, reason="no_route", address=number)
            await history.append([failed])
        return answer

    api.services.accept.accept = recorded  # type: ignore[method-assign]


async def test_the_page_names_nothing_on_other_hosts(api: Api) -> None:
    page = await api.get("/docs", key=None)
    assert page.status == 200
    assert page.headers["content-type"].startswith("text/html")
    text = page.body.decode()
    assert "https://" not in text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    loaded = re.findall(r'(?:src|href)="([^"]+)"', text)
    assert len(loaded) == 5
    for path in loaded:
        assert not path.startswith("/"), "an absolute link is broken behind a path of a proxy"
        asset = await api.get(f"/{path}", key=None)
        assert asset.status == 200
        assert len(asset.body) > 500
        assert "max-age" in asset.headers["cache-control"]


@needs("chromium")
async def test_the_page_works_in_a_browser_without_a_network(api: Api) -> None:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium_executable(), args=["--no-sandbox"])
        try:
            page = await browser.new_page()
            requested: list[str] = []
            complaints: list[str] = []
            page.on("request", lambda request: requested.append(request.url))
            page.on("console", lambda line: complaints.append(line.text) if line.type == "error" else None)
            page.on("pageerror", lambda error: complaints.append(str(error)))
            await page.goto(f"{api.url}/docs")
            await page.get_by_text("Send a notification", exact=True).click()
            await page.get_by_text("order-confirmation").first.wait_for()
            assert await page.locator(".opblock").count() == len(operations(await document(api)))
            assert complaints == []
            assert {url for url in requested if not url.startswith((api.url, "data:"))} == set()
        finally:
            await browser.close()


@needs("chromium")
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_page_works_under_any_name_and_path_and_is_readable(
    api: Api, scheme: Literal["light", "dark"]
) -> None:
    """The page works behind a proxy with another host name and a path prefix, and axe finds nothing serious in it."""
    outside = "http://tidings.example:9000/gate"
    asked: list[str] = []

    async def pass_on(route: Route) -> None:
        asked.append(f"{route.request.method} {route.request.url.removeprefix(outside)}")
        headers = {**await route.request.all_headers(), "host": "tidings.example:9000"}
        await route.fulfill(
            response=await route.fetch(url=route.request.url.replace(outside, api.url), headers=headers)
        )

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium_executable(), args=["--no-sandbox"])
        try:
            page = await browser.new_page(color_scheme=scheme, bypass_csp=True)
            await page.route(f"{outside}/**", pass_on)
            await page.goto(f"{outside}/docs")
            await page.get_by_text("Send a notification", exact=True).click()
            await page.get_by_text(f"curl -sS {outside}/v1/notifications").first.wait_for()
            found = await Axe().run(page)
            assert [one["id"] for one in found.response["violations"] if one["impact"] in {"serious", "critical"}] == []
            await page.get_by_role("button", name="Execute").click()
            await page.locator(".live-responses-table .response-col_status").first.wait_for()
            assert "POST /v1/notifications" in asked
            background = await page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
            assert (background == "rgb(28, 32, 34)") is (scheme == "dark")
        finally:
            await browser.close()


async def test_generators_of_clients_find_plain_schemas(api: Api) -> None:
    doc = await document(api)
    assert doc["servers"] == [{"url": ".", "description": "the server of this document"}]
    schemas = doc["components"]["schemas"]

    def field(name: str, of: str) -> dict[str, Any]:
        schema: dict[str, Any] = schemas[name]["properties"][of]
        return schema

    assert field("PublishRequest", "version") == {"type": "integer", "minimum": 1, "maximum": 1_000_000}
    assert field("NotificationRequest", "data")["anyOf"][0] == {"type": "object", "additionalProperties": True}
    assert field("NotificationRequest", "category")["description"] == "without it: transactional"
    assert field("NotificationView", "created_at") == {"type": "string", "format": "date-time"}
    assert field("NotificationRequest", "send_at")["anyOf"][0] == {"type": "string", "format": "date-time"}
    assert "format" not in field("NotificationRequest", "send_at_local")["anyOf"][0]
    assert "oneOf" not in schemas["MarkRequest"]
    assert set(schemas["Resting"]["required"]) == set(schemas["Resting"]["properties"])
    for name, schema in schemas.items():
        for of, inner in schema.get("properties", {}).items():
            assert "default" not in inner, (name, of)
            for one in (inner, *inner.get("anyOf", ())):
                bare = one.get("type") == "object" and not one.keys() & {"properties", "additionalProperties"}
                assert not bare, (name, of)
                assert one.get("type") != "array" or "items" in one, (name, of)
                assert one.get("multipleOf") is None, (name, of)
                if one.get("type") == "integer":
                    assert not any(isinstance(value, float) for value in one.values()), (name, of)


@pytest.mark.parametrize("path", ["/openapi.json", "/docs", "/docs/favicon.png"])
async def test_the_documentation_needs_no_key(api: Api, path: str) -> None:
    assert (await api.get(path, key=None)).status == 200
