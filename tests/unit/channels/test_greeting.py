"""The name in the greeting of a mail server is always valid, whatever the machine is called."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.channels.email.greeting import full_name, literal

_DOMAIN = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)+")
_LONG = "a" * 63


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("mail.shop.example", "mail.shop.example"),
        ("mail.shop.example.", "mail.shop.example"),
        ("MX-1.Shop.Example", "MX-1.Shop.Example"),
        ("büro.shop.example", "xn--bro-hoa.shop.example"),
        (f"{_LONG}.example", f"{_LONG}.example"),
        ("", None),
        (".", None),
        ("localhost", None),
        ("localhost.localdomain", None),
        ("localhost.example", None),
        ("worker.localdomain", None),
        ("printer.local", None),
        ("worker", None),
        ("büro-pc", None),
        ("my_host.example", None),
        ("-a.example", None),
        ("a-.example", None),
        ("a..example", None),
        ("a b.example", None),
        ("a.example\r\nMAIL FROM:<x>", None),
        ("192.168.1.5", None),
        ("1.0.0.0.0.0.ip6.arpa", None),
        ("\udcff.example", None),
        (f"{_LONG}a.example", None),
        (".".join([_LONG] * 4) + ".example", None),
    ],
)
def test_a_full_name_is_one_that_strict_servers_take(name: str, full: str | None) -> None:
    assert full_name(name) == full


@given(st.text(max_size=40) | st.from_regex(r"[\w.\-]{1,40}", fullmatch=True))
def test_every_full_name_is_a_domain(name: str) -> None:
    full = full_name(name)
    assert full is None or (_DOMAIN.fullmatch(full) and full.isascii())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (("127.0.0.1", 40000), "[127.0.0.1]"),
        (("192.0.2.7", 40000), "[192.0.2.7]"),
        (("2001:db8::7", 40000, 0, 0), "[IPv6:2001:db8::7]"),
        (("fe80::1%eth0", 40000, 0, 2), "[IPv6:fe80::1]"),
        (("::ffff:192.0.2.7", 40000, 0, 0), "[192.0.2.7]"),
        ("/run/socket", "[127.0.0.1]"),
        ("", "[127.0.0.1]"),
        (None, "[127.0.0.1]"),
        ((), "[127.0.0.1]"),
    ],
)
def test_without_a_name_the_greeting_is_the_address(name: Any, said: str) -> None:
    assert literal(name) == said
