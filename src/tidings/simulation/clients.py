"""Who calls the API: clients with their requests, and vendors with their receipts."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar
from uuid import UUID

from tidings.api.services import Accepts, Answered
from tidings.model.errors import Conflict, Invalid, Unavailable
from tidings.model.sending import InboundRequest
from tidings.simulation.observers import Ledger, Rule
from tidings.simulation.processes import Broken
from tidings.simulation.scenario import Asked
from tidings.simulation.vendors import Vendor

T = TypeVar("T")

APIS = ("api-1", "api-2")


class Outside(Protocol):
    """What clients need of the world."""

    async def call(self, name: str, request: Callable[[Accepts], Awaitable[T]]) -> T:
        """Make a request to an API process. Raises what it raises, or ConnectionError."""
        ...

    def send(self, errand: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something outside the processes; the run does not end before it."""
        ...

    def log(self, line: str) -> None:
        """Put a line into the trace."""
        ...

    def complain(self, rule: Rule, text: str) -> None:
        """A rule was broken."""
        ...


class Clients:
    """All of them, with one ledger of what they were told."""

    def __init__(self, world: Outside, chance: random.Random) -> None:
        self.ledger = Ledger()
        self._world = world
        self._chance = chance

    async def ask(self, asked: Asked) -> None:
        """A client that repeats its request, with the same key, until it knows that it was taken."""
        await asyncio.sleep(asked.at)
        batch = asked.body.startswith(b'{"notifications"')
        for _ in range(asked.tries):
            self.ledger.tries[asked] = self.ledger.tries.get(asked, 0) + 1
            answer: Answered | None = None
            try:
                async with asyncio.timeout(asked.timeout):
                    answer = await self._world.call(
                        self._chance.choice(APIS),
                        lambda accept: (
                            accept.accept_batch(asked.tenant, asked.body, asked.key, _anything)
                            if batch
                            else accept.accept(asked.tenant, asked.body, asked.key)
                        ),
                    )
            except (Unavailable, ConnectionError, TimeoutError, Broken) as error:
                self._world.log(f"client {asked.numbers}: {error or 'no answer'}")
            except Conflict as conflict:
                if conflict.code != "idempotency_in_flight":
                    self._world.complain(
                        Rule.ANSWERED_ONCE, f"request {asked.numbers} was refused when repeated: {conflict}"
                    )
                    return
            except Invalid:
                self.ledger.answers.setdefault(asked, []).append((None,) * len(asked.numbers))
                return
            if answer is not None:
                self._told(asked, answer)
                return
            await asyncio.sleep(self._chance.random() * 20)

    def _told(self, asked: Asked, answer: Answered) -> None:
        ids = tuple(result if isinstance(result, UUID) else None for result in answer.results)
        self._world.log(f"client {asked.numbers}: {', '.join(map(str, ids))}")
        self.ledger.answers.setdefault(asked, []).append(ids)

    def post(self, vendor: Vendor, body: bytes) -> None:
        """Send a receipt of this vendor off."""
        self._world.send(self._post(vendor.traits.name, body, vendor.chance.expovariate(0.1)))

    async def _post(self, vendor: str, body: bytes, delay: float) -> None:
        """A vendor's webhook: again and again until it is taken, and sometimes once more."""
        await asyncio.sleep(delay)
        request = InboundRequest("", {}, {}, body)
        taken = 0
        while taken < 1 + (self._chance.random() < 0.1):
            with contextlib.suppress(Unavailable, ConnectionError, TimeoutError, Broken):
                async with asyncio.timeout(10.0):
                    await self._world.call(self._chance.choice(APIS), lambda accept: accept.receipts(vendor, request))
                taken += 1
            await asyncio.sleep(self._chance.random() * 10)


async def _anything(_: int) -> None:
    """No caller is limited here."""
