"""Setting aside: store an item that cannot be worked on, with its bytes and the reason, so that others get through."""

from __future__ import annotations

import re
from uuid import uuid4

import structlog

from tidings.model.texts import fit
from tidings.ports.clock import Clock
from tidings.ports.meter import Meter
from tidings.ports.objects import Objects

ASIDE = "aside/"
"""What the names of all objects that were set aside begin with."""
_MOST_CHARACTERS = 4_000
_UNUSUAL = re.compile(r"[^A-Za-z0-9_-]+")
_log = structlog.get_logger("tidings.stage")


async def set_aside(
    aside: Objects, clock: Clock, meter: Meter, stage: str, topic: str, key: str, body: bytes, why: str
) -> bool:
    """Store the body of an item of `topic` and the reason `why`; False if the object store fails."""
    why = fit(why, _MOST_CHARACTERS)
    folder = ".".join(_UNUSUAL.sub("_", part) or "_" for part in topic.split("."))
    name = f"{ASIDE}{folder}/{clock.now()}-{uuid4().hex}"
    try:
        await aside.put(name + ".bin", body)
        await aside.put(name + ".txt", f"key: {key}\nreason: {why}\n".encode("utf-8", "replace"))
    except Exception:
        _log.exception("an item could not be put aside", stage=stage, topic=topic, kind=_kind(why))
        return False
    meter.failure(stage, topic, "aside")
    _log.error("an item was put aside", stage=stage, topic=topic, object=name, kind=_kind(why))
    return True


def _kind(why: str) -> str:
    """The kind of error, for the log. The whole reason may contain personal content: it is stored, but not logged."""
    return why.partition("(")[0].partition(":")[0][:100]
