"""A storm of faults under load: nothing accepted is lost or silently doubled, and every opt-out is respected.

Everything that can die is killed, everything that can hang is stopped, clocks go wrong, and the vendors misbehave, at
moments that follow from a seed. Three sources are held together afterwards: what the client was told, what arrived (the
stand-in's own file, written before it answers), and what the system says of each delivery.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from pyreqwest.client import ClientBuilder

from support.faults import tell
from support.judge import Judge, Verdict, settled
from support.kafka import KafkaBroker
from support.load import Load, now
from support.nemesis import Nemesis, plan, started
from support.parts import require
from support.system import Processes, System, settings_for, tenant_with_key
from tidings.backends.postgres.server import Server
from tidings.config import Settings

LEASE = 6.0
CALM = 2.0
"""Seconds without faults before the end of the load, in which everything must work again."""
SETTLES_WITHIN = 120.0
"""Seconds, long enough for the audit to sweep deliveries that were lost on their way."""
TUNED = {
    "deliver": {"attempts": 6, "backoff_base": 0.3, "backoff_cap": 2.0, "lease": LEASE},
    "breaker": {"pause": 1.0, "longest_pause": 3.0},
    "channels": {"email": {"sendgrid": 80, "smtp": 20}},
}
"""Shorter times than usual, so that a short storm reaches all of them."""


@pytest.fixture(params=["postgres", "kafka"])
async def broker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[KafkaBroker | None]:
    """A Kafka broker of the test's own, because it is killed too; None if PostgreSQL is the queue."""
    if request.param == "postgres":
        yield None
        return
    require("kafka")
    broker = KafkaBroker(tmp_path / "kafka")
    (tmp_path / "kafka").mkdir()
    try:
        await asyncio.to_thread(broker.start)
        yield broker
    finally:
        await asyncio.to_thread(broker.kill)


@pytest.fixture
def settings(tmp_path: Path, server: Server, broker: KafkaBroker | None) -> Settings:
    return settings_for(tmp_path, server.dsn, None if broker is None else broker.bootstrap, **TUNED)


@pytest.mark.storm
async def test_a_storm(
    settings: Settings, server: Server, broker: KafkaBroker | None, minutes: float, seed: int
) -> None:
    queue = settings.queue.kind
    again = f"make faults ARGS=\"--minutes {minutes:g} --seed {seed} -k 'storm and {queue}'\""
    faults = plan(seed, minutes * 60 - CALM, LEASE, kafka=broker is not None, long=minutes > 2)
    processes = Processes(settings)
    key = await tenant_with_key(server.dsn)
    async with (
        ClientBuilder().no_proxy().timeout(timedelta(seconds=30)).build() as http,
        started(processes),
    ):
        system = System(settings, key, http)
        load, nemesis = Load(system, seed), Nemesis(system, processes, server, broker)
        await load.prepare()
        began = now()
        async with load.running():
            await nemesis.run(faults, until=minutes * 60)
            ended = now()
        assert not processes.ended(), f"ended by itself: {processes.ended()}; again: {again}"
        await settled(system, load.ledger, SETTLES_WITHIN)
        verdict = await Judge(system, load.ledger, nemesis.happened, LEASE).judge(began, ended)
    tell(f"{queue}, {minutes:g} minutes", f"again: {again}", verdict)
    assert len(nemesis.happened) == len(faults)
    assert not verdict.wrong, f"again: {again}\n{verdict.wrong}"
    assert _mostly_well(verdict), verdict.states


def _mostly_well(verdict: Verdict) -> bool:
    """True if enough of the load succeeded for the test to show something."""
    reached = verdict.states.get("sent", 0) + verdict.states.get("delivered", 0)
    return verdict.accepted > 0 and reached > 0.6 * sum(verdict.states.values())
