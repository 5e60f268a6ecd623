"""The judge of a run with faults: compares the client's ledger, the arrivals and the system's records."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from msgspec import Struct

from support import eventually
from support.load import DOUBLES, NEWS, USERS, Asked, Ledger
from support.nemesis import Happened
from support.system import RESTING, System
from tidings.policy.retry import PATIENT_BASE

IN_FLIGHT = ("pending", "deferred", "sending")
_REACHED = {"sent", "delivered"}
LATEST_RECORD = 15.0
"""Seconds that the judge waits for the record of an accepted notification while everything else rests."""
WAITED_FOR_S = 1.25 * PATIENT_BASE
"""How far ahead a next try may be for the judge to wait for it: as far as the second at a mail server that put a
recipient off. Each later try doubles that wait."""
MOST_WAITING = 0.01
"""The largest share of deliveries that may wait for a try beyond that."""
_SHOWN, _TOLD = 3, 1500
"""The most cases of a kind in a report, and the most characters of each."""


class Arrived(Struct, frozen=True):
    """An arrival at a vendor or in an inbox. `at` is in milliseconds since the epoch.

    `by_worker`: the instant is what a worker's clock said, which may be wrong.
    """

    delivery: str
    at: int
    by_worker: bool = False


class Verdict(Struct):
    """The result of a run. `wrong` lists violations by kind; all other figures are for people."""

    accepted: int = 0
    unanswered: int = 0
    refusals: dict[str, int] = {}
    arrived: int = 0
    states: dict[str, int] = {}
    lost: int = 0
    swept: int = 0
    waiting: int = 0
    doubled: int = 0
    doubled_uncertain: int = 0
    doubled_allowed: int = 0
    earliest: float = 0.0
    gap_accepting: float = 0.0
    gap_arriving: float = 0.0
    gaps: list[tuple[float, str, float, float, float]] = []
    wrong: dict[str, list[str]] = {}

    def blame(self, kind: str, case: object) -> None:
        """Add a violation."""
        self.wrong.setdefault(kind, []).append(str(case)[:_TOLD])

    def lines(self) -> list[str]:
        """The report as lines for people."""
        count = {kind: len(cases) for kind, cases in self.wrong.items()}
        told = [
            f"accepted {self.accepted}, unanswered {self.unanswered} (refusals: {_listed(self.refusals)})",
            f"arrived {self.arrived}, states: {_listed(self.states)}",
            f"lost {self.lost}, doubled {self.doubled}; lost on the way and found by the sweeper {self.swept}",
            f"doubled and marked uncertain {self.doubled_uncertain}, where it is allowed {self.doubled_allowed}",
            f"waiting for a later try at a mail server that put them off {self.waiting}",
            f"sent before its time by {self.earliest:.1f} s at most",
            f"longest time without a 202: {self.gap_accepting:.1f} s, without an arrival: {self.gap_arriving:.1f} s",
            f"{'at':>7} {'fault':<20} {'lasted':>7} {'no 202':>7} {'none arrived':>13}",
        ]
        told += [
            f"{at:7.1f} {name:<20} {took:7.1f} {accepting:7.1f} {arriving:13.1f}"
            for at, name, took, accepting, arriving in self.gaps
        ]
        told.append(f"WRONG: {_listed(count)}" if count else "nothing is wrong")
        told += [f"  {kind}: {case}" for kind, cases in self.wrong.items() for case in cases[:_SHOWN]]
        return told


class Judge:
    """Compares the three sources. `lease_s` is the longest time for a batch."""

    def __init__(self, system: System, ledger: Ledger, happened: Sequence[Happened], lease_s: float) -> None:
        self._system = system
        self._ledger = ledger
        self._happened = sorted(happened, key=lambda fault: fault.began)
        self._lease = round(lease_s * 1000)
        self.verdict = Verdict()

    async def judge(self, started: int, ended: int) -> Verdict:
        """The verdict on a run whose load lasted from `started` to `ended`. Call it when everything rests."""
        verdict, ledger = self.verdict, self._ledger
        history = {seen["id"]: seen async for seen in everything(self._system)}
        arrivals = await self._arrivals()
        verdict.accepted, verdict.refusals = len(ledger.accepted), ledger.refused
        verdict.unanswered = len(ledger.asked) - verdict.accepted
        verdict.arrived = sum(map(len, arrivals.values()))
        self._promises(history)
        known = Counter[str]()
        for seen in history.values():
            asked = self._asked(seen)
            for delivery in seen["deliveries"]:
                known[delivery["state"]] += 1
                self._delivery(asked, seen, delivery, arrivals.pop(delivery["id"], []))
        verdict.states = dict(known)
        if verdict.waiting > MOST_WAITING * known.total():
            verdict.blame("too many wait for a later try", verdict.waiting)
        for delivery in arrivals:
            verdict.blame("arrived, of nothing that is known", delivery)
        self._gaps(started, ended)
        return verdict

    def _promises(self, history: dict[str, Any]) -> None:
        """Check that every accepted notification is recorded, and once for each request."""
        for asked in self._ledger.accepted:
            seen = history.get(asked.id)
            if seen is None:
                self.verdict.lost += 1
                self.verdict.blame("accepted, and not known", asked)
            elif self._asked(seen) is not asked:
                self.verdict.blame("accepted under an id of something else", asked)
        for number, count in Counter(seen["metadata"]["number"] for seen in history.values()).items():
            if count > 1:
                self.verdict.blame("asked for once, accepted more than once", self._ledger.asked[number])

    def _asked(self, seen: dict[str, Any]) -> Asked:
        number: int = seen["metadata"]["number"]
        return self._ledger.asked[number]

    def _delivery(self, asked: Asked, seen: dict[str, Any], delivery: dict[str, Any], arrived: list[Arrived]) -> None:
        verdict, state, copies = self.verdict, delivery["state"], len(arrived)
        doubtful = any(
            entry["delivery"] == delivery["id"] and entry["state"] == "uncertain" for entry in seen["timeline"]
        )
        if any(entry["delivery"] == delivery["id"] and entry["reason"] == "swept" for entry in seen["timeline"]):
            verdict.swept += 1
        if state not in RESTING:
            if delivery["next_at"] is not None and _seconds_until(delivery["next_at"]) > 0.0:
                verdict.waiting += 1
            else:
                verdict.blame("does not rest", seen)
        if state in _REACHED and not copies:
            verdict.lost += 1
            verdict.blame("said to be sent, never arrived", seen)
        if copies and state not in {*_REACHED, "uncertain"} and not doubtful and asked.category != DOUBLES:
            verdict.blame(f"arrived, said to be {state}", seen)
        if copies > 1:
            if asked.category == DOUBLES:
                verdict.doubled_allowed += copies - 1
            elif doubtful:
                verdict.doubled_uncertain += copies - 1
            else:
                verdict.doubled += copies - 1
                verdict.blame("doubled", (seen, arrived))
        for one in arrived:
            self._wishes(asked, one, seen)

    def _wishes(self, asked: Asked, arrived: Arrived, seen: dict[str, Any]) -> None:
        """Check that nothing was sent too early, after its cancellation, or against the user's wish."""
        doubt = self._clocks_wrong() if arrived.by_worker else 0
        if asked.send_at is not None:
            early = asked.send_at - arrived.at
            if not arrived.by_worker:
                self.verdict.earliest = max(self.verdict.earliest, early / 1000)
            if early > self._clocks_ahead() + doubt:
                self.verdict.blame("sent before its time", (early, seen))
        opted_out = self._ledger.opted_out.get(asked.user or "") if asked.category == NEWS else None
        for why, told in (("cancelled", asked.cancelled), ("opted out", opted_out)):
            if told is not None and arrived.at > told + self._under_way(told, arrived.at) + doubt:
                self.verdict.blame(f"sent though {why} before", (arrived.at - told, seen))

    def _under_way(self, since: int, until: int) -> int:
        """How long a delivery that was checked at `since` may take to go out: a batch's time plus the pauses."""
        still = sum(
            max(0, min(fault.ended, until) - max(fault.began, since)) for fault in self._happened if fault.frozen
        )
        return self._lease + still

    def _clocks_ahead(self) -> int:
        """Milliseconds by which some clock was ahead. A process with such a clock rightly sends so much too early."""
        return round(max([0.0, *(fault.shift for fault in self._happened)]) * 1000)

    def _clocks_wrong(self) -> int:
        """Milliseconds by which some clock was wrong."""
        return round(max([0.0, *(abs(fault.shift) for fault in self._happened)]) * 1000)

    async def _arrivals(self) -> dict[str, list[Arrived]]:
        """The arrivals, by delivery."""
        found: dict[str, list[Arrived]] = {}
        log = self._system.settings.data_dir / "sandbox" / "arrivals.jsonl"
        for line in (await asyncio.to_thread(log.read_text)).splitlines():
            arrival = json.loads(line)
            # The viewer may miss in-app items or see them twice, so ask the inbox itself.
            if arrival["status"] != "refused" and arrival["channel"] != "inapp":
                found.setdefault(arrival["delivery"], []).append(Arrived(arrival["delivery"], arrival["at"]))
        for number in range(USERS):
            async for item in pages(self._system, f"/v1/users/user-{number}/inbox?limit=200", "items"):
                at = datetime.fromisoformat(item["created_at"])
                found.setdefault(item["id"], []).append(
                    Arrived(item["id"], round(at.timestamp() * 1000), by_worker=True)
                )
        self._instants = sorted(one.at for arrivals in found.values() for one in arrivals if not one.by_worker)
        return found

    def _gaps(self, started: int, ended: int) -> None:
        verdict = self.verdict
        answers = _within([*sorted(self._ledger.answers)], started, ended)
        arrivals = _within(self._instants, started, ended)
        verdict.gap_accepting = _longest(answers, started, ended)
        verdict.gap_arriving = _longest(arrivals, started, ended)
        verdict.gaps = [
            (
                (fault.began - started) / 1000,
                fault.name,
                (fault.ended - fault.began) / 1000,
                _longest(answers, fault.began, fault.ended),
                _longest(arrivals, fault.began, fault.ended),
            )
            for fault in self._happened
        ]


def _within(instants: Sequence[int], started: int, ended: int) -> list[int]:
    return [started, *(instant for instant in instants if started < instant < ended), ended]


def _longest(instants: Sequence[int], began: int, ended: int) -> float:
    """The longest pause that overlaps the span, in seconds."""
    pauses = ((after - before) / 1000 for before, after in pairwise(instants) if after > began and before <= ended)
    return max(pauses, default=0.0)


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"


async def everything(system: System) -> AsyncIterator[dict[str, Any]]:
    """All notifications of the tenant."""
    async for seen in pages(system, "/v1/notifications?limit=200", "notifications"):
        yield seen


async def pages(system: System, path: str, name: str) -> AsyncIterator[dict[str, Any]]:
    """All entries of the list at `path`, page by page."""
    cursor = ""
    while True:
        reply = await system.call("GET", path + cursor)
        assert reply.status == 200, reply
        for one in reply.json[name]:
            yield one
        if reply.json["next"] is None:
            return
        cursor = f"&cursor={reply.json['next']}"


async def settled(system: System, ledger: Ledger, timeout_s: float) -> None:
    """Return when nothing is in flight and every accepted notification is recorded, or when that takes too long.

    A delivery with a known next try, for example one that a mail server put off for minutes, has `timeout_s` from then.
    The judge reports what is in flight or not recorded then.
    """
    await _rest(system, timeout_s)
    known = {seen["id"] async for seen in everything(system)}
    for asked in ledger.accepted:
        if asked.id not in known:
            with suppress(AssertionError):
                await eventually(partial(_is_known, system, asked.id), LATEST_RECORD, every=0.5)
    await _rest(system, timeout_s)


async def _rest(system: System, timeout_s: float) -> None:
    """Return when nothing is in flight, or `timeout_s` after the latest time at which something is tried again.

    What is tried again only after `WAITED_FOR_S` is not waited for.
    """
    horizon = time.time() + timeout_s + WAITED_FOR_S
    with suppress(AssertionError):
        await eventually(lambda: _rests(system, horizon), timeout_s, every=0.5)
        return
    waits = [_seconds_until(seen["next_at"]) async for seen in everything(system) if seen["next_at"]]
    longest_s = max((wait for wait in waits if time.time() + wait <= horizon), default=0.0)
    with suppress(AssertionError):
        await eventually(lambda: _rests(system, horizon), longest_s + timeout_s, every=0.5)


async def _rests(system: System, horizon: float) -> bool:
    """Whether nothing is in flight but what is tried again after `horizon` (seconds since the epoch)."""
    for state in IN_FLIGHT:
        async for seen in pages(system, f"/v1/notifications?state={state}&limit=200", "notifications"):
            assert seen["next_at"], seen
            assert time.time() + _seconds_until(seen["next_at"]) > horizon, seen
    return True


def _seconds_until(at: str) -> float:
    return datetime.fromisoformat(at).timestamp() - time.time()


async def _is_known(system: System, id: str) -> bool:
    return (await system.call("GET", f"/v1/notifications/{id}")).status == 200


def write(path: Path, reports: dict[str, Verdict]) -> None:
    """The reports as JSON."""
    told = {
        name: {field: getattr(verdict, field) for field in verdict.__struct_fields__}
        for name, verdict in reports.items()
    }
    path.write_text(json.dumps(told, indent=2))
