from __future__ import annotations

from typing import Any

import pytest

from tidings.backends.memory.clock import VirtualClock
from tidings.backends.memory.templates import MemoryTemplates
from tidings.model.errors import Conflict, Invalid, NotFound
from tidings.model.notification import Content, EmailContent, PushContent, SmsContent
from tidings.model.template import TemplateVersion, Variable
from tidings.model.vocabulary import Channel
from tidings.policy.sms import SmsSize
from tidings.templating.check import MAX_LOCALES, MAX_SOURCE, MAX_VARIABLES, path_of
from tidings.templating.renderer import TemplateRenderer
from tidings.templating.templates import Templates

TENANT = "shop"
MJML = "<mjml><mj-body><mj-section><mj-column><mj-text>{text}</mj-text></mj-column></mj-section></mj-body></mjml>"


def templates() -> Templates:
    return Templates(MemoryTemplates(), VirtualClock())


def draft(contents: dict[str, Content] | None = None, default: str = "en", **variables: Any) -> TemplateVersion:
    return TemplateVersion(
        "order",
        99,
        contents if contents is not None else {"en": Content(sms=SmsContent("Hi {{ name }}"))},
        default_locale=default,
        variables={name: Variable(example=example) for name, example in variables.items()},
    )


def sms(text: str) -> dict[str, Content]:
    return {"en": Content(sms=SmsContent(text))}


async def test_versions_are_numbered_and_what_was_written_is_kept() -> None:
    facade = templates()
    html = MJML.format(text="Hello {{ name }}")
    contents = {
        "EN": Content(email=EmailContent("Hi {{ name }}", html=html), sms=SmsContent("Hi")),
        "pt_br": Content(email=EmailContent("Oi {{ name }}", text="Oi", html="<p>Oi</p>")),
    }
    first = await facade.create_version(TENANT, draft(contents, "EN", name="Ada"))
    second = await facade.create_version(TENANT, draft(contents, "EN", name="Ada"))
    assert (first.version, second.version) == (1, 2)
    assert first.created_at == VirtualClock().now()
    assert first.default_locale == "en"
    assert list(first.contents) == ["en", "pt-BR"]
    email = first.contents["en"].email
    assert email is not None
    assert email.html is not None
    assert email.html.startswith("<!DOCTYPE html>")
    assert email.text == "Hello {{ name }}\n"
    source = first.sources["en"].email
    assert source is not None
    assert (source.html, source.text) == (html, None)
    assert first.contents["pt-BR"].email == contents["pt_br"].email
    assert await facade.version(TENANT, "order", 1) == first
    rows = await facade.versions(TENANT, "order", None, 10)
    assert [(row.version, row.created_at) for row in rows] == [(2, second.created_at), (1, first.created_at)]


@pytest.mark.parametrize(
    ("contents", "code", "path"),
    [
        ({}, "missing_content", "$.contents"),
        ({"en": Content()}, "missing_content", "$.contents.en"),
        ({"english!": Content(sms=SmsContent("x"))}, "invalid_locale", "$.contents"),
        ({"de": Content(sms=SmsContent("x"))}, "invalid_locale", "$.default_locale"),
        ({"en": Content(sms=SmsContent("x")), "EN": Content(sms=SmsContent("x"))}, "invalid_locale", "$.contents.en"),
        (
            {"en": Content(sms=SmsContent("x")), "de": Content(push=PushContent("x", "x"))},
            "missing_content",
            "$.contents.en.push",
        ),
        ({"en": Content(email=EmailContent("x"))}, "missing_content", "$.contents.en.email"),
        ({"en": Content(email=EmailContent(" ", text="x"))}, "missing_content", "$.contents.en.email.subject"),
        (sms(""), "missing_content", "$.contents.en.sms.text"),
        ({"en": Content(push=PushContent("x", ""))}, "missing_content", "$.contents.en.push.body"),
        (sms("a\0b"), "invalid_text", "$.contents.en.sms.text"),
        (sms("a\ud800b"), "invalid_text", "$.contents.en.sms.text"),
        (sms("a\x1bb"), "invalid_text", "$.contents.en.sms.text"),
        (sms("x" * (MAX_SOURCE + 1)), "too_long", "$.contents.en.sms.text"),
        ({f"x-a{n:07}": Content(sms=SmsContent("x")) for n in range(MAX_LOCALES + 1)}, "too_many", "$.contents"),
        (sms("{{ nmae }}"), "undeclared_variable", "$.contents.en.sms.text"),
        (sms("{% for i in rows %}{% endfor %}"), "undeclared_variable", "$.contents.en.sms.text"),
        (
            {"en": Content(email=EmailContent("{{ x }}", text="x"))},
            "undeclared_variable",
            "$.contents.en.email.subject",
        ),
        ({"en": Content(email=EmailContent("x", html="{{ x }}"))}, "undeclared_variable", "$.contents.en.email.html"),
        (sms("{{ name"), "invalid_template", "$.contents.en.sms.text"),
        (sms("{% if name %}"), "invalid_template", "$.contents.en.sms.text"),
        (sms("{{ name|shout }}"), "invalid_template", "$.contents.en.sms.text"),
        (sms("{{ name.nope }}"), "invalid_template", "$.contents.en.sms.text"),
        (sms("{{ name|number }}"), "invalid_template", "$.contents.en.sms.text"),
        (sms("{{ name is nope }}"), "invalid_template", "$.contents.en.sms.text"),
        (
            sms("{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}"),
            "invalid_template",
            "",
        ),
        (sms("{{ name }}" + "{% set name = name ~ name %}" * 60), "invalid_template", "$.contents.en.sms.text"),
        (
            {"en": Content(email=EmailContent("x", html="<mjml><mj-body>"))},
            "invalid_template",
            "$.contents.en.email.html",
        ),
        (
            {"en": Content(sms=SmsContent("x")), "pt-BR": Content(sms=SmsContent("{{ 1 * 2 }}"))},
            "invalid_template",
            "$.contents['pt-BR'].sms.text",
        ),
    ],
)
async def test_an_invalid_draft_is_refused_and_not_stored(contents: dict[str, Content], code: str, path: str) -> None:
    facade = templates()
    with pytest.raises(Invalid) as caught:
        await facade.create_version(TENANT, draft(contents, name="Ada"))
    assert caught.value.code == code
    assert caught.value.path == (path or "$.contents.en.sms.text")
    with pytest.raises(NotFound):
        await facade.summary(TENANT, "order")


@pytest.mark.parametrize(
    ("variables", "path"),
    [
        ({"a b": Variable()}, "$.variables"),
        ({"": Variable()}, "$.variables"),
        ({"_x": Variable()}, "$.variables"),
        ({"locale": Variable()}, "$.variables.locale"),
        ({"loop": Variable()}, "$.variables.loop"),
        ({"items": Variable(required=False)}, "$.variables.items"),
        ({f"v{n}": Variable() for n in range(MAX_VARIABLES + 1)}, "$.variables"),
    ],
)
async def test_variables_have_names(variables: dict[str, Variable], path: str) -> None:
    with pytest.raises(Invalid) as caught:
        await templates().create_version(TENANT, TemplateVersion("order", 0, sms("x"), variables=variables))
    assert caught.value.path == path


@pytest.mark.parametrize("name", ["", "a b", "../x", "é", "x" * 101, "-x", "a\n"])
async def test_names_are_plain(name: str) -> None:
    with pytest.raises(Invalid) as caught:
        await templates().create_version(TENANT, TemplateVersion(name, 0, sms("x")))
    assert caught.value.path == "$.name"


async def test_without_examples_only_errors_with_any_data_count() -> None:
    facade = templates()
    text = "{{ order.total|currency(order.currency) }}{% for i in order['items'] %}{{ i.name }}{% endfor %}"
    version = TemplateVersion("order", 0, sms(text), variables={"order": Variable()})
    assert (await facade.create_version(TENANT, version)).version == 1
    endless = "{{ order.total }}{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(Invalid, match="does not end"):
        await facade.create_version(TENANT, TemplateVersion("x", 0, sms(endless), variables={"order": Variable()}))


async def test_publishing_and_rolling_back() -> None:
    facade = templates()
    with pytest.raises(NotFound):
        await facade.publish(TENANT, "order", 1)
    for _ in range(3):
        await facade.create_version(TENANT, draft(name="Ada"))
    with pytest.raises(Conflict) as caught:
        await facade.rollback(TENANT, "order")
    assert caught.value.code == "not_published"
    assert (await facade.publish(TENANT, "order", 3)).published == 3
    assert (await facade.rollback(TENANT, "order")).published == 2
    assert (await facade.rollback(TENANT, "order")).published == 1
    with pytest.raises(Conflict) as caught:
        await facade.rollback(TENANT, "order")
    assert caught.value.code == "nothing_before"
    for version in (0, 4, -1):
        with pytest.raises(NotFound):
            await facade.publish(TENANT, "order", version)
    with pytest.raises(NotFound):
        await facade.rollback("other", "order")
    assert [summary.name for summary in await facade.list(TENANT, None, 10)] == ["order"]
    assert await facade.list("other", None, 10) == []
    with pytest.raises(NotFound):
        await facade.versions("other", "order", None, 10)
    with pytest.raises(NotFound):
        await facade.version("other", "order", 1)


async def test_a_published_version_is_used_at_once() -> None:
    store, clock = MemoryTemplates(), VirtualClock()
    renderer = TemplateRenderer(store, clock)
    facade = Templates(store, clock, renderer)
    for _ in range(2):
        await facade.create_version(TENANT, draft(name="Ada"))
    for number in (1, 2):
        await facade.publish(TENANT, "order", number)
        published = await renderer.published(TENANT, "order")
        assert published is not None
        assert published.ref.version == number


async def test_a_preview_shows_every_channel_as_the_reader_gets_it() -> None:
    facade = templates()
    contents = {
        "en": Content(
            email=EmailContent("Hi {{ name }}", html="<p>Hi <b>{{ name }}</b></p>"),
            sms=SmsContent("Hi {{ name }} {€}".replace("{€}", "€")),
            push=PushContent("Hi", "{{ name }}"),
        ),
        "ar": Content(email=EmailContent("مرحبا {{ name }}", html=MJML.format(text="مرحبا {{ name }}"))),
        "ja": Content(sms=SmsContent("こんにちは {{ name }}")),
    }
    await facade.create_version(TENANT, draft(contents, name="Ada"))
    preview = await facade.preview(TENANT, "order", None, "ja-JP", None)
    assert (preview.version, preview.locale, preview.direction, preview.missing) == (1, "ja-JP", "ltr", ())
    email, text, push = preview.channels
    assert (email.channel, email.locale) == (Channel.EMAIL, "en")
    assert email.content == EmailContent("Hi Ada", text="Hi Ada\n", html="<p>Hi <b>Ada</b></p>")
    assert (text.locale, text.characters, text.sms) == ("ja", 9, SmsSize("ucs-2", 9, 1))
    assert push.content == PushContent("Hi", "Ada")
    right = await facade.preview(TENANT, "order", 1, "ar-EG", {"name": "آدا"})
    assert right.direction == "rtl"
    assert [channel.direction for channel in right.channels] == ["rtl", "ltr", "ltr"]
    assert isinstance(right.channels[0].content, EmailContent)
    assert 'lang="ar-EG" dir="rtl"' in str(right.channels[0].content.html)
    dear = await facade.preview(TENANT, "order", 1, None, {"name": "A" * 154})
    assert dear.locale == "en"
    assert dear.channels[1].sms == SmsSize("gsm-7", 160, 1)
    dear = await facade.preview(TENANT, "order", 1, "en", {"name": "A" * 155})
    assert dear.channels[1].sms == SmsSize("gsm-7", 161, 2)


async def test_a_preview_says_what_is_missing_and_shows_the_rest() -> None:
    facade = templates()
    contents = {"en": Content(sms=SmsContent("Hi {{ name }}"), push=PushContent("Hi", "there"))}
    await facade.create_version(TENANT, draft(contents, name=None, other="x"))
    preview = await facade.preview(TENANT, "order", None, None, {})
    assert preview.missing == ("name", "other")
    text, push = preview.channels
    assert text.content is None
    assert text.error == "line 1: `name` is undefined"
    assert text.path == "$.contents.en.sms.text"
    assert push.content == PushContent("Hi", "there")
    with pytest.raises(NotFound):
        await facade.preview(TENANT, "nothing", None, None, None)
    with pytest.raises(NotFound):
        await facade.preview(TENANT, "order", 2, None, None)
    with pytest.raises(Invalid):
        await facade.preview(TENANT, "order", None, "not a tag", None)


def test_paths() -> None:
    assert path_of("en.email.subject") == "$.contents.en.email.subject"
    assert path_of("pt-BR.sms.text") == "$.contents['pt-BR'].sms.text"
    assert path_of("pt-BR") == "$.contents['pt-BR']"
