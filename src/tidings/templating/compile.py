"""Compiles every channel and locale of a template's version once, and renders them many times.

The engine is minijinja: strict about undefined names, limited in fuel, without access to files or other templates. It
gets plain values only. It escapes email HTML and nothing else: elsewhere `|escape` changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import minijinja
from msgspec import Struct, structs

from tidings.model.errors import TemplateError
from tidings.model.notification import Content, EmailContent, InappContent, PushContent, SmsContent
from tidings.model.sending import RenderedContent
from tidings.model.template import TemplateVersion
from tidings.model.vocabulary import Channel
from tidings.policy import links
from tidings.policy.addresses import is_plain
from tidings.policy.locale import Direction, best, canonical, direction
from tidings.policy.sms import plainly
from tidings.templating import fuel
from tidings.templating.engine import DERIVED, HTML, PLAIN, environment
from tidings.templating.formats import FOR_THE_READER
from tidings.templating.guard import METHOD_NAMES, Piece, check, method_paths
from tidings.templating.markup import tidied
from tidings.templating.rewriting import NOTHING_NAME, rewritten
from tidings.templating.values import filled

FUEL = 50_000
"""The fuel of one part; each instruction costs one, and so do every 64 bytes that it makes or reads."""

MAX_OUTPUT = 1_000_000
"""How many characters one part may print."""

IMPLICIT = frozenset({"locale", "direction", "timezone"})
"""The variables that every template has: the reader's locale and timezone, and the direction `rtl` or `ltr`."""

_FUNCTIONS = frozenset({"range", "loop"})
_ONE_LINE = frozenset({"email.subject", "push.title", "inapp.title", "push.link", "inapp.link"})
_MAX_CHOICES = 1000
_EXPLANATIONS = {
    "OutOfFuel": "it does not end, or expands too far; make its loops shorter",
    "UndefinedError": "something that it uses has no value",
}

_WHERE = re.compile(r" \(in [^)]*\)$")
_ALWAYS_FAILS = frozenset({"OutOfFuel", "UnknownFilter", "UnknownTest", "UnknownFunction", "UnknownMethod"})
"""The engine's errors that come with any data."""


class AlwaysFails(TemplateError):
    """The template cannot be rendered with any data."""


class Missing(Exception):
    """The data lacks a field that is named like a method of dict or list."""

    def __init__(self, name: object) -> None:
        super().__init__(f"`{name}` is undefined")


class Part(Struct, frozen=True):
    """One compiled text of a content.

    - `literal`: the text itself if it has no code. `dialect`: the engine's dialect that renders it.
    - `one_line`: line ends become spaces. `is_link`: it must be safe to open. `is_sms`: characters are replaced by
      their GSM-7 twins if that makes the message cheaper.
    - `always_shield`: the data must be shielded (`_shield`). Otherwise it must be if it lacks a path of `method_paths`.
    - `uses_reader`: it uses the implicit variables.
    - `variables`: the names that it uses. Those that are `shadowed` by a method's name must be in the data.
    """

    path: str
    template: str
    literal: str | None = None
    dialect: str = PLAIN
    one_line: bool = False
    is_link: bool = False
    is_sms: bool = False
    always_shield: bool = False
    method_paths: tuple[tuple[str, ...], ...] = ()
    uses_reader: bool = False
    variables: frozenset[str] = frozenset()
    shadowed: tuple[str, ...] = ()


class Localized(Struct, frozen=True):
    """A channel's compiled content in one locale: its parts in the order of the fields of `kind`, absent ones None."""

    locale: str
    direction: Direction
    kind: type[RenderedContent]
    parts: tuple[Part | None, ...]


class Chosen(Struct, frozen=True):
    """The content for a reader, and the locale in which the reader's numbers and dates are written."""

    content: Localized
    reader: str


class Compiled:
    """A compiled version. Make it with `compile_version`."""

    def __init__(
        self,
        version: TemplateVersion,
        engines: Mapping[str, minijinja.Environment],
        contents: Mapping[Channel, list[Localized]],
    ) -> None:
        self.name = version.name
        self.number = version.version
        self.default_locale = version.default_locale
        self.channels = tuple(channel for channel in Channel if channel in contents)
        self.required = tuple(name for name, variable in version.variables.items() if variable.required)
        self._optional = tuple(name for name, variable in version.variables.items() if not variable.required)
        self._engines = engines
        self._contents = {channel: {each.locale: each for each in localized} for channel, localized in contents.items()}
        self._choices: dict[str | None, list[tuple[Channel, Chosen]]] = {}

    def parts(self) -> Iterable[Part]:
        """Every part of every channel and locale."""
        for localized in self._contents.values():
            for each in localized.values():
                yield from (part for part in each.parts if part is not None)

    def choose(self, channel: Channel, locale: str | None) -> Chosen:
        """The content of `channel` in the best locale for a reader of `locale`. Raises TemplateError."""
        # A list of pairs, not a dict: hashing an enumeration's member costs more than comparing it with four others.
        known = self._choices.get(locale)
        for at, chosen in known or ():
            if at is channel:
                return chosen
        available = self._contents.get(channel, {})
        tag = best(locale, self.default_locale, available)
        if tag is None:
            raise TemplateError(f"version {self.number} of {self.name} has no content for {channel}", channel.value)
        own = canonical(locale) if locale else None
        theirs = canonical(tag) or tag
        same_language = own is not None and own.split("-")[0] == theirs.split("-")[0]
        chosen = Chosen(available[tag], own if own is not None and same_language else theirs)
        if len(self._choices) >= _MAX_CHOICES:
            self._choices.clear()
        self._choices.setdefault(locale, []).append((channel, chosen))
        return chosen

    def render(
        self, channel: Channel, locale: str | None, timezone: str | None, data: Mapping[str, Any]
    ) -> RenderedContent:
        """The content of `channel` for a reader. `data` are plain values. Raises TemplateError."""
        chosen = self.choose(channel, locale)
        content = chosen.content
        values: list[str | None] = []
        shielded: Mapping[str, Any] | None = None
        fuel.FUEL.fill()
        data = filled(data, self._optional)
        for part in content.parts:
            if part is None or part.literal is not None:
                values.append(None if part is None else part.literal)
                continue
            context = data
            if part.always_shield or (part.method_paths and not all(_has(data, path) for path in part.method_paths)):
                shielded = shielded if shielded is not None else _shield(data, part)
                context = shielded
            if part.uses_reader:
                reader = {"locale": chosen.reader, "direction": content.direction, "timezone": timezone or "UTC"}
                context = {**context, **reader}
            values.append(self._render(part, context))
        return content.kind(*values)  # type: ignore[arg-type]  # the fields in their order, absent ones None

    def _render(self, part: Part, context: Mapping[str, Any]) -> str:
        for name in part.shadowed:
            if name not in context:
                raise TemplateError(f"`{name}` is undefined", part.path)
        text = _run(self._engines[part.dialect], part, context)
        if len(text) > MAX_OUTPUT:
            raise AlwaysFails(f"it prints more than {MAX_OUTPUT} characters", part.path)
        if "\0" in text:
            raise TemplateError("it prints a NUL character, which no channel can carry", part.path)
        if part.dialect == DERIVED:
            text = tidied(text) + "\n"
        if part.is_sms:
            text = plainly(text)
        if part.one_line and not text.isprintable():
            text = _folded(text)
        if part.is_link and not links.is_safe(text):
            raise TemplateError(links.UNSAFE, part.path)
        return text


def compile_version(version: TemplateVersion, *, undefined: str = "semi_strict") -> Compiled:
    """Compile every part of a version. `undefined` is the engine's way to treat undefined names.

    Raises:
        TemplateError: a part breaks the rules of guard.py or the syntax; `path` names the part (`en.email.subject`).
    """
    engines = {dialect: environment(dialect, FUEL, undefined) for dialect in (PLAIN, HTML, DERIVED)}
    contents: dict[Channel, list[Localized]] = {}
    for locale, content in version.contents.items():
        for channel, source in _sources(content):
            parts = tuple(
                None if text is None else _part(engines, locale, channel, field, text, _dialect(version, locale, field))
                for field, text in structs.asdict(source).items()
            )
            localized = Localized(locale, direction(locale), type(source), parts)
            contents.setdefault(channel, []).append(localized)
    return Compiled(version, engines, contents)


def _dialect(version: TemplateVersion, locale: str, field: str) -> str:
    """The dialect of a field: HTML for an email's `html`, DERIVED for a text that was made from it, else PLAIN."""
    if field == "html":
        return HTML
    source = version.sources.get(locale)
    made = field == "text" and source is not None and source.email is not None and source.email.text is None
    return DERIVED if made else PLAIN


def _sources(content: Content) -> Iterable[tuple[Channel, EmailContent | SmsContent | PushContent | InappContent]]:
    for channel in Channel:
        source = getattr(content, channel.value)
        if source is not None:
            yield channel, source


def _part(
    engines: Mapping[str, minijinja.Environment], locale: str, channel: Channel, field: str, source: str, dialect: str
) -> Part:
    path = f"{locale}.{channel.value}.{field}"
    dialect = dialect if channel is Channel.EMAIL else PLAIN
    engine = engines[dialect]
    # The engine escapes what a template prints if its name ends so.
    name = f"{path}.html" if dialect == HTML else f"{path}.txt"
    one_line, is_sms = f"{channel.value}.{field}" in _ONE_LINE, channel is Channel.SMS
    try:
        pieces = check(source)
        if all(piece.kind == "text" for piece in pieces):
            literal = _folded(source) if one_line else plainly(source) if is_sms else source
            return Part(path, name, literal=_safe(literal) if field == "link" else literal)
        engine.add_template(name, rewritten(pieces))
        free = engine.undeclared_variables_in_template(name) - {NOTHING_NAME}
    except TemplateError as error:
        raise TemplateError(error.detail, path) from None
    except minijinja.TemplateError as error:
        raise TemplateError(_explained(error), path) from None
    paths = method_paths(pieces)
    return Part(
        path,
        name,
        dialect=dialect,
        one_line=one_line,
        is_link=field == "link",
        is_sms=is_sms,
        always_shield=paths is None,
        method_paths=tuple(sorted(paths or ())),
        uses_reader=_uses_reader(pieces),
        variables=frozenset(free) - IMPLICIT - _FUNCTIONS,
        shadowed=tuple(sorted(free & METHOD_NAMES)),
    )


def _uses_reader(pieces: Iterable[Piece]) -> bool:
    """Whether the code uses an implicit variable, or a filter that does."""
    for piece in pieces:
        before = ""
        for token in piece.tokens:
            if token.text in (FOR_THE_READER if before == "|" else IMPLICIT) and before != ".":
                return True
            before = token.text
    return False


def _run(environment: minijinja.Environment, part: Part, context: Mapping[str, Any]) -> str:
    try:
        return environment.render_template(part.template, **context)
    except minijinja.TemplateError as error:
        kind = AlwaysFails if error.kind in _ALWAYS_FAILS else TemplateError
        raise kind(_explained(error), part.path) from None
    except fuel.OutOfFuel:
        raise AlwaysFails(_EXPLANATIONS["OutOfFuel"], part.path) from None
    except (Missing, TypeError, ValueError, ArithmeticError) as error:
        raise TemplateError(str(error), part.path) from None
    except BaseException as error:
        # A bug of the engine arrives as a PanicException, which is a BaseException.
        if type(error).__name__ != "PanicException":
            raise
        raise TemplateError(f"the template engine failed: {error}", part.path) from None


def _explained(error: minijinja.TemplateError) -> str:
    """The engine's error as a sentence, with the line."""
    text = error.detail if error.kind != "OutOfFuel" else None
    text = text or _EXPLANATIONS.get(error.kind) or _WHERE.sub("", error.message)
    return f"line {error.line}: {text}" if error.line else text


def _folded(text: str) -> str:
    """The text on one line: line ends and control characters become spaces, so that nobody can forge a header."""
    if is_plain(text):
        return text.strip(" ")
    return " ".join("".join(character if is_plain(character) else " " for character in text).split(" ")).strip(" ")


def _safe(link: str) -> str:
    if not links.is_safe(link):
        raise TemplateError(links.UNSAFE)
    return link


def _has(data: Any, path: tuple[str, ...]) -> bool:
    for name in path:
        if not isinstance(data, dict) or name not in data:
            return False
        data = data[name]
    return True


def _shield(data: Mapping[str, Any], part: Part) -> Mapping[str, Any]:
    """The data in types whose methods a template cannot reach. Raises TemplateError for data nested too deep."""
    try:
        return {name: _shielded(value) for name, value in data.items()}
    except RecursionError:
        raise TemplateError("the data are nested too deep", part.path) from None


def _shielded(value: Any) -> Any:
    """The same value in types whose methods a template cannot reach."""
    if isinstance(value, dict):
        return _Fields((name, _shielded(each)) for name, each in value.items())
    if isinstance(value, list):
        return tuple(_shielded(each) for each in value)
    return value


class _Fields(dict[str, Any]):
    """A JSON object that raises Missing for an absent field, so the engine does not fall back to a method of dict."""

    def __missing__(self, name: object) -> Any:
        if name in METHOD_NAMES:
            raise Missing(name)
        raise KeyError(name)
