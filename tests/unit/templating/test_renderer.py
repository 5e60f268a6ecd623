from __future__ import annotations

import threading
from typing import Any

import pytest
from msgspec import structs

from support.deliveries import make_delivery
from tidings.backends.memory.clock import VirtualClock
from tidings.backends.memory.templates import MemoryTemplates
from tidings.model.delivery import Delivery
from tidings.model.errors import NotFound, TemplateError
from tidings.model.notification import Content, EmailContent, PushContent, SmsContent, TemplateRef
from tidings.model.template import TemplateVersion, Variable
from tidings.model.user import Address
from tidings.model.vocabulary import Channel
from tidings.ports.renderer import Renderer
from tidings.templating import renderer as renderer_module
from tidings.templating.compile import Compiled, compile_version
from tidings.templating.renderer import LARGE, LOADED_AT_ONCE, TemplateRenderer

TENANT = "shop"


class CountingTemplates(MemoryTemplates):
    """A template store in memory that counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    async def version(self, tenant: str, name: str, version: int) -> TemplateVersion | None:
        self.asked += 1
        return await super().version(tenant, name, version)

    async def published(self, tenant: str, name: str) -> TemplateVersion | None:
        self.asked += 1
        number = self._published.get((tenant, name))
        return None if number is None else self._versions[tenant, name][number - 1]


def delivery(
    channel: Channel = Channel.SMS,
    template: TemplateRef | None = TemplateRef("order", 1),  # noqa: B008 (frozen)
    content: Content | None = None,
    data: bytes = b'{"n": "A1"}',
    locale: str | None = "en",
    tenant: str = TENANT,
) -> Delivery:
    return make_delivery(
        tenant=tenant,
        user_id="ada",
        address=Address(channel, "x"),
        template=template,
        content=content,
        data=data,
        locale=locale,
    )


async def world(*contents: dict[str, Content]) -> tuple[CountingTemplates, VirtualClock, TemplateRenderer]:
    store, clock = CountingTemplates(), VirtualClock()
    for content in contents:
        await store.add_version(TENANT, TemplateVersion("order", 0, content, variables={"n": Variable()}))
    await store.publish(TENANT, "order", 1)
    store.asked = 0
    return store, clock, TemplateRenderer(store, clock)


async def test_a_large_version_is_compiled_beside_the_loop_and_a_small_one_in_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads: list[bool] = []

    def noted(version: TemplateVersion) -> Compiled:
        threads.append(threading.current_thread() is threading.main_thread())
        return compile_version(version)

    monkeypatch.setattr(renderer_module, "compile_version", noted)
    for filling in ("", "{# " + " " * LARGE + " #}"):
        _, _, renderer = await world({"en": Content(sms=SmsContent("Order {{ n }}" + filling))})
        assert await renderer.render([delivery()]) == [SmsContent("Order A1")]
    assert threads == [True, False]


async def test_within_a_time_the_first_are_rendered_and_at_least_one() -> None:
    _, clock, renderer = await world(EN)
    batch = [delivery(data=b'{"n": "%d"}' % number) for number in range(5)]
    real, cost = clock.elapsed, 0

    def elapsed() -> int:
        nonlocal cost
        cost += 3
        return real() + cost

    clock.elapsed = elapsed  # type: ignore[method-assign]
    assert len(await renderer.render(batch, 0)) == 1
    assert len(await renderer.render(batch, 6)) == 2
    assert len(await renderer.render(batch, 1_000)) == 5
    assert len(await renderer.render(batch)) == 5


async def test_only_a_few_versions_are_loaded_before_the_first_delivery_is_rendered() -> None:
    store, _, renderer = await world(*[EN] * 20)
    batch = [delivery(template=TemplateRef("order", number)) for number in range(1, 21)]
    assert len(await renderer.render(batch, 1_000)) == LOADED_AT_ONCE
    assert store.asked == LOADED_AT_ONCE
    assert len(await renderer.render(batch)) == 20


EN = {"en": Content(sms=SmsContent("Order {{ n }}")), "de": Content(sms=SmsContent("Bestellung {{ n }}"))}


async def test_a_batch_is_answered_in_order_each_by_its_own() -> None:
    _, _, renderer = await world(EN)
    literal = Content(push=PushContent("{{ n }}", "as\nis"))
    answers = await renderer.render(
        [
            delivery(),
            delivery(locale="de-AT"),
            delivery(Channel.PUSH, None, literal),
            delivery(Channel.EMAIL, None, literal),
            delivery(Channel.PUSH),
            delivery(data=b"{}"),
            delivery(data=b'{"n": '),
            delivery(data=b"[1]"),
            delivery(data=b'{"n": "\xff"}'),
            delivery(template=TemplateRef("order", 9)),
            delivery(template=TemplateRef("nothing", 1)),
            delivery(tenant="other"),
            delivery(data=b'{"n": "B2"}'),
        ]
    )
    assert answers[0] == SmsContent("Order A1")
    assert answers[1] == SmsContent("Bestellung A1")
    assert answers[2] is literal.push
    assert answers[12] == SmsContent("Order B2")
    details = [answer.detail for answer in answers[3:12] if isinstance(answer, TemplateError)]
    assert len(details) == 9
    assert "no content for email" in details[0]
    assert "no content for push" in details[1]
    assert "`n` is undefined" in details[2]
    assert all("data cannot be read" in detail for detail in details[3:6])
    assert all("there is no version" in detail for detail in details[6:])


async def test_content_that_is_the_same_for_several_is_rendered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    time = "{{ n }} {{ at | time }}"
    content = Content(sms=SmsContent(text=time), push=PushContent(title="{{ n }}", body=time))
    _, _, renderer = await world({"en": content, "de": content})
    calls = 0
    render = Compiled.render

    def counted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        return render(*arguments)

    monkeypatch.setattr(Compiled, "render", counted)
    data, other = (b'{"n": "%b", "at": "2026-05-04T10:00:00Z"}' % n for n in (b"A1", b"A2"))
    different = [
        delivery(data=data),
        delivery(data=other),
        delivery(data=data, locale="de"),
        delivery(data=data, channel=Channel.PUSH),
        structs.replace(delivery(data=data), timezone="Asia/Tokyo"),
    ]
    results = await renderer.render(different * 3)
    assert calls == len(different)
    assert results[: len(different)] == results[len(different) : 2 * len(different)]
    texts = [getattr(content, "text", None) or getattr(content, "body", None) for content in results]
    assert texts[: len(different)] == ["A1 10:00 AM", "A2 10:00 AM", "A1 10:00", "A1 10:00\u202fAM", "A1 7:00 PM"]


async def test_versions_are_loaded_and_compiled_once() -> None:
    store, _, renderer = await world(EN)
    await renderer.render([delivery()] * 10)
    await renderer.render([delivery()] * 10)
    assert store.asked == 1
    for _ in range(3):
        assert await renderer.channels(TENANT, TemplateRef("order", 1)) == (Channel.SMS,)
    assert store.asked == 2


async def test_few_versions_are_kept() -> None:
    store, clock, _ = await world(EN, EN, EN)
    renderer = TemplateRenderer(store, clock, capacity=2)
    for number in (1, 2, 3, 3, 2):
        assert await renderer.render([delivery(template=TemplateRef("order", number))]) == [SmsContent("Order A1")]
    assert store.asked == 3
    await renderer.render([delivery(template=TemplateRef("order", 1))])
    assert store.asked == 4
    assert len(renderer._compiled) == 2


async def test_the_published_version_is_asked_for_once_a_second() -> None:
    store, clock, renderer = await world(EN, EN)
    for _ in range(5):
        published = await renderer.published(TENANT, "order")
        assert published is not None
        assert published.ref == TemplateRef("order", 1)
    assert store.asked == 1
    await store.publish(TENANT, "order", 2)
    await clock.advance(1.0)
    published = await renderer.published(TENANT, "order")
    assert published is not None
    assert published.ref == TemplateRef("order", 2)
    await store.publish(TENANT, "order", 1)
    renderer.forget(TENANT, "order")
    published = await renderer.published(TENANT, "order")
    assert published is not None
    assert published.ref.version == 1


async def test_an_unpublished_template_is_asked_for_each_time() -> None:
    store, _, renderer = await world(EN)
    assert await renderer.published(TENANT, "later") is None
    await store.add_version(TENANT, TemplateVersion("later", 0, EN))
    await store.publish(TENANT, "later", 1)
    assert await renderer.published(TENANT, "later") is not None
    assert await renderer.published("other", "order") is None


async def test_published_says_what_is_missing() -> None:
    _, _, renderer = await world(EN)
    published = await renderer.published(TENANT, "order")
    assert published is not None
    assert published.channels == (Channel.SMS,)
    assert published.missing({"n": "", "m": 1}) == []
    incomplete: list[object] = [{"m": 1}, {"n": None}, {}, [], None, "n", 5]
    for data in incomplete:
        assert published.missing(data) == ["n"]


async def test_an_unknown_version_has_no_channels() -> None:
    _, _, renderer = await world(EN)
    with pytest.raises(NotFound):
        await renderer.channels(TENANT, TemplateRef("order", 7))


async def test_a_stored_version_that_no_longer_compiles_fails_its_deliveries_alone() -> None:
    _, _, renderer = await world({"en": Content(email=EmailContent("{% include 'x' %}", text="x"))})
    answers = await renderer.render(
        [delivery(Channel.EMAIL), delivery(Channel.SMS, None, Content(sms=SmsContent("x")))]
    )
    assert isinstance(answers[0], TemplateError)
    assert answers[0].path == "en.email.subject"
    assert await renderer.channels(TENANT, TemplateRef("order", 1)) == (Channel.EMAIL,)
    published = await renderer.published(TENANT, "order")
    assert published is not None
    assert published.channels == (Channel.EMAIL,)
    assert answers[1] == SmsContent("x")


async def test_empty_and_too_long_content_have_their_own_reasons() -> None:
    contents = {
        "en": Content(
            sms=SmsContent("{{ n }}"),
            email=EmailContent("{{ n }}", html="<p>{{ n }}</p>"),
            push=PushContent("{{ n }}", "{{ n }}"),
        )
    }
    _, _, renderer = await world(contents)
    for channel in (Channel.SMS, Channel.EMAIL, Channel.PUSH):
        for blank in (b'{"n": " "}', '{"n": "\u200b"}'.encode(), b'{"n": "\\n"}'):
            (answer,) = await renderer.render([delivery(channel, data=blank)])
            assert isinstance(answer, TemplateError)
            assert answer.reason == "empty_content"
    for channel, length in ((Channel.SMS, 1_601), (Channel.PUSH, 2_100), (Channel.EMAIL, 999)):
        (answer,) = await renderer.render([delivery(channel, data=b'{"n": "%s"}' % (b"x" * length))])
        assert isinstance(answer, TemplateError)
        assert answer.reason == "too_long"
    (answer,) = await renderer.render([delivery(Channel.PUSH, data=b'{"n": {}}')])
    assert isinstance(answer, TemplateError)
    assert answer.reason == "template_error"


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<h1>Hi</h1><ul><li>a</li><li>b &amp; c</li></ul>", "Hi\n\n- a\n- b & c\n"),
        ("<p><a href='https://x.example/a'>Here</a></p>", "Here (https://x.example/a)\n"),
        ("<p>{{ n }}</p>", "{{ n }}\n"),
        ("<img src='https://x.example/a.png'>", None),
    ],
)
async def test_a_literal_mail_of_html_alone_gets_a_text(html: str, text: str | None) -> None:
    _, _, renderer = await world(EN)
    literal = Content(email=EmailContent("s", html=html))
    assert await renderer.render([delivery(Channel.EMAIL, None, literal)]) == [EmailContent("s", text, html)]


async def test_a_literal_mail_that_shows_nothing_is_not_sent() -> None:
    _, _, renderer = await world(EN)
    for html in ("<p> </p>", "<style>p{}</style>", "<!-- x -->", "&nbsp;"):
        (answer,) = await renderer.render([delivery(Channel.EMAIL, None, Content(email=EmailContent("s", html=html)))])
        assert isinstance(answer, TemplateError)
        assert answer.reason == "empty_content"


async def test_it_is_the_port() -> None:
    _, _, renderer = await world(EN)
    port: Renderer = renderer
    assert await port.render([]) == []
