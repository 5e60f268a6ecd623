"""Drawing the scenario of a seed: the same numbers give the same run, in every process."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from tidings.model.user import Address, Cap, Category, Preferences, Profile, QuietHours
from tidings.model.vocabulary import Channel, Priority, QuietPolicy, Strategy
from tidings.policy.wall_clock import instant_of, offset, shown, zone
from tidings.sections import BreakerSettings, Delivering, Fairness
from tidings.simulation import faults
from tidings.simulation.scenario import (
    AFTERWARDS,
    CHANGING,
    NOISE,
    RECOVERY,
    RECURRING,
    TEMPLATE,
    TENANTS,
    AddressBarred,
    Asked,
    Cancelled,
    CategorySet,
    Change,
    ClocksMoved,
    MoodChanged,
    Outage,
    PreferencesSet,
    Recurring,
    Replayed,
    Scenario,
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
"""Days before clocks are changed, the year ends, and an ordinary one."""
NO_SHARES = Fairness(per_second=0)
_LITERAL = {
    "email": {"subject": "Hello", "text": "There you are."},
    "sms": {"text": "Hello"},
    "push": {"title": "Hello", "body": "There you are."},
    "inapp": {"title": "Hello", "body": "There you are."},
}


def draw(seed: int, delivering: Delivering | None = None) -> Scenario:
    """The scenario of a seed; with `delivering`, under these settings instead of drawn ones."""
    chance = random.Random(f"{seed}/scenario")
    storm = chance.choice((20.0, 60.0, 120.0, 300.0))
    start, asked = _asked(chance, storm, chance.choice(_DAYS), seed)
    vendors = tuple(_vendors(chance))
    weather = faults.draw(chance)
    partitions = chance.choice((0, 0, 1, 3))
    audit_every = chance.choice((30.0, 120.0, 1e6))
    delivering = delivering or _delivering(chance)
    breaker = BreakerSettings(least=chance.choice((1, 2, 5)), pause=chance.choice((2.0, 20.0)))
    more = random.Random(f"{seed}/more")
    changes = [
        *_changes(chance, storm, asked, vendors),
        *_recurring(chance, storm, start),
        *_categories(more, storm),
        *_long_outages(more, storm, vendors),
    ]
    asked = (*asked, *_noise(more, storm), *_afterwards(_healed_at(storm, changes, delivering)))
    return Scenario(
        seed=seed,
        start=start,
        storm=storm,
        weather=weather,
        partitions=partitions,
        audit_every=audit_every,
        delivering=delivering,
        fairness=_fairness(random.Random(f"{seed}/fairness")),
        breaker=breaker,
        vendors=vendors,
        overall_caps=tuple((tenant, (Cap(3, 300),)) for tenant in TENANTS if more.random() < 0.3),
        asked=asked,
        changes=tuple(sorted(changes, key=lambda change: change.at)),
    )


def users() -> list[tuple[str, str]]:
    """Every person that may be known, as (tenant, user id)."""
    return [(tenant, f"user-{number}") for tenant in TENANTS for number in range(3)]


def profile(chance: random.Random, user_id: str) -> Profile:
    """Somebody's addresses and place."""
    return Profile(
        email=f"{user_id}.{chance.randrange(2)}@example.com" if chance.random() < 0.9 else None,
        phone=f"+4930123456{chance.randrange(10, 12)}" if chance.random() < 0.8 else None,
        devices=tuple(f"{user_id}-device-{number}" for number in range(chance.choice((0, 1, 1, 2)))),
        locale=chance.choice((None, "en", "de", "de-AT", "fi")),
        timezone=chance.choice(_ZONES),
    )


def preferences(chance: random.Random) -> Preferences:
    """What somebody wants."""
    refused: dict[str, tuple[Channel, ...]] = {}
    for category in ("marketing", "news", "transactional", "promo", "*"):
        if chance.random() < 0.15:
            refused[category] = () if chance.random() < 0.5 else (chance.choice(list(Channel)),)
    quiet = None
    if chance.random() < 0.35:
        start = chance.randrange(1440)
        quiet = QuietHours(start, (start + chance.choice((30, 120, 600, 900))) % 1440)
    return Preferences(opted_out=refused, quiet_hours=quiet, muted=chance.random() < 0.05)


def _asked(chance: random.Random, storm: float, day: datetime, seed: int) -> tuple[int, tuple[Asked, ...]]:
    start = int(day.timestamp() * 1000) + chance.randrange(48 * 3600) * 1000
    asked: list[Asked] = []
    number = 0
    wanted = chance.randint(4, 20)
    while number < wanted:
        at = chance.random() * storm * 0.8
        tenant = chance.choice(TENANTS)
        size = chance.choice((1, 1, 1, 1, 2, 4))
        bodies = [_body(chance, start + int(at * 1000), number + place) for place in range(size)]
        key = f"key-{seed}-{number}" if chance.random() < 0.7 else None
        single = size == 1 and chance.random() < 0.9
        asked.append(
            Asked(
                at=at,
                tenant=tenant,
                numbers=tuple(range(number, number + size)),
                body=json.dumps(bodies[0] if single else {"notifications": bodies}).encode(),
                key=key,
                tries=1 if key is None else chance.choice((1, 3, 50)),
                timeout=chance.choice((1.0, 10.0, 60.0)),
                twice=key is not None and chance.random() < 0.3,
            )
        )
        number += size
    return start, tuple(sorted(asked, key=lambda one: one.at))


def _healed_at(storm: float, changes: Sequence[Change], delivering: Delivering) -> float:
    """The second from which everything is well again: a provider may ask for a pause with its last answer."""
    ends = [change.at + change.seconds for change in changes if isinstance(change, VendorDown)]
    return max([storm, *ends]) + RECOVERY + longest_pause_s(delivering)


def _afterwards(healed_at: float) -> list[Asked]:
    """A few requests when all is well again, to people of whom nothing else is known."""
    return [
        Asked(
            at=healed_at + number,
            tenant=TENANTS[0],
            numbers=(AFTERWARDS + number,),
            body=json.dumps(
                {
                    "to": {
                        "email": f"after-{number}@example.com",
                        "phone": f"+4930123457{number}0",
                        "devices": [f"after-{number}"],
                    },
                    "content": {channel: _LITERAL[channel] for channel in ("email", "sms", "push")},
                    "metadata": {"n": AFTERWARDS + number},
                }
            ).encode(),
            key=f"after-{number}",
            tries=5,
            timeout=10.0,
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
        channels = chance.sample(list(_LITERAL), chance.choice((1, 1, 2, 4)))
        body["content"] = {channel: _LITERAL[channel] for channel in channels}
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
    """So small that the few notifications of a run exceed it, or as it is by default, or none."""
    return chance.choice((Fairness(per_second=0.05, burst=1), Fairness(per_second=0.5, burst=2), Fairness(), NO_SHARES))


def _vendors(chance: random.Random) -> list[Traits]:
    return [
        Traits(
            name=f"{channel.value}-{place}",
            channel=channel,
            idempotent=chance.random() < 0.4,
            batch_size=chance.choice((1, 1, 50)),
            concurrency=chance.choice((1, 4, 64)),
            timeout=chance.choice((3.0, 10.0)),
        )
        for channel in (Channel.EMAIL, Channel.SMS, Channel.PUSH)
        for place in ("one", "two", "three")[: chance.choice((1, 1, 2, 3))]
    ]


def _categories(chance: random.Random, storm: float) -> list[Change]:
    """A category becomes critical, or is so no more, and treats quiet hours otherwise."""
    long = chance.choice((storm, 3_600.0))
    return [
        CategorySet(
            chance.random() * long,
            tenant,
            Category(CHANGING, critical=chance.random() < 0.5, quiet_hours=chance.choice(list(QuietPolicy))),
        )
        for tenant in TENANTS
        for _ in range(chance.choice((0, 1, 3)))
    ]


def _long_outages(chance: random.Random, storm: float, vendors: Sequence[Traits]) -> list[Change]:
    """Vendors that take nothing for longer than anything else goes wrong."""
    return [
        VendorDown(chance.random() * storm, vendor.name, chance.choice((30.0, 900.0, 7_200.0)), chance.choice(DOWN))
        for vendor in vendors
        if chance.random() < 0.15
    ]


def _noise(chance: random.Random, storm: float) -> list[Asked]:
    """One tenant that suddenly sends to many, now and then."""
    if chance.random() < 0.85:
        return []
    bodies = [
        {
            "to": {"email": f"noise-{place}@example.com"},
            "content": {"email": _LITERAL["email"]},
            "priority": chance.choice(list(Priority)).value,
            "metadata": {"n": NOISE + place},
        }
        for place in range(30)
    ]
    numbers = tuple(range(NOISE, NOISE + len(bodies)))
    body = json.dumps({"notifications": bodies}).encode()
    return [Asked(chance.random() * storm, chance.choice(TENANTS), numbers, body, "noise", tries=50, timeout=60.0)]


def _recurring(chance: random.Random, storm: float, start: int) -> list[Change]:
    """Recurrences: by the minute while there are faults, and daily at hours at which clocks are set."""
    found: list[Change] = []
    for number in range(chance.choice((0, 0, 1, 2))):
        daily, times = chance.random() < 0.4, chance.randint(2, 4)
        timezone = chance.choice(_changing(start) if daily else _ZONES)
        if not daily and offset(zone(timezone), start) != offset(zone(timezone), start + 3_600_000):
            timezone = "UTC"  # which of two showings of a minute is meant, only a rule for days can say
        first = shown(zone(timezone), start + round(storm / 2 + 60) * 1000).replace(microsecond=0)
        if not daily and instant_of(first, zone(timezone)) < start:
            continue  # the clock shows this for the second time
        if daily:
            first = first.replace(hour=chance.choice((1, 2, 9)), minute=30, second=0) + timedelta(days=1)
        body = {
            "rrule": f"FREQ={'DAILY' if daily else 'MINUTELY'};COUNT={times}",
            "start": first.isoformat(),
            "timezone": timezone,
            "request": {
                "to": {"email": "again@example.com"},
                "content": {"email": _LITERAL["email"]},
                "metadata": {"n": RECURRING + number},
            },
        }
        found.append(
            Recurring(
                at=chance.random() * storm / 2,
                tenant=chance.choice(TENANTS),
                number=RECURRING + number,
                times=times,
                dates=times if daily else 0,
                timezone=timezone,
                body=json.dumps(body).encode(),
            )
        )
    return found


def _changing(start: int) -> tuple[str, ...]:
    """The timezones whose clocks are set within four days; all if there are none."""
    found = tuple(
        name for name in _ZONES if offset(zone(name), start) != offset(zone(name), start + 4 * 24 * 3600 * 1000)
    )
    return found or _ZONES


def _changes(
    chance: random.Random, storm: float, asked: tuple[Asked, ...], vendors: tuple[Traits, ...]
) -> list[Change]:
    found: list[Change] = []
    long = chance.choice((storm, storm, 3_600.0))
    for tenant, user_id in users():
        for _ in range(chance.choice((0, 0, 1, 3))):
            gone = chance.random() < 0.07
            found.append(
                PreferencesSet(
                    chance.random() * long,
                    tenant,
                    user_id,
                    None if gone else profile(chance, user_id),
                    None if gone else preferences(chance),
                )
            )
    for _ in range(chance.choice((0, 0, 2, 5))):
        user_id = f"user-{chance.randrange(3)}"
        known = profile(chance, user_id)
        address = Address(Channel.EMAIL, known.email or "inline-0@example.com")
        if chance.random() < 0.4 and known.phone:
            address = Address(Channel.SMS, known.phone)
        found.append(AddressBarred(chance.random() * long, chance.choice(TENANTS), address, chance.random() < 0.7))
    found += [
        Cancelled(one.at + chance.expovariate(0.1), one.tenant, one.numbers[0])
        for one in asked
        if chance.random() < 0.1
    ]
    found += [
        MoodChanged(chance.random() * storm, vendor.name, chance.choice(MOODS))
        for vendor in vendors
        for _ in range(chance.choice((0, 1, 3, 6)))
    ]
    found += [
        Outage(chance.random() * storm, chance.choice(("api", "worker", "")), chance.choice((1.0, 20.0, 50.0)))
        for _ in range(chance.choice((0, 0, 0, 1, 2)))
    ]
    found += [Replayed(chance.random() * 2 * storm, tenant) for tenant in TENANTS if chance.random() < 0.3]
    found += [ClocksMoved(chance.random() * storm) for _ in range(chance.choice((0, 1, 4)))]
    return found
