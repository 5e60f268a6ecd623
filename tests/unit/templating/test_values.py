"""How templates treat missing values, and JSON values that are not texts, on every channel."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.model.errors import Invalid, TemplateError
from tidings.model.notification import Content, EmailContent, InappContent, PushContent, SmsContent
from tidings.model.template import TemplateVersion, Variable
from tidings.model.vocabulary import Channel
from tidings.templating.check import checked
from tidings.templating.compile import compile_version
from tidings.templating.expectations import check_printed, printed
from tidings.templating.values import NOTHING, filled, text_of

OPTIONAL = {"name": Variable(required=False)}


def sms(source: str, data: dict[str, Any], variables: dict[str, Variable] | None = None) -> str:
    known = {name: Variable() for name in data} | OPTIONAL if variables is None else variables
    version = checked(TemplateVersion("t", 1, {"en": Content(sms=SmsContent(source))}, variables=known))
    content = compile_version(version).render(Channel.SMS, None, None, data)
    assert isinstance(content, SmsContent)
    return content.text


@pytest.mark.parametrize("data", [{}, {"name": None}], ids=["absent", "null"])
@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("Hi {% if name %}{{ name }}{% else %}there{% endif %}!", "Hi there!"),
        ("Hi {{ name }}!", "Hi !"),
        ("{{ name or 'there' }}", "there"),
        ("{{ 'a' if name else 'b' }}", "b"),
        ("{{ 'a' if name }}|", "|"),
        ("{{ name|default('there') }} {{ name|d('you') }}", "there you"),
        ("{{ name is defined }} {{ name is undefined }} {{ name is none }}", "false true true"),
        ("{{ name == none }} {{ name != none }} {{ none == name }} {{ name is not none }}", "true false true false"),
        ("{% for each in name %}x{% else %}none{% endfor %}", "none"),
        ("{{ name.first }}|{{ name.a.b['c'] }}|{{ name[0] }}|{{ name.items }}|", "||||"),
        ("{% if name.first %}x{% endif %}|{% if not name %}no{% endif %}", "|no"),
        ("{{ 'x' ~ name ~ 'y' }}", "xy"),
        ("{{ name|upper }}{{ name|trim }}{{ name|title }}{{ name|replace('a', 'b') }}{{ name|e }}|", "|"),
        ("{{ name > 3 }} {{ name < 3 }} {{ 3 < name }} {{ 3 > name }} {{ name >= name }} {{ name <= 0 }}",
         "false false false false false false"),
        ("{{ name|date }}{{ name|time }}{{ name|datetime }}{{ name|number }}{{ name|percent }}|", "|"),
        ("{{ name|currency('EUR') }}{{ name|plural(one='# x', other='# xs') }}|", "|"),
        ("{{ name|times(2) }}{{ 2|times(name)|number }}{{ name|plus(1)|currency('EUR') }}|", "|"),
        ("{{ name|join(', ') }}{{ name|first }}{{ name|last }}{{ name|length }}", "0"),
        ("{% set other = name %}{{ other }}{% with n = name %}{{ n }}{% endwith %}|", "|"),
        ("{{ name in ['a'] }} {{ 'a' in name }}", "false false"),
        ("{{ name|map(attribute='x')|join(',') }}{{ name|sort|join }}{{ name|list|length }}", "0"),
        ("{{ name|default(none) }}|{{ name|default('', true) or 'q' }}", "|q"),
    ],
)  # fmt: skip
def test_an_absent_optional_variable_prints_nothing(source: str, expected: str, data: dict[str, Any]) -> None:
    assert sms(source, data) == expected


@pytest.mark.parametrize(("name", "expected"), [("Ada", "Hi Ada!"), ("", "Hi there!"), (0, "Hi there!"), (7, "Hi 7!")])
def test_a_present_variable_prints_itself(name: Any, expected: str) -> None:
    assert sms("Hi {% if name %}{{ name }}{% else %}there{% endif %}!", {"name": name}) == expected


@pytest.mark.parametrize("source", ["{{ name|int }}", "{{ name / 2 }}", "{{ name|round }}", "{{ name|abs }}"])
def test_an_expression_that_needs_a_value_is_refused_at_creation(source: str) -> None:
    with pytest.raises(Invalid) as refused:
        sms(source, {})
    assert (refused.value.code, refused.value.path) == ("invalid_template", "$.contents.en.sms.text")
    with pytest.raises(Invalid, match="without name, which may be left out"):
        sms(source, {}, {"name": Variable(required=False, example=4)})
    assert sms(f"{{% if name %}}{source}{{% endif %}}", {}) == ""


VALUES = {
    "t": True,
    "f": False,
    "one": 1.0,
    "big": 10**30,
    "large": 1e21,
    "small": 1e-7,
    "sum": 0.1 + 0.2,
    "list": [1, "x", None, True, 2.0],
    "object": {"null": None, "list": [None], "t": True},
}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ t }} {{ f }}", "true false"),
        ("{{ one }} {{ big }} {{ large }}", f"1 {10**30} {10**21}"),
        ("{{ small }} {{ sum }}", "0.0000001 0.30000000000000004"),
        ("{{ 'x' ~ t ~ one ~ object.null ~ f }}", "xtrue1false"),
        ("{{ t ~ '' }}{{ object.t ~ '' }}{{ list[3] ~ '' }}{{ (t and f) ~ '' }}", "truetruetruefalse"),
        ("{{ 10 / 2 ~ ' EUR' }} {{ -one ~ 'x' }} {{ 'x' ~ one / 2 }}", "5 EUR -1x x0.5"),
        ("{{ t|upper }} {{ t|string }} {{ one|string }} {{ t|replace('t', 'T') }}", "TRUE true 1 True"),
        ("{{ t|safe }} {{ one|safe }} {{ t|urlencode }} {{ one|urlencode }}", "true 1 true 1"),
        ("{{ {'a': 1, 'b c': 'd/e'}|urlencode }}", "a=1&b%20c=d%2Fe"),
        ("{{ 'axb'|replace('x', t) }} {{ 'a1b'|replace(one, '-') }} {{ t|replace(t, f) }}", "atrueb a-b false"),
        (
            "{{ 'hello big world'|truncate(9, true, t) }} {{ 'hello big world'|truncate(9, leeway=0) }}",
            "hellotrue hello...",
        ),
        ("{{ 'hello'|truncate(3, leeway=2) }} {{ 'hello'|truncate(3, leeway=1, end='') }}", "hello hel"),
        ("item{{ 2|pluralize }} cherr{{ one|pluralize('y', 'ies') }} {{ 0|pluralize(1, t) }}", "items cherry true"),
        ("{{ list|join(', ') }}", "1, x, true, 2"),
        ("{{ list|map('string')|join('-') }}", "1-x--true-2"),
        ("{{ list|map('upper')|join('-') }}", "1-X--TRUE-2"),
        ("{% for each in list %}[{{ each }}]{% endfor %}", "[1][x][][true][2]"),
        ("{{ object.null }}{{ object.null.more }}{{ object.list[0] }}{{ object.list|join }}|", "|"),
        ("{{ object.null|default('d') }} {{ object.none|default('e') }}", "d e"),
        ("{{ 'a' if object.null > 1 else 'b' }}{{ 'a' if object.null < 1 else 'b' }}", "bb"),
    ],
)
def test_values_are_printed_for_people(source: str, expected: str) -> None:
    assert sms(source, VALUES) == expected


@pytest.mark.parametrize(
    "source",
    ["{{ list }}", "{{ object }}", "{{ 'x' ~ list }}", "{{ object|upper }}", "{{ [list]|join }}", "{{ list|safe }}",
     "{{ list|urlencode }}", "{{ 'axb'|replace('x', list) }}", "{{ 'abcdefghijk'|truncate(3, false, object) }}"],
)  # fmt: skip
def test_lists_and_objects_are_not_printed(source: str) -> None:
    with pytest.raises((TemplateError, Invalid)):
        sms(source, VALUES)


def test_an_error_names_no_object_of_python() -> None:
    with pytest.raises((TemplateError, Invalid), match="not nothing"):
        sms("{{ '2026-05-04'|date(object.null) }}", VALUES)


def test_a_misspelt_name_is_still_an_error() -> None:
    parts = ("", "|upper", " ~ 'x'", "|number", " > 1", "|join", ".more", "|first", "|safe", "|urlencode", "|truncate")
    for part in (*parts, "|replace('a', 'b')", "|pluralize"):
        source = f"{{{{ object.nul{part} }}}}"
        with pytest.raises(TemplateError):
            sms(source, VALUES)


def test_every_channel_prints_the_same() -> None:
    said = "{{ t }}{{ name }}{{ one }}{{ 'x' ~ name ~ t }}"
    content = Content(
        email=EmailContent(said, html=f"<p>{said}</p>"),
        sms=SmsContent(said),
        push=PushContent(said, said, link="https://x.example/" + said),
        inapp=InappContent(said, said),
    )
    version = checked(
        TemplateVersion("t", 1, {"en": content}, variables={"t": Variable(), "one": Variable()} | OPTIONAL)
    )
    compiled = compile_version(version)
    data = {"t": True, "one": 1.0}
    shown = "true1xtrue"
    assert compiled.render(Channel.EMAIL, None, None, data) == EmailContent(shown, shown + "\n", f"<p>{shown}</p>")
    assert compiled.render(Channel.SMS, None, None, data) == SmsContent(shown)
    assert compiled.render(Channel.PUSH, None, None, data) == PushContent(shown, shown, "https://x.example/" + shown)
    assert compiled.render(Channel.INAPP, None, None, data) == InappContent(shown, shown)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
SOURCES = st.lists(
    st.sampled_from(
        ["{{ v }}", "{{ v.a }}", "{{ 'x' ~ v }}", "{{ v|join(' ') }}", "{{ v|upper }}",
         "{% for i in v %}{{ i }}{% endfor %}",
         "{{ v or 'd' }}", "{{ v|default('d') }}", "{{ v|list|join }}", "{{ v|first }}", "{{ v.a.b ~ v.c }}",
         "{{ v|map('string')|join }}", "{{ v if v else none }}", "{{ v|safe }}", "{{ v|urlencode }}",
         "{{ 'axb'|replace('x', v) }}", "{{ v|replace(v, 'y') }}", "{{ v|truncate(3, false, v) }}",
         "{{ 2|pluralize('', v) }}"]
    ),
    min_size=1,
    max_size=3,
).map("".join)  # fmt: skip


@given(SOURCES, JSON)
def test_nothing_is_ever_printed_as_python(source: str, value: Any) -> None:
    version = TemplateVersion(
        "t", 1, {"en": Content(sms=SmsContent(source))}, variables={"v": Variable(required=False)}
    )
    try:
        content = compile_version(version).render(Channel.SMS, None, None, {"v": value})
    except TemplateError:
        return
    assert isinstance(content, SmsContent)
    written = json.dumps(value, ensure_ascii=False) + source
    assert "Nothing object" not in content.text
    for word in ("None", "True", "False", "NOTHING", "undefined", "Nothing", "NONE"):
        assert word not in content.text or word.lower() in written.lower()


@given(st.dictionaries(st.text(max_size=4), JSON, max_size=5), st.lists(st.text(max_size=4), max_size=3))
def test_the_data_are_filled_and_not_changed(data: dict[str, Any], optional: list[str]) -> None:
    before = json.dumps(data)
    found = filled(data, optional)
    assert json.dumps(data) == before
    assert all(found[name] is NOTHING for name in optional if data.get(name) is None)
    inside = {name: value for name, value in found.items() if isinstance(value, dict | list)}
    assert "null" not in json.dumps(inside, default=lambda _: "").replace('"', "").split()


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_has_all_its_digits_and_no_exponent(number: float) -> None:
    shown = text_of(number)
    assert float(shown) == number
    assert "e" not in shown
    assert not shown.endswith(".0")


@pytest.mark.parametrize(
    ("source", "data", "code", "path"),
    [
        ("{{ v }}", {"v": [1]}, "not_printable", "$.data.v"),
        ("{{ v }}", {"v": {}}, "not_printable", "$.data.v"),
        ("Order {{ v.number }}", {"v": {}}, "missing_variables", "$.data.v.number"),
        ("Order {{ v.a.b }}", {"v": {"a": {"b": [1]}}}, "not_printable", "$.data.v.a.b"),
        ("Order {{ v.a.b }}", {"v": {"a": 5}}, "missing_variables", "$.data.v.a.b"),
        ("Order {{ v.a.b }}", {"v": {"a": None}}, None, None),
        ("{{ v }}", {"v": None}, None, None),
        ("{{ v }}", {}, None, None),
        ("{% if v.a %}{{ v.a }}{% endif %}", {"v": {}}, None, None),
        ("{% for v in w %}{{ v }}{% endfor %}{{ v }}", {"v": []}, None, None),
        ("{% set x %}{{ v.a }}{% endset %}", {"v": {}}, None, None),
        ("{% if w %}x{% endif %}{{ v.a }}", {"v": {}}, "missing_variables", "$.data.v.a"),
        ("{{ v|join }}{{ v.a or 'x' }}", {"v": []}, None, None),
    ],
)
def test_a_request_without_data_that_every_text_prints_is_refused(
    source: str, data: dict[str, Any], code: str | None, path: str | None
) -> None:
    version = TemplateVersion(
        "t", 1, {"en": Content(sms=SmsContent(source))}, variables={"v": Variable(), "w": Variable()}
    )
    paths = printed(version).get(Channel.SMS, ())
    if code is None:
        check_printed(paths, data)
        return
    with pytest.raises(Invalid) as refused:
        check_printed(paths, data)
    assert (refused.value.code, refused.value.path) == (code, path)
