"""Query strings: a filter with a typo must not silently list everything."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import quote

import pytest

from support.api import Api, expect_problem, running

ANY_QUERY = {
    "/healthz": "a load balancer's probe may add what it likes",
    "/readyz": "the same",
    "/metrics": "Prometheus may be configured to send parameters",
    "/v1/receipts/{provider}": "the URL is the vendor's, and its signature covers it",
}


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with running() as api:
        yield api


async def operations(api: Api) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Of every operation: its method, its path template, an example path, and its description in the document."""
    doc = (await api.get("/openapi.json", key=None)).json()
    return (
        (method.upper(), template, filled(template, operation), operation)
        for template, item in doc["paths"].items()
        for method, operation in item.items()
        if method in {"get", "put", "post", "delete", "patch"}
    )


def filled(path: str, operation: dict[str, Any]) -> str:
    for parameter in operation.get("parameters", ()):
        examples = parameter.get("examples") or parameter["schema"].get("examples") or ["x"]
        path = path.replace(f"{{{parameter['name']}}}", quote(str(examples[0]), safe=""))
    return path


async def test_no_operation_ignores_a_parameter_that_it_does_not_know(api: Api) -> None:
    seen = 0
    for method, template, path, _ in await operations(api):
        for query, name in (("cursr=x", "cursr"), ("=x", ""), ("a%0Ab", "a\nb"), ("limit%00=1", "")):
            answer = await api.call(method, f"{path}?{query}")
            if template in ANY_QUERY:
                assert answer.json().get("code") != "unknown_parameter" if answer.body.startswith(b"{") else True
            elif "%00" in query:
                assert answer.status == 400, (method, path)
            else:
                assert expect_problem(answer, 400, "unknown_parameter")["parameter"] == name, (method, path)
                seen += 1
    assert seen > 60


async def test_a_scalar_parameter_has_one_value(api: Api) -> None:
    seen = 0
    for method, _, path, operation in await operations(api):
        for parameter in operation.get("parameters", ()):
            if parameter["in"] == "query" and "array" not in str(parameter["schema"]):
                answer = await api.call(method, f"{path}?{parameter['name']}=1&{parameter['name']}=2")
                assert expect_problem(answer, 400, "repeated_parameter")["parameter"] == parameter["name"], (
                    method,
                    path,
                )
                seen += 1
    assert seen > 10


async def test_the_refusal_suggests_the_right_parameter(api: Api) -> None:
    refusal = expect_problem(await api.get("/v1/notifications?stat=failed"), 400, "unknown_parameter")
    assert refusal["detail"].endswith("did you mean state?")
    refusal = expect_problem(await api.get("/v1/notifications?zzz=1"), 400, "unknown_parameter")
    assert "category, cursor, limit, since, state, until, user_id" in refusal["detail"]
    refusal = expect_problem(await api.post("/v1/notifications?dry_run=true", {}), 400, "unknown_parameter")
    assert refusal["detail"].endswith("this operation takes none")
    long = expect_problem(await api.get("/v1/notifications?" + "x" * 5000 + "=1"), 400, "unknown_parameter")
    assert len(long["detail"]) < 400


@pytest.mark.parametrize("value", ["0.5", "1700000000", "2026-01-31", "2026-01-31T09:00:00", "now", "", "1e300", "NaN"])
async def test_a_time_is_written_as_one(api: Api, value: str) -> None:
    for path in ("/v1/notifications", "/v1/dead-letters"):
        refusal = expect_problem(await api.get(f"{path}?since={value}"), 400, "invalid_parameter")
        assert refusal["parameter"] == "since"
        assert "2026-01-31T09:00:00Z" in refusal["detail"]


@pytest.mark.parametrize("value", ["2026-01-31T09:00:00Z", "2026-01-31T09:00:00.123%2B01:00", "0001-01-01T00:00:00Z"])
async def test_valid_times_are_accepted(api: Api, value: str) -> None:
    assert (await api.get(f"/v1/notifications?since={value}")).status == 200


async def test_a_path_that_is_written_out_wins_over_one_with_a_parameter(api: Api) -> None:
    for method, path, allowed in (
        ("PUT", "/v1/users/batch", "POST"),
        ("GET", "/v1/users/batch", "POST"),
        ("DELETE", "/v1/users/batch", "POST"),
        ("GET", "/v1/notifications/batch", "POST"),
        ("POST", "/v1/users/demo/inbox/count", "GET"),
    ):
        answer = await api.call(method, path)
        expect_problem(answer, 405, "method_not_allowed")
        assert answer.headers["allow"] == allowed
    stored = await api.post("/v1/users/batch", {"users": [{"user_id": "batch"}]})
    assert stored.json()["results"][0]["error"]["path"] == "$.users[0].user_id"
