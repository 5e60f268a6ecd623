"""HTML read in one pass: its tags, and the text that a person would read.

It is read as browsers tokenize it, forgiving everything. Each character is looked at a bounded number of times, however
broken the HTML is: what is not closed ends with the document.
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
    """A tag: where it stands, its name in lower case, whether it closes, and its attributes as they are written."""

    begin: int
    end: int
    name: str
    closes: bool = False
    attributes: dict[str, str] = {}


class Comment(Struct, frozen=True):
    """A comment, or what a browser takes for one."""

    begin: int
    end: int


def tags(source: str) -> Iterator[Tag | Comment]:
    """The tags and comments of a document, in order; what is between them is text."""
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
        if match is None:  # nothing but space is left, or a quote that nothing closes
            return Tag(at, len(source), name.group().lower(), closes, attributes)
        position = match.end()
        if match["end"]:
            return Tag(at, position, name.group().lower(), closes, attributes)
        if match["double"] is None and match["single"] is None and source.startswith(("=", '"', "'"), position):
            return Tag(at, len(source), name.group().lower(), closes, attributes)
        value = next((match[kind] for kind in ("double", "single", "bare") if match[kind] is not None), "")
        attributes.setdefault(match["name"].lower(), value)


def to_text(source: str, code: re.Pattern[str] | None = None) -> str:
    """What a person would read: blocks on lines of their own, links with where they lead, entities resolved.

    `code` matches words that stand for code of a template, with the group `flow` where they show nothing themselves.
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
    """The text without space at the ends of lines, and with one empty line at most between two others."""
    return _GAPS.sub("\n\n", _AT_END.sub("", _AFTER_BREAK.sub("", text))).strip("\n ")


class _Reader:
    """Collects the text of a document. `_blank`: what was written last ends with space, which swallows more."""

    def __init__(self, code: re.Pattern[str] | None) -> None:
        self.parts: list[str] = []
        self._code = code
        self._blank = True
        self._hidden = 0
        self._kept = 0
        self._links: list[tuple[str, int]] = []

    def text(self, written: str, raw: str) -> None:
        """Text between tags, or inside of the element `raw`."""
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
                # What comes before it when the template runs is not known; at the start of a line that does not matter.
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
        """An element begins."""
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
        """An element ends."""
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
    """Whether the text of a link says where it leads."""
    return _SCHEME.sub("", href).rstrip("/") == _SCHEME.sub("", shown).rstrip("/")
