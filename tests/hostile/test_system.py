"""Hostile values through the whole system: spellings of an address, templates in data, forged and replayed receipts."""

from __future__ import annotations

import asyncio
import html
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from twilio.request_validator import RequestValidator

from support import eventually
from support.system import System, running, settings_for
from tidings.sandbox import credentials

CONTENT = {"email": {"subject": "Hello", "text": "Hello"}, "sms": {"text": "Hello"}}


@pytest.fixture
async def one(tmp_path: Path, postgres_dsn: str) -> AsyncIterator[System]:
    async with running(settings_for(tmp_path, postgres_dsn, None)) as system:
        yield system


SPELLINGS: Mapping[str, list[str]] = {
    "email": [
        "Ada@bücher.example",
        "ada@bücher.example",
        "ADA@BÜCHER.EXAMPLE",
        "ada@xn--bcher-kva.example",
        "ada@XN--BCHER-KVA.example",
        "ada@bu\u0308cher.example",
        "ada@bücher\u3002example",
        "ada@\uff42ücher.example",
    ],
    "phone": ["+442079460958", "+44 20 7946 0958", "+44 (0)20 7946-0958", "+44.20.7946.0958", "+44\u00a02079460958"],
}


@pytest.mark.parametrize(("field", "channel"), [("email", "email"), ("phone", "sms")])
async def test_a_suppressed_address_stays_so_in_every_spelling(one: System, field: str, channel: str) -> None:
    first, *others = SPELLINGS[field]
    for number, spelling in enumerate(SPELLINGS[field]):
        await one.user(f"u{number}", **{field: spelling})
    reply = await one.call("POST", "/v1/suppressions", {"channel": channel, "address": first, "reason": "complained"})
    assert reply.status == 201
    recipients: list[dict[str, str]] = [{field: spelling} for spelling in SPELLINGS[field]]
    recipients += [{"user_id": f"u{number}"} for number in range(len(SPELLINGS[field]))]
    ids = [await one.send(to=to, content=CONTENT, channels=[channel]) for to in recipients]
    for to, seen in zip(recipients, await asyncio.gather(*(one.rested(id) for id in ids)), strict=True):
        assert (seen["state"], seen["reason"]) == ("suppressed", "address_suppressed"), (to, seen)
    assert await one.arrivals(channel=channel) == []
    listed = (await one.call("GET", "/v1/suppressions")).json["suppressions"]
    assert len(listed) == 1
    for spelling in others:
        await one.call("POST", "/v1/suppressions", {"channel": channel, "address": spelling})
    assert (await one.call("GET", "/v1/suppressions")).json["suppressions"] == listed


async def test_a_receipt_in_the_vendors_spelling_suppresses_all_spellings(one: System) -> None:
    await one.send(to={"email": "Bounce+Ada@Example.com"}, content=CONTENT, channels=["email"])

    async def listed() -> Any:
        return (await one.call("GET", "/v1/suppressions")).json["suppressions"]

    [entry] = await eventually(listed)
    assert entry["address"] == "bounce+ada@example.com"
    for spelling in ("bounce+ada@example.com", "BOUNCE+ADA@example.COM"):
        seen = await one.rested(await one.send(to={"email": spelling}, content=CONTENT, channels=["email"]))
        assert (seen["state"], seen["reason"]) == ("suppressed", "address_suppressed")


HOMOGLYPHS = ["аda@example.com", "ada@exаmple.com", "ada@examplе.com", "adа@example.com"]
"""Addresses with Cyrillic letters: they look the same, but are other mailboxes."""


async def test_addresses_that_only_look_the_same_are_others(one: System) -> None:
    await one.call("POST", "/v1/suppressions", {"channel": "email", "address": "ada@example.com"})
    for spelling in HOMOGLYPHS:
        await one.call("POST", "/v1/suppressions", {"channel": "email", "address": spelling})
    listed = [entry["address"] for entry in (await one.call("GET", "/v1/suppressions")).json["suppressions"]]
    assert len(set(listed)) == 1 + len(HOMOGLYPHS)
    # A domain is shown in the form that gives itself away.
    assert sum(address.partition("@")[2].startswith("xn--") for address in listed) == 2


INJECTED = [
    "{{ 7 * 7 }}",
    "{% for x in range(9) %}x{% endfor %}",
    "{{ self }}{{ config }}{{ ''.__class__.__mro__ }}",
    "{# hidden #}",
    "${7*7} #{7*7} <%= 7*7 %> @(7*7) [[7*7]] %{7*7}",
    "{% include '/etc/passwd' %}",
    "{{ name }}",
    "-substitution- {{{ name }}} {%raw%}",
    "a\r\nBcc: eve@example.com\r\n\r\n<b>x</b>",
    '=HYPERLINK("http://evil.example")',
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "\u202egnp.exe",
    "%n%s%x $(id) `id` ; DROP TABLE notification; --",
]


async def test_values_are_never_evaluated(one: System) -> None:
    """Neither by the template, nor by a second pass, nor by the vendor's substitutions; and none adds a header."""
    part = {"subject": "S {{ name }} {{ data.x }}", "html": "<p>{{ name }} {{ data.x }}</p>"}
    made: dict[str, Any] = {"name": "t", "variables": {"name": {}, "data": {}}}
    made["contents"] = {"en": {"email": part, "sms": {"text": "T {{ name }} {{ data.x }}"}}}
    assert (await one.call("POST", "/v1/templates", made)).status == 201
    assert (await one.call("POST", "/v1/templates/t/publish", {"version": 1})).status == 200
    to = {"email": "ada@example.com", "phone": "+4930901820"}
    sent = {}
    for payload in INJECTED:
        values = {"name": payload, "data": {"x": payload}, payload[:50]: payload}
        sent[payload] = await one.send(to=to, template="t", data=values, metadata={payload: payload})
    for payload, id in sent.items():
        seen = await one.rested(id)
        assert seen["metadata"] == {payload: payload}
        delivery = next(d["id"] for d in seen["deliveries"] if d["channel"] == "email")
        [mail] = [arrival for arrival in await one.arrivals(channel="email") if arrival["delivery"] == delivery]
        flat = "".join(c if c.isprintable() else " " for c in payload).split()
        assert mail["title"].split() == ["S", *flat, *flat], (payload, mail["title"])
        assert mail["to"] == "ada@example.com"
        page = (await one.call("GET", f"{one.sandbox}/_sandbox/mail/{mail['seq']}")).body.decode()
        shown = page.partition("<p>")[2].partition("</p>")[0]
        assert "<" not in shown, page
        assert html.unescape(shown).split() == [*payload.split(), *payload.split()]
    texts = [arrival["text"] for arrival in await one.arrivals(channel="sms")]
    received = {text.replace("\n", "\r\n") for text in texts} | set(texts)
    for payload in INJECTED:
        said = f"T {payload} {payload}"
        # A backtick, the only character that no text message of 7 bits has, goes as its twin where that saves a part.
        assert said in received or said.replace("`", "'") in received, payload


async def test_names_and_locales_are_values_too(one: System) -> None:
    for name in INJECTED:
        reply = await one.call("PUT", "/v1/users/ada", {"email": "ada@example.com", "name": name})
        assert reply.status == (422 if "\r" in name or "\u202e" in name else 200), name
        if reply.status == 200:
            assert reply.json["name"] == name
        for field in ("locale", "timezone", "phone"):
            assert (await one.call("PUT", "/v1/users/ada", {field: name})).status == 422, (field, name)


async def test_receipts_forged_and_replayed(one: System) -> None:
    id = await one.send(to={"phone": "+4930901820"}, content=CONTENT, channels=["sms"])
    seen = await one.in_state(id, "delivered")
    delivery = seen["deliveries"][0]["id"]
    token = credentials.load_or_create(one.settings.data_dir / "sandbox").twilio_auth_token
    query = urlencode({"delivery": delivery, "tenant": "shop", "attempt": 1})
    url = f"{one.api}/v1/receipts/twilio?{query}"
    form = {"MessageSid": "SM1", "MessageStatus": "failed", "ErrorCode": "21610", "To": "+4930901820"}
    body = urlencode(form).encode()
    right = RequestValidator(token).compute_signature(url, form)
    headers = {"content-type": "application/x-www-form-urlencoded"}

    async def receipt(target: str, body: bytes, *signatures: str) -> int:
        sent = headers | ({"x-twilio-signature": signatures[0]} if signatures else {})
        return (await one.call("POST", target, body, headers=sent)).status

    assert await receipt(url, body) == 403
    forged = [
        (url, body, ""),
        (url, body, right[:-2] + "A="),
        (url, body, right.lower()),
        (url, body, right + ", " + right),
        (url, body, "\u00c3\u00a4"),
        (url, body + b"&To=%2B15005550006", right),
        (url, body.replace(b"failed", b"delivered"), right),
        (url.replace("shop", "other"), body, right),
        (url + "&attempt=2", body, right),
        (url, b"", right),
        (url, b"\xff\xfe\x00", right),
        (url.replace("twilio", "sendgrid"), body, right),
    ]
    for target, sent, signature in forged:
        assert await receipt(target, sent, signature) == 403, (target, sent, signature)
    assert await receipt(url.replace("/twilio", "/nobody"), body, right) == 404
    assert (await one.call("GET", "/v1/suppressions")).json["suppressions"] == []

    for _ in range(3):
        assert await receipt(url, body, right) == 204

    async def listed() -> Any:
        return (await one.call("GET", "/v1/suppressions")).json["suppressions"]

    [entry] = await eventually(listed)
    assert entry["reason"] == "unsubscribed"
    # The address is taken off the list. A repeated receipt must not put it back.
    assert (await one.call("DELETE", "/v1/suppressions/sms/%2B4930901820")).status == 204
    before = (await one.call("GET", f"/v1/notifications/{id}")).json
    assert await receipt(url, body, right) == 204
    marker = await one.send(to={"phone": "+4930901820"}, content=CONTENT, channels=["sms"])
    assert (await one.in_state(marker, "delivered"))["deliveries"][0]["state"] == "delivered"
    assert await listed() == []
    assert (await one.call("GET", f"/v1/notifications/{id}")).json == before
    assert before["state"] == "delivered"  # a later failure does not take back what arrived
