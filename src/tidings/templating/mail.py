"""Compiles an email's HTML once, when a template version is made: compiles MJML, inlines CSS, makes a plain text.

Compilers must not see the template's code, so it is taken out first and put back at the end. Between tags a comment
stands in for it, because the HTML parser would move a text (out of a table, say); inside tags, attributes and styles a
word does. All functions take time in proportion to the source, whatever it contains.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable

import mrml
from css_inline import CSSInliner, InlineError

from tidings.model.errors import TemplateError
from tidings.policy.locale import Direction
from tidings.templating.guard import pieces
from tidings.templating.markup import Tag, tags, to_text

_RAW_ELEMENTS = frozenset(
    {"style", "script", "title", "textarea", "mj-title", "mj-preview", "mj-style", "mj-accordion-title"}
)
_TAG = re.compile(r"</?([a-zA-Z][^\s/>]*)")
_IN_TAG = re.compile(r"[\"'>]")
_STYLE = re.compile(r"<style[\s>]", re.IGNORECASE)
_MJML_ROOT = re.compile(r"<mjml[\s>]")
_MJML_TAGS = frozenset(
    """mjml mj-accordion mj-accordion-element mj-accordion-text mj-accordion-title mj-all mj-attributes mj-body
    mj-breakpoint mj-button mj-carousel mj-carousel-image mj-class mj-column mj-divider mj-font mj-group mj-head
    mj-hero mj-image mj-navbar mj-navbar-link mj-preview mj-raw mj-section mj-social mj-social-element mj-spacer
    mj-style mj-table mj-text mj-title mj-wrapper""".split()  # noqa: SIM905 (a list of this length reads best as words)
)
MAX_TAGS = 4000
"""How many tags an author may write: the parsers recurse once for each level, and so many levels fit on any stack."""

_MAX_MJML_DEPTH = 20
_MARK = "tdg"
_LANGUAGE = 'lang="und" dir="auto"'
_HEAD = re.compile(r"<mj-head\b[^<>]*>")
_ROOT = re.compile(r"<mjml\b[^<>]*>")
_RIGHT_TO_LEFT = (
    '<mj-attributes><mj-section direction="rtl"/><mj-column direction="rtl"/><mj-group direction="rtl"/>'
    '<mj-text align="right"/><mj-table align="right"/></mj-attributes>'
)
_ROW_OF_CODE = re.compile(rf"(?:\s*+<!--{_MARK}\w++-->)++\s*+<tr\b", re.IGNORECASE)
_SELECTORS = re.compile(r"[^{}]*+\{")
_ESCAPING = re.compile(r"\|\s*(?:e|escape)\b(?!\s*\()")
MAX_MATCHES = 600_000
"""The limit of style selectors times tags: each selector is tried on each tag."""

_inliner = CSSInliner(keep_style_tags=True, keep_link_tags=True, load_remote_stylesheets=False)
# No default fonts: every reader's mail program would fetch them from their vendor.
_rendering = mrml.RenderOptions(fonts={})


def is_mjml(source: str) -> bool:
    """Whether the source is MJML rather than HTML."""
    at = _after_space(source, 0)
    while source.startswith("<!--", at):
        end = source.find("-->", at)
        at = _after_space(source, end + 3) if end >= 0 else len(source)
    return _MJML_ROOT.match(source, at) is not None


def compile_html(source: str, direction: Direction = "ltr") -> str:
    """The HTML to send, from what an author wrote: MJML compiled, style sheets inlined, template code untouched.

    In a locale that runs from right to left, MJML's sections, columns and texts do so by default.

    Raises:
        TemplateError: the MJML is not well-formed, or a style sheet cannot be inlined.
    """
    if source.count("<") > MAX_TAGS:
        raise TemplateError(f"the HTML of an email has at most {MAX_TAGS} tags")
    if is_mjml(source):
        source = _around_code(source, _mjml_to_right if direction == "rtl" else _mjml)
        source = source.replace(_LANGUAGE, 'lang="{{ locale }}" dir="{{ direction }}"')
    if _STYLE.search(source):
        source = _around_code(source, _inline)
    return source


def plain_text(source: str) -> str:
    """A template for the mail's text, made from its HTML: the code stays, and links show their addresses.

    After rendering, `markup.tidied` tidies up the text. Raises TemplateError for code that is not closed.
    """
    salt = _salt(source)
    codes: dict[str, int] = {}
    parts: list[str] = []
    for piece in pieces(source):
        if piece.kind == "text":
            parts.append(piece.source)
        elif piece.kind != "comment":
            # Equal code, escaped or not, becomes the same word, so that a link that shows its own address is
            # recognised.
            code = _ESCAPING.sub("", piece.source) if piece.kind == "print" else piece.source
            parts.append(f"{salt}{codes.setdefault(code, len(codes))}{'y' if piece.kind == 'block' else 'x'}")
    text = to_text("".join(parts), re.compile(rf"{salt}[0-9]+(?:(?P<flow>y)|x)"))
    known = list(codes)
    return re.sub(rf"{salt}([0-9]+)[xy]", lambda match: known[int(match[1])], text) + "\n"


def _salt(source: str) -> str:
    """The beginning of the words that stand in for code; no word of the source begins like this."""
    return _MARK + hashlib.blake2b(source.encode("utf-8", "replace"), digest_size=6).hexdigest() + "n"


def _mjml(source: str) -> str:
    _check_mjml(source)
    try:
        return mrml.to_html(source, render_options=_rendering).content
    except OSError as error:
        raise TemplateError(
            f"this MJML cannot be read ({error}); check that attributes are quoted and that & and < are written "
            "&amp; and &lt;"
        ) from None


def _mjml_to_right(source: str) -> str:
    _check_mjml(source)
    head = _HEAD.search(source)
    if head is not None and not head.group().endswith("/>"):
        return _mjml(source[: head.end()] + _RIGHT_TO_LEFT + source[head.end() :])
    source = source.replace(head.group(), "") if head is not None else source
    root = _ROOT.search(source)
    at = root.end() if root is not None else 0
    return _mjml(source[:at] + f"<mj-head>{_RIGHT_TO_LEFT}</mj-head>" + source[at:])


def _check_mjml(source: str) -> None:
    """Raise TemplateError, with the line and the tag, for the mistakes that authors make most."""
    opened: list[tuple[str, int]] = []
    line, at = 1, 0
    for tag in tags(source):
        if not isinstance(tag, Tag) or not tag.name.startswith("mj"):
            continue
        name = tag.name
        line += source.count("\n", at, tag.begin)
        at = tag.begin
        if name == "mj-include":
            raise TemplateError(f"line {line}: mj-include is not available; put everything into one template")
        if name not in _MJML_TAGS:
            raise TemplateError(f"line {line}: there is no MJML tag <{name}>")
        if tag.closes:
            if not opened or opened[-1][0] != name:
                expected = f"; <{opened[-1][0]}> of line {opened[-1][1]} is still open" if opened else ""
                raise TemplateError(f"line {line}: </{name}> closes nothing{expected}")
            opened.pop()
        elif source[tag.end - 2 : tag.end] != "/>":
            opened.append((name, line))
            if len(opened) > _MAX_MJML_DEPTH:
                raise TemplateError(f"line {line}: MJML tags are nested more than {_MAX_MJML_DEPTH} deep")
    if opened:
        name, line = opened[-1]
        raise TemplateError(f"line {line}: <{name}> is not closed")


def _after_space(source: str, at: int) -> int:
    while at < len(source) and source[at].isspace():
        at += 1
    return at


def _inline(source: str) -> str:
    # Without a tbody the parser would open one after the code before the first row: inside the loop.
    parts: list[str] = []
    at = selectors = 0
    for tag in tags(source):
        if not isinstance(tag, Tag) or tag.closes:
            continue
        if tag.name == "table" and _ROW_OF_CODE.match(source, tag.end):
            parts += [source[at : tag.end], "<tbody>"]
            at = tag.end
        elif tag.name == "style":
            end = source.find("<", tag.end)
            sheet = source[tag.end : len(source) if end < 0 else end]
            selectors += sum(match.group().count(",") + 1 for match in _SELECTORS.finditer(sheet))
    if selectors * source.count("<") > MAX_MATCHES:
        raise TemplateError(f"{selectors} selectors of styles are too many for a mail of {source.count('<')} tags")
    try:
        return _inliner.inline("".join([*parts, source[at:]]))
    except InlineError as error:
        raise TemplateError(f"the styles of this HTML cannot be inlined: {error}") from None


def _around_code(source: str, change: Callable[[str], str]) -> str:
    """The result of `change(source)`, without letting `change` see the template's code."""
    salt = _salt(source)
    place = _Place()
    codes: list[str] = []
    parts: list[str] = []
    for piece in pieces(source):
        if piece.kind == "text":
            place.pass_over(piece.source)
            parts.append(piece.source)
            continue
        word = f"{salt}{len(codes)}x"
        codes.append(piece.source)
        parts.append(f"<!--{word}-->" if place.is_between_tags else word)
    changed = change("".join(parts))
    seen: set[int] = set()

    def restore(match: re.Match[str]) -> str:
        number = int(match[1])
        seen.add(number)
        return codes[number]

    changed = re.sub(rf"(?:<!--)?{salt}([0-9]+)x(?:-->)?", restore, changed)
    lost = [code for number, code in enumerate(codes) if number not in seen and not code.startswith("{#")]
    if lost:
        raise TemplateError(f"{lost[0][:60]} stands where the compiled mail has no place for it; move it into a text")
    return changed


class _Place:
    """The present position in an HTML document: between tags, or inside a tag, comment or raw element."""

    def __init__(self) -> None:
        self._until: str | None = None  # the end of the present attribute value, comment or raw element
        self._tag: str | None = None  # the name of the present tag

    @property
    def is_between_tags(self) -> bool:
        """Whether a comment may stand at this position."""
        return self._until is None and self._tag is None

    def pass_over(self, text: str) -> None:
        """Move the position behind `text`."""
        at = 0
        while at < len(text):
            if self._until is not None:
                at = self._leave(text, at)
            elif self._tag is not None:
                at = self._inside_tag(text, at)
            else:
                at = self._between_tags(text, at)

    def _leave(self, text: str, at: int) -> int:
        until = str(self._until)
        if until.startswith("</"):
            found = re.compile(re.escape(until), re.IGNORECASE).search(text, at)
            end = found.start() if found else -1
        else:
            end = text.find(until, at)
        if end < 0:
            return len(text)
        self._until = None
        return end if until.startswith("</") else end + len(until)

    def _inside_tag(self, text: str, at: int) -> int:
        match = _IN_TAG.search(text, at)
        if match is None:
            return len(text)
        if match.group() == ">":
            name, self._tag = str(self._tag), None
            if name in _RAW_ELEMENTS and text[match.start() - 1 : match.start()] != "/":
                self._until = "</" + name
        else:
            self._until = match.group()
        return match.end()

    def _between_tags(self, text: str, at: int) -> int:
        start = text.find("<", at)
        if start < 0:
            return len(text)
        if text.startswith("<!--", start):
            self._until = "-->"
            return start + 4
        match = _TAG.match(text, start)
        if match is None:
            return start + 1
        self._tag = match.group(1).lower() if match.group()[1] != "/" else "/"
        return match.end()
