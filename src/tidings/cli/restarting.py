"""Replaces the processes of `tidings up` one after the other, while the others go on."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence

from tidings.cli.child import Child
from tidings.cli.plain import CannotGoOn, say, say_error, step

SIGNAL = signal.SIGUSR1
"""The signal that asks `up` for a restart. SIGHUP stops it, because a closed terminal sends that."""

ORDER = ("worker", "api", "sandbox")
"""Readers are replaced before writers, because a new version reads the previous version's items, not vice versa."""
_ALONE = frozenset({"sandbox"})
"""Roles that cannot run twice. The sandbox keeps arrivals in memory; connections wait while it is replaced."""


class Restarts:
    """Replaces the children whenever it is asked to.

    `requested_roles` gives the roles to replace (none: all); `changed` is called after each step.
    """

    def __init__(
        self, children: Sequence[Child], requested_roles: Callable[[], Sequence[str]], changed: Callable[[], None]
    ) -> None:
        self._children = children
        self._requested_roles = requested_roles
        self._changed = changed
        self._asked = asyncio.Event()
        self.ended = 0
        self.role = ""
        self.failure = ""

    def ask(self) -> None:
        """Restart soon; if a restart is under way, restart again after it."""
        self._asked.set()

    async def run(self) -> None:
        """Restart whenever `ask` is called, for ever."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            say("\nRestarting, one by one:")
            self.failure = ""
            roles = self._requested_roles()
            chosen = [child for child in self._children if not roles or child.role in roles]
            try:
                for child in sorted(chosen, key=lambda child: ORDER.index(child.role)):
                    self._set_role(child.role)
                    with step(child.role):
                        await child.replace(beside=child.role not in _ALONE)
            except CannotGoOn as error:
                self.failure = str(error)
                say_error(f"the restart was given up: {error}")
            else:
                say("Done.")
            self.ended += 1
            self._set_role("")

    def _set_role(self, role: str) -> None:
        self.role = role
        self._changed()
