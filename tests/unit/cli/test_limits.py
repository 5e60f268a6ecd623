"""`tidings tenant limit` and the limits of a key, on a real database."""

from __future__ import annotations

import asyncio

import pytest

from tidings.backends.postgres.store import PostgresStore
from tidings.cli.application import run
from tidings.cli.limits import described
from tidings.model.tenant import Rate, Rates


@pytest.fixture
async def database(postgres_dsn: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TIDINGS_DATABASE__DSN", postgres_dsn)
    return postgres_dsn


async def tidings(*words: str) -> int:
    """Run the command in a thread, because it starts an event loop of its own."""
    return await asyncio.to_thread(run, list(words))


async def test_a_tenant_is_limited_and_set_free_again(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert await tidings("tenant", "create", "shop") == 0
    assert await tidings("tenant", "limit", "shop", "--per-second", "100", "--notifications-per-second", "2.5") == 0
    assert "100 requests/s, 100 at once, 2.5 notifications/s, 3 at once" in capsys.readouterr().out
    store = await PostgresStore.open(database, 2)
    try:
        [shop] = await store.tenants.list()
        assert shop.limits == Rates(Rate(100, 100), Rate(2.5, 3))
        assert await tidings("tenant", "list") == 0
        assert "100 requests/s" in capsys.readouterr().out
        assert await tidings("tenant", "limit", "shop") == 0
        assert "as the settings say" in capsys.readouterr().out
        assert [known.limits for known in await store.tenants.list()] == [Rates()]
    finally:
        await store.close()


async def test_a_key_has_limits_of_its_own(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    await tidings("tenant", "create", "shop")
    options = ("--scope", "send", "--per-second", "20", "--burst", "50")
    assert await tidings("key", "create", "--tenant", "shop", *options) == 0
    capsys.readouterr()
    assert await tidings("key", "list", "--tenant", "shop") == 0
    limited, free = capsys.readouterr().out.splitlines()
    assert "20 requests/s, 50 at once" in limited
    assert "requests/s" not in free


async def test_invalid_limits_are_refused_in_a_sentence(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert await tidings("tenant", "limit", "nobody", "--per-second", "1") == 2
    assert "tenant list` shows all tenants" in capsys.readouterr().err
    assert await tidings("tenant", "limit", "shop", "--burst", "5") == 2
    assert "give --per-second too" in capsys.readouterr().err
    assert await tidings("tenant", "limit", "shop", "--per-second", "-1") == 2


def test_no_limit_is_shown_in_words() -> None:
    assert described(Rates(requests=Rate.of(0))) == "requests without limit"
