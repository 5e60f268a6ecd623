"""Draws the scenario of a seed. The order of the draws decides the run: a new draw changes every seed."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from tidings.model.user import Address, Cap, Category, Preferences, Profile, QuietHours
from tidings.model.vocabulary import Channel, Priority, QuietPolicy, Strategy
from tidings.policy.wall_clock import instant_of, local_time, offset, zone
from tidings.sections import BreakerSettings, Delivering, Fairness
from tidings.simulation import faults
from tidings.simulation.scenario import (
    CHANGING_CATEGORY,
    FIRST_AFTERWARDS,
    FIRST_NOISE,
    FIRST_PATCHED,
    FIRST_RECURRING,
    RECOVERY_S,
    TEMPLATE,
    TENANTS,
    Cancelled,
    CategorySet,
    Change,
    ClientRequest,
    ClocksMoved,
    MoodChanged,
    Outage,
    Patched,
    PreferencesSet,
    Recurring,
    Replayed,
    Scenario,
    SuppressionSet,
    VendorDown,
    longest_pause_s,
)
from tidings.simulation.vendors import DOWN, MOODS, Traits

_ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "Pacific/Apia")
_DAYS = (
    datetime(2024, 3, 30, tzinfo=UTC),
    datetime(2024, 10, 26, tzinfo=UTC),
    datetime(2024, 11, 2, tzinfo=UTC),
    datetime(2024, 2, 28, tzinfo=UTC),
    datetime(2024, 12, 31, tzinfo=UTC),
    datetime(2025, 6, 11, tzinfo=UTC),
)
"""Days before clock changes, before a leap day and the end of the year, and an ordinary day."""
NO_SHARES = Fairness(per_second=0)
_CONTENT = {
    "email": {"subject": "Hello", "text": "There you are."},
    "sms": {"text": "Hello"},
    "push": {"title": "Hello", "body": "There you are."},
    "inapp": {"title": "Hello", "body": "There you are."},
}


def draw(seed: int, delivering: Delivering | None = None) -> Scenario:
    """The scenario of a seed. `delivering` replaces the drawn delivery settings."""
    chance = random.Random(f"{seed}/scenario")
    storm_s = chance.choice((20.0, 60.0, 120.0, 300.0))
    start_at, requests = _requests(chance, storm_s, chance.choice(_DAYS), seed)
    vendors = tuple(_vendors(chance))
    weather = faults.draw(chance)
    partitions = chance.choice((0, 0, 1, 3))
    audit_every_s = chance.choice((30.0, 120.0, 1e6))
    delivering = delivering or _delivering(chance)
    breaker = BreakerSettings(least=chance.choice((1, 2, 5)), pause=chance.choice((2.0, 20.0)))
    later_chance = random.Random(f"{seed}/more")
    changes = [
        *_changes(chance, storm_s, requests, vendors),
        *_recurring(chance, storm_s, start_at),
        *_categories(later_chance, storm_s),
        *_long_outages(later_chance, storm_s, vendors),
        *_patches(random.Random(f"{seed}/patches"), start_at, requests),
    ]
    requests = (*requests, *_noise(later_chance, storm_s), *_afterwards(_healed_at_s(storm_s, changes, delivering)))
    return Scenario(
        seed=seed,
        start_at=start_at,
        storm_s=storm_s,
        weather=weather,
        partitions=partitions,
        audit_every_s=audit_every_s,
        delivering=delivering,
        fairness=_fairness(random.Random(f"{seed}/fairness")),
        breaker=breaker,
        vendors=vendors,
        overall_caps=tuple((tenant, (Cap(3, 300),)) for tenant in TENANTS if later_chance.random() < 0.3),
        requests=requests,
        changes=tuple(sorted(changes, key=lambda change: change.at_s)),
    )


def users() -> list[tuple[str, str]]:
    """All users that may exist, as (tenant, user id)."""
    return [(tenant, f"user-{number}") for tenant in TENANTS for number in range(3)]


def profile(chance: random.Random, user_id: str) -> Profile:
    """A random profile for the user."""
    return Profile(
        email=f"{user_id}.{chance.randrange(2)}@example.com" if chance.random() < 0.9 else None,
        phone=f"+4930123456{chance.randrange(10, 12)}" if chance.random() < 0.8 else None,
        devices=tuple(f"{user_id}-device-{number}" for number in range(chance.choice((0, 1, 1, 2)))),
        locale=chance.choice((None, "en", "de", "de-AT", "fi")),
        timezone=chance.choice(_ZONES),
    )


def preferences(chance: random.Random) -> Preferences:
    """Random preferences."""
    refused: dict[str, tuple[Channel, ...]] = {}
    for category in ("marketing", "news", "transactional", "promo", "*"):
        if chance.random() < 0.15:
            refused[category] = () if chance.random() < 0.5 else (chance.choice(list(Channel)),)
    quiet = None
    if chance.random() < 0.35:
        start = chance.randrange(1440)
        quiet = QuietHours(start, (start + chance.choice((30, 120, 600, 900))) % 1440)
    return Preferences(opted_out=refused, quiet_hours=quiet, muted=chance.random() < 0.05)


def _requests(chance: random.Random, storm_s: float, day: datetime, seed: int) -> tuple[int, tuple[ClientRequest, ...]]:
    start_at = int(day.timestamp() * 1000) + chance.randrange(48 * 3600) * 1000
    requests: list[ClientRequest] = []
    number = 0
    wanted = chance.randint(4, 20)
    while number < wanted:
        at_s = chance.random() * storm_s * 0.8
        tenant = chance.choice(TENANTS)
        size = chance.choice((1, 1, 1, 1, 2, 4))
        bodies = [_body(chance, start_at + int(at_s * 1000), number + place) for place in range(size)]
        key = f"key-{seed}-{number}" if chance.random() < 0.7 else None
        single = size == 1 and chance.random() < 0.9
        requests.append(
            ClientRequest(
                at_s=at_s,
                tenant=tenant,
                numbers=tuple(range(number, number + size)),
                body=json.dumps(bodies[0] if single else {"notifications": bodies}).encode(),
                key=key,
                tries=1 if key is None else chance.choice((1, 3, 50)),
                timeout_s=chance.choice((1.0, 10.0, 60.0)),
                sent_twice=key is not None and chance.random() < 0.3,
            )
        )
        number += size
    return start_at, tuple(sorted(requests, key=lambda request: request.at_s))


def _healed_at_s(storm_s: float, changes: Sequence[Change], delivering: Delivering) -> float:
    """The virtual second from which all is well. The last answer of a provider may still ask for the longest pause."""
    ends = [change.at_s + change.seconds for change in changes if isinstance(change, VendorDown)]
    return max([storm_s, *ends]) + RECOVERY_S + longest_pause_s(delivering)


def _afterwards(healed_at_s: float) -> list[ClientRequest]:
    """A few requests after everything is well again, to people who get nothing else."""
    return [
        ClientRequest(
            at_s=healed_at_s + number,
            tenant=TENANTS[0],
            numbers=(FIRST_AFTERWARDS + number,),
            body=json.dumps(
                {
                    "to": {
                        "email": f"after-{number}@example.com",
                        "phone": f"+4930123457{number}0",
                        "devices": [f"after-{number}"],
                    },
                    "content": {channel: _CONTENT[channel] for channel in ("email", "sms", "push")},
                    "metadata": {"n": FIRST_AFTERWARDS + number},
                }
            ).encode(),
            key=f"after-{number}",
            tries=5,
            timeout_s=10.0,
        )
        for number in range(4)
    ]


def _body(chance: random.Random, now: int, number: int) -> dict[str, Any]:
    user_id = f"user-{chance.randrange(3)}"
    to: dict[str, Any] = {"user_id": user_id}
    if chance.random() < 0.15:
        to = {"email": f"inline-{chance.randrange(3)}@example.com", "phone": "+493012345620"}
    body: dict[str, Any] = {"to": to, "metadata": {"n": number}}
    category = chance.choice(
        (None, "security", "marketing", "news", "offers", "hints", "tips", "flash", "alerts", "promo")
    )
    if category is not None:
        body["category"] = category
    if chance.random() < 0.2:
        body |= {"template": TEMPLATE.name, "data": {"number": number}}
        channels = ["email", "sms"]
    else:
        channels = chance.sample(list(_CONTENT), chance.choice((1, 1, 2, 4)))
        body["content"] = {channel: _CONTENT[channel] for channel in channels}
    if chance.random() < 0.3:
        body["channels"] = chance.sample(channels, len(channels))
    if chance.random() < 0.3:
        body["strategy"] = Strategy.FIRST_REACHABLE.value
    body["priority"] = chance.choice(list(Priority)).value
    send_at = now
    if chance.random() < 0.2:
        send_at = now + chance.choice((1_000, 30_000, 200_000, 3_600_000))
        body["send_at"] = _text(send_at)
    elif chance.random() < 0.05:
        body["send_at_local"] = f"{chance.randrange(24):02}:{chance.randrange(60):02}"
    if chance.random() < 0.25 and "send_at_local" not in body:
        body["expires_at"] = _text(send_at + chance.choice((2_000, 30_000, 300_000, 7_200_000)))
    return body


def _patches(chance: random.Random, start_at: int, requests: Sequence[ClientRequest]) -> list[Patched]:
    """Changes of notifications that wait for a time, some of which come too late."""
    patches: list[Patched] = []
    for request in requests:
        number, prints = request.numbers[0], FIRST_PATCHED + request.numbers[0]
        if len(request.numbers) > 1 or b'"send_at' not in request.body or chance.random() < 0.4:
            continue
        at_s = request.at_s + chance.choice((1.0, 10.0, 100.0)) * chance.random()
        send_at = start_at + int(at_s * 1000) + chance.choice((5_000, 600_000, 7_200_000))
        body: dict[str, Any] = {"send_at": _text(send_at), "priority": chance.choice(list(Priority)).value}
        if b'"template"' in request.body:
            body["data"] = {"number": prints}
        patches += [Patched(at_s, request.tenant, number, json.dumps(body).encode(), send_at, prints)]
    return patches


def _text(instant: int) -> str:
    return datetime.fromtimestamp(instant / 1000, UTC).isoformat()


def _delivering(chance: random.Random) -> Delivering:
    return Delivering(
        attempts=chance.choice((1, 2, 3, 5)),
        backoff_base=chance.choice((0.5, 2.0, 30.0)),
        backoff_cap=chance.choice((10.0, 900.0)),
        lease=chance.choice((6.0, 15.0, 60.0)),
    )


def _fairness(chance: random.Random) -> Fairness:
    """Shares so small that a run exceeds them, the default ones, or none."""
    return chance.choice((Fairness(per_second=0.05, burst=1), Fairness(per_second=0.5, burst=2), Fairness(), NO_SHARES))


def _vendors(chance: random.Random) -> list[Traits]:
    return [
        Traits(
            name=f"{channel.value}-{place}",
            channel=channel,
            idempotent=chance.random() < 0.4,
            batch_size=chance.choice((1, 1, 50)),
            concurrency=chance.choice((1, 4, 64)),
            timeout_s=chance.choice((3.0, 10.0)),
        )
        for channel in (Channel.EMAIL, Channel.SMS, Channel.PUSH)
        for place in ("one", "two", "three")[: chance.choice((1, 1, 2, 3))]
    ]


def _categories(chance: random.Random, storm_s: float) -> list[Change]:
    """Changes of one category: whether it is critical, and how it treats quiet hours."""
    span_s = chance.choice((storm_s, 3_600.0))
    return [
        CategorySet(
            chance.random() * span_s,
            tenant,
            Category(CHANGING_CATEGORY, critical=chance.random() < 0.5, quiet_hours=chance.choice(list(QuietPolicy))),
        )
        for tenant in TENANTS
        for _ in range(chance.choice((0, 1, 3)))
    ]


def _long_outages(chance: random.Random, storm_s: float, vendors: Sequence[Traits]) -> list[Change]:
    """Outages of vendors, which may outlast the storm."""
    return [
        VendorDown(chance.random() * storm_s, vendor.name, chance.choice((30.0, 900.0, 7_200.0)), chance.choice(DOWN))
        for vendor in vendors
        if chance.random() < 0.15
    ]


def _noise(chance: random.Random, storm_s: float) -> list[ClientRequest]:
    """In some seeds, one large batch of one tenant."""
    if chance.random() < 0.85:
        return []
    bodies = [
        {
            "to": {"email": f"noise-{place}@example.com"},
            "content": {"email": _CONTENT["email"]},
            "priority": chance.choice(list(Priority)).value,
            "metadata": {"n": FIRST_NOISE + place},
        }
        for place in range(30)
    ]
    numbers = tuple(range(FIRST_NOISE, FIRST_NOISE + len(bodies)))
    body = json.dumps({"notifications": bodies}).encode()
    return [
        ClientRequest(
            chance.random() * storm_s, chance.choice(TENANTS), numbers, body, "noise", tries=50, timeout_s=60.0
        )
    ]


def _recurring(chance: random.Random, storm_s: float, start_at: int) -> list[Change]:
    """Recurrences: by the minute during the storm, or daily at hours at which clocks change."""
    recurrences: list[Change] = []
    for number in range(chance.choice((0, 0, 1, 2))):
        daily, times = chance.random() < 0.4, chance.randint(2, 4)
        timezone = chance.choice(_changing(start_at) if daily else _ZONES)
        if not daily and offset(zone(timezone), start_at) != offset(zone(timezone), start_at + 3_600_000):
            timezone = "UTC"  # in an hour that the clock shows twice, minutely rules are ambiguous
        first = local_time(zone(timezone), start_at + round(storm_s / 2 + 60) * 1000).replace(microsecond=0)
        if not daily and instant_of(first, zone(timezone)) < start_at:
            continue  # the clock showed this time before, too
        if daily:
            first = first.replace(hour=chance.choice((1, 2, 9)), minute=30, second=0) + timedelta(days=1)
        body = {
            "rrule": f"FREQ={'DAILY' if daily else 'MINUTELY'};COUNT={times}",
            "start": first.isoformat(),
            "timezone": timezone,
            "request": {
                "to": {"email": "again@example.com"},
                "content": {"email": _CONTENT["email"]},
                "metadata": {"n": FIRST_RECURRING + number},
            },
        }
        recurrences.append(
            Recurring(
                at_s=chance.random() * storm_s / 2,
                tenant=chance.choice(TENANTS),
                number=FIRST_RECURRING + number,
                times=times,
                dates=times if daily else 0,
                timezone=timezone,
                body=json.dumps(body).encode(),
            )
        )
    return recurrences


def _changing(start_at: int) -> tuple[str, ...]:
    """The timezones whose clocks change within four days; all timezones if there are none."""
    changing = tuple(
        name for name in _ZONES if offset(zone(name), start_at) != offset(zone(name), start_at + 4 * 24 * 3600 * 1000)
    )
    return changing or _ZONES


def _changes(
    chance: random.Random, storm_s: float, requests: tuple[ClientRequest, ...], vendors: tuple[Traits, ...]
) -> list[Change]:
    changes: list[Change] = []
    span_s = chance.choice((storm_s, storm_s, 3_600.0))
    for tenant, user_id in users():
        for _ in range(chance.choice((0, 0, 1, 3))):
            deleted = chance.random() < 0.07
            changes.append(
                PreferencesSet(
                    chance.random() * span_s,
                    tenant,
                    user_id,
                    None if deleted else profile(chance, user_id),
                    None if deleted else preferences(chance),
                )
            )
    for _ in range(chance.choice((0, 0, 2, 5))):
        user_id = f"user-{chance.randrange(3)}"
        known = profile(chance, user_id)
        address = Address(Channel.EMAIL, known.email or "inline-0@example.com")
        if chance.random() < 0.4 and known.phone:
            address = Address(Channel.SMS, known.phone)
        changes.append(SuppressionSet(chance.random() * span_s, chance.choice(TENANTS), address, chance.random() < 0.7))
    changes += [
        Cancelled(request.at_s + chance.expovariate(0.1), request.tenant, request.numbers[0])
        for request in requests
        if chance.random() < 0.1
    ]
    changes += [
        MoodChanged(chance.random() * storm_s, vendor.name, chance.choice(MOODS))
        for vendor in vendors
        for _ in range(chance.choice((0, 1, 3, 6)))
    ]
    changes += [
        Outage(chance.random() * storm_s, chance.choice(("api", "worker", "")), chance.choice((1.0, 20.0, 50.0)))
        for _ in range(chance.choice((0, 0, 0, 1, 2)))
    ]
    changes += [Replayed(chance.random() * 2 * storm_s, tenant) for tenant in TENANTS if chance.random() < 0.3]
    changes += [ClocksMoved(chance.random() * storm_s) for _ in range(chance.choice((0, 1, 4)))]
    return changes
