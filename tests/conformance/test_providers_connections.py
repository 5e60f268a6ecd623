"""What every provider makes of missing answers and connections, against stand-ins for the vendors."""

from __future__ import annotations

import asyncio
import socket

import pytest

from support.providers import (
    NAMES,
    SHORT,
    STAND_INS,
    of_every_vendor,
    sending,
)
from support.vendors import (
    tools_for,
)
from tidings.channels.registry import build
from tidings.model.sending import Retry, Sent, Uncertain

WAYS = [(name, way) for name in NAMES for way in sorted(STAND_INS[name].ways)]


@pytest.mark.parametrize(("name", "way"), WAYS, ids=[f"{name}-{way}" for name, way in WAYS])
async def test_no_answer_after_the_body_is_never_a_retry(name: str, way: str) -> None:
    async with sending(name, **SHORT) as (provider, vendor):
        vendor.misbehave(way)
        [result] = await asyncio.wait_for(provider.send([vendor.delivery(1)]), provider.timeout_s + 1)
        # A vendor that accepts by its status has accepted, whatever happens to the body.
        taken_by_status = (name, way) == ("sendgrid", "endless_body")
        assert isinstance(result, Sent if taken_by_status else Uncertain), result


@of_every_vendor
async def test_a_refused_connection_is_tried_again(name: str) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        closed = bound.getsockname()[1]
        vendor = STAND_INS[name]()
        async with vendor.running():
            place = {"port": closed} if name == "smtp" else {"base_url": f"http://127.0.0.1:{closed}"}
            provider = build(name, vendor.settings(**place), tools_for())
            results = await provider.send([vendor.delivery(1), vendor.delivery(2)])
            await provider.close()
        for result in results:
            assert isinstance(result, Retry)
            assert result.reason == "unreachable"


@of_every_vendor
async def test_a_connection_that_is_never_established_is_a_retry(name: str) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        waiting = [begin_connecting(port) for _ in range(4)]
        vendor = STAND_INS[name]()
        async with vendor.running():
            place = {"port": port} if name == "smtp" else {"base_url": f"http://127.0.0.1:{port}"}
            provider = build(name, vendor.settings(**place, **SHORT), tools_for())
            [result] = await provider.send([vendor.delivery(1)])
            await provider.close()
        for client in waiting:
            client.close()
        assert isinstance(result, Retry)


def begin_connecting(port: int) -> socket.socket:
    client = socket.socket()
    client.setblocking(False)
    client.connect_ex(("127.0.0.1", port))
    return client


@of_every_vendor
async def test_connections_are_used_again(name: str) -> None:
    async with sending(name) as (provider, vendor):
        for number in range(5):
            await provider.send([vendor.delivery(number)])
        assert len(vendor.arrived()) == 5
        assert vendor.server.connections == 1
