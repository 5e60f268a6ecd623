from __future__ import annotations

import os
import socket

import pytest

from tidings.listening import inherited, listen, passed_socket
from tidings.model.errors import SettingsError


def test_a_listening_socket_is_taken_over() -> None:
    with listen("127.0.0.1", 0) as held:
        copy = os.dup(held.fileno())
        os.set_inheritable(copy, True)
        with inherited(copy) as taken:
            assert taken.getsockname() == held.getsockname()
            assert not os.get_inheritable(copy)


def test_what_is_no_listening_socket_is_a_sentence() -> None:
    read, write = os.pipe()
    try:
        with pytest.raises(SettingsError, match=f"the descriptor {read} is no open socket"):
            inherited(read)
    finally:
        os.close(read)
        os.close(write)
    for kind, family, why in (
        (socket.SOCK_STREAM, socket.AF_INET, "does not listen"),
        (socket.SOCK_DGRAM, socket.AF_INET, "is no TCP socket"),
        (socket.SOCK_STREAM, socket.AF_UNIX, "is no TCP socket"),
    ):
        with socket.socket(family, kind) as wrong, pytest.raises(SettingsError, match=why):
            inherited(os.dup(wrong.fileno()))
    with listen("127.0.0.1", 0) as held, pytest.raises(SettingsError, match="cannot listen on"):
        listen("127.0.0.1", held.getsockname()[1])


def test_what_systemd_passes() -> None:
    mine = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
    assert passed_socket(mine) == 3
    assert passed_socket({}) is None
    assert passed_socket(mine | {"LISTEN_PID": "1"}) is None
    assert passed_socket(mine | {"LISTEN_FDS": "0"}) is None
    with pytest.raises(SettingsError, match="LISTEN_FDS is 2"):
        passed_socket(mine | {"LISTEN_FDS": "2"})
