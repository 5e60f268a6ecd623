from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidings.model.errors import TemplateError
from tidings.templating.mail import _Place, compile_html, plain_text
from tidings.templating.markup import Comment, Tag, tags, tidied, to_text


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("<center>A</center><center>B</center>", "A\n\nB"),
        ("<section>One</section><section>Two</section>", "One\n\nTwo"),
        ("<dl><dt>Order</dt><dd>A-1</dd></dl>", "Order\nA-1"),
        ("a<hr>b", "a\nb"),
        ("x<br>y<br/>z<BR >w", "x\ny\nz\nw"),
        ("<pre>a\n  b\n\nc</pre>", "a\n  b\n\nc"),
        ("<table><thead><tr><th>A</th><th>B</th></tr></thead><tbody><tr><td>1</td></tr></tbody></table>", "A B\n1"),
        ("<ul><li>a</li> <li>b</li></ul><p>c</p>", "- a\n- b\n\nc"),
        ("<ul>\n  <li>\n    a\n  </li>\n  <li>b</li>\n</ul>", "- a\n- b"),
        ("<h1>T</h1>\n\n<p>one\n two</p>", "T\n\none two"),
        ("a <b>b</b><i>c</i> d", "a bc d"),
        ("Hi&nbsp;you &amp; &lt;b&gt; &#8364; &copy", "Hi you & <b> € ©"),
        ("<head><title>T</title><style>p{}</style></head><body>Hi</body>", "Hi"),
        ("<head><title>T</title><p>Hi", "Hi"),
        ("<script>var a = '<p>'</script>z<!-- c -->", "z"),
        ("<SCRIPT>a</ScRiPt>z", "z"),
        ("<style>a", ""),
        ("a < b and c > d", "a < b and c > d"),
        ("<p title='a>b' alt=\"<p>\">t</p>", "t"),
        ("<template>hidden</template>shown", "shown"),
        ("<a href='https://x.example/a'>https://x.example/a</a>", "https://x.example/a"),
        ("<a href='https://x.example/'>x.example</a>", "x.example"),
        ("<a href='https://x.example/?a=1&amp;b=2'>Here</a>", "Here (https://x.example/?a=1&b=2)"),
        ("<a href='mailto:a@b.example'>a@b.example</a>, <a href='tel:+491'>+491</a>", "a@b.example, +491"),
        ("<a href='#top'>up</a> <a>no</a> <a href='javascript:x()'>js</a>", "up no js"),
        ("<a href='https://x.example'><img alt='Logo'></a>", "Logo (https://x.example)"),
        ("<a href=https://x.example><img src=a></a>", "https://x.example"),
    ],
)  # fmt: skip
def test_the_text_of_html(source: str, text: str) -> None:
    assert to_text(source) == text


BLOCKS = """
article aside header footer main nav figure figcaption fieldset form details summary div p blockquote address
h1 h6 ul ol dl table pre hgroup search menu dialog legend"""


@pytest.mark.parametrize("name", BLOCKS.split())
def test_every_block_stands_on_its_own(name: str) -> None:
    assert to_text(f"<{name}>A</{name}><{name}>B</{name}>") == "A\n\nB"


def test_a_tag_ends_where_a_browser_ends_it() -> None:
    source = "<a b='>' c=\">\" d=> e><!-- > --><br/><!x></ ></a\n>"
    tokens = list(tags(source))
    assert [source[each.begin : each.end] for each in tokens] == [
        "<a b='>' c=\">\" d=>", "<!-- > -->", "<br/>", "<!x>", "</ >", "</a\n>",
    ]  # fmt: skip
    assert [type(each) for each in tokens] == [Tag, Comment, Tag, Comment, Comment, Tag]


@settings(deadline=None, max_examples=300)
@given(st.text(alphabet="<>/!-='\"ab &;\n\u00a0é", max_size=60))
def test_any_html_has_a_text_and_its_tags_are_in_order(source: str) -> None:
    at = 0
    for each in tags(source):
        assert at <= each.begin < each.end <= len(source)
        at = each.end
    text = to_text(source)
    assert tidied(text) == text
    assert "\n\n\n" not in text


BROKEN: dict[str, Callable[[int], str]] = {
    "quotes in a tag": lambda n: "<p " + '"' * n + ">",
    "tags with odd quotes": lambda n: '<p """"…>' * (n // 10),
    "apostrophes": lambda n: "<p>" + "'" * n + "{{ a }}" * 5,
    "open attributes": lambda n: "<a b='" * (n // 6),
    "open tags": lambda n: "<a " * (n // 3),
    "less than": lambda n: "<" * n,
    "open comments": lambda n: "<!--" * (n // 4),
    "nearly comments": lambda n: "<!-" * (n // 3),
    "end tags": lambda n: "</" * (n // 2),
    "open titles": lambda n: "<title>" * (n // 7),
    "open styles": lambda n: "<style></styl" * (n // 13),
    "equals": lambda n: "<a " + "= " * (n // 2),
    "odd values": lambda n: "<a " + 'x=" ' * (n // 4),
    "spaces": lambda n: "<a" + " " * n + "x" + " \n" * (n // 4) + "x",
    "ampersands": lambda n: "&" * (n // 2) + "&a" * (n // 4),
    "code in a title": lambda n: "<title>" + "{{ a }}x" * (n // 8),
    "code in a value": lambda n: '<p "' + "{{ a }}x" * (n // 8),
    "code and apostrophes": lambda n: "{{ a }}'" * (n // 8),
    "open code in tags": lambda n: "<p '{{ a }}" * (n // 11),
    "links": lambda n: "<a href=x>" * (n // 20) + "y</a>" * (n // 20),
    "tables of code": lambda n: "<style>p{}</style>" + "<table>{{ a }} " * min(n // 15, 3000),
    "long paths": lambda n: "{{ a" + ".items" * (n // 6) + " }}",
}


def steps(run: Callable[[], Any]) -> int:
    """How many lines and calls of Python a function executes: the same number on every machine."""
    count = 0

    def trace(_frame: FrameType, _event: str, _argument: object) -> Any:
        nonlocal count
        count += 1
        return trace

    sys.settrace(trace)
    try:
        with suppress(TemplateError):  # a refusal counts as well: it must not take long either
            run()
    finally:
        sys.settrace(None)
    return count


@pytest.mark.parametrize("name", BROKEN)
def test_four_times_the_html_takes_four_times_the_steps(name: str) -> None:
    small, large = BROKEN[name](1_500), BROKEN[name](6_000)
    for run in (plain_text, compile_html, to_text):
        few, many = steps(partial(run, small)), steps(partial(run, large))
        assert many <= 6 * few + 500


class Counted(str):
    """A text that counts how many of its characters are searched."""

    __slots__ = ()
    looked = 0

    def lower(self) -> Any:
        Counted.looked += len(self)
        return super().lower()

    def find(self, *arguments: Any) -> int:
        found = super().find(*arguments)
        begin = arguments[1] if len(arguments) > 1 else 0
        Counted.looked += (found if found >= 0 else len(self)) - begin
        return found


@pytest.mark.parametrize("source", ['<p """"…>' * 2_000, "<p '" + "'<p '" * 4_000, "<!--" + "--><!--" * 3_000])
def test_no_part_of_a_source_is_looked_through_again_and_again(source: str) -> None:
    text = Counted(source)
    Counted.looked = 0
    _Place().pass_over(text)
    assert Counted.looked <= 4 * len(source)
