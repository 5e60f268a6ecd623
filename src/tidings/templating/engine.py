"""Sets up the template engine: its dialects, and the filters and tests that Tidings adds.

Three dialects share the syntax. `PLAIN` prints texts as they are. `HTML` escapes what it prints. `DERIVED` is for a
mail's text that was made from its HTML: values marked as safe HTML there become text here, and white space is kept.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import quote

import minijinja

from tidings.templating.formats import FILTERS
from tidings.templating.fuel import FUEL
from tidings.templating.markup import to_text
from tidings.templating.rewriting import LOW, NOTHING_NAME, TEXT
from tidings.templating.values import NOTHING, BadArgument, is_nothing, text_of

PLAIN: Final = "plain"
HTML: Final = "html"
DERIVED: Final = "derived"

# The engine's own escaping writes / as &#x2f;, which is useless and hides links from programs that look for them.
_SPECIAL = re.compile(r"[&<>\"'/]")

# guard.py refuses these by name. They are removed as well, so that there is no other way to reach them.
_UNBOUNDED_GLOBALS = ("debug", "dict", "namespace", "cycler", "joiner", "now", "lipsum", "randrange")
_UNBOUNDED_FILTERS = (
    "attr",
    "batch",
    "chain",
    "format",
    "groupby",
    "indent",
    "pprint",
    "slice",
    "tojson",
    "wordwrap",
    "zip",
)


def environment(dialect: str, fuel: int, undefined: str) -> minijinja.Environment:
    """An engine for one dialect. `fuel` is what one part may spend; `undefined` is how undefined names are treated."""
    engine = minijinja.Environment(fuel=fuel, pycompat=False)
    engine.keep_trailing_newline = True
    # In texts that people write, a line with nothing but a tag prints nothing.
    engine.trim_blocks = engine.lstrip_blocks = dialect != DERIVED
    engine.undefined_behavior = undefined  # type: ignore[assignment]  # a Literal in its stubs
    engine.finalizer = _shown_in_html if dialect == HTML else text_of
    for name in _UNBOUNDED_GLOBALS:
        engine.remove_global(name)
    for name in _UNBOUNDED_FILTERS:
        engine.remove_filter(name)
    for name, filter in {**FILTERS, **_FILTERS, **_OF_DIALECT[dialect]}.items():
        engine.add_filter(name, filter)
    for name, test in _TESTS.items():
        engine.add_test(name, test)
    engine.add_global(NOTHING_NAME, NOTHING)
    return engine


def _shown_in_html(value: Any) -> Any:
    if type(value) is str and _SPECIAL.search(value) is None:
        return value
    return value if hasattr(value, "__html__") else minijinja.safe(html.escape(text_of(value)))


def _text(value: Any) -> str:
    text = text_of(_known(value))
    FUEL.burn(1 + len(text) // 512)
    return text


def _weigh(value: Any) -> None:
    """Burn the fuel for handing a value to Python: the engine copies texts, and the lists and objects that it made."""
    if isinstance(value, str):
        FUEL.burn(1 + len(value) // 512)
    else:
        FUEL.burn(1 + (len(value) // 5 if isinstance(value, list | tuple | dict) else 0))


def _low(value: Any) -> Any:
    """The value for a comparison: NOTHING becomes None, less than everything. The engine ranks objects above all."""
    _weigh(value)
    return None if _known(value) is NOTHING else value


def _known(value: Any) -> Any:
    """The value, unchanged. Raises BadArgument for None: so the engine passes an undefined, perhaps misspelt name."""
    if value is None:
        raise BadArgument("something that it uses is undefined")
    return value


def _default(value: Any = None, default: Any = "", boolean: Any = False) -> Any:
    """`{{ name|default("you") }}`: the default for no value, or for an empty one if the second argument is `true`."""
    _weigh(value)
    _weigh(default)
    return default if is_nothing(value) or (boolean and not value) else value


def _join(values: Any, joiner: Any = "", attribute: str | None = None) -> str:
    """`{{ names|join(", ") }}`: the texts of a list's items; items without a value are left out."""
    if _known(values) is NOTHING:
        return ""
    if isinstance(values, dict) or not hasattr(values, "__iter__"):
        raise BadArgument("join takes a list")
    items = list(values)
    FUEL.burn(1 + len(items) // 2)
    if attribute is not None:
        items = [_field(item, attribute) for item in items]
    text = text_of(joiner).join(text_of(item) for item in items if not is_nothing(item))
    FUEL.burn(len(text) // 512)
    return text


def _first(values: Any) -> Any:
    """`{{ names|first }}`: the first item of a list or character of a text; NOTHING if it is empty."""
    return _at(values, 0)


def _last(values: Any) -> Any:
    """`{{ names|last }}`: the last item of a list or character of a text; NOTHING if it is empty."""
    return _at(values, -1)


def _at(values: Any, place: int) -> Any:
    if not hasattr(_known(values), "__iter__"):
        raise BadArgument("first and last take a list or a text")
    _weigh(values)
    items = values if isinstance(values, str | list | tuple) else list(values)
    return items[place] if items else NOTHING


def _field(item: Any, path: str) -> Any:
    for name in str(path).split("."):
        item = item.get(name) if isinstance(item, dict) else None
    return item


def _escaped(value: Any) -> Any:
    FUEL.burn(1 + (len(value) // 512 if isinstance(value, str) else 0))
    return _shown_in_html(value)


def _html_as_text(value: Any) -> str:
    text = text_of(value)
    FUEL.burn(5 + len(text) // 64 + 5 * (text.count("<") + text.count("&")))
    return to_text(text)


def _marked_safe(value: Any) -> Any:
    """`{{ html|safe }}`: the text, which is then not escaped."""
    return minijinja.safe(_text(value))


def _replace(value: Any, old: Any, new: Any) -> str:
    """`{{ name|replace("a", "b") }}`."""
    text, before, after = _text(value), _text(old), _text(new)
    FUEL.burn((len(text) + text.count(before) * len(after)) // 512)
    return text.replace(before, after)


def _truncate(value: Any, length: int = 255, killwords: bool = False, end: Any = "...", leeway: int = 5) -> str:
    """`{{ text|truncate(20) }}`: the text's beginning, up to a word's end unless `killwords`, and then `end`.

    A text that is longer by at most `leeway` stays whole.
    """
    text, ending = _text(value), _text(end)
    if len(text) <= length + leeway:
        return text
    beginning = text[: max(0, length - len(ending))]
    return (beginning if killwords else beginning.rsplit(" ", 1)[0]) + ending


def _urlencode(value: Any) -> str:
    """`{{ name|urlencode }}`: the text for a part of a link; of an object, its fields as a query."""
    if isinstance(value, dict):
        _weigh(value)
        fields = ((name, _text(field)) for name, field in value.items() if not is_nothing(field))
        return "&".join(f"{quote(name, safe='')}={quote(text, safe='')}" for name, text in fields)
    return quote(_text(value))


def _lacks_value(value: Any) -> bool:
    _weigh(value)
    return is_nothing(value)


_FILTERS: Mapping[str, Callable[..., Any]] = {
    TEXT: _text,
    LOW: _low,
    "default": _default,
    "d": _default,
    "join": _join,
    "first": _first,
    "last": _last,
    "replace": _replace,
    "truncate": _truncate,
    "urlencode": _urlencode,
}
_OF_DIALECT: Mapping[str, Mapping[str, Callable[..., Any]]] = {
    PLAIN: {"escape": _text, "e": _text, "safe": _text},
    HTML: {"escape": _escaped, "e": _escaped, "safe": _marked_safe},
    DERIVED: {"escape": _text, "e": _text, "safe": _html_as_text},
}
_TESTS: Mapping[str, Callable[..., bool]] = {
    "defined": lambda value: not _lacks_value(value),
    "undefined": _lacks_value,
    "none": _lacks_value,
}
