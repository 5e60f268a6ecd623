from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import structlog.testing

from support import eventually
from support.api import OTHER, TENANT, Api, expect_problem
from tidings.api.samples import ORDER
from tidings.config import Settings
from tidings.model.ids import delivery_id, new_id
from tidings.model.notification import Content, Notification, Recipient, SmsContent
from tidings.model.outcome import Outcome
from tidings.model.vocabulary import State
from tidings.pipeline.accept.stage import Accept
from tidings.roles.api import run_api


async def test_receipts_pass_what_the_vendor_signed(api: Api) -> None:
    answer = await api.post(
        "/v1/receipts/signer?attempt=1&name=%C3%BC%2F",
        b"MessageStatus=delivered&\xff",
        key=None,
        headers={"Content-Type": "application/x-www-form-urlencoded", "X-Signature": "right", "X-Other": "1"},
    )
    assert (answer.status, answer.body) == (204, b"")
    (request,) = api.world.received
    assert request.url == "http://127.0.0.1:8400/v1/receipts/signer?attempt=1&name=%C3%BC%2F"
    assert request.body == b"MessageStatus=delivered&\xff"
    assert request.query == {"attempt": "1", "name": "ü/"}
    assert request.headers["x-signature"] == "right"
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"


async def test_the_answer_to_receipts_is_empty_and_has_the_request_id(api: Api) -> None:
    answer = await api.post(
        "/v1/receipts/signer", b"{}", key=None, headers={"X-Signature": "right", "X-Request-Id": "r1"}
    )
    assert (answer.status, answer.body, answer.headers["x-request-id"]) == (204, b"", "r1")
    assert "content-length" not in answer.headers


async def test_receipts_pass_escaped_paths_and_repeated_parameters(api: Api) -> None:
    await api.post("/v1/receipts/sign%65r?a=1&a=2&b=", b"", key=None, headers={"X-Signature": "right"})
    (request,) = api.world.received
    assert request.url == "http://127.0.0.1:8400/v1/receipts/sign%65r?a=1&a=2&b="
    assert request.query == {"a": "2", "b": ""}


async def test_the_values_of_a_repeated_header_are_joined(api: Api) -> None:
    url = urlsplit(api.url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    head = b"POST /v1/receipts/signer HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nconnection: close\r\n"
    writer.write(head + b"X-Signature: right\r\nX-Proof: one\r\nx-proof: two\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 204 ")
    writer.close()
    (request,) = api.world.received
    assert request.headers["x-proof"] == "one, two"


async def test_receipts_are_only_posted(api: Api) -> None:
    for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS"):
        answer = await api.call(method, "/v1/receipts/signer")
        expect_problem(answer, 405, "method_not_allowed")
        assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize("path", ["/v1/receipts/", "/v1/receipts/signer/", "/v1/receipts/a/b", "/v1/receipts/a%2Fb"])
async def test_other_paths_take_no_receipts(api: Api, path: str) -> None:
    expect_problem(await api.post(path, {}), 404, "not_found")
    assert not api.world.received


async def test_receipts_refused(api: Api) -> None:
    refusal = expect_problem(await api.post("/v1/receipts/signer", {"a": 1}, key=None), 403, "invalid_receipt")
    assert "signature is wrong" not in refusal["detail"]  # it names a setting: the log has it, not the caller
    expect_problem(await api.post("/v1/receipts/nobody", {"a": 1}, key=None), 404, "not_found")
    expect_problem(await api.post("/v1/receipts/Nobody%20Here", {"a": 1}, key=None), 404, "not_found")
    expect_problem(await api.post("/v1/receipts/signer?a=%00", {"a": 1}, key=None), 400, "nul_character")
    expect_problem(await api.post("/v1/receipts/%00", {"a": 1}, key=None), 400, "nul_character")
    expect_problem(await api.post("/v1/receipts/signer", b"x" * 200_000, key=None), 413, "too_large")


async def test_every_refusal_is_in_the_log_by_its_request_id_without_what_was_sent(api: Api) -> None:
    with structlog.testing.capture_logs() as logged:
        answers = [
            await api.post("/v1/notifications", {"to": {"email": "ann@planted.example"}, "planted": 1}),
            await api.put("/v1/users/planted", {"email": "planted"}),
            await api.get("/v1/notifications/planted"),
            await api.get("/v1/planted/planted"),
            await api.get("/v1/users/planted", key=None),
            await api.call("PUT", "/v1/notifications"),
        ]
    ids = [answer.headers["x-request-id"] for answer in answers]
    lines = {line["request_id"]: line for line in logged if line["event"] == "a request was refused"}
    assert [(answer.status, answer.json()["code"]) for answer in answers] == [
        (lines[id]["status"], lines[id]["code"]) for id in ids
    ]
    assert "planted" not in str(lines).replace("/v1/planted", "")


async def test_health_and_readiness_need_no_key(api: Api) -> None:
    assert (await api.get("/healthz", key=None)).json() == {"status": "ok"}
    well = {"status": "ok", "parts": {"store": "ok", "queue": "ok"}, "roles": ["api"]}
    assert (await api.get("/readyz", key=None)).json() == well
    api.world.parts["store"] = "does not answer"
    unready = await api.get("/readyz", key=None)
    assert unready.status == 503
    assert unready.json() == well | {"status": "not ready", "parts": {"store": "does not answer", "queue": "ok"}}
    assert (await api.get("/healthz", key=None)).status == 200


async def test_a_stopping_process_is_not_ready(api: Api) -> None:
    api.world.stopping = True
    leaving = await api.get("/readyz", key=None)
    assert leaving.status == 503
    assert leaving.json() == {"status": "stopping", "parts": {}, "roles": ["api"]}
    assert (await api.get("/healthz", key=None)).status == 200


async def test_metrics_count_what_was_accepted_and_refused(api: Api) -> None:
    good, bad = {"to": {"user_id": "demo"}, "content": {"sms": {"text": "x"}}}, {"to": 7}
    await api.post("/v1/notifications", good)
    await api.post("/v1/notifications", bad)
    await api.post("/v1/notifications/batch", {"notifications": [good, bad, good]})
    metrics = await api.get("/metrics", key=None)
    assert metrics.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert b'tidings_accepted_total{result="accepted"} 3.0' in metrics.body
    assert b'tidings_accepted_total{result="refused"} 2.0' in metrics.body


async def test_the_account_has_the_state_of_every_notification(api: Api) -> None:
    empty = (await api.get("/v1/accounting")).json()
    assert empty["tenant"] == TENANT
    assert (empty["notifications"]["accepted"], empty["notifications"]["balanced"], empty["tally"]) == (0, True, [])
    id = new_id(api.world.clock.now(), 1, 7)
    content = Content(sms=SmsContent("x"))
    noted = Notification(id, TENANT, Recipient(user_id="demo"), api.world.clock.now(), content=content)
    outcomes = [Outcome(id, TENANT, 5, State.PENDING, notification=noted)]
    outcomes += [Outcome(delivery_id(id, 2), TENANT, 6, State.SUPPRESSED, reason="opted_out")]
    await api.world.store.history.append(outcomes)
    for _ in range(2):
        assert (await api.post("/v1/notifications", ORDER)).status == 202
    await api.world.accepted.write()
    seen = (await api.get("/v1/accounting")).json()
    whole = seen["notifications"]
    assert (whole["accepted"], whole["counted"], whole["recorded"], whole["missing"]) == (whole["accepted"], 2, 1, 0)
    assert whole["in_flight"]["queued"] == whole["in_flight"]["total"] == whole["accepted"] - 1
    assert whole["accepted"] == whole["in_flight"]["total"] + sum(whole["resting"].values())
    assert whole["balanced"]
    assert seen["deliveries"]["sms"]["resting"]["suppressed"] == seen["deliveries"]["sms"]["total"] == 1
    assert {"channel": "sms", "state": "suppressed", "reason": "opted_out", "count": 1} in seen["tally"]
    assert (await api.get("/v1/accounting", key=await api.key(OTHER))).json()["tally"] == []


async def test_an_account_is_of_whole_minutes(api: Api) -> None:
    query = "since=2026-01-31T09:00:30Z&until=2026-01-31T10:00:01Z"
    seen = (await api.get(f"/v1/accounting?{query}")).json()
    assert (seen["since"], seen["until"]) == ("2026-01-31T09:00:00.000Z", "2026-01-31T10:01:00.000Z")
    day = (await api.get("/v1/accounting?since=2026-01-31&until=2026-02-02")).json()
    assert (day["since"], day["until"]) == ("2026-01-31T00:00:00.000Z", "2026-02-02T00:00:00.000Z")
    expect_problem(await api.get("/v1/accounting?since=now"), 400, "invalid_parameter")
    expect_problem(
        await api.get("/v1/accounting?since=2026-02-01T00:00:00Z&until=2026-01-01T00:00:00Z"), 422, "empty_span"
    )
    expect_problem(await api.get("/v1/accounting?since=2025-01-01T00:00:00Z"), 422, "span_too_long")


async def test_a_listener_of_their_own_takes_the_operations_off_the_public_port(api: Api, tmp_path: Path) -> None:
    settings = Settings.model_validate(
        {"data_dir": tmp_path, "http": {"port": 0, "docs": False}, "operations": {"port": 0}, "stop": {"drain": 0}}
    )
    services = dataclasses.replace(api.services, operations=False, docs=False)
    where: dict[str, str] = {}
    stopping = asyncio.Event()
    assert isinstance(api.services.accept, Accept)
    serving = asyncio.create_task(run_api(services, api.services.accept, settings, stopping, where.update, None))
    try:
        await eventually(lambda: "api" in where)
        for path in ("/healthz", "/readyz", "/metrics"):
            assert (await api.get(where["operations"] + path, key=None)).status == 200
            assert (await api.get(where["api"] + path, key=None)).status == 404
        for path in ("/docs", "/openapi.json"):
            assert (await api.get(where["api"] + path, key=None)).status == 404
        assert (await api.get(where["operations"] + "/v1/users/demo")).status == 404
        assert (await api.get(where["api"] + "/v1/users/demo")).status == 200
    finally:
        stopping.set()
        await serving
