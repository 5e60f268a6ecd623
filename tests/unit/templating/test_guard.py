from __future__ import annotations

import contextlib

import minijinja
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidings.model.errors import TemplateError
from tidings.model.notification import Content, SmsContent
from tidings.model.template import TemplateVersion
from tidings.model.vocabulary import Channel
from tidings.templating.compile import FUEL, compile_version
from tidings.templating.guard import FILTERS, MAX_BRANCHES, MAX_TOKENS, METHOD_NAMES, check, method_paths, pieces

DATA = {"a": [1, 2, [3]], "o": {"x": 1, "items": [{"n": "one"}]}, "s": "text", "n": 3, "z": ["y" * 100_000]}


def render(source: str, undefined: str = "strict") -> str:
    version = TemplateVersion("t", 1, {"en": Content(sms=SmsContent(source))})
    content = compile_version(version, undefined=undefined).render(Channel.SMS, "en", None, DATA)
    assert isinstance(content, SmsContent)
    return content.text


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ s }}, {{ o.x }}, {{ o['x'] }}, {{ a[0] }}, {{ a[0:2]|join }}", "text, 1, 1, 1, 12"),
        ("{% for i in o['items'] %}{{ i.n }}{% endfor %}", "one"),
        ("{% for k, v in o|items %}{{ k }} {% endfor %}", "x items "),
        ("{% if n > 2 and s == 'text' %}yes{% elif n %}no{% else %}none{% endif %}", "yes"),
        ("{% set m = n %}{{ m - 1 }} {% set p, q = [4, 5] %}{{ p }}{{ q }}", "2 45"),
        ("{% with m = 5, k = 6 %}{{ m|plus(k) }}{% endwith %}", "11"),
        ("{% raw %}{{ s }} {% x %}{% endraw %}{# {{ nothing }} #}", "{{ s }} {% x %}"),
        ("{{ s if n else 'x' }} {{ (n - 1) // 2 }} {{ -n }} {{ n is odd }} {{ n in [1, 3] }}", "text 1 -3 true true"),
        ("{{ {'a': 1.5}.a }} {{ (1, 2)|join('-') }} {{ '}}' }} {{ \"a\\\"b\" }}", '1.5 1-2 }} a"b'),
        ("{{ o['items']|map(attribute='n')|join }} {{ ['a', 'b']|map('upper')|join }}", "one AB"),
        ("{{ [2, 1]|sort|join }} {{ [1, 2]|sum }} {{ n|times(1.5) }}", "12 3 4.5"),
        ("{% for i in range(3) %}{{ loop.cycle('x', 'y') }}{{ loop.index }}{% endfor %}", "x1y2x3"),
        ("{% for i in range(9) %}{% if i > 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "012"),
        ("a\n{% if n %}\nb\n{% endif %}\nc\n", "a\nb\nc\n"),
        ("{{ größe|default('ü') }} {%- if n is not none -%} ! {%- endif %}", "ü!"),
        ('JSON: { "a": {1} } 100% #1', 'JSON: { "a": {1} } 100% #1'),
    ],
)
def test_allowed_templates(source: str, text: str) -> None:
    assert render(source) == text


@pytest.mark.parametrize(
    "source",
    [
        # endless growth
        "{{ s * 3 }}",
        "{{ a * 9999999 }}",
        "{{ a + a }}",
        "{{ 2 ** 99 }}",
        "{{ [a, a] }}",
        "{{ [[s]] }}",
        "{{ {'x': a} }}",
        "{{ (a, a) }}",
        "{% set b = a, a %}",
        "{% set b = (a, a) %}",
        "{% set b %}{{ [s] }}{% endset %}",
        "{{ s if n else [a] }}",
        "{{ n and [a] }}",
        "{{ n in [a] }}",
        "{{ a|zip(a) }}",
        "{{ a|chain(a) }}",
        "{{ a|batch(2, a) }}",
        "{{ a|slice(2, a) }}",
        "{{ a|groupby('x') }}",
        "{{ a|map('zip', a) }}",
        "{{ a|map('default', a, true) }}",
        "{{ a|map(attribute='x', default=a) }}",
        "{{ a|map(s) }}",
        "{{ a|map(attribute, 'x') }}",
        "{{ a|map('up' 'per') }}",
        "{{ a|sum(start=a) }}",
        "{{ a|tojson }}",
        "{{ a|pprint }}",
        "{{ '%s'|format(a) }}",
        "{{ dict(x=a) }}",
        "{% set ns = namespace(x=a) %}{% set ns.x = ns %}{{ ns }}",
        "{% for x in a recursive %}{{ loop(a) }}{% endfor %}",
        # access to things that are not data
        "{{ a.append(1) }}",
        "{{ o.update({'x': 2}) }}",
        "{{ o['update']() }}",
        "{{ (a)(1) }}",
        "{{ a[0](1) }}",
        "{{ s.upper() }}",
        "{{ s.__class__ }}",
        "{{ a.__class__.__mro__ }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ s|attr('__class__') }}",
        "{{ self.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ lipsum.__globals__ }}",
        "{{ config.items() }}",
        "{{ debug() }}",
        "{{ joiner() }}",
        "{{ cycler('a') }}",
        "{{ now() }}",
        "{% set range = a.append %}{{ range(1) }}",
        "{% with range = a.append %}{{ range(1) }}{% endwith %}",
        "{% for range in a %}{{ range(1) }}{% endfor %}",
        "{% set loop = a %}{{ loop.cycle(1) }}",
        "{{ x.loop.cycle(1) }}",
        # other templates and other statements
        "{% include '/etc/passwd' %}",
        "{% import 'x' as y %}",
        "{% from 'x' import y %}",
        "{% extends 'x' %}",
        "{% block b %}{% endblock %}",
        "{% macro f() %}{{ f() }}{% endmacro %}",
        "{% call f() %}{% endcall %}",
        "{% autoescape false %}{{ s }}{% endautoescape %}",
        "{% filter upper %}x{% endfilter %}",
        "{% do a.append(1) %}",
        "{{ loop }}",
        "{{ range }}",
        # code that cannot be parsed
        "{{ }}",
        "{% %}",
        "{{ a",
        "{% if a",
        "{# a",
        "{% raw %} a",
        "{{ a } }}",
        "{{ (a] }}",
        "{{ a @ b }}",
        "{{ 1if a }}",
        "{{ 0x1e+5 }}",
        "{{ 'a }}",
        "{{ a|nothing }}",
        "{{ a| }}",
    ],
)
def test_refused_templates(source: str) -> None:
    with pytest.raises(TemplateError) as caught:
        render(source)
    assert caught.value.detail.startswith("line 1: ")
    with pytest.raises(TemplateError):
        check(source)


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}",
        "{% for a in range(100000) %}{% endfor %}",
        "{% set s = 'aaaaaaaa' %}" + "{% set s = s ~ s %}" * 60 + "{{ s }}",
        "{% set s = s|replace('t', s) %}" * 40 + "{{ s }}",
        "{% set x %}{{ s }}{{ s }}{% endset %}{% set s = x %}" * 60 + "{{ s }}",
        "{{ range(100000)|list|join(z[0]) }}",
        "{% for i in range(5000) %}{{ z[0] }}{% endfor %}",
        "{{ range(1000000000) }}",
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{{ " + "[" * 5000 + "]" * 5000 + " }}",
        "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    ],
)
def test_an_endless_template_is_stopped(source: str) -> None:
    with pytest.raises(TemplateError):
        render(source)


def chains(links: int) -> list[str]:
    """Templates in which an operator or filter stands `links` times in a row."""
    return [
        "{{ s" + "|upper" * links + " }}",
        "{{ s" + " ~ s" * links + " }}",
        "{{ " + "not " * links + "s }}",
        "{{ 1" + " - 1" * links + " }}",
        "{{ " + "-" * links + "1 }}",
        "{{ s" + " and s" * links + " }}",
        "{{ s" + " or s" * links + " }}",
        "{{ s" + ".a" * links + " }}",
        "{{ s" + "['a']" * (links // 2) + " }}",
        "{{ 1" + " if s else 1" * (links // 2) + " }}",
        "{% if s" + " == s" * links + " %}{% endif %}",
    ]


def branches(count: int) -> str:
    return "{% if 0 %}" + "{% elif 0 %}" * count + "{% endif %}"


@pytest.mark.parametrize("source", [*chains(20_000), branches(20_000)])
def test_a_long_chain_is_refused_before_the_engine_sees_it(source: str) -> None:
    with pytest.raises(TemplateError, match=r"too long|more than"):
        check(source)


@pytest.mark.parametrize("source", [*chains(MAX_TOKENS // 2 - 2), branches(MAX_BRANCHES)])
def test_the_longest_chain_ends_by_itself(source: str) -> None:
    assert check(source)
    with contextlib.suppress(TemplateError):
        render(source)


FRAGMENTS = [
    *("{{", "}}", "{%", "%}", "{#", "#}", "-", "|", ".", ",", "(", ")", "[", "]", "{", "}", "=", "==", "~", ":", "'"),
    *(
        " if ",
        " else ",
        " endif ",
        " for ",
        " in ",
        " endfor ",
        " set ",
        " with ",
        " endwith ",
        " not ",
        " and ",
        " is ",
    ),
    *(" raw ", " endraw ", " loop ", " range ", " a ", " o ", " s ", " n ", " z ", "'x'", "'items'", " 1 ", " 1.5 "),
    *(" append ", " items ", " attribute ", "\n", "text", "é", "\\"),
    *(f"|{name}" for name in sorted(FILTERS)),
]


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=30).map("".join))
def test_any_text_renders_or_is_refused_with_a_sentence(source: str) -> None:
    for undefined in ("strict", "chainable"):
        try:
            text = render(source, undefined)
        except TemplateError as error:
            assert error.detail  # noqa: PT017 (either outcome is right)
        else:
            assert "built-in method" not in text
            assert DATA["a"] == [1, 2, [3]]


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=30).map("".join))
def test_pieces_are_the_whole_source(source: str) -> None:
    try:
        found = list(pieces(source))
    except TemplateError:
        return
    assert "".join(piece.source for piece in found) == source
    line = 1
    for piece in found:
        assert piece.line == line
        line += piece.source.count("\n")


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=20).map("".join))
def test_a_piece_of_text_is_text_for_the_engine_too(source: str) -> None:
    try:
        found = check(source)
    except TemplateError:
        return
    if all(piece.kind in {"text", "raw", "comment"} for piece in found):
        engine = minijinja.Environment(fuel=FUEL, keep_trailing_newline=True)
        engine.add_template("t", source)
        assert engine.undeclared_variables_in_template("t") == set()


def test_every_filter_that_is_offered_exists() -> None:
    for name in FILTERS:
        version = TemplateVersion("t", 1, {"en": Content(sms=SmsContent(f"{{{{ a|{name}('x') }}}}"))})
        if name in {"map", "sum"}:
            continue
        try:
            compile_version(version).render(Channel.SMS, "en", None, DATA)
        except TemplateError as error:
            assert f"filter {name} is unknown" not in error.detail  # noqa: PT017 (either outcome is right)


def test_a_field_named_like_a_method_is_the_field_and_never_the_method() -> None:
    assert "items" in METHOD_NAMES
    assert render("{{ o['items'][0].n }}") == "one"
    assert render("{{ o.items[0].n }}") == "one"
    for source in (
        "{{ o.update }}",
        "{{ o['copy'] }}",
        "{{ o[k] }}{% set k = 'pop' %}",
        "{% set k = 'pop' %}{{ o[k] }}",
        "{{ a.append }}",
        "{{ a['count'] }}",
        "{{ [o]|map(attribute='keys')|join }}",
        "{{ items }}",
        "{% if values %}x{% endif %}",
        "{% for i in o.items %}{{ i.copy }}{% endfor %}",
    ):
        with pytest.raises(TemplateError):
            render(source)


def test_paths_that_data_must_have() -> None:
    assert method_paths(check("{{ o.x }}")) == frozenset()
    assert method_paths(check("{{ o.items }}{{ p.q['copy'] }}")) == frozenset({("o", "items"), ("p", "q", "copy")})
    assert method_paths(check("{% for i in a %}{{ i.items }}{% endfor %}")) is None
    assert method_paths(check("{{ a|map(attribute='items') }}")) is None
    assert method_paths(check("{{ o[k] }}")) is None
    assert method_paths(check(r"{{ o['ite\x6ds'] }}")) is None


def test_errors_name_the_line() -> None:
    with pytest.raises(TemplateError, match=r"^line 3: "):
        check("one\ntwo\n{{ a * b }}")
