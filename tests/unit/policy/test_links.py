"""Links that a page may show, and hosts that are this machine."""

from __future__ import annotations

import pytest

from tidings.policy.hosts import is_loopback
from tidings.policy.links import is_safe


@pytest.mark.parametrize("link", ["javascript:alert(1)", " JavaScript:alert(1)", "data:text/html,x", "vbscript:x"])
def test_a_script_is_no_link(link: str) -> None:
    assert not is_safe(link)


@pytest.mark.parametrize(
    "link", ["", "/orders/7", "https://x.example/javascript:", "shop+app://7", "javascripts:x", ":x"]
)
def test_a_path_an_address_and_an_app_are_links(link: str) -> None:
    assert is_safe(link)


@pytest.mark.parametrize("host", ["localhost", "LocalHost", "api.localhost", "127.0.0.1", "127.255.255.254", "::1"])
def test_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "localhost.example", "mylocalhost", "10.0.0.1", "128.0.0.1", "::2", "x.example"])
def test_other_machines(host: str) -> None:
    assert not is_loopback(host)
