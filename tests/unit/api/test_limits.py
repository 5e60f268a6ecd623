"""Limits of the API over real HTTP, with a clock turned by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from support.api import OTHER, Answer, Api, World, expect_problem, running
from tidings.api.limits import DRAW_AHEAD_S, Limiter, Visit
from tidings.api.problems import Refused
from tidings.api.samples import DEMO_USER
from tidings.backends.memory.clock import SystemClock, VirtualClock
from tidings.backends.memory.tokens import MemoryTokens
from tidings.model.tenant import ApiKey, DefaultRates, Rate, Rates, Scope
from tidings.model.user import Profile

SMS: dict[str, Any] = {"to": {"user_id": "demo"}, "content": {"sms": {"text": "hello"}}}


class Frozen(SystemClock):
    """The real time of day, with an `elapsed` that changes only when `turn` is called."""

    passed = 0

    def elapsed(self) -> int:
        return self.passed


async def api_with(rates: DefaultRates) -> AsyncIterator[Api]:
    async with running(World(clock=Frozen(), rates=rates)) as api:
        yield api


@pytest.fixture
async def free() -> AsyncIterator[Api]:
    async for api in api_with(DefaultRates()):
        yield api


@pytest.fixture
async def tight() -> AsyncIterator[Api]:
    async for api in api_with(DefaultRates(tenant=Rates(requests=Rate(2, 4)), key=Rates(requests=Rate(2, 3)))):
        yield api


@pytest.fixture
async def counting() -> AsyncIterator[Api]:
    async for api in api_with(DefaultRates(tenant=Rates(notifications=Rate(10, 20)))):
        yield api


def turn(api: Api, milliseconds: int) -> None:
    assert isinstance(api.world.clock, Frozen)
    api.world.clock.passed += milliseconds


def standing(answer: Answer) -> tuple[str | None, ...]:
    return tuple(answer.headers.get(f"ratelimit-{name}") for name in ("limit", "remaining", "reset"))


async def batch(api: Api, size: int, **options: Any) -> Answer:
    return await api.post("/v1/notifications/batch", {"notifications": [SMS] * size}, **options)


async def test_without_limits_there_are_no_headers(free: Api) -> None:
    for answer in (await free.post("/v1/notifications", SMS), await free.get("/v1/notifications")):
        assert not [name for name in answer.headers if name.startswith("ratelimit")]


async def test_every_answer_shows_the_state_of_the_nearest_limit(tight: Api) -> None:
    first = await tight.post("/v1/notifications", SMS)
    assert (first.status, standing(first)) == (202, ("3", "2", "1"))
    prefix = (await tight.key())[:11]
    assert first.headers["ratelimit-policy"] == (
        f'4;w=2;comment="requests by tenant shop", 3;w=2;comment="requests by key {prefix}"'
    )
    listed = await tight.get("/v1/notifications")
    assert (listed.status, standing(listed)) == (200, ("3", "1", "1"))
    missing = await tight.get("/v1/notifications/ntf_01k00000000000000000000000")
    assert (missing.status, standing(missing)) == (404, ("3", "0", "2"))
    assert missing.headers["x-request-id"]


@pytest.mark.parametrize("path", ["/v1/notifications", "/v1/notifications/batch", "/v1/users/demo"])
async def test_more_is_429_with_the_time_to_wait(tight: Api, path: str) -> None:
    async def ask() -> Answer:
        if path.startswith("/v1/users"):
            return await tight.get(path)
        return await tight.post(path, SMS if path == "/v1/notifications" else {"notifications": [SMS]})

    for _ in range(3):
        assert (await ask()).status in {200, 202}
    accepted = await tight.waiting()
    refused = await ask()
    refusal = expect_problem(refused, 429, "rate_limited")
    assert "2 requests a second" in refusal["detail"]
    assert refused.headers["retry-after"] == "1"
    assert standing(refused) == ("3", "0", "2")
    assert await tight.waiting() == accepted
    turn(tight, 500)
    assert (await ask()).status in {200, 202}
    expect_problem(await ask(), 429, "rate_limited")


async def test_the_keys_of_a_tenant_share_its_limit_and_other_tenants_do_not(tight: Api) -> None:
    await tight.world.store.users.upsert(OTHER, [(DEMO_USER, Profile(phone="+4930901820"), None)], 0)
    send = await tight.key("shop", Scope.SEND)
    for _ in range(2):
        assert (await tight.post("/v1/notifications", SMS)).status == 202
        assert (await tight.post("/v1/notifications", SMS, key=send)).status == 202
    assert "tenant shop" in expect_problem(await tight.post("/v1/notifications", SMS), 429, "rate_limited")["detail"]
    assert (await tight.post("/v1/notifications", SMS, key=await tight.key(OTHER))).status == 202


async def test_a_request_that_one_limit_refuses_costs_nothing_in_the_others(tight: Api) -> None:
    send = await tight.key("shop", Scope.SEND)
    for expected in (202, 202, 202, 429, 429):
        assert (await tight.post("/v1/notifications", SMS)).status == expected
    assert (await tight.post("/v1/notifications", SMS, key=send)).status == 202


async def test_a_batch_costs_as_many_notifications_as_it_has(counting: Api) -> None:
    first = await batch(counting, 15)
    assert (first.status, standing(first)) == (202, ("20", "5", "2"))
    refused = await batch(counting, 6)
    expect_problem(refused, 429, "rate_limited")
    assert await counting.waiting() == 15
    assert (await batch(counting, 5)).status == 202
    expect_problem(await counting.post("/v1/notifications", SMS), 429, "rate_limited")
    assert (await counting.get("/v1/notifications")).status == 200
    turn(counting, 100)
    assert (await counting.post("/v1/notifications", SMS)).status == 202


async def test_a_batch_larger_than_the_burst_is_accepted_whole_and_later_ones_wait(counting: Api) -> None:
    assert (await batch(counting, 100)).status == 202
    refused = await counting.post("/v1/notifications", SMS)
    expect_problem(refused, 429, "rate_limited")
    assert refused.headers["retry-after"] == "9"
    turn(counting, 8_000)
    expect_problem(await counting.post("/v1/notifications", SMS), 429, "rate_limited")
    turn(counting, 100)
    assert (await counting.post("/v1/notifications", SMS)).status == 202


async def test_a_refused_batch_does_not_use_up_its_idempotency_key_and_a_replay_costs_nothing(counting: Api) -> None:
    headers = {"Idempotency-Key": "large"}
    assert (await batch(counting, 20)).status == 202
    expect_problem(await batch(counting, 10, headers=headers), 429, "rate_limited")
    turn(counting, 1_000)
    first = await batch(counting, 10, headers=headers)
    assert first.status == 202
    again = await batch(counting, 10, headers=headers)
    assert (again.status, again.headers["idempotency-replayed"]) == (202, "true")


async def test_a_tenants_own_limit_counts_within_a_second(free: Api) -> None:
    assert (await free.post("/v1/notifications", SMS)).status == 202
    await free.world.store.tenants.limit("shop", Rates(requests=Rate(1, 1)))
    fresh = await free.key("shop", Scope.SEND)  # a key that nobody has looked up yet
    assert standing(await free.post("/v1/notifications", SMS, key=fresh)) == ("1", "0", "1")
    expect_problem(await free.post("/v1/notifications", SMS, key=fresh), 429, "rate_limited")


async def test_keys_may_have_a_rate_of_their_own_or_no_limit() -> None:
    tokens = MemoryTokens(VirtualClock())
    limiter = Limiter(tokens, DefaultRates(key=Rates(requests=Rate(1, 1))))
    fast = ApiKey("a", "shop", "tk_a", b"a", (Scope.SEND,), limits=Rates(requests=Rate(5, 5)))
    unlimited = ApiKey("b", "shop", "tk_b", b"b", (Scope.SEND,), limits=Rates(requests=Rate(0, 1)))
    plain = ApiKey("c", "shop", "tk_c", b"c", (Scope.SEND,))
    assert [await passes(limiter, key) for key in (plain, plain)] == [True, False]
    assert [await passes(limiter, fast) for _ in range(6)] == 5 * [True] + [False]
    assert [await passes(limiter, unlimited) for _ in range(9)] == 9 * [True]


async def test_a_key_that_is_looked_up_again_keeps_its_used_tokens() -> None:
    limiter = Limiter(MemoryTokens(VirtualClock()), DefaultRates(key=Rates(requests=Rate(1, 2))))
    passed = [await passes(limiter, ApiKey("a", "shop", "tk_a", b"a", (Scope.SEND,))) for _ in range(4)]
    assert passed == [True, True, False, False]


class Shared(MemoryTokens):
    """Buckets that are shared with other processes; counts the draws."""

    shared = True
    asked = 0

    async def draw(self, *args: Any) -> Any:
        self.asked += 1
        return await super().draw(*args)


async def test_from_a_shared_bucket_a_process_draws_ahead() -> None:
    clock = VirtualClock()
    tokens = Shared(clock)
    rates = DefaultRates(tenant=Rates(requests=Rate(1000, 1000)))
    processes = [Limiter(tokens, rates) for _ in range(2)]
    key = ApiKey("a", "shop", "tk_a", b"a", (Scope.SEND,))
    passed = [await passes(limiter, key) for _ in range(500) for limiter in processes]
    assert all(passed)
    assert tokens.asked == 1000 / (DRAW_AHEAD_S * 1000)
    assert not [limiter for limiter in processes if await passes(limiter, key)]


async def passes(limiter: Limiter, key: ApiKey) -> bool:
    visit = Visit()
    limiter.enter(visit, key)
    try:
        await visit.spend(requests=1)
    except Refused:
        return False
    return True
