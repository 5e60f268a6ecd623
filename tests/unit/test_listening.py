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


def test_a_descriptor_that_is_no_listening_socket_is_refused_in_a_sentence() -> None:
    read, write = os.pipe()
    try:
        with pytest.raises(SettingsError, match=f"the descriptor {read} is not an open socket"):
            inherited(read)
    finally:
        os.close(read)
        os.close(write)
    for kind, family, fault in (
        (socket.SOCK_STREAM, socket.AF_INET, "does not listen"),
        (socket.SOCK_DGRAM, socket.AF_INET, "is not a TCP socket"),
        (socket.SOCK_STREAM, socket.AF_UNIX, "is not a TCP socket"),
    ):
        with socket.socket(family, kind) as wrong, pytest.raises(SettingsError, match=fault):
            inherited(os.dup(wrong.fileno()))
    with listen("127.0.0.1", 0) as held, pytest.raises(SettingsError, match="cannot listen on"):
        listen("127.0.0.1", held.getsockname()[1])


def test_a_socket_from_systemd_is_found_by_its_variables() -> None:
    for_this_process = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
    assert passed_socket(for_this_process) == 3
    assert passed_socket({}) is None
    assert passed_socket(for_this_process | {"LISTEN_PID": "1"}) is None
    assert passed_socket(for_this_process | {"LISTEN_FDS": "0"}) is None
    with pytest.raises(SettingsError, match="LISTEN_FDS is 2"):
        passed_socket(for_this_process | {"LISTEN_FDS": "2"})
