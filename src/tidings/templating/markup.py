"""Reads HTML in one pass: its tags, and the text that a person would read.

The HTML is tokenized as browsers do it, without ever failing: an open tag or comment ends with the document. Each
character is looked at a bounded number of times, however broken the HTML is.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

from msgspec import Struct

RAW_ELEMENTS = frozenset({"style", "script", "title", "textarea", "xmp", "iframe", "noembed", "noframes"})
"""Elements whose content is no markup."""

_NAME = re.compile(r"[a-zA-Z][^\s/>]*+")
_ATTRIBUTE = re.compile(
    r"[\s/]*+(?:(?P<end>>)|(?P<name>[^\s/>][^\s/>=]*+)"
    r"(?:\s*+=\s*+(?:\"(?P<double>[^\"]*+)\"|'(?P<single>[^']*+)'|(?P<bare>[^\s>\"'][^\s>]*+)|(?=>)))?)"
)
_BLOCKS = frozenset(
    """address article aside blockquote body center details dialog dir div dl fieldset figcaption figure footer form
    frameset h1 h2 h3 h4 h5 h6 header hgroup legend listing main menu nav ol optgroup option p plaintext pre search
    section select summary table caption ul xmp""".split()  # noqa: SIM905
)
_LINES = frozenset({"br", "tr", "dt", "dd", "hr", "li"})
_CELLS = frozenset({"td", "th"})
_SPACE = re.compile(r"[ \t\r\n\f\u00a0]+")
_AT_END = re.compile(r"(?<![ \t])[ \t]++(?=\n|\Z)")
_AFTER_BREAK = re.compile(r"(?<=\n)[ ](?=[^\s])")
_SCHEME = re.compile(r"\A(?:mailto:|tel:|sms:|https?://)", re.IGNORECASE)
_GAPS = re.compile(r"\n{3,}")


class Tag(Struct, frozen=True):
    """A tag: its position, its name in lower case, whether it is an end tag, and its attributes as written."""

    begin: int
    end: int
    name: str
    closes: bool = False
    attributes: dict[str, str] = {}


class Comment(Struct, frozen=True):
    """A comment, or markup that browsers treat as one."""

    begin: int
    end: int


def tags(source: str) -> Iterator[Tag | Comment]:
    """The tags and comments of a document, in order; everything between them is text."""
    lower = source.lower() if source.isascii() else re.sub(r"[A-Z]+", lambda match: match[0].lower(), source)
    at = source.find("<")
    while at >= 0:
        found = _comment(source, at) or _tag(source, at)
        if found is None:
            at = source.find("<", at + 1)
            continue
        yield found
        at = found.end
        if isinstance(found, Tag) and found.name in RAW_ELEMENTS and not found.closes:
            at = lower.find("</" + found.name, at)
            if at < 0:
                return
            continue
        at = source.find("<", at)


def _comment(source: str, at: int) -> Comment | None:
    if source.startswith("<!--", at):
        if source.startswith((">", "->"), at + 4):
            return Comment(at, source.index(">", at) + 1)
        end = source.find("-->", at + 4)
        return Comment(at, len(source) if end < 0 else end + 3)
    if source.startswith(("<!", "<?"), at) or (source.startswith("</", at) and not _NAME.match(source, at + 2)):
        if source.startswith("</", at) and at + 2 >= len(source):
            return None
        end = source.find(">", at)
        return Comment(at, len(source) if end < 0 else end + 1)
    return None


def _tag(source: str, at: int) -> Tag | None:
    closes = source.startswith("</", at)
    name = _NAME.match(source, at + 1 + closes)
    if name is None:
        return None
    attributes: dict[str, str] = {}
    position = name.end()
    while True:
        match = _ATTRIBUTE.match(source, position)
        if match is None:  # only white space is left, or an open quote
            return Tag(at, len(source), name.group().lower(), closes, attributes)
        position = match.end()
        if match["end"]:
            return Tag(at, position, name.group().lower(), closes, attributes)
        if match["double"] is None and match["single"] is None and source.startswith(("=", '"', "'"), position):
            return Tag(at, len(source), name.group().lower(), closes, attributes)
        value = next((match[kind] for kind in ("double", "single", "bare") if match[kind] is not None), "")
        attributes.setdefault(match["name"].lower(), value)


def to_text(source: str, code: re.Pattern[str] | None = None) -> str:
    """The text that a person would read: blocks on their own lines, links with their addresses, entities resolved.

    `code` matches words that stand in for template code; its group `flow` matches those that print nothing.
    """
    reader = _Reader(code)
    at = 0
    raw = ""
    for found in tags(source):
        reader.text(source[at : found.begin], raw)
        at, raw = found.end, ""
        if isinstance(found, Tag):
            (reader.close if found.closes else reader.open)(found)
            raw = found.name if found.name in RAW_ELEMENTS and not found.closes else ""
    reader.text(source[at:], raw)
    return tidied("".join(reader.parts))


def tidied(text: str) -> str:
    """The text without white space at the ends of lines and without two empty lines in a row."""
    return _GAPS.sub("\n\n", _AT_END.sub("", _AFTER_BREAK.sub("", text))).strip("\n ")


class _Reader:
    """Collects the text of a document. `_blank`: the text so far ends with white space, so more would be too much."""

    def __init__(self, code: re.Pattern[str] | None) -> None:
        self.parts: list[str] = []
        self._code = code
        self._blank = True
        self._hidden = 0
        self._kept = 0
        self._links: list[tuple[str, int]] = []

    def text(self, written: str, raw: str) -> None:
        """Take text between tags, or inside the element `raw`."""
        if not written or self._hidden or raw not in {"", "textarea", "xmp"}:
            return
        resolved = html.unescape(written) if raw != "xmp" else written
        if self._kept:
            self._write(resolved.replace("\r\n", "\n"))
            return
        at = 0
        for flow in self._code.finditer(resolved) if self._code is not None else ():
            if flow["flow"] is not None:
                self._line(resolved[at : flow.start()])
                self.parts.append(flow.group())
                # Whether text will come before the code's output is unknown. At the start of a line it does not matter.
                self._blank = self._blank and len(self.parts) > 1 and self.parts[-2].endswith("\n")
                at = flow.end()
        self._line(resolved[at:])

    def _line(self, text: str) -> None:
        line = _SPACE.sub(" ", text)
        if self._blank and line.startswith(" "):
            line = line[1:]
        if line:
            self._write(line)

    def _write(self, text: str) -> None:
        self.parts.append(text)
        self._blank = text[-1:] in {" ", "\n"}

    def open(self, tag: Tag) -> None:
        """Take the tag that begins an element."""
        name = tag.name
        if name == "template":
            self._hidden += 1
        elif self._hidden:
            return
        elif name in _BLOCKS:
            self._write("\n\n")
            self._kept += name == "pre"
        elif name in _LINES:
            self._write("\n- " if name == "li" else "\n")
        elif name == "a":
            self._links.append((html.unescape(tag.attributes.get("href", "")).strip(), len(self.parts)))
        elif name == "img" and (alternative := html.unescape(tag.attributes.get("alt", ""))):
            self._write(alternative)

    def close(self, tag: Tag) -> None:
        """Take the tag that ends an element."""
        name = tag.name
        if name == "template":
            self._hidden = max(0, self._hidden - 1)
        elif self._hidden:
            return
        elif name in _BLOCKS:
            self._write("\n\n")
            self._kept = max(0, self._kept - (name == "pre"))
        elif name in _CELLS:
            self._write(" ")
        elif name == "a" and self._links:
            href, start = self._links.pop()
            shown = "".join(self.parts[start:]).strip()
            leads = href and not href.startswith("#") and not href.lower().startswith("javascript:")
            if leads and not _is_same(href, shown):
                self._write(f" ({href})" if shown else href)


def _is_same(href: str, shown: str) -> bool:
    """Whether the text of a link shows its address."""
    return _SCHEME.sub("", href).rstrip("/") == _SCHEME.sub("", shown).rstrip("/")
