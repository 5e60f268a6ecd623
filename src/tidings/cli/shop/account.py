"""The account of the shop's day: the states of all deliveries, whether the sums close, and the latencies."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct
from rich import box
from rich.console import Console
from rich.table import Table

from tidings.cli.shop.play import Books, Wait
from tidings.cli.timeline import MEANINGS
from tidings.cli.times import moment
from tidings.model.vocabulary import Channel, Priority, Reason, State
from tidings.policy.transitions import IN_FLIGHT

_HELD = "deferred"
_MOVING = "moving"
_COLUMNS = ("delivered", "sent", "suppressed", "failed", "dead", "expired", "cancelled", "uncertain", _HELD, _MOVING)
_NOTIFICATIONS = "notifications"
_LOOKS: dict[str, Any] = {"title_justify": "left", "box": box.SIMPLE, "padding": (0, 1, 0, 0), "pad_edge": False}
_ARRIVED = (State.SENT, State.DELIVERED)


class Account(Struct, frozen=True):
    """`rows` counts deliveries by channel and column; `reasons` counts unsent ones by channel, state and reason."""

    accepted: int
    recorded: int
    rows: dict[str, Counter[str]]
    reasons: dict[tuple[str, str, str], int]
    refused: int

    @property
    def faults(self) -> list[str]:
        """What does not add up, in sentences; empty if the sums close."""
        faults = []
        if self.recorded != self.accepted:
            faults.append(f"{self.accepted} notifications were accepted, and {self.recorded} are accounted for")
        if self.refused:
            faults.append(f"{self.refused} notifications were refused")
        faults += [
            f"{counts[_MOVING]} of {name} are still under way" for name, counts in self.rows.items() if counts[_MOVING]
        ]
        return faults


def account(books: Books, tally: Iterable[Mapping[str, Any]], waits: Sequence[Wait] = ()) -> Account:
    """The account, from the shop's own books and from the tally of Tidings; `waits` are waits for a known time."""
    reasons_with_due_time = {Reason.QUIET_HOURS, *(wait.reason for wait in waits)}
    rows: dict[str, Counter[str]] = {channel.value: Counter() for channel in Channel}
    reasons: dict[tuple[str, str, str], int] = {}
    recorded = 0
    for row in tally:
        if row["channel"] is None:
            recorded += row["count"]
            continue
        waits_for_a_time = row["state"] == State.DEFERRED and row["reason"] in reasons_with_due_time
        column = _MOVING if row["state"] in IN_FLIGHT and not waits_for_a_time else row["state"]
        rows[row["channel"]][column] += row["count"]
        if column not in _ARRIVED:
            reasons[row["channel"], row["state"], row["reason"]] = row["count"]
    return Account(books.accepted.total(), recorded, rows, reasons, len(books.refused))


def show(
    console: Console,
    account: Account,
    books: Books,
    sample: Sequence[tuple[str, Mapping[str, Any]]],
    waits: Sequence[Wait] = (),
) -> None:
    """Print the account, and how long the remaining deliveries wait."""
    console.print(_deliveries(account))
    console.print(_reasons(account))
    console.print(_latencies(books, sample))
    for template, count in sorted(books.accepted.items()):
        console.print(f"  {template:<20} {count:>9,} accepted", highlight=False)
    total = Counter[str]()
    for counts in account.rows.values():
        total += counts
    console.print(
        f"\n{account.accepted:,} notifications accepted, {account.recorded:,} accounted for, "
        f"as {total.total():,} deliveries" + (f"; {books.retried} requests were repeated" if books.retried else ""),
        highlight=False,
    )
    for wait in waits:
        console.print(_until(wait), highlight=False)
    for fault in account.faults:
        console.print(f"[red]Does not add up:[/] {fault}", highlight=False)
    if not account.faults:
        console.print("[green]The sums close.[/]")


def _until(wait: Wait) -> str:
    deliveries = "1 delivery waits" if wait.count == 1 else f"{wait.count:,} deliveries wait"
    first, last = f"{wait.first:%H:%M:%S}", f"{wait.last:%H:%M:%S}"
    when = f"until {last}" if first == last else f"until {first} to {last}"
    return f"{deliveries} {when}: {wait.reason} ({MEANINGS.get(wait.reason, 'see its timeline')})"


def _deliveries(account: Account) -> Table:
    shown = [name for name in _COLUMNS if any(counts[name] for counts in account.rows.values())]
    table = Table("channel", title="Deliveries", **_LOOKS)
    for name in (*shown, "all"):
        table.add_column(name, justify="right")
    for channel, counts in account.rows.items():
        table.add_row(channel, *(f"{counts[name]:,}" for name in shown), f"{counts.total():,}")
    sums = [sum(counts[name] for counts in account.rows.values()) for name in shown]
    table.add_section()
    table.add_row("all", *(f"{number:,}" for number in sums), f"{sum(sums):,}")
    return table


def _reasons(account: Account) -> Table:
    table = Table("state", "reason", title="Not delivered, and why", **_LOOKS)
    for channel in Channel:
        table.add_column(channel.value, justify="right")
    lines: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for (channel_name, state, reason), count in account.reasons.items():
        lines[state, reason][channel_name] += count
    for (state, reason), counts in sorted(lines.items()):
        table.add_row(state, reason, *(f"{counts[channel.value]:,}" for channel in Channel))
    return table


def _latencies(books: Books, sample: Sequence[tuple[str, Mapping[str, Any]]]) -> Table:
    table = Table("latency", title="How long it took", **_LOOKS)
    for name in ("measured", "p50", "p99"):
        table.add_column(name, justify="right")
    _line(table, "accept, a request with one", books.single)
    _line(table, "accept, a batch of up to 1,000", books.batch)
    for lane in Priority:
        _line(table, f"accepted to sent, lane {lane.value}", list(arrivals(sample, lane)))
    return table


def arrivals(sample: Iterable[tuple[str, Mapping[str, Any]]], lane: str) -> Iterable[float]:
    """Seconds from accepted to sent, for each delivery of the lane that was never deferred."""
    for priority, view in sample:
        if priority != lane:
            continue
        created = moment(view["created_at"])
        entries = defaultdict(list)
        for entry in view["timeline"]:
            entries[entry["delivery"]].append(entry)
        for delivery in view["deliveries"]:
            facts = entries[delivery["id"]]
            sent = [moment(fact["at"]) for fact in facts if fact["state"] in _ARRIVED]
            if sent and not any(fact["state"] == State.DEFERRED for fact in facts):
                yield (min(sent) - created).total_seconds()


def _line(table: Table, name: str, seconds: list[float]) -> None:
    if seconds:
        table.add_row(name, f"{len(seconds):,}", _milliseconds(seconds, 0.5), _milliseconds(seconds, 0.99))


def _milliseconds(seconds: list[float], quantile: float) -> str:
    ordered = sorted(seconds)
    return f"{ordered[min(len(ordered) - 1, int(len(ordered) * quantile))] * 1000:,.0f} ms"
