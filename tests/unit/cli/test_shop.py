from __future__ import annotations

import re
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import minijinja
import mrml
import phonenumbers
import pytest
from msgspec import convert
from rich.console import Console

from tidings.cli.shop import play, templates
from tidings.cli.shop.account import account, arrivals, show
from tidings.cli.shop.countries import COUNTRIES
from tidings.cli.shop.day import MINUTES, plan
from tidings.cli.shop.people import people
from tidings.cli.shop.play import Books, Shop, Wait
from tidings.model.notification import Content, PushContent
from tidings.model.template import TemplateVersion
from tidings.model.vocabulary import Channel
from tidings.policy import addresses
from tidings.templating.compile import compile_version

TODAY = date(2026, 3, 1)
CROWD = list(people(2_000, 7))


def test_there_are_twenty_countries_and_each_has_people() -> None:
    assert len({country.region for country in COUNTRIES}) == 20
    assert {person.country for person in CROWD} == set(COUNTRIES)


def test_people_are_the_same_for_the_same_seed() -> None:
    assert list(people(200, 7)) == list(people(200, 7))
    assert list(people(200, 8)) != list(people(200, 7))


def test_every_number_is_a_real_one_of_its_country() -> None:
    for person in CROWD:
        if "phone" in person.body:
            number = phonenumbers.parse(person.body["phone"])
            assert phonenumbers.is_valid_number_for_region(number, person.country.region)


def test_every_person_would_be_accepted() -> None:
    for person in CROWD:
        body = person.body
        ZoneInfo(body["timezone"])
        addresses.locale(body["locale"])
        assert addresses.email(body.get("email", "nobody@example.com"))
        assert addresses.phone(body.get("phone", "+4930123456"))
        assert body["name"].strip()


def test_preferences_are_realistic() -> None:
    wishes = [person.body.get("preferences", {}) for person in CROWD]
    shares = {
        "marketing": sum("marketing" in wish.get("opted_out", {}) for wish in wishes) / len(wishes),
        "quiet": sum("quiet_hours" in wish for wish in wishes) / len(wishes),
        "muted": sum(wish.get("muted", False) for wish in wishes) / len(wishes),
    }
    assert 0.2 < shares["marketing"] < 0.36
    assert 0.1 < shares["quiet"] < 0.2
    assert 0 < shares["muted"] < 0.04


def test_the_day_is_the_same_for_the_same_seed_and_in_order() -> None:
    events = plan(CROWD, 300, 7, TODAY)
    assert events == plan(CROWD, 300, 7, TODAY)
    assert events != plan(CROWD, 300, 8, TODAY)
    minutes = [event.minute for event in events]
    assert minutes == sorted(minutes)
    assert minutes[0] >= 0
    assert minutes[-1] < MINUTES
    sent = Counter(event.body["template"] for event in events)
    assert sent == {
        templates.ORDER_CONFIRMATION: 300,
        templates.ORDER_SHIPPED: 270,
        templates.ORDER_DELIVERED: 255,
        templates.PASSWORD_CODE: 75,
        templates.WEEKLY_OFFERS: 800,
    }


def test_each_request_brings_what_its_template_declares() -> None:
    declared = {template.name: set(template.variables) for template in templates.TEMPLATES}
    for event in plan(CROWD, 50, 7, TODAY):
        assert set(event.body["data"]) == declared[event.body["template"]]


@pytest.mark.parametrize("template", templates.TEMPLATES, ids=lambda template: template.name)
def test_every_text_renders_in_every_language(template: templates.ShopTemplate) -> None:
    environment = minijinja.Environment(undefined_behavior="strict")
    environment.add_filter("currency", lambda amount, code: f"{amount} in {code}")
    data = {name: variable["example"] for name, variable in template.variables.items()}
    seen = set()
    for language, content in template.contents().items():
        assert set(content) == set(template.channels)
        for channel, parts in content.items():
            for name, source in parts.items():
                text = environment.render_str(source, **data)
                assert text.strip()
                assert "{" not in text or "mj" in source
                seen.add((language, channel, name, text))
                if source.startswith("<mjml"):
                    assert "<!doctype html>" in mrml.to_html(source).content.lower()
    subjects = {text for _, channel, name, text in seen if (channel, name) in {("email", "subject"), ("push", "title")}}
    assert len(subjects) >= len(templates.LANGUAGES)


@pytest.mark.parametrize(
    ("locale", "total", "currency", "written"),
    [
        ("de-DE", "1234.50", "EUR", "1.234,50\xa0€"),
        ("en-US", "1234.50", "USD", "$1,234.50"),
        ("ja-JP", "1234", "JPY", "￥1,234"),
        ("fr-FR", "1234.50", "EUR", "1\u202f234,50\xa0€"),
        ("pt-BR", "1234.50", "BRL", "R$\xa01.234,50"),
    ],
)
def test_money_is_written_as_the_reader_writes_it(locale: str, total: str, currency: str, written: str) -> None:
    template = templates.TEMPLATES[0]
    contents = {language: convert(parts, Content) for language, parts in template.contents().items()}
    compiled = compile_version(TemplateVersion(template.name, 1, contents))
    order = {"number": "A-1", "total": total, "currency": currency, "items": []}
    text = compiled.render(Channel.PUSH, locale, None, {"name": "Ada", "order": order})
    assert isinstance(text, PushContent)
    assert written in text.body


def test_no_text_writes_money_by_hand() -> None:
    for template in templates.TEMPLATES:
        for parts in template.contents().values():
            for text in (source for part in parts.values() for source in part.values()):
                assert not re.search(r"(total|price) *}}", text), text
                assert not re.search(r"}} *{{ *order.currency", text), text


def test_arabic_is_written_from_right_to_left() -> None:
    confirmation = templates.TEMPLATES[0].contents()
    assert 'dir="rtl"' in confirmation["ar"]["email"]["html"]
    assert 'dir="ltr"' in confirmation["ja"]["email"]["html"]


def row(channel: str | None, state: str, count: int, reason: str = "") -> dict[str, object]:
    return {"channel": channel, "state": state, "reason": reason, "count": count}


def test_an_account_that_closes_has_no_faults() -> None:
    books = Books(accepted=Counter({"a": 7, "b": 3}))
    tally = [
        row(None, "delivered", 9),
        row(None, "suppressed", 1),
        row("email", "delivered", 6),
        row("email", "suppressed", 2, "opted_out"),
        row("email", "deferred", 1, "quiet_hours"),
        row("sms", "sent", 4),
    ]
    closed = account(books, tally)
    assert closed.faults == []
    assert closed.rows[Channel.EMAIL] == {"delivered": 6, "suppressed": 2, "deferred": 1}
    assert closed.reasons == {("email", "suppressed", "opted_out"): 2, ("email", "deferred", "quiet_hours"): 1}


def test_an_account_that_does_not_close_says_what_is_missing() -> None:
    books = Books(accepted=Counter({"a": 10}), refused=["no such template"])
    faults = account(books, [row(None, "sent", 9), row("push", "deferred", 2, "retry")]).faults
    assert faults == [
        "10 notifications were accepted, and 9 are accounted for",
        "1 notifications were refused",
        "2 of push are still under way",
    ]


def test_a_wait_for_a_known_time_is_no_fault_and_is_shown_with_its_time(capsys: pytest.CaptureFixture[str]) -> None:
    books = Books(accepted=Counter({"a": 5}))
    tally = [
        row(None, "deferred", 5),
        row("email", "deferred", 3, "throttled"),
        row("sms", "deferred", 2, "quiet_hours"),
    ]
    noon = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
    waits = [
        Wait("quiet_hours", 2, noon, noon.replace(hour=14)),
        Wait("throttled", 3, noon, noon),
    ]
    closed = account(books, tally, waits)
    assert closed.faults == []
    show(Console(width=120), closed, books, [], waits)
    said = capsys.readouterr().out
    assert "2 deliveries wait until 12:00:00 to 14:00:00: quiet_hours (" in said
    assert "3 deliveries wait until 12:00:00: throttled (the provider asked for fewer requests)" in said
    assert "The sums close." in said
    assert account(books, tally).faults == ["3 of email are still under way"]


async def test_the_demo_ends_when_only_long_waits_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(play, "_LOOK_EVERY_S", 0.0)
    later = (datetime.now(UTC) + timedelta(minutes=10)).isoformat()
    waiting = {"state": "deferred", "reason": "provider_failing", "next_at": later}
    quiet = {"state": "deferred", "reason": "quiet_hours", "next_at": later}
    tally = [
        row(None, "deferred", 2),
        row("sms", "deferred", 1, "provider_failing"),
        row("sms", "deferred", 1, "quiet_hours"),
    ]
    looks: list[str] = []

    async def answer(self: Shop, method: str, path: str) -> dict[str, Any]:
        looks.append(path)
        if path == "/v1/accounting":
            return {"tally": tally}
        page = {"notifications": [{"deliveries": [waiting]}], "next": "more"}
        return page if "cursor" not in path else {"notifications": [{"deliveries": [quiet]}], "next": None}

    monkeypatch.setattr(Shop, "_call", answer)
    client = Shop(None, "", "")  # type: ignore[arg-type]  # nothing is asked but by `_call`
    client.books.accepted["a"] = 2
    end = await client.rest(lambda _: None, 60.0)
    assert [(wait.reason, wait.count) for wait in end.waits] == [("provider_failing", 1), ("quiet_hours", 1)]
    assert len(looks) < 20
    waiting["next_at"] = datetime.now(UTC).isoformat()
    assert (await client.rest(lambda _: None, 0.2)).tally == tally, "after its time it tells how things stand"


def test_latencies_leave_out_deliveries_that_had_to_wait() -> None:
    def fact(delivery: str, state: str, second: int) -> dict[str, str]:
        return {"delivery": delivery, "state": state, "at": f"2026-03-01T12:00:0{second}.500Z"}

    view = {
        "created_at": "2026-03-01T12:00:00.000Z",
        "deliveries": [{"id": "quick"}, {"id": "waited"}, {"id": "never"}],
        "timeline": [
            fact("quick", "delivered", 3),
            fact("quick", "sent", 1),
            fact("waited", "deferred", 0),
            fact("waited", "sent", 5),
            fact("never", "suppressed", 0),
        ],
    }
    assert list(arrivals([("normal", view), ("bulk", view)], "normal")) == [1.5]
