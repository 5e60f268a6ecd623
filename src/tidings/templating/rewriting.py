"""What is put into a template's code before the engine reads it, so that values are used as people mean them.

The engine would print true as `True` where texts are joined or changed, and takes what has no value for more than
every number. So what stands beside `~` or before a filter of texts goes through `_text`, what a comparison could take
for large goes through `_low`, and `none` is what has no value (`values.NOTHING`). Names that begin with `_` are refused
where an author writes them (guard.py), so these cannot be meant by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tidings.templating.guard import Piece, Token, closing

NOTHING_NAME = "_nothing"
TEXT, LOW = "_text", "_low"

_OF_TEXTS = frozenset(
    """capitalize e escape lines lower replace split string striptags title trim truncate upper""".split()  # noqa: SIM905
)
_DIVISION = frozenset({"/", "//", "%"})
_ARITHMETIC = _DIVISION | {"-"}
_WORDS = frozenset({"in", "and", "or", "not", "if", "elif", "else", "is", "set", "for", "with"})
_OPENING = {")": "(", "]": "[", "}": "{"}


def rewritten(found: Iterable[Piece]) -> str:
    """The source of these pieces with what is put into it."""
    return "".join(_piece(piece) if piece.kind in {"print", "block"} else piece.source for piece in found)


def _piece(piece: Piece) -> str:
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
    """Whether the filter that is named at `at` is one of texts, or maps one."""
    if tokens[at].text == "map":
        return at + 2 < len(tokens) and tokens[at + 2].kind == "string" and tokens[at + 2].text[1:-1] in _OF_TEXTS
    return tokens[at].text in _OF_TEXTS


def _is_constant(before: Token | None, after: Token | None) -> bool:
    named = before is not None and before.text in {".", "|", "is", "not"}
    return not named and not (after is not None and after.text == "=")


def _around(tokens: Sequence[Token], at: int, name: str, *, left: bool, right: bool) -> set[tuple[int, str]]:
    """Put the filter `name` behind the operands of the operator at `at`, as far as they are no constants."""
    found: set[tuple[int, str]] = set()
    operands: list[tuple[int, int]] = []
    if left and at:
        operands.append((_begin_of_term(tokens, at - 1), at))
    if right and at + 1 < len(tokens) and (end := _end_of_term(tokens, at + 1)) is not None:
        operands.append((at + 1, end))
    for begin, end in operands:
        is_term = any(token.text in _ARITHMETIC and token.kind == "symbol" for token in tokens[begin:end])
        if is_term:
            found |= {(tokens[begin].at, "("), (tokens[end - 1].end, f")|{name}")}
        elif not (end == begin + 1 and tokens[begin].kind in {"string", "number"}):
            found.add((tokens[end - 1].end, f"|{name}"))
    return found


def _begin_of_term(tokens: Sequence[Token], last: int) -> int:
    """Where the term begins that ends with the token `last`: values with a division between them, and a sign."""
    begin = _begin(tokens, last)
    while begin > 1 and tokens[begin - 1].text in _DIVISION:
        begin = _begin(tokens, begin - 2)
    if begin and tokens[begin - 1].text == "-" and (begin == 1 or _precedes_value(tokens[begin - 2])):
        begin -= 1
    return begin


def _end_of_term(tokens: Sequence[Token], first: int) -> int | None:
    """Behind the term that begins with the token `first`; None when `not` stands there."""
    end = _end(tokens, first + (tokens[first].text == "-")) if first + 1 < len(tokens) else first + 1
    while end is not None and end + 1 < len(tokens) and tokens[end].text in _DIVISION:
        end = _end(tokens, end + 1)
    return end


def _precedes_value(token: Token) -> bool:
    """Whether a value begins behind this token, so that a minus there is a sign."""
    if token.kind == "name":
        return token.text in _WORDS
    return token.kind == "symbol" and token.text not in _OPENING


def _begin(tokens: Sequence[Token], last: int) -> int:
    """Where the value begins that ends with the token `last`: a name or bracket with what is asked of it."""
    at = last
    while at > 0:
        if tokens[at].text in _OPENING:
            at = _opening(tokens, at)
            if at and _is_asked(tokens[at - 1]):
                at -= 1
                continue
        elif tokens[at - 1].text in {".", "|"}:
            at -= 2
            continue
        return at
    return at


def _is_asked(token: Token) -> bool:
    """Whether a bracket behind this token asks it for something."""
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
    """Behind the value that begins with the token `first`; None when a sign or `not` stands there."""
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
