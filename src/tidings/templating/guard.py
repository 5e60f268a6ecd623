"""Limits templates to a part of the Jinja language whose cost can be bounded before they run.

The engine counts fuel for what a template does, but not for printing a list that holds itself many times over. It also
gives templates Python's own methods by their names. So a template may use data, but not build structures out of it: its
lists hold constants, it calls no methods, and its filters come from a fixed list. What remains is loops, conditions,
text and formatting, whose cost the engine's fuel counts.

The tokens follow the engine's lexer (minijinja 3: delimiters, comments, `raw`, strings, brackets).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from msgspec import Struct

from tidings.model.errors import TemplateError

STATEMENTS = frozenset(
    {"if", "elif", "else", "endif", "for", "endfor", "set", "endset", "with", "endwith", "break", "continue"}
)
FILTERS = frozenset(
    """abs bool capitalize count currency d date datetime default dictsort e escape filesizeformat first float int
    items join last length lines list lower map max min number percent plural pluralize plus reject rejectattr
    replace reverse round safe select selectattr sort split string striptags sum time times title trim truncate
    unique upper urlencode""".split()  # noqa: SIM905 (a list of this length reads best as words)
)
MAPPABLE = frozenset(
    {"abs", "capitalize", "escape", "float", "int", "length", "lower", "string", "title", "trim", "upper"}
)
METHOD_NAMES = frozenset({*vars(dict), *vars(list)}) - set(dir(object))
"""Names of methods of Python's dict and list: the engine finds the method when the data has no such field."""

MAX_PATH = 20
MAX_NESTING = 30
"""How many brackets may be open at once."""
MAX_TOKENS = 2_000
"""How many tokens one tag may have: the engine descends a level for each operator and filter of a chain."""
MAX_BRANCHES = 500
"""How many `elif` a template may have: the engine descends a level for each."""

_METHODS = re.compile(rf"\b(?:{'|'.join(sorted(METHOD_NAMES))})\b")
_KEYWORDS = frozenset({"and", "or", "not", "in", "is", "if", "else", "elif", "for", "set", "with", "recursive"})
_CONSTANTS = frozenset({"true", "True", "false", "False", "none", "None"})
_OPEN = re.compile(r"\{[{%#]")
_RAW = re.compile(r"\{%[-+]?[ \t\n\r\f]*raw[ \t\n\r\f]*[-+]?%\}")
_ENDRAW = re.compile(r"\{%[-+]?[ \t\n\r\f]*endraw[ \t\n\r\f]*[-+]?%\}")
_TOKEN = re.compile(
    r"(?P<space>[ \t\n\r\f]+)"
    r"|(?P<string>'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")"
    r"|(?P<number>(?:0[xXoObB][0-9a-fA-F_]+|[0-9][0-9_]*(?:[eE][0-9]+)?)(?!\w))"
    r"|(?P<name>[^\W\d]\w*)"
    r"|(?P<symbol>//|\*\*|==|!=|>=|<=|[-+*/%.,:~|=<>()\[\]{}])",
    re.DOTALL,
)
_CLOSING = {"(": ")", "[": "]", "{": "}"}


class Token(Struct, frozen=True):
    """One token of code. `kind` is `string`, `number`, `name` or `symbol`; `at` is its position in its piece."""

    kind: str
    text: str
    at: int = 0

    @property
    def end(self) -> int:
        """The position after its last character."""
        return self.at + len(self.text)


class Piece(Struct, frozen=True):
    """A stretch of a template. `kind` is `text`, `raw`, `comment`, `print` (`{{ }}`) or `block` (`{% %}`)."""

    kind: str
    source: str
    line: int
    tokens: tuple[Token, ...] = ()


def pieces(source: str) -> Iterator[Piece]:
    """The pieces of a template in order; joined they give the source. Raises TemplateError."""
    at, line = 0, 1
    while at < len(source):
        opening = _OPEN.search(source, at)
        end = opening.start() if opening else len(source)
        if end > at:
            yield Piece("text", source[at:end], line)
            line += source.count("\n", at, end)
        if opening is None:
            return
        piece = _code(source, end, line)
        yield piece
        line += piece.source.count("\n")
        at = end + len(piece.source)


def check(source: str) -> tuple[Piece, ...]:
    """The pieces of a template. Raises TemplateError, with the line, for everything that is not allowed."""
    checked = tuple(pieces(source))
    branches = 0
    for piece in checked:
        branches += piece.kind == "block" and bool(piece.tokens) and piece.tokens[0].text == "elif"
        if branches > MAX_BRANCHES:
            raise TemplateError(f"line {piece.line}: there are more than {MAX_BRANCHES} elif")
        if piece.kind in {"print", "block"}:
            try:
                _check(piece)
            except TemplateError as error:
                raise TemplateError(f"line {piece.line}: {error.detail}") from None
    return checked


def method_paths(template: Sequence[Piece]) -> frozenset[tuple[str, ...]] | None:
    """The paths in the data that end with a method's name (`order.items`) and that the template uses.

    If the data has all of them, the template cannot reach a method. None: there may be other such paths.
    """
    bound = {name for piece in template for name in bound_names(piece)}
    paths: set[tuple[str, ...]] = set()
    for piece in template:
        tokens = piece.tokens
        for at, token in enumerate(tokens):
            name = token.text if token.kind == "name" and at and tokens[at - 1].text == "." else None
            if token.kind == "string" and ("\\" in token.text or _METHODS.search(token.text)):
                if not (at and tokens[at - 1].text == "[" and _is_subscript(tokens, at - 1)) or "\\" in token.text:
                    return None
                name = token.text[1:-1]
            if token.text == "[" and _is_subscript(tokens, at) and tokens[at + 1].kind not in {"number", "string"}:
                return None
            if name in METHOD_NAMES:
                path = _path(tokens, at - 1)
                if path is None or path[0] in bound:
                    return None
                paths.add((*path, str(name)))
    return frozenset(paths)


def bound_names(piece: Piece) -> set[str]:
    """The names to which a block assigns a value."""
    if piece.kind != "block":
        return set()
    if piece.tokens[0].text == "with":
        return {token.text for token in piece.tokens if token.kind == "name"}
    return {token.text for token in piece.tokens[1 : max(1, _head(piece))] if token.kind == "name"}


def _path(tokens: Sequence[Token], end: int) -> tuple[str, ...] | None:
    """The names in the path that ends before `end`; None when it does not begin with a plain name."""
    names: list[str] = []
    at = end - 1
    while at >= 0 and len(names) <= MAX_PATH:
        if tokens[at].text == "]":
            if at < 2 or tokens[at - 1].kind != "string" or tokens[at - 2].text != "[":
                return None
            names.append(tokens[at - 1].text[1:-1])
            at -= 3
        elif tokens[at].kind == "name":
            names.append(tokens[at].text)
            if at == 0 or tokens[at - 1].text != ".":
                return tuple(reversed(names))
            at -= 2
        else:
            return None
    return None


def _code(source: str, start: int, line: int) -> Piece:
    """The piece of code that begins at `start`."""
    mark = source[start : start + 2]
    if mark == "{#":
        end = source.find("#}", start + 2)
        if end < 0:
            raise TemplateError(f"line {line}: this comment is not closed; end it with #}}")
        return Piece("comment", source[start : end + 2], line)
    raw = _RAW.match(source, start)
    if raw is not None:
        ending = _ENDRAW.search(source, raw.end())
        if ending is None:
            raise TemplateError(f"line {line}: this raw block is not closed; end it with {{% endraw %}}")
        return Piece("raw", source[start : ending.end()], line)
    kind, close = ("print", "}}") if mark == "{{" else ("block", "%}")
    at = start + 2
    if source[at : at + 1] in {"-", "+"}:
        at += 1
    tokens: list[Token] = []
    brackets: list[str] = []
    while at < len(source):
        if not brackets and (source.startswith(close, at) or source.startswith((f"-{close}", f"+{close}"), at)):
            end = source.index(close, at) + 2
            return Piece(kind, source[start:end], line, tuple(tokens))
        match = _TOKEN.match(source, at)
        if match is None:
            raise TemplateError(f"line {line}: unexpected character {source[at]!r} in the template's code")
        if match.lastgroup not in {None, "space"}:
            token = Token(str(match.lastgroup), match.group(), at - start)
            _balance(brackets, token, line)
            if len(tokens) == MAX_TOKENS:
                raise TemplateError(
                    f"line {line}: this code is too long; one tag has at most {MAX_TOKENS:,} words and signs"
                )
            tokens.append(token)
        at = match.end()
    raise TemplateError(f"line {line}: this code is not closed; end it with {close}")


def _balance(brackets: list[str], token: Token, line: int) -> None:
    if token.kind != "symbol":
        return
    if token.text in _CLOSING:
        brackets.append(_CLOSING[token.text])
        if len(brackets) > MAX_NESTING:
            raise TemplateError(f"line {line}: brackets are nested more than {MAX_NESTING} deep")
    elif token.text in _CLOSING.values() and (not brackets or brackets.pop() != token.text):
        raise TemplateError(f"line {line}: {token.text!r} closes nothing that is open")


def _check(piece: Piece) -> None:
    tokens = piece.tokens
    if not tokens:
        raise TemplateError("there is nothing between the braces")
    if piece.kind == "block" and tokens[0].text not in STATEMENTS:
        raise TemplateError(f"{{% {tokens[0].text} %}} is not available; templates have if, for, set, with and raw")
    head = _head(piece)
    for at, token in enumerate(tokens):
        if token.kind == "symbol":
            _check_symbol(tokens, at, head)
        elif token.kind == "name":
            _check_name(tokens, at)
    if piece.kind == "block" and tokens[0].text == "set":
        _check_value(tokens, head)


def _head(piece: Piece) -> int:
    """How many tokens name the targets of a `for` or `set`, where commas are allowed; 0 for other pieces."""
    if piece.kind != "block":
        return 0
    tokens = piece.tokens
    end = {"for": "in", "set": "="}.get(tokens[0].text)
    if end is None:
        return 0
    return next((at for at, token in enumerate(tokens) if token.text == end), len(tokens))


def _check_symbol(tokens: Sequence[Token], at: int, head: int) -> None:
    text = tokens[at].text
    if text in {"*", "**", "+"}:
        name = "plus" if text == "+" else "times"
        raise TemplateError(f"write {{{{ a|{name}(b) }}}} instead of {text}, and {{{{ a ~ b }}}} to join texts")
    if text == "{" or (text == "[" and not _is_subscript(tokens, at)):
        _check_constant(tokens, at)
    elif text == "(" and at >= head:
        _check_parenthesis(tokens, at)
    elif text == "." and at + 1 < len(tokens) and tokens[at + 1].text.startswith("_"):
        raise TemplateError(f"names that start with _ are not available: .{tokens[at + 1].text}")
    elif text == "|":
        _check_filter(tokens, at + 1)


def _check_name(tokens: Sequence[Token], at: int) -> None:
    name = tokens[at].text
    before = tokens[at - 1].text if at else ""
    after = tokens[at + 1].text if at + 1 < len(tokens) else ""
    if before in {".", "|", "is"}:
        return
    if name == "range" and after != "(":
        raise TemplateError("range is a function: {% for n in range(3) %}")
    if name == "loop" and after != ".":
        raise TemplateError("loop stands for the running loop: {{ loop.index }}")
    if name == "recursive" and at and tokens[0].text == "for":
        raise TemplateError("recursive loops are not available")


def _is_subscript(tokens: Sequence[Token], at: int) -> bool:
    """Whether the bracket at `at` is a subscript and not the beginning of a list."""
    if at == 0:
        return False
    before = tokens[at - 1]
    if before.kind == "name":
        attribute = at > 1 and tokens[at - 2].text == "."
        return attribute or before.text not in _KEYWORDS
    return before.kind == "string" or before.text in {")", "]"}


def _is_call(tokens: Sequence[Token], at: int) -> bool:
    before = tokens[at - 1] if at else None
    if before is None:
        return False
    if before.kind == "name":
        return before.text not in _KEYWORDS or (at > 1 and tokens[at - 2].text in {".", "|", "is"})
    return before.kind in {"string", "number"} or before.text in {")", "]", "}"}


def _check_parenthesis(tokens: Sequence[Token], at: int) -> None:
    if not _is_call(tokens, at):
        if any(token.text == "," for token in _direct(tokens, at)):
            _check_constant(tokens, at)
        return
    before = [token.text for token in tokens[max(0, at - 4) : at]]
    name = before[-1]
    owner = before[-2] if len(before) > 1 else ""
    if owner in {"|", "is"} or before[-3:-1] == ["is", "not"]:
        return
    if owner == "." and before[-3:] in (["loop", ".", "cycle"], ["loop", ".", "changed"]) and before[0] != ".":
        return
    if owner != "." and name == "range":
        return
    raise TemplateError(
        f"{name}(…) cannot be called; templates have the function range, and filters: {{{{ a|upper }}}}"
    )


def _check_filter(tokens: Sequence[Token], at: int) -> None:
    name = tokens[at].text if at < len(tokens) else ""
    if name not in FILTERS:
        raise TemplateError(f"there is no filter {name!r}; there are {', '.join(sorted(FILTERS))}")
    if name not in {"map", "sum"}:
        return
    arguments = _arguments(tokens, at + 1)
    by_attribute = [token.text for token in arguments[:2]] == ["attribute", "="] and (
        len(arguments) == 3 and arguments[2].kind == "string"
    )
    if name == "sum" and not (by_attribute or not arguments):
        raise TemplateError("sum takes the name of an attribute at most: items|sum(attribute='price')")
    by_filter = len(arguments) == 1 and arguments[0].kind == "string" and arguments[0].text[1:-1] in MAPPABLE
    if name == "map" and not (by_attribute or by_filter):
        raise TemplateError(
            f"map takes the name of an attribute, items|map(attribute='name'), or one of {', '.join(sorted(MAPPABLE))}"
        )


def _arguments(tokens: Sequence[Token], at: int) -> Sequence[Token]:
    """The tokens between the parentheses that open at `at`; none if none open there."""
    if at >= len(tokens) or tokens[at].text != "(":
        return ()
    return tokens[at + 1 : closing(tokens, at)]


def _check_value(tokens: Sequence[Token], head: int) -> None:
    """Check that `set` stores one value, not several with commas between them."""
    depth = 0
    for token in tokens[head + 1 :]:
        if token.kind == "symbol" and token.text in _CLOSING:
            depth += 1
        elif token.kind == "symbol" and token.text in _CLOSING.values():
            depth -= 1
        elif depth == 0 and token.text == ",":
            raise TemplateError("set stores one value; write a set for each")


def _check_constant(tokens: Sequence[Token], at: int) -> None:
    """Check that a list, map or tuple in the template holds only constants."""
    for token in tokens[at + 1 : closing(tokens, at)]:
        if token.kind == "name" and token.text not in _CONSTANTS:
            raise TemplateError(
                f"a list in a template may only hold texts and numbers, not {token.text}; "
                "put the list into the data instead"
            )


def _direct(tokens: Sequence[Token], at: int) -> Iterator[Token]:
    """The tokens directly inside a bracket, without those of inner brackets."""
    depth = 0
    for token in tokens[at + 1 : closing(tokens, at)]:
        if token.kind == "symbol" and token.text in _CLOSING:
            depth += 1
        elif token.kind == "symbol" and token.text in _CLOSING.values():
            depth -= 1
        elif depth == 0:
            yield token


def closing(tokens: Sequence[Token], at: int) -> int:
    """The index of the token that closes the bracket at `at`; the number of tokens if none does."""
    depth = 0
    for position in range(at, len(tokens)):
        token = tokens[position]
        if token.kind == "symbol" and token.text in _CLOSING:
            depth += 1
        elif token.kind == "symbol" and token.text in _CLOSING.values():
            depth -= 1
            if depth == 0:
                return position
    return len(tokens)
