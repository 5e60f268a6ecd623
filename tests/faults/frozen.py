"""A program that freezes between the two statements of `Caps.take`, with the row locked: `frozen.py DSN SCOPE`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from typing import Any
from uuid import uuid4

from tidings.backends.postgres import caps
from tidings.backends.postgres.store import PostgresStore
from tidings.model.errors import Unavailable
from tidings.model.user import Cap
from tidings.policy.caps import Count, take


def _stand_still(*arguments: Any) -> Any:
    os.kill(os.getpid(), signal.SIGSTOP)
    return take(*arguments)


async def _main(dsn: str, scope: bytes) -> None:
    setattr(caps, "take", _stand_still)  # noqa: B010 - it is not exported
    store = await PostgresStore.open(dsn)
    try:
        await store.caps.take([[Count(scope, uuid4(), (Cap(1, 60),))]], time.time_ns() // 1_000_000)
        sys.stdout.write("taken\n")
    except Unavailable:
        sys.stdout.write("unavailable\n")
    finally:
        await store.close()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], bytes.fromhex(sys.argv[2])))
