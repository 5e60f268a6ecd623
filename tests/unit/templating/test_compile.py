from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.model.errors import TemplateError
from tidings.model.notification import Content, EmailContent, InappContent, PushContent, SmsContent
from tidings.model.sending import RenderedContent
from tidings.model.template import TemplateVersion, Variable
from tidings.model.vocabulary import Channel
from tidings.templating.compile import MAX_OUTPUT, Hopeless, compile_version

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=10,
)


def rendered(channel: Channel, content: Content, data: dict[str, Any], locale: str | None = None) -> RenderedContent:
    return compile_version(TemplateVersion("t", 1, {"en": content})).render(channel, locale, None, data)


def test_only_the_html_of_a_mail_is_escaped() -> None:
    data = {"v": "<b>\"A\" & 'B'</b>"}
    content = Content(
        email=EmailContent("{{ v }}", text="{{ v }}", html="<p>{{ v }}</p><p>{{ v|safe }}</p>"),
        sms=SmsContent("{{ v }}"),
        push=PushContent("{{ v }}", "{{ v }}", link="https://x.example/{{ v|urlencode }}"),
        inapp=InappContent("{{ v }}", "{{ v }}"),
    )
    email = rendered(Channel.EMAIL, content, data)
    assert isinstance(email, EmailContent)
    assert email.subject == email.text == data["v"]
    assert email.html == ("<p>&lt;b&gt;&quot;A&quot; &amp; &#x27;B&#x27;&lt;/b&gt;</p><p><b>\"A\" & 'B'</b></p>")
    assert rendered(Channel.SMS, content, data) == SmsContent(data["v"])
    push = rendered(Channel.PUSH, content, data)
    assert isinstance(push, PushContent)
    assert push.link == "https://x.example/%3Cb%3E%22A%22%20%26%20%27B%27%3C/b%3E"
    assert rendered(Channel.INAPP, content, data) == InappContent(data["v"], data["v"])


@given(st.text(alphabet="a \r\n\0\x0b\x0c\x85\u2028\u2029\u202e\u200dé😀"))
def test_a_subject_stays_on_one_line(value: str) -> None:
    content = Content(email=EmailContent("Hi {{ v }}!", text="x"))
    try:
        email = rendered(Channel.EMAIL, content, {"v": value})
    except TemplateError:
        assert "\0" in value
        return
    assert isinstance(email, EmailContent)
    assert email.subject.startswith("Hi")
    assert len(email.subject.splitlines()) == 1
    assert "\u202e" not in email.subject


def test_a_header_cannot_be_forged_through_a_subject() -> None:
    content = Content(email=EmailContent("Hi {{ v }}\r\nX-Own: 1", text="x"))
    email = rendered(Channel.EMAIL, content, {"v": "Ada\r\nBcc: all@example.com"})
    assert email == EmailContent("Hi Ada  Bcc: all@example.com  X-Own: 1", text="x")


def test_emoji_sequences_survive_in_a_subject() -> None:
    content = Content(email=EmailContent("{{ v }}", text="x"))
    assert rendered(Channel.EMAIL, content, {"v": "👩‍🚀 مرحبا"}) == EmailContent("👩‍🚀 مرحبا", text="x")


@given(st.dictionaries(st.sampled_from("vwx") | st.text(max_size=6), VALUES))
def test_any_json_renders_or_is_refused(data: dict[str, Any]) -> None:
    source = "{{ v }} {% for i in w %}{{ i.a }}{% endfor %}{{ x|default('d')|number }}"
    content = Content(sms=SmsContent(source), email=EmailContent("{{ v }}", html="{{ w }}{{ v.items }}"))
    for channel in (Channel.SMS, Channel.EMAIL):
        try:
            rendered(channel, content, data)
        except TemplateError as error:
            assert error.path.startswith(f"en.{channel.value}.")  # noqa: PT017 (either outcome is right)


def test_data_cannot_name_the_template_or_reach_the_engine() -> None:
    data = {"template_name": "x", "self": 1, "source": "y", "name": "{{ v }}", "{{ v }}": 1, "": 2, "v": "{{ 1/0 }}"}
    content = Content(sms=SmsContent("{{ v }}{{ name }}{{ self }}"))
    assert rendered(Channel.SMS, content, data) == SmsContent("{{ 1/0 }}{{ v }}1")


def test_what_is_undefined_is_named() -> None:
    for source, name in (("{{ a.b }}", "a.b"), ("{{ a.b.c }}", "a.b"), ("{{ q }}", "q"), ("{{ a['x y'] }}", "x y")):
        with pytest.raises(TemplateError, match="is undefined") as caught:
            rendered(Channel.SMS, Content(sms=SmsContent(source)), {"a": {}})
        assert name in caught.value.detail
        assert caught.value.path == "en.sms.text"


def test_what_is_too_large_or_holds_a_nul_is_refused() -> None:
    content = Content(sms=SmsContent("{{ v }}{{ v }}"))
    with pytest.raises(Hopeless, match="more than"):
        rendered(Channel.SMS, content, {"v": "x" * (MAX_OUTPUT // 2 + 1)})
    with pytest.raises(TemplateError, match="NUL"):
        rendered(Channel.SMS, content, {"v": "\0"})


def test_each_channel_falls_back_by_itself() -> None:
    compiled = compile_version(
        TemplateVersion(
            "t",
            3,
            {
                "en": Content(sms=SmsContent("en"), push=PushContent("en", "en {{ locale }} {{ direction }}")),
                "pt": Content(sms=SmsContent("pt")),
                "pt-BR": Content(push=PushContent("br", "br {{ locale }} {{ direction }}")),
                "ar": Content(push=PushContent("ar", "ar {{ locale }} {{ direction }} {{ timezone }}")),
            },
        )
    )
    assert compiled.channels == (Channel.SMS, Channel.PUSH)
    assert compiled.render(Channel.SMS, "pt-BR", None, {}) == SmsContent("pt")
    assert compiled.render(Channel.PUSH, "pt_br", None, {}) == PushContent("br", "br pt-BR ltr")
    assert compiled.render(Channel.PUSH, "pt-PT", None, {}) == PushContent("en", "en en ltr")
    assert compiled.render(Channel.PUSH, "en-GB", None, {}) == PushContent("en", "en en-GB ltr")
    assert compiled.render(Channel.PUSH, None, None, {"locale": "xx"}) == PushContent("en", "en en ltr")
    assert compiled.render(Channel.PUSH, "ar-EG", "Africa/Cairo", {}) == PushContent("ar", "ar ar-EG rtl Africa/Cairo")
    with pytest.raises(TemplateError, match="no content for email"):
        compiled.render(Channel.EMAIL, "en", None, {})


def test_formatted_spaces_do_not_make_a_text_message_dear() -> None:
    content = Content(sms=SmsContent("{{ v|time }}"), push=PushContent("t", "{{ v|time }}"))
    assert rendered(Channel.SMS, content, {"v": "2026-05-04T10:30:00Z"}, "en-US") == SmsContent("10:30 AM")
    assert rendered(Channel.PUSH, content, {"v": "2026-05-04T10:30:00Z"}, "en-US") == PushContent("t", "10:30\u202fAM")


def test_many_readers_do_not_fill_the_memory() -> None:
    compiled = compile_version(TemplateVersion("t", 1, {"en": Content(sms=SmsContent("x"))}))
    for number in range(2500):
        compiled.choose(Channel.SMS, f"x{number}")
    assert len(compiled._choices) <= 1000


def test_required_variables_are_known() -> None:
    version = TemplateVersion(
        "t", 1, {"en": Content(sms=SmsContent("x"))}, variables={"a": Variable(), "b": Variable(required=False)}
    )
    assert compile_version(version).required == ("a",)
