from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidings.model.errors import TemplateError
from tidings.model.notification import Content, EmailContent
from tidings.model.template import TemplateVersion, Variable
from tidings.model.vocabulary import Channel
from tidings.templating.check import checked
from tidings.templating.compile import compile_version
from tidings.templating.mail import compile_html, is_mjml, plain_text

ROWS = "<table>{% for i in rows %}<tr><td>{{ i }}</td></tr>{% endfor %}</table>"


def test_html_without_styles_is_left_alone() -> None:
    source = "<p>Hi&nbsp;{{ name }}</p>" + ROWS
    assert compile_html(source) == source


def test_styles_go_into_the_tags_and_code_stays_where_it_is() -> None:
    source = (
        "<style>td { color: {{ color }} } @media (max-width: 9px) { td { color: blue } }</style>"
        '<a href="{{ url }}" title=\'{{ "x" }}\'>{{ a < b }}</a><!--[if mso]>{{ mso }}<![endif]-->' + ROWS
    )
    html = compile_html(source)
    assert '<td style="color: {{ color }};">{{ i }}</td>' in html
    assert "<table><tbody>{% for i in rows %}<tr>" in html
    assert "{% endfor %}</tbody></table>" in html
    assert 'href="{{ url }}"' in html
    assert ">{{ a < b }}</a>" in html
    assert "<!--[if mso]>{{ mso }}<![endif]-->" in html
    assert "@media (max-width: 9px)" in html


def test_no_style_sheet_is_fetched() -> None:
    source = '<link rel="stylesheet" href="file:///etc/passwd"><link rel="stylesheet" href="http://127.0.0.1:1/x.css">'
    assert "root:" not in compile_html(source + "<style>p{color:red}</style><p>x</p>")


def test_mjml_becomes_html_with_its_code() -> None:
    source = """
    <!-- the order -->
    <mjml><mj-head><mj-title>{{ title }}</mj-title></mj-head><mj-body>
      {% for item in rows %}
      <mj-section><mj-column>
        <mj-text>Hi {{ item.name }} &amp; {{ a < b }}</mj-text>
        <mj-table>{% for i in item.all %}<tr><td>{{ i }}</td></tr>{% endfor %}</mj-table>
        <mj-button href="https://x.example/{{ item.id }}">Go</mj-button>
      </mj-column></mj-section>
      {% endfor %}
    </mj-body></mjml>"""
    assert is_mjml(source)
    html = compile_html(source)
    assert "<title>{{ title }}</title>" in html
    assert "Hi {{ item.name }} &amp; {{ a < b }}" in html
    assert 'href="https://x.example/{{ item.id }}"' in html
    assert html.index("{% for item in rows %}") < html.index("{% for i in item.all %}") < html.rindex("{% endfor %}")
    assert 'lang="{{ locale }}" dir="{{ direction }}"' in html
    assert "mjml" not in html


@pytest.mark.parametrize("head", ["", "<mj-head/>", "<mj-head></mj-head>", "<mj-head><mj-title>T</mj-title></mj-head>"])
def test_mjml_runs_from_right_to_left_where_the_locale_does(head: str) -> None:
    text = "<mj-text>مرحبا</mj-text>"
    source = f"<mjml>{head}<mj-body><mj-section><mj-column>{text}</mj-column></mj-section></mj-body></mjml>"
    to_right, to_left = compile_html(source), compile_html(source, "rtl")
    assert "direction: ltr" in to_right
    assert "direction: ltr" not in to_left
    assert "direction: rtl" in to_left
    assert "text-align:right" in to_left
    own = source.replace("<mj-text>", '<mj-text align="center">')
    assert "text-align:center" in compile_html(own, "rtl")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("<mjml>\n<mj-body>\n<mj-text></mj-body></mjml>", "line 3: </mj-body> closes nothing; <mj-text> of line 3"),
        ("<mjml>", "line 1: <mjml> is not closed"),
        ("<mjml><mj-body><mj-nope/></mj-body></mjml>", "there is no MJML tag <mj-nope>"),
        ('<mjml><mj-body><mj-include path="/etc/passwd"/></mj-body></mjml>', "mj-include is not available"),
        (
            "<mjml><mj-body><mj-section><mj-column><mj-text>a < b</mj-text></mj-column></mj-section></mj-body></mjml>",
            "&lt;",
        ),
        ("<mjml></mjml></mjml>", "</mjml> closes nothing"),
    ],
)
def test_mjml_that_does_not_read_says_so_plainly(source: str, words: str) -> None:
    with pytest.raises(TemplateError) as caught:
        compile_html(source)
    assert words in caught.value.detail


def test_code_that_would_be_lost_is_an_error() -> None:
    with pytest.raises(TemplateError, match="no place for it"):
        compile_html("<mjml><mj-head>{% set x = 1 %}</mj-head><mj-body></mj-body></mjml>")


def test_the_text_of_a_mail() -> None:
    html = """<html><head><title>T</title><style>p{}</style></head><body>
    <h1>Hello&nbsp;{{ name }}!</h1><p>Your   order<br>is <b>on</b> its way
    &amp; <a href="https://x/{{ id }}">here</a>.</p>
    <ul>{% for i in rows %}<li>{{ i }}</li>{% endfor %}</ul><img src="x" alt="A cup"><!-- not seen -->
    <a href="mailto:a@example.com">a@example.com</a></body></html>"""
    assert plain_text(html) == (
        "Hello {{ name }}!\n\nYour order\nis on its way & here (https://x/{{ id }}).\n\n"
        "{% for i in rows %}\n- {{ i }}{% endfor %}\n\nA cup a@example.com\n"
    )


ROWS_OF = {"items": [{"name": "Cup", "qty": 2}, {"name": "Tea", "qty": 1}], "u": "https://x.example/?a=1&b=2"}
SAID = ROWS_OF | {"name": "Tom & Jerry's", "body": "<p>Hello <b>you</b></p>"}


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>Your items:</p><ul>{% for i in items %}<li>{{ i.name }} x {{ i.qty }}</li>{% endfor %}</ul>",
         "Your items:\n\n- Cup x 2\n- Tea x 1\n"),
        ("<ul>\n{% for i in items %}\n  <li>{{ i.name }}</li>\n{% endfor %}\n</ul>\n<p>x</p>", "- Cup\n- Tea\n\nx\n"),
        ("<table>\n{% for i in items %}\n<tr>\n<td>{{ i.name }}</td>\n<td>{{ i.qty }}</td></tr>\n{% endfor %}</table>",
         "Cup 2\nTea 1\n"),
        ("{% for i in items %}<p>{{ i.name }}</p>{% endfor %}", "Cup\n\nTea\n"),
        ("<dl>{% for i in items %}<dt>{{ i.name }}</dt><dd>{{ i.qty }}</dd>{% endfor %}</dl>", "Cup\n2\nTea\n1\n"),
        ("<pre>{% for i in items %}{{ i.name }}\n  {{ i.qty }}\n{% endfor %}</pre>", "Cup\n  2\nTea\n  1\n"),
        ("<p>a</p>\n{% if items %}\n<p>b</p>\n{% endif %}\n<p>c</p>", "a\n\nb\n\nc\n"),
        ("<p>Hi {% if name %}{{ name }}{% endif %}, you</p>", "Hi Tom & Jerry's, you\n"),
        ("{% for i in items %}{{ i.name }}{% if not loop.last %}, {% endif %}{% endfor %}", "Cup, Tea\n"),
        ("<p>{{ name|e }}</p><div>{{ body|safe }}</div>", "Tom & Jerry's\n\nHello you\n"),
        ("<p>{{ name|escape }}{{ (name ~ '!')|e }}</p>", "Tom & Jerry'sTom & Jerry's!\n"),
        ("<p>{{ name }}</p>", "Tom & Jerry's\n"),
        ('<a href="{{ u }}">{{ u }}</a>', "https://x.example/?a=1&b=2\n"),
        ('<a href="{{ u|e }}">{{ u }}</a>', "https://x.example/?a=1&b=2\n"),
        ('<a href="{{ u }}">Here</a>', "Here (https://x.example/?a=1&b=2)\n"),
    ],
)  # fmt: skip
def test_the_text_of_a_mail_of_html_alone(html: str, text: str) -> None:
    known = {name: Variable() for name in SAID}
    draft = TemplateVersion("t", 1, {"en": Content(email=EmailContent("s", html=html))}, variables=known)
    email = compile_version(checked(draft)).render(Channel.EMAIL, None, None, SAID)
    assert isinstance(email, EmailContent)
    assert email.text == text


def test_a_text_that_somebody_wrote_stays_as_it_was_written() -> None:
    content = Content(
        email=EmailContent("s", text="a\n\n\n\nb\n  {{ name|e }}\n{% if name %}\nc\n{% endif %}\n", html="<p>x</p>")
    )
    draft = TemplateVersion("t", 1, {"en": content}, variables={"name": Variable()})
    email = compile_version(checked(draft)).render(Channel.EMAIL, None, None, {"name": "Tom & Jerry"})
    assert email == EmailContent("s", "a\n\n\n\nb\n  Tom & Jerry\nc\n", "<p>x</p>")


def test_no_font_is_loaded_that_the_template_does_not_name() -> None:
    body = "<mj-body><mj-section><mj-column><mj-text{}>Hi</mj-text></mj-column></mj-section></mj-body></mjml>"
    for attributes in ("", ' font-family="Roboto, Arial"', ' font-family="Open Sans"'):
        html = compile_html("<mjml>" + body.format(attributes))
        assert "fonts.googleapis" not in html
        assert "@import" not in html
    font = '<mjml><mj-head><mj-font name="Raleway" href="https://fonts.example/raleway.css"/></mj-head>'
    html = compile_html(font + body.format(' font-family="Raleway"'))
    assert "https://fonts.example/raleway.css" in html
    assert "googleapis" not in html


def test_style_selectors_times_tags_are_bounded() -> None:
    sheet = "<style>" + "* *:not(a) *{color:red}" * 2_000 + "</style>"
    with pytest.raises(TemplateError, match="selectors"):
        compile_html(sheet + "<p>x" * 3_000)
    assert "color" in compile_html("<style>" + "p,a,b{color:red}" * 200 + "</style>" + "<p>x</p>" * 300)


@pytest.mark.parametrize(
    "source",
    [
        "<!---->" * 3_999,
        "<!--" * 3_999,
        "<mjml>" + "<mj-text " * 3_000,
        "<mjml>" + "<mj-head" * 3_000,
        "<style></style>" + "<table " * 3_000,
        "<style>" * 3_999,
        "<a " * 3_999,
        "<!" * 3_999,
        "<!--{{ a }}" * 3_999,
        '<a href="' * 3_999,
        "<div>" * 3_999,
        "<style></style>" + "<table><tr><td>" * 1_300,
        "".join(f"<b a={number}>" for number in range(2_000)) + "<p>x" * 1_999,
        "<mjml><mj-body><mj-raw>" + "<div>" * 1_900 + "</div>" * 1_900 + "</mj-raw></mj-body></mjml>",
        "<mjml><mj-body>" + "<mj-wrapper>" * 1_900 + "</mj-wrapper>" * 1_900 + "</mj-body></mjml>",
        "<" * 200_000,
        "<div>" * 50_000,
    ],
    ids=range(17),
)
def test_hostile_html_does_no_harm(source: str) -> None:
    """It is refused or it becomes a text, in time and with no other error."""
    try:
        text = plain_text(compile_html(source))
    except TemplateError as refused:
        text = str(refused)
    assert isinstance(text, str)


PARTS = [
    "<p>",
    "</p>",
    "<style>",
    "</style>",
    "p{color:red}",
    "<table>",
    "</table>",
    "<tr>",
    "<td>",
    "{{ a }}",
    "{% if a %}",
]
PARTS += [
    "{% endif %}",
    "<!--",
    "-->",
    '<a href="',
    '">',
    "</a>",
    "<",
    ">",
    "'",
    "text",
    "<title>",
    "</title>",
    "&",
    "é",
    "\n",
]
PARTS += ["<mjml>", "</mjml>", "<mj-body>", "</mj-body>", "<mj-text>", "</mj-text>", "<mj-section>", "</mj-section>"]


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(PARTS), max_size=25).map("".join))
def test_any_html_compiles_or_is_refused_with_a_sentence(source: str) -> None:
    try:
        html = compile_html(source)
        text = plain_text(source)
    except TemplateError as error:
        assert error.detail  # noqa: PT017 (either outcome is right)
        return
    assert html.count("{{ a }}") >= source.count("{{ a }}")
    assert "tdg" not in html + text
