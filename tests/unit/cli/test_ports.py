from __future__ import annotations

import socket

import pytest

from tidings.cli.plain import CannotGoOn
from tidings.cli.ports import Wish, choose


def test_free_ports_are_all_different() -> None:
    ports = choose([Wish("127.0.0.1", 0, "a", "--a")] * 5)
    assert len(set(ports)) == 5
    assert all(port > 0 for port in ports)


def test_fixed_ports_are_chosen_before_free_ones() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        wanted = probe.getsockname()[1]
    first, second = choose([Wish("127.0.0.1", 0, "a", "--a"), Wish("127.0.0.1", wanted, "b", "--b")])
    assert second == wanted
    assert first != wanted


def test_a_port_in_use_is_reported_in_a_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        with pytest.raises(CannotGoOn) as caught:
            choose([Wish("127.0.0.1", taken, "the API", "--port")])
    assert str(caught.value) == (
        f"port {taken} on 127.0.0.1, where the API would listen, is in use by another program. Stop that program, or "
        "choose another port with --port (0 takes any free one)."
    )
    assert caught.value.code == 2


def test_one_port_cannot_be_wished_for_twice() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        wanted = probe.getsockname()[1]
    with pytest.raises(CannotGoOn, match="where the sandbox would listen, is in use"):
        choose(
            [Wish("127.0.0.1", wanted, "the API", "--port"), Wish("127.0.0.1", wanted, "the sandbox", "--sandbox-port")]
        )


@pytest.mark.parametrize("host", ["203.0.113.7", "no-such-host.invalid"])
def test_a_host_that_is_not_ours_is_named(host: str) -> None:
    with pytest.raises(CannotGoOn, match=f"the API cannot listen on port 8400 on {host}: .*--port"):
        choose([Wish(host, 8400, "the API", "--port")])
