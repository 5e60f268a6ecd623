from __future__ import annotations

from typing import Any
from unicodedata import category

import pytest
from babel.localedata import locale_identifiers
from hypothesis import given
from hypothesis import strategies as st

from tidings.model.errors import TemplateError
from tidings.model.notification import Content, EmailContent, InappContent, PushContent, SmsContent
from tidings.model.sending import RenderedContent
from tidings.model.template import TemplateVersion, Variable
from tidings.model.vocabulary import Channel
from tidings.policy.sms import segments
from tidings.templating import fuel
from tidings.templating.compile import MAX_OUTPUT, AlwaysFails, compile_version

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


def test_an_undefined_name_is_named_in_the_error() -> None:
    for source, name in (("{{ a.b }}", "a.b"), ("{{ a.b.c }}", "a.b"), ("{{ q }}", "q"), ("{{ a['x y'] }}", "x y")):
        with pytest.raises(TemplateError, match="is undefined") as caught:
            rendered(Channel.SMS, Content(sms=SmsContent(source)), {"a": {}})
        assert name in caught.value.detail
        assert caught.value.path == "en.sms.text"


def test_output_that_is_too_large_or_has_a_nul_is_refused() -> None:
    content = Content(sms=SmsContent("{{ v }}{{ v }}"))
    with pytest.raises(AlwaysFails, match="more than"):
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


def test_formatted_spaces_do_not_make_a_text_message_expensive() -> None:
    content = Content(sms=SmsContent("{{ v|time }}"), push=PushContent("t", "{{ v|time }}"))
    assert rendered(Channel.SMS, content, {"v": "2026-05-04T10:30:00Z"}, "en-US") == SmsContent("10:30 AM")
    assert rendered(Channel.PUSH, content, {"v": "2026-05-04T10:30:00Z"}, "en-US") == PushContent("t", "10:30\u202fAM")


DEAR = {"n": 1234.5, "d": "2026-05-04T15:30:00Z", "m": -5}


@pytest.mark.parametrize("locale", sorted(name for name in locale_identifiers() if len(name) == 2))
def test_filters_make_no_text_message_expensive_that_could_be_cheap(locale: str) -> None:
    """Characters that a filter adds are replaced by their GSM-7 twins; letters of other alphabets stay."""
    source = (
        "{{ n|number }} {{ n|currency('CHF') }} {{ m|number }} {{ m|currency('EUR') }} {{ 0.5|percent }} {{ d|time }}"
    )
    compiled = compile_version(
        TemplateVersion("t", 1, {locale: Content(sms=SmsContent(source))}, default_locale=locale)
    )
    content = compiled.render(Channel.SMS, locale, None, DEAR)
    assert isinstance(content, SmsContent)
    if segments(content.text).encoding == "ucs-2":
        foreign = [letter for letter in content.text if ord(letter) > 0x7F and segments(letter).encoding == "ucs-2"]
        assert any(category(letter)[0] in "LNS" or "\u0600" <= letter <= "\u06ff" for letter in foreign), content.text


@pytest.mark.parametrize(
    ("typed", "sent"),
    [
        ("CHF 1’234.50", "CHF 1'234.50"),
        ("“Hi” – it’s … me — „you“", '"Hi" - it\'s ... me - "you"'),
        ("5\u202f000\u00a0€ \u221210", "5 000 € -10"),
        ("e\u0301te\u0301 \u200b\u200e", "été "),
        ("Привет – “you”", "Привет – “you”"),
        ("😀 it’s", "😀 it’s"),
    ],
)
def test_a_text_message_is_cheap_where_it_can_be(typed: str, sent: str) -> None:
    assert rendered(Channel.SMS, Content(sms=SmsContent(typed)), {}) == SmsContent(sent)
    assert rendered(Channel.SMS, Content(sms=SmsContent("{{ v }}")), {"v": typed}) == SmsContent(sent)
    assert rendered(Channel.PUSH, Content(push=PushContent("t", "{{ v }}")), {"v": typed}) == PushContent("t", typed)


HEAVY = [
    "{% for a in v %}{% if (a|datetime('full')) == '' %}{% endif %}{% endfor %}",
    "{% for a in v %}{{ a|date }}{{ a|time('long') }}{% endfor %}",
    "{% for a in n %}{{ a|number }}{{ a|currency('EUR') }}{{ a|percent }}{% endfor %}",
    "{% for a in n %}{{ a|plural(other='# xs') }}{% endfor %}",
    "{% for a in n %}{% if n|join(',') == '' %}{% endif %}{% endfor %}",
    "{% for a in n %}{% if (n|default(1)) == '' %}{% endif %}{% endfor %}",
    "{% for a in n %}{% if s ~ s == '' %}{% endif %}{% endfor %}",
    "{% set big = n|list %}{% for a in n %}{% if big is defined %}{% endif %}{% endfor %}",
    "{% set big = n|list %}{% for a in n %}{% if big > 1 %}{% endif %}{% endfor %}",
    "{% set big = n|list %}{% for a in n %}{% if (big|first) == '' %}{% endif %}{% endfor %}",
    "{% set big = n|list %}{% for a in n %}{% if (1|default(big)) == '' %}{% endif %}{% endfor %}",
    "{% for a in n %}{% if (s|e) == '' %}{% endif %}{% endfor %}",
    "{% for a in n %}{% if (n|first) == '' %}{% endif %}{% endfor %}",
    "{% for a in n %}{% if (1|plural(other=s)) == '' %}{% endif %}{% endfor %}",
]


@pytest.mark.parametrize("source", HEAVY)
def test_the_cost_of_filters_is_bounded(source: str) -> None:
    data = {
        "v": [f"2026-05-04T{number // 3600:02}:{number // 60 % 60:02}:{number % 60:02}Z" for number in range(20_000)],
        "n": [number + 0.5 for number in range(20_000)],
        "s": "x" * 50_000,
    }
    before = fuel.FUEL.left
    with pytest.raises(AlwaysFails, match="does not end, or expands too far"):
        rendered(Channel.EMAIL, Content(email=EmailContent("x", html=source)), data)
    assert -100_000 < fuel.FUEL.left < before
    # The next rendering has a full tank again.
    assert rendered(Channel.SMS, Content(sms=SmsContent("{{ 1|number }}")), {}) == SmsContent("1")


def test_doubling_a_text_again_and_again_ends_in_an_error() -> None:
    source = "{% set x = 'xxxxxxxx' %}" + "{% set x = x ~ x %}" * 30 + "{{ x }}"
    with pytest.raises(AlwaysFails):
        rendered(Channel.SMS, Content(sms=SmsContent(source)), {})


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
