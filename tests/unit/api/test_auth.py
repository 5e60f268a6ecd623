from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Collection, Mapping

import pytest

from support.api import OTHER, TENANT, Api, expect_problem
from tidings.api.auth import LOOKED_UP_AT_ONCE, MOST_REMEMBERED, TTL_MS, Keyring
from tidings.api.keys import PREFIX, looks_like_one, mint
from tidings.api.problems import Refused
from tidings.backends.memory.clock import VirtualClock
from tidings.backends.memory.tenants import MemoryTenants
from tidings.model.tenant import ApiKey, Scope, Tenant

RANDOM = bytes(range(32))


class Counting(MemoryTenants):
    """Tenants that count the queries; a query waits until `answer` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.answer = asyncio.Event()
        self.answer.set()

    async def known(self, digests: Collection[bytes]) -> Mapping[bytes, ApiKey]:
        self.asked += 1
        await self.answer.wait()
        await asyncio.sleep(0)
        return await super().known(digests)


def wrong(number: int) -> bytes:
    """The header of a key that nobody has."""
    return b"Bearer tk_%043d" % number


async def ring(*scopes: Scope) -> tuple[Keyring, Counting, VirtualClock, bytes, ApiKey]:
    tenants, clock = Counting(), VirtualClock()
    await tenants.add(Tenant("shop", "Shop"))
    secret, key = mint("shop", scopes or Scope, "test", clock.now(), RANDOM)
    await tenants.add_key(key)
    return Keyring(tenants, clock), tenants, clock, b"Bearer " + secret.encode(), key


def test_a_minted_key_shows_its_secret_once() -> None:
    secret, key = mint("shop", [Scope.READ, Scope.SEND, Scope.READ], "ci", 5, RANDOM)
    assert secret.startswith(PREFIX)
    assert key.digest == hashlib.sha256(secret.encode()).digest()
    assert key.scopes == (Scope.SEND, Scope.READ)
    assert secret.startswith(key.prefix)
    assert len(key.prefix) < 12
    assert (key.tenant, key.name, key.created_at, key.revoked_at) == ("shop", "ci", 5, None)
    assert secret not in repr(key)
    assert mint("shop", [Scope.READ], "ci", 5, bytes(32))[1].id != key.id


def test_a_key_needs_scopes_and_randomness() -> None:
    with pytest.raises(ValueError, match="scopes"):
        mint("shop", [], "ci", 5, RANDOM)
    with pytest.raises(ValueError, match="32 random bytes"):
        mint("shop", [Scope.READ], "ci", 5, b"short")


async def test_a_key_is_looked_up_once_a_second() -> None:
    keyring, tenants, clock, header, key = await ring()
    for _ in range(5):
        assert await keyring.key(header) == key
    assert tenants.asked == 1
    await clock.advance(TTL_MS / 1000)
    assert await keyring.key(header) == key
    assert tenants.asked == 2


async def test_a_revoked_key_stops_within_a_second() -> None:
    keyring, tenants, clock, header, key = await ring()
    await keyring.key(header)
    await tenants.revoke("shop", key.id, clock.now())
    await clock.advance(TTL_MS / 1000)
    with pytest.raises(Refused) as refused:
        await keyring.key(header)
    assert (refused.value.status, refused.value.code) == (401, "revoked_key")


async def test_concurrent_requests_share_one_query_that_outlives_its_first_caller() -> None:
    keyring, tenants, _, header, key = await ring()
    tenants.answer.clear()
    first, *others = [asyncio.create_task(keyring.key(header)) for _ in range(10)]
    await asyncio.sleep(0)
    first.cancel()
    tenants.answer.set()
    assert [await other for other in others] == [key] * 9
    assert tenants.asked == 1


async def test_unknown_secrets_reach_the_store_once_a_second_and_do_not_fill_the_memory() -> None:
    keyring, tenants, _, _, _ = await ring()
    for number in range(MOST_REMEMBERED + 5):
        with pytest.raises(Refused):
            await keyring.key(wrong(number))
    assert len(keyring._unknown) <= MOST_REMEMBERED
    asked = tenants.asked
    with pytest.raises(Refused):
        await keyring.key(wrong(MOST_REMEMBERED + 4))
    assert tenants.asked == asked


async def test_wrong_keys_do_not_displace_the_right_ones() -> None:
    keyring, tenants, _, header, key = await ring()
    await keyring.key(header)
    await asyncio.gather(*(keyring.key(wrong(number)) for number in range(2 * MOST_REMEMBERED)), return_exceptions=True)
    asked = tenants.asked
    assert await keyring.key(header) == key
    assert tenants.asked == asked


async def test_many_wrong_keys_cost_few_queries_and_a_right_key_does_not_wait_behind_them() -> None:
    keyring, tenants, clock, header, key = await ring()
    await keyring.key(header)
    await clock.advance(TTL_MS / 1000)
    tenants.answer.clear()
    crowd = [asyncio.create_task(keyring.key(wrong(number))) for number in range(10_000)]
    await asyncio.sleep(0)
    right = asyncio.create_task(keyring.key(header))
    tenants.answer.set()
    assert await right == key
    assert sum(not wrong.done() for wrong in crowd) >= 10_000 - 5 * LOOKED_UP_AT_ONCE
    await asyncio.wait(crowd)
    assert all(isinstance(wrong.exception(), Refused) for wrong in crowd)
    assert tenants.asked <= 10_000 / LOOKED_UP_AT_ONCE + 2


@pytest.mark.parametrize("secret", ["", "tk_", "tk_short", "sk_" + "a" * 43, "tk_" + "a" * 42, "tk_" + "a" * 42 + "="])
async def test_a_secret_without_the_shape_of_a_key_causes_no_query(secret: str) -> None:
    keyring, tenants, _, _, _ = await ring()
    with pytest.raises(Refused) as refused:
        await keyring.key(b"Bearer " + secret.encode())
    assert (refused.value.status, refused.value.code) == (401, "invalid_key")
    assert tenants.asked == 0


def test_every_minted_key_looks_like_one() -> None:
    for number in range(256):
        for length in range(32, 50):
            assert looks_like_one(mint("shop", [Scope.READ], "ci", 5, bytes([number]) * length)[0].encode())


async def test_a_store_that_fails_is_asked_again() -> None:
    keyring, tenants, _, header, key = await ring()

    async def failing(digests: Collection[bytes]) -> Mapping[bytes, ApiKey]:
        raise ConnectionError

    working = tenants.known
    tenants.known = failing  # type: ignore[method-assign]
    with pytest.raises(ConnectionError):
        await keyring.key(header)
    tenants.known = working  # type: ignore[method-assign]
    assert await keyring.key(header) == key


@pytest.mark.parametrize("path", ["/v1/notifications", "/v1/notifications/batch", "/v1/users/batch", "/v1/nothing"])
async def test_without_a_valid_key_there_is_nothing(api: Api, path: str) -> None:
    missing = await api.post(path, {}, key=None)
    expect_problem(missing, 401, "missing_key")
    assert missing.headers["www-authenticate"] == 'Bearer realm="tidings"'
    unknown = await api.post(path, {}, key="tk_unknown")
    expect_problem(unknown, 401, "invalid_key")
    assert 'error="invalid_token"' in unknown.headers["www-authenticate"]
    for header in ("Basic c2hvcDpzZWNyZXQ=", "Bearer", "Bearer ", "tk_x", "Bearer " + "x" * 5000, "Bearer tk_\u00fc"):
        expect_problem(await api.post(path, {}, key=None, headers={"Authorization": header}), 401, "invalid_key")


async def test_the_scheme_may_be_written_in_any_case(api: Api) -> None:
    secret = await api.key()
    for scheme in ("bearer", "BEARER", "Bearer"):
        answer = await api.get("/v1/categories", key=None, headers={"Authorization": f"{scheme} {secret}"})
        assert answer.status == 200


async def test_a_revoked_key_is_refused(api: Api) -> None:
    secret = await api.key(TENANT)
    (key,) = await api.world.store.tenants.keys(TENANT)
    await api.world.store.tenants.revoke(TENANT, key.id, 1)
    refusal = expect_problem(await api.get("/v1/categories", key=secret), 401, "revoked_key")
    assert key.prefix in refusal["detail"]
    assert secret not in refusal["detail"]


MANAGING = [
    ("PUT", "/v1/users/demo", {}),
    ("POST", "/v1/users/batch", {"users": [{"user_id": "x"}]}),
    ("DELETE", "/v1/users/demo", None),
    ("PUT", "/v1/users/demo/preferences", {}),
    ("PUT", "/v1/categories/marketing", {}),
    ("POST", "/v1/suppressions", {"channel": "email", "address": "a@example.com"}),
    ("DELETE", "/v1/suppressions/email/a@example.com", None),
    ("POST", "/v1/users/demo/inbox/read", {"all": True}),
    ("POST", "/v1/templates", {}),
    ("POST", "/v1/templates/x/versions", {}),
    ("POST", "/v1/templates/x/publish", {"version": 1}),
    ("POST", "/v1/templates/x/rollback", None),
]
READING = [
    "/v1/notifications",
    "/v1/users/demo",
    "/v1/users/demo/preferences",
    "/v1/users/demo/inbox",
    "/v1/users/demo/inbox/count",
    "/v1/categories",
    "/v1/suppressions",
    "/v1/templates",
]


async def test_changing_needs_the_scope_manage(api: Api) -> None:
    key = await api.key(TENANT, Scope.READ, Scope.SEND)
    for method, path, body in MANAGING:
        answer = await api.call(method, path, body, key=key)
        refusal = expect_problem(answer, 403, "missing_scope")
        assert "'manage'" in refusal["detail"]
        assert 'scope="manage"' in answer.headers["www-authenticate"]


async def test_reading_needs_the_scope_read(api: Api) -> None:
    key = await api.key(TENANT, Scope.MANAGE, Scope.SEND)
    for path in READING:
        expect_problem(await api.get(path, key=key), 403, "missing_scope")


async def test_another_tenants_user_does_not_exist(api: Api) -> None:
    for path in READING:
        if "demo" in path:
            assert (await api.get(path)).status == 200
            expect_problem(await api.get(path, key=await api.key(OTHER)), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("DELETE", "/v1/users/demo", None),
        ("PUT", "/v1/users/demo/preferences", {}),
        ("POST", "/v1/users/demo/inbox/read", {"all": True}),
        ("DELETE", "/v1/suppressions/email/gone@example.com", None),
    ],
)
async def test_another_tenant_changes_nothing(api: Api, method: str, path: str, body: object) -> None:
    await api.post("/v1/suppressions", {"channel": "email", "address": "gone@example.com"})
    expect_problem(await api.call(method, path, body, key=await api.key(OTHER)), 404, "not_found")
    assert (await api.get("/v1/users/demo")).status == 200
    assert len((await api.get("/v1/suppressions")).json()["suppressions"]) == 1
