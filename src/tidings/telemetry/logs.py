"""Logs on standard error: one JSON object a line, or readable text. redaction.py removes personal data and secrets."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import structlog

from tidings.telemetry.redaction import chain, redacted

_NOT_REDACTED = frozenset({"timestamp", "level", "logger", "exception"})
"""Fields that this module writes itself."""


def configure(level: str, style: str, role: str, *, whole_messages: bool = False) -> None:
    """Set up logging for this process.

    `level` is a standard name in lower case, `style` is `json` or `text`. `whole_messages` logs the messages of
    unforeseen exceptions too; they may contain the content of notifications.
    """
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderers: list[Any] = [_exceptions(whole=whole_messages), _without_personal_data]
    if style == "json":
        renderers.append(structlog.processors.JSONRenderer())
    else:
        renderers += [_as_lines, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder(allow=())],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    structlog.contextvars.bind_contextvars(role=role)


def _exceptions(*, whole: bool) -> Callable[[Any, str, MutableMapping[str, Any]], MutableMapping[str, Any]]:
    """A processor that adds tracebacks without local variables: these hold passwords, addresses and contents."""

    def render(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        exc_info = event.pop("exc_info", None)
        error = exc_info[1] if isinstance(exc_info, tuple) else sys.exception() if exc_info is True else exc_info
        if isinstance(error, BaseException):
            event["exception"] = chain(error, whole=whole)
        return event

    return render


def _without_personal_data(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in event.items():
        if name not in _NOT_REDACTED:
            event[name] = _redacted(value)
    return event


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, Mapping):
        return {redacted(str(name)): _redacted(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redacted(inner) for inner in value]
    return value if isinstance(value, int | float | bool | None) else redacted(str(value))


def _as_lines(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The errors as text below the line: the causes first, as Python prints them."""
    if "exception" in event:
        lines = []
        for error in reversed(event["exception"]):
            lines += [f"  {frame['filename']}:{frame['lineno']} in {frame['name']}" for frame in error["frames"]]
            lines.append(error["exc_value"])
        event["exception"] = "\n".join(lines)
    return event
