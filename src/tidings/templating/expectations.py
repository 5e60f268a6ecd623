"""Finds what a template's version expects of the data, before it is rendered.

A text that has `{{ order.number }}` outside all conditions and loops prints it for every reader. So a request whose
data lacks it, or has a list there, can be refused at once, instead of failing when it is sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from msgspec import structs

from tidings.model.errors import Invalid, TemplateError
from tidings.model.template import TemplateVersion
from tidings.model.vocabulary import Channel
from tidings.templating.guard import Piece, bound_names, check

Path: TypeAlias = tuple[str, ...]
_OPENS = frozenset({"if", "for", "with"})
_CLOSES = frozenset({"endif", "endfor", "endwith", "endset"})


def printed(version: TemplateVersion) -> Mapping[Channel, tuple[Path, ...]]:
    """For each channel, the paths in the data that the texts of some locale print for every reader of that locale."""
    by_channel: dict[Channel, set[Path]] = {}
    for content in version.contents.values():
        for channel in content.channels():
            for source in structs.asdict(getattr(content, channel.value)).values():
                if source is not None and "{" in source:
                    by_channel.setdefault(channel, set()).update(_printed(source))
    declared = set(version.variables)
    return {
        channel: tuple(sorted(path for path in paths if path[0] in declared)) for channel, paths in by_channel.items()
    }


def check_printed(paths: Iterable[Path], data: dict[str, Any]) -> None:
    """Raise Invalid for a path at which the data has nothing, a list or an object."""
    for path in paths:
        value: Any = data
        for depth, name in enumerate(path):
            if not isinstance(value, dict) or (depth and name not in value):
                detail = f"the template prints {'.'.join(path)}"
                raise Invalid("missing_variables", detail, _json_path(path[: depth + 1]))
            value = value.get(name)
            if value is None:  # null and an optional variable that is left out print nothing
                break
        if isinstance(value, list | dict):
            kind = "a list" if isinstance(value, list) else "an object"
            detail = f"the template prints {'.'.join(path)}, which must be a text or number, not {kind}"
            raise Invalid("not_printable", detail, _json_path(path))


def _json_path(path: Sequence[str]) -> str:
    return "$.data." + ".".join(path)


def _printed(source: str) -> set[Path]:
    try:
        pieces = check(source)
    except TemplateError:  # an old version that the guard now refuses; its deliveries fail when they are rendered
        return set()
    bound = {name for piece in pieces for name in bound_names(piece)}
    depth = 0
    paths: set[Path] = set()
    for piece in pieces:
        if piece.kind == "block":
            word = piece.tokens[0].text
            opens = word in _OPENS or (word == "set" and all(token.text != "=" for token in piece.tokens))
            depth += 1 if opens else -1 if word in _CLOSES else 0
        elif piece.kind == "print" and depth == 0:
            path = _plain_path(piece)
            if path is not None and path[0] not in bound:
                paths.add(path)
    return paths


def _plain_path(piece: Piece) -> Path | None:
    """The path in a piece such as `{{ order.number }}`; None for any other piece."""
    tokens = piece.tokens
    names, dots = tokens[::2], tokens[1::2]
    if len(tokens) % 2 and all(name.kind == "name" for name in names) and all(dot.text == "." for dot in dots):
        return tuple(name.text for name in names)
    return None
