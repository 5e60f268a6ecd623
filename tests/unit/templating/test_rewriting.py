from __future__ import annotations

from typing import Any

import minijinja
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidings.model.errors import TemplateError
from tidings.templating.compile import FUEL
from tidings.templating.engine import PLAIN, environment
from tidings.templating.guard import check
from tidings.templating.rewriting import rewritten


@pytest.mark.parametrize(
    ("source", "becomes"),
    [
        ("{{ a ~ b }}", "{{ a|_text ~ b|_text }}"),
        ("{{ a.b['c'](1)|f ~ 'x' ~ 1 }}", None),
        ("{{ a.b['c']|upper ~ 'x' ~ 1 }}", "{{ a.b['c']|_text|upper|_text ~ 'x' ~ 1 }}"),
        ("{{ a / b ~ -c }}", "{{ (a / b)|_text ~ (-c)|_text }}"),
        ("{{ (a if b else c) ~ d }}", "{{ (a if b else c)|_text ~ d|_text }}"),
        ("{% if a > 3 and 3 < b.c %}", "{% if a|_low > 3 and 3 < b.c|_low %}"),
        ("{{ none == a.none }}", "{{ _nothing == a.none }}"),
        ("{{ a is none or a is not none }}", "{{ a is none or a is not none }}"),
        ("{{ a|default(none) }}", "{{ a|default(_nothing) }}"),
        ("{{ xs|map('upper')|join }}", "{{ xs|map('_text')|map('upper')|join }}"),
        ("{{ xs|map(attribute='upper') }}", "{{ xs|map(attribute='upper') }}"),
        ("{{ 'a ~ none > b' }} a ~ none", "{{ 'a ~ none > b' }} a ~ none"),
        ("{% raw %}{{ a ~ b }}{% endraw %}{# a ~ b #}", "{% raw %}{{ a ~ b }}{% endraw %}{# a ~ b #}"),
        ("{{- a ~ b -}}", "{{- a|_text ~ b|_text -}}"),
    ],
)
def test_the_rewritten_source(source: str, becomes: str | None) -> None:
    if becomes is None:
        with pytest.raises(TemplateError):
            check(source)
        return
    assert rewritten(check(source)) == becomes


NAMES = st.sampled_from(["a", "b", "c.d", "c['d']", "xs[0]", "s", "'lit'", "1", "2.5", "(a)", "xs|length", "s|upper"])


def combined(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    operator = st.sampled_from([" ~ ", " / ", " // ", " % ", " - ", " > ", " <= ", " == ", " and ", " or ", " in "])
    return st.one_of(
        st.builds("{}{}{}".format, inner, operator, inner),
        st.builds("({})".format, inner),
        st.builds("({})|string".format, inner),
        st.builds("-{}".format, inner),
        st.builds("not {}".format, inner),
        st.builds("{} if {} else {}".format, inner, inner, inner),
        st.builds("{}|replace({}, 'x')".format, NAMES, inner),
        st.builds("({})|default({})".format, inner, inner),
    )


EXPRESSIONS = st.recursive(NAMES, combined, max_leaves=6)
DATA: dict[str, Any] = {"a": 7, "b": 2, "c": {"d": "D"}, "xs": ["q", "r"], "s": "text"}


def result(source: str) -> str:
    engine = environment(PLAIN, FUEL, "semi_strict")
    try:
        return engine.render_str(source, **DATA)
    except (minijinja.TemplateError, ValueError, TypeError) as error:
        return type(error).__name__


@settings(deadline=None, max_examples=400)
@given(EXPRESSIONS)
def test_rewriting_changes_nothing_else_if_everything_has_a_value(expression: str) -> None:
    source = f"{{{{ {expression} }}}}"
    try:
        found = check(source)
    except TemplateError:
        return
    before, after = result(source), result(rewritten(found))
    # Only values that the engine prints as Python does, or fractional numbers, may have changed into text for people.
    plain = before.replace("True", "true").replace("False", "false")
    assert after in {before, plain} or after.replace(".0", "") == plain.replace(".0", "")
