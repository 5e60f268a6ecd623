"""Rewrites a template's code before the engine reads it, so that values mean what authors expect.

The engine prints true as `True` where texts are joined or changed, and ranks a missing value above every number. So the
filter `_text` is put behind each operand of `~` and before each text filter, the filter `_low` behind each operand that
a comparison would rank too high, and `none` becomes `_nothing` (`values.NOTHING`). Authors cannot use these names
themselves, because guard.py refuses names that begin with `_`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tidings.templating.guard import Piece, Token, closing

NOTHING_NAME = "_nothing"
TEXT, LOW = "_text", "_low"

_OF_TEXTS = frozenset(
    """capitalize e escape lines lower split string striptags title trim upper""".split()  # noqa: SIM905
)
_DIVISION = frozenset({"/", "//", "%"})
_ARITHMETIC = _DIVISION | {"-"}
_WORDS = frozenset({"in", "and", "or", "not", "if", "elif", "else", "is", "set", "for", "with"})
_OPENING = {")": "(", "]": "[", "}": "{"}


def rewritten(template: Iterable[Piece]) -> str:
    """The rewritten source of a template."""
    return "".join(_rewritten(piece) if piece.kind in {"print", "block"} else piece.source for piece in template)


def _rewritten(piece: Piece) -> str:
    tokens = piece.tokens
    inserted: set[tuple[int, str]] = set()
    replaced: dict[int, str] = {}
    for at, token in enumerate(tokens):
        before, after = tokens[at - 1] if at else None, tokens[at + 1] if at + 1 < len(tokens) else None
        if token.kind == "symbol" and token.text == "~":
            inserted |= _around(tokens, at, TEXT, left=True, right=True)
        elif token.kind == "symbol" and token.text in {">", ">="}:
            inserted |= _around(tokens, at, LOW, left=True, right=False)
        elif token.kind == "symbol" and token.text in {"<", "<="}:
            inserted |= _around(tokens, at, LOW, left=False, right=True)
        elif token.text == "|" and before is not None and after is not None and _takes_texts(tokens, at + 1):
            inserted.add((before.end, f"|map('{TEXT}')" if after.text == "map" else f"|{TEXT}"))
        elif token.kind == "name" and token.text in {"none", "None"} and _is_constant(before, after):
            replaced[at] = NOTHING_NAME
    if not inserted and not replaced:
        return piece.source
    changes = [(end, end, text) for end, text in inserted]
    changes += [(tokens[at].at, tokens[at].end, text) for at, text in replaced.items()]
    source = piece.source
    for begin, end, text in sorted(changes, key=lambda change: (change[0], change[1]), reverse=True):
        source = source[:begin] + text + source[end:]
    return source


def _takes_texts(tokens: Sequence[Token], at: int) -> bool:
    """Whether the filter whose name is at `at` takes texts, or is a `map` of such a filter."""
    if tokens[at].text == "map":
        return at + 2 < len(tokens) and tokens[at + 2].kind == "string" and tokens[at + 2].text[1:-1] in _OF_TEXTS
    return tokens[at].text in _OF_TEXTS


def _is_constant(before: Token | None, after: Token | None) -> bool:
    named = before is not None and before.text in {".", "|", "is", "not"}
    return not named and not (after is not None and after.text == "=")


def _around(tokens: Sequence[Token], at: int, name: str, *, left: bool, right: bool) -> set[tuple[int, str]]:
    """The insertions that put the filter `name` behind the operands of the operator at `at`, except constants."""
    insertions: set[tuple[int, str]] = set()
    operands: list[tuple[int, int]] = []
    if left and at:
        operands.append((_begin_of_term(tokens, at - 1), at))
    if right and at + 1 < len(tokens) and (end := _end_of_term(tokens, at + 1)) is not None:
        operands.append((at + 1, end))
    for begin, end in operands:
        is_term = any(token.text in _ARITHMETIC and token.kind == "symbol" for token in tokens[begin:end])
        if is_term:
            insertions |= {(tokens[begin].at, "("), (tokens[end - 1].end, f")|{name}")}
        elif not (end == begin + 1 and tokens[begin].kind in {"string", "number"}):
            insertions.add((tokens[end - 1].end, f"|{name}"))
    return insertions


def _begin_of_term(tokens: Sequence[Token], last: int) -> int:
    """The first token of the term that ends with the token `last`. A term is values joined by division, and a sign."""
    begin = _begin(tokens, last)
    while begin > 1 and tokens[begin - 1].text in _DIVISION:
        begin = _begin(tokens, begin - 2)
    if begin and tokens[begin - 1].text == "-" and (begin == 1 or _precedes_value(tokens[begin - 2])):
        begin -= 1
    return begin


def _end_of_term(tokens: Sequence[Token], first: int) -> int | None:
    """The token after the term that begins with the token `first`; None if that is a `not`."""
    end = _end(tokens, first + (tokens[first].text == "-")) if first + 1 < len(tokens) else first + 1
    while end is not None and end + 1 < len(tokens) and tokens[end].text in _DIVISION:
        end = _end(tokens, end + 1)
    return end


def _precedes_value(token: Token) -> bool:
    """Whether a value begins after this token, so that a minus there is a sign."""
    if token.kind == "name":
        return token.text in _WORDS
    return token.kind == "symbol" and token.text not in _OPENING


def _begin(tokens: Sequence[Token], last: int) -> int:
    """The first token of the value that ends with the token `last`: a name or bracket with its attributes and calls."""
    at = last
    while at > 0:
        if tokens[at].text in _OPENING:
            at = _opening(tokens, at)
            if at and _takes_bracket(tokens[at - 1]):
                at -= 1
                continue
        elif tokens[at - 1].text in {".", "|"}:
            at -= 2
            continue
        return at
    return at


def _takes_bracket(token: Token) -> bool:
    """Whether a bracket after this token is a call or subscript of it."""
    if token.kind == "name":
        return token.text not in _WORDS
    return token.kind == "string" or token.text in _OPENING


def _opening(tokens: Sequence[Token], at: int) -> int:
    depth = 0
    for position in range(at, -1, -1):
        if tokens[position].kind == "symbol" and tokens[position].text in _OPENING:
            depth += 1
        elif tokens[position].kind == "symbol" and tokens[position].text in _OPENING.values():
            depth -= 1
            if depth == 0:
                return position
    return 0


def _end(tokens: Sequence[Token], first: int) -> int | None:
    """The token after the value that begins with the token `first`; None if that is a sign or `not`."""
    if tokens[first].kind == "symbol" and tokens[first].text not in _OPENING.values():
        return None
    if tokens[first].text == "not":
        return None
    at = closing(tokens, first) + 1 if tokens[first].text in _OPENING.values() else first + 1
    while at < len(tokens):
        text = tokens[at].text if tokens[at].kind == "symbol" else ""
        if text in {"[", "("}:
            at = closing(tokens, at) + 1
        elif text in {".", "|"} and at + 1 < len(tokens):
            at += 2
        else:
            break
    return min(at, len(tokens))
