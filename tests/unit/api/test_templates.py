from __future__ import annotations

import asyncio
import threading
import time
from functools import partial
from typing import Any

import pytest

from support.api import OTHER, Api, expect_problem
from tidings.api.samples import WELCOME
from tidings.model.errors import Overloaded
from tidings.templating import templates
from tidings.templating.bench import MOST_WAITING, Bench

MJML = (
    "<mjml><mj-body><mj-section><mj-column><mj-text>Hi {{ name }}</mj-text></mj-column></mj-section></mj-body></mjml>"
)

ENDLESS = "{% for i in range(100000000) %}x{% endfor %}"


def welcome(**changes: Any) -> dict[str, Any]:
    return {**WELCOME, **changes}


async def test_a_template_is_created_published_and_rolled_back(api: Api) -> None:
    created = await api.post("/v1/templates", WELCOME)
    assert created.status == 201
    shown = created.json()
    assert (shown["name"], shown["version"], shown["default_locale"]) == ("welcome", 1, "en")
    assert shown["contents"] == WELCOME["contents"]
    assert shown["variables"]["name"]["example"] == "Ada"
    assert shown["created_at"].endswith("Z")
    state = {"name": "welcome", "latest": 1, "published": None, "description": WELCOME["description"]}
    assert (await api.get("/v1/templates/welcome")).json() == state
    expect_problem(await api.post("/v1/templates/welcome/rollback"), 409, "not_published")
    expect_problem(await api.post("/v1/templates", WELCOME), 409, "template_exists")
    second = {"contents": {"en": {"sms": {"text": "Hello {{ name }}"}}}, "variables": {"name": {}}}
    assert (await api.post("/v1/templates/welcome/versions", second)).json()["version"] == 2
    published = (await api.post("/v1/templates/welcome/publish", {"version": 2})).json()
    assert (published["latest"], published["published"]) == (2, 2)
    assert (await api.post("/v1/templates/welcome/rollback")).json()["published"] == 1
    expect_problem(await api.post("/v1/templates/welcome/rollback"), 409, "nothing_before")
    versions = (await api.get("/v1/templates/welcome/versions")).json()["versions"]
    assert [version["version"] for version in versions] == [2, 1]
    assert (await api.get("/v1/templates/welcome/versions/1")).json() == shown


async def test_versions_come_in_pages_without_their_contents(api: Api) -> None:
    await api.post("/v1/templates", WELCOME)
    large = {"contents": {"en": {"sms": {"text": "Hello {{ name }}" + " " * 90_000}}}, "variables": {"name": {}}}
    for number in range(2, 8):
        assert (
            await api.post("/v1/templates/welcome/versions", large | {"description": f"try {number}"})
        ).status == 201
    seen, path = list[int](), "/v1/templates/welcome/versions?limit=3"
    cursor: str | None = ""
    while cursor is not None:
        answer = await api.get(path + (f"&cursor={cursor}" if cursor else ""))
        assert len(answer.body) < 2_000
        page = answer.json()
        assert all(set(row) == {"name", "version", "description", "created_at"} for row in page["versions"])
        seen += [row["version"] for row in page["versions"]]
        cursor = page["next"]
    assert seen == [7, 6, 5, 4, 3, 2, 1]
    await api.post("/v1/templates", WELCOME | {"name": "other"})
    first = (await api.get(path)).json()["next"]
    expect_problem(await api.get(f"/v1/templates/other/versions?cursor={first}"), 400, "invalid_cursor")


async def test_a_template_has_a_limited_number_of_versions(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "MOST_VERSIONS", 2)
    await api.post("/v1/templates", WELCOME)
    version = {key: value for key, value in WELCOME.items() if key != "name"}
    assert (await api.post("/v1/templates/welcome/versions", version)).status == 201
    expect_problem(await api.post("/v1/templates/welcome/versions", version), 409, "too_many")


async def test_many_previews_at_once_are_shown_and_stop_nobody(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Previews run beside the event loop and never block it."""
    await api.post("/v1/templates", WELCOME)
    whole, working, most = templates._preview, 0, 0

    def heavy(*arguments: Any) -> Any:
        nonlocal working, most
        working += 1
        most = max(most, working)
        assert threading.current_thread() is not threading.main_thread()
        until = time.perf_counter() + 0.05
        while time.perf_counter() < until:
            pass
        working -= 1
        return whole(*arguments)

    monkeypatch.setattr(templates, "_preview", heavy)
    previews = [asyncio.create_task(api.post("/v1/templates/welcome/preview", {})) for _ in range(20)]
    answered = 0
    while not all(preview.done() for preview in previews):
        assert (await api.get("/v1/templates/welcome")).status == 200
        answered += 1
    assert [(await preview).status for preview in previews] == [200] * 20
    assert most == 1
    assert answered >= 20, "others are answered between"


async def test_what_one_tenant_has_computed_is_bounded_and_no_other_waits_for_all_of_it() -> None:
    bench, order, go = Bench(), list[str](), threading.Event()

    def work(tenant: str) -> None:
        go.wait(10)
        order.append(tenant)

    crowd = [asyncio.create_task(bench.run("a", partial(work, "a"))) for _ in range(MOST_WAITING + 5)]
    await asyncio.sleep(0)
    other = asyncio.create_task(bench.run("b", partial(work, "b")))
    await asyncio.sleep(0)
    go.set()
    results = await asyncio.gather(*crowd, return_exceptions=True)
    await other
    assert sum(isinstance(result, Overloaded) for result in results) == 5
    assert order.index("b") <= 2
    assert not bench._waiting
    assert not bench._locks


async def test_mjml_is_shown_as_it_was_written(api: Api) -> None:
    contents = {"en": {"email": {"subject": "Hi", "html": MJML}}}
    created = (await api.post("/v1/templates", welcome(contents=contents))).json()
    assert created["contents"]["en"]["email"]["html"] == MJML


async def test_a_published_template_can_be_sent_at_once(api: Api) -> None:
    await api.post("/v1/templates", WELCOME)
    order = {"to": {"user_id": "demo"}, "template": "welcome", "data": {"name": "Ada"}}
    expect_problem(await api.post("/v1/notifications", order), 422, "unknown_template")
    await api.post("/v1/templates/welcome/publish", {"version": 1})
    assert (await api.post("/v1/notifications", order)).status == 202
    refusal = expect_problem(await api.post("/v1/notifications", {**order, "data": {}}), 422, "missing_variables")
    assert refusal["path"] == "$.data.name"
    assert "name" in refusal["detail"]


async def test_preview_shows_every_channel_with_the_size_of_the_text_message(api: Api) -> None:
    await api.post("/v1/templates", WELCOME)
    shown = (await api.post("/v1/templates/welcome/preview", {"locale": "pt-BR", "data": {"name": "José 🎉"}})).json()
    by_channel = {channel["channel"]: channel for channel in shown["channels"]}
    assert shown["missing"] == []
    assert by_channel["sms"]["content"]["text"] == "Boas-vindas, José 🎉"
    assert by_channel["sms"]["locale"] == "pt"
    assert by_channel["sms"]["sms"] == {"encoding": "ucs-2", "units": 20, "segments": 1}
    assert by_channel["email"]["locale"] == "en"
    assert "José" in by_channel["email"]["content"]["html"]
    by_examples = (await api.post("/v1/templates/welcome/preview")).json()
    assert by_examples["locale"] == "en"
    lacking = (await api.post("/v1/templates/welcome/preview", {"version": 1, "data": {}})).json()
    assert lacking["missing"] == ["name"]
    assert lacking["channels"][0]["error"]


async def test_templates_are_listed_by_cursor(api: Api) -> None:
    for name in ("alpha", "beta", "gamma"):
        await api.post("/v1/templates", welcome(name=name))
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = (await api.get(f"/v1/templates?limit=2{cursor and '&cursor=' + cursor}")).json()
        seen += [template["name"] for template in page["templates"]]
        cursor = page["next"]
    assert seen == ["alpha", "beta", "gamma", "order-confirmation"]


async def test_another_tenants_templates_do_not_exist(api: Api) -> None:
    stranger = await api.key(OTHER)
    assert (await api.get("/v1/templates", key=stranger)).json() == {"templates": [], "next": None}
    asked: list[tuple[str, str, Any]] = [
        ("GET", "", None),
        ("GET", "/versions", None),
        ("GET", "/versions/1", None),
        ("POST", "/publish", {"version": 1}),
        ("POST", "/rollback", None),
        ("POST", "/preview", {}),
        ("POST", "/versions", {"contents": {}}),
    ]
    for method, path, body in asked:
        expect_problem(
            await api.call(method, f"/v1/templates/order-confirmation{path}", body, key=stranger), 404, "not_found"
        )


async def test_what_does_not_exist(api: Api) -> None:
    await api.post("/v1/templates", WELCOME)
    for method, path, body in [
        ("GET", "/nothing", None),
        ("GET", "/welcome/versions/9", None),
        ("POST", "/welcome/publish", {"version": 9}),
        ("POST", "/welcome/preview", {"version": 9}),
    ]:
        expect_problem(await api.call(method, f"/v1/templates{path}", body), 404, "not_found")
    for version in ("0", "x", "9" * 30):
        refusal = expect_problem(await api.get(f"/v1/templates/welcome/versions/{version}"), 400, "invalid_parameter")
        assert refusal["parameter"] == "version"


def text(source: str) -> dict[str, Any]:
    return welcome(contents={"en": {"sms": {"text": source}}})


BAD: list[tuple[str, dict[str, Any], str, str]] = [
    ("no contents", {"name": "x"}, "missing_field", "$.contents"),
    ("empty contents", welcome(contents={}), "missing_content", "$.contents"),
    ("no name", {"contents": WELCOME["contents"]}, "missing_field", "$.name"),
    ("bad name", welcome(name="a b"), "invalid_name", "$.name"),
    ("name is a number", welcome(name=7), "wrong_type", "$.name"),
    ("unknown field", welcome(text="x"), "unknown_field", "$.text"),
    ("contents is a list", welcome(contents=[]), "wrong_type", "$.contents"),
    ("a content is text", welcome(contents={"en": "x"}), "wrong_type", "$.contents.en"),
    ("unknown channel", welcome(contents={"pt-BR": {"fax": {}}}), "unknown_field", "$.contents['pt-BR'].fax"),
    ("unknown part", welcome(contents={"en": {"sms": {"body": "x"}}}), "unknown_field", "$.contents.en.sms.body"),
    ("part is a number", welcome(contents={"en": {"sms": {"text": 1}}}), "wrong_type", "$.contents.en.sms.text"),
    ("bad locale", welcome(contents={"not a tag": {"sms": {"text": "x"}}}), "invalid_locale", "$.contents"),
    ("default locale", welcome(default_locale="fr"), "invalid_locale", "$.default_locale"),
    ("variable", welcome(variables={"name": {"requird": True}}), "unknown_field", "$.variables.name.requird"),
    ("variable is text", welcome(variables={"name": "Ada"}), "wrong_type", "$.variables.name"),
    ("does not compile", text("{{ name "), "invalid_template", "$.contents.en.sms.text"),
    ("undeclared variable", text("{{ nmae }}"), "undeclared_variable", "$.contents.en.sms.text"),
    (
        "endless loop",
        text(ENDLESS),
        "invalid_template",
        "$.contents.en.sms.text",
    ),
    ("python inside", text("{{ name.__class__ }}"), "invalid_template", "$.contents.en.sms.text"),
    ("includes", text("{% include '/etc/passwd' %}"), "invalid_template", "$.contents.en.sms.text"),
    (
        "bad MJML",
        welcome(contents={"en": {"email": {"subject": "x", "html": "<mjml><mj-oops/></mjml>"}}}),
        "invalid_template",
        "$.contents.en.email.html",
    ),
]


async def test_a_bad_template_is_refused_by_place(api: Api) -> None:
    for name, body, code, path in BAD:
        refusal = expect_problem(await api.post("/v1/templates", body), 422, code)
        assert refusal["path"] == path, name
    assert [t["name"] for t in (await api.get("/v1/templates")).json()["templates"]] == ["order-confirmation"]


async def test_a_bad_publish(api: Api) -> None:
    bad: list[Any] = [None, {}, {"version": "1"}, {"version": 0}, {"version": 1.5}, {"versoin": 1}, [], 7]
    for body in bad:
        answer = await api.post("/v1/templates/order-confirmation/publish", body)
        assert answer.status == 422
        assert answer.json()["code"] in {"wrong_type", "missing_field", "unknown_field"}
