"""The callers of the API: clients with requests, vendors with receipts."""

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
from tidings.simulation.processes import AdapterBug
from tidings.simulation.scenario import ClientRequest
from tidings.simulation.vendors import Vendor

T = TypeVar("T")

APIS = ("api-1", "api-2")


class ClientWorld(Protocol):
    """The part of the world that clients use."""

    async def call(self, name: str, request: Callable[[Accepts], Awaitable[T]]) -> T:
        """The answer of an API process. Raises the API's errors, or ConnectionError if the process is down or dies."""
        ...

    def spawn(self, activity: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `activity` outside the processes; the run waits for its end."""
        ...

    def log(self, line: str) -> None:
        """Put a line into the trace."""
        ...

    def report_violation(self, rule: Rule, text: str) -> None:
        """Note that a rule was broken."""
        ...


class Clients:
    """All callers, with one ledger of the answers they got."""

    def __init__(self, world: ClientWorld, chance: random.Random) -> None:
        self.ledger = Ledger()
        self._world = world
        self._chance = chance

    async def send_repeatedly(self, request: ClientRequest) -> None:
        """Send the request, with the same key, until it is answered or all tries are used up."""
        await asyncio.sleep(request.at_s)
        batch = request.body.startswith(b'{"notifications"')
        for _ in range(request.tries):
            self.ledger.tries[request] = self.ledger.tries.get(request, 0) + 1
            answer: Answered | None = None
            try:
                async with asyncio.timeout(request.timeout_s):
                    answer = await self._world.call(
                        self._chance.choice(APIS),
                        lambda accept: (
                            accept.accept_batch(request.tenant, request.body, request.key, _no_limit)
                            if batch
                            else accept.accept(request.tenant, request.body, request.key)
                        ),
                    )
            except (Unavailable, ConnectionError, TimeoutError, AdapterBug) as error:
                self._world.log(f"client {request.numbers}: {error or 'no answer'}")
            except Conflict as conflict:
                if conflict.code != "idempotency_in_flight":
                    self._world.report_violation(
                        Rule.ANSWERED_ONCE, f"request {request.numbers} was refused when repeated: {conflict}"
                    )
                    return
            except Invalid:
                self.ledger.answers.setdefault(request, []).append((None,) * len(request.numbers))
                return
            if answer is not None:
                self._record_answer(request, answer)
                return
            await asyncio.sleep(self._chance.random() * 20)

    def _record_answer(self, request: ClientRequest, answer: Answered) -> None:
        ids = tuple(result if isinstance(result, UUID) else None for result in answer.results)
        self._world.log(f"client {request.numbers}: {', '.join(map(str, ids))}")
        self.ledger.answers.setdefault(request, []).append(ids)

    def post_receipt(self, vendor: Vendor, body: bytes) -> None:
        """Let the vendor post a receipt, after a while."""
        self._world.spawn(self._post_receipt(vendor.traits.name, body, vendor.chance.expovariate(0.1)))

    async def _post_receipt(self, vendor: str, body: bytes, delay_s: float) -> None:
        """Post the receipt until the API takes it, and sometimes once more."""
        await asyncio.sleep(delay_s)
        request = InboundRequest("", {}, {}, body)
        times_taken = 0
        while times_taken < 1 + (self._chance.random() < 0.1):
            with contextlib.suppress(Unavailable, ConnectionError, TimeoutError, AdapterBug):
                async with asyncio.timeout(10.0):
                    await self._world.call(self._chance.choice(APIS), lambda accept: accept.receipts(vendor, request))
                times_taken += 1
            await asyncio.sleep(self._chance.random() * 10)


async def _no_limit(_: int) -> None:
    """Do not limit the caller."""
