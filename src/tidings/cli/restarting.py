"""Restarting what `up` runs, one process after the other, while the rest goes on."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence

from tidings.cli.child import Child
from tidings.cli.plain import CannotGoOn, say, say_error, step

SIGNAL = signal.SIGUSR1
"""Asks `up` for a restart. SIGHUP stops it: a terminal that is closed sends that."""

ORDER = ("worker", "api", "sandbox")
"""Who reads is replaced before who writes: the new version reads what the old one wrote."""
_ALONE = frozenset({"sandbox"})
"""What cannot run twice: it remembers in its own memory what arrived. Connections wait meanwhile."""


class Restarts:
    """Replaces the children whenever it is asked to.

    `wanted` gives the roles that are to be replaced (none: all); `changed` is called with each step.
    """

    def __init__(
        self, children: Sequence[Child], wanted: Callable[[], Sequence[str]], changed: Callable[[], None]
    ) -> None:
        self._children = children
        self._wanted = wanted
        self._changed = changed
        self._asked = asyncio.Event()
        self.ended = 0
        self.role = ""
        self.failure = ""

    def ask(self) -> None:
        """Restart soon; once more when a restart is under way."""
        self._asked.set()

    async def run(self) -> None:
        """Restart whenever that is asked for."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            say("\nRestarting, one by one:")
            self.failure = ""
            wanted = self._wanted()
            chosen = [child for child in self._children if not wanted or child.role in wanted]
            try:
                for child in sorted(chosen, key=lambda child: ORDER.index(child.role)):
                    self._tell(child.role)
                    with step(child.role):
                        await child.replace(beside=child.role not in _ALONE)
            except CannotGoOn as error:
                self.failure = str(error)
                say_error(f"the restart was given up: {error}")
            else:
                say("Done.")
            self.ended += 1
            self._tell("")

    def _tell(self, role: str) -> None:
        self.role = role
        self._changed()
