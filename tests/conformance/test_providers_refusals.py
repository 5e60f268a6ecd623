"""What every provider makes of its vendor's refusals, against stand-ins for the vendors."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

import msgspec
import pytest

from support.providers import (
    NAMES,
    STAND_INS,
    of_every_http_provider,
    of_every_vendor,
    sending,
)
from support.vendors import (
    NOW,
)
from tidings.channels.registry import providers
from tidings.model.errors import SettingsError
from tidings.model.sending import Rejected, Retry, Uncertain

ROWS = [(name, code) for name in NAMES for code in providers()[name].ERRORS]


@pytest.mark.parametrize(("name", "code"), ROWS, ids=[f"{name}-{code}" for name, code in ROWS])
async def test_each_row_of_the_error_table(name: str, code: int | str) -> None:
    async with sending(name, **STAND_INS[name].settings_for(code)) as (provider, vendor):
        vendor.refuse_everything_with(code)
        [result] = await provider.send([vendor.delivery(1)])
        expected = provider.ERRORS[code]
        assert expected.detail, "say what the code means"
        assert isinstance(result, Retry | Rejected)
        assert result.detail
        assert msgspec.structs.replace(result, detail="") == msgspec.structs.replace(expected, detail="")


@of_every_http_provider
async def test_retry_after_in_seconds(name: str) -> None:
    async with sending(name) as (provider, vendor):
        vendor.throttle({"Retry-After": "7200"})
        results = await provider.send([vendor.delivery(1), vendor.delivery(2)])
        for result in results:
            assert isinstance(result, Retry)
            assert (result.reason, result.after_s) == ("throttled", 7200.0)


@of_every_http_provider
@pytest.mark.parametrize(
    ("said", "after"),
    [
        ("-5", None),
        ("0", 0.0),
        ("9" * 60, 999_999_999_999_999_999.0),
        ("soon", None),
        ("1e9", None),
        ("nan", None),
        ("inf", None),
        ("30, 120, 7", 120.0),
        ("Mon, 01 Jan 2001 00:00:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 251_612_300_799.0),
        ("Mon, 99 Foo 2026 25:61:00 GMT", None),
        ("-1\r\nRetry-After: 40\r\nRetry-After: 9", 40.0),
        ("soon\r\nRetry-After: later", None),
    ],
)
async def test_retry_after_is_never_nonsense(name: str, said: str, after: float | None) -> None:
    async with sending(name) as (provider, vendor):
        vendor.throttle({"Retry-After": said})
        [result] = await provider.send([vendor.delivery(1)])
        assert isinstance(result, Retry)
        assert result.reason == "throttled"
        assert result.after_s == (None if after is None else pytest.approx(after))


@of_every_http_provider
async def test_retry_after_as_a_date(name: str) -> None:
    later = datetime.fromtimestamp(NOW / 1000 + 90, UTC)
    async with sending(name) as (provider, vendor):
        vendor.throttle({"Retry-After": format_datetime(later, usegmt=True)})
        [result] = await provider.send([vendor.delivery(1)])
        assert isinstance(result, Retry)
        assert result.reason == "throttled"
        assert result.after_s == pytest.approx(90, abs=1)


@of_every_http_provider
@pytest.mark.parametrize("status", [500, 502, 503, 521, 522])
async def test_a_server_error_is_tried_again(name: str, status: int) -> None:
    async with sending(name) as (provider, vendor):
        vendor.fail_with(status)
        [result] = await provider.send([vendor.delivery(1)])
        assert isinstance(result, Retry)


@of_every_http_provider
@pytest.mark.parametrize("status", [504, 520, 524])
async def test_a_gateway_timeout_is_uncertain(name: str, status: int) -> None:
    async with sending(name) as (provider, vendor):
        vendor.fail_with(status)
        [result] = await provider.send([vendor.delivery(1)])
        assert isinstance(result, Uncertain)


@of_every_http_provider
@pytest.mark.parametrize("status", [301, 404, 418])
async def test_any_other_refusal_is_for_good(name: str, status: int) -> None:
    async with sending(name) as (provider, vendor):
        vendor.fail_with(status)
        [result] = await provider.send([vendor.delivery(1)])
        assert isinstance(result, Rejected)
        assert not result.suppress


@of_every_vendor
async def test_check_says_what_is_wrong(name: str) -> None:
    login = {"username": "somebody", "password": "wrong"} if name == "smtp" else {}
    async with sending(name, **login) as (provider, vendor):
        vendor.take_no_credentials()
        with pytest.raises(SettingsError, match=rf"providers\.{name}\."):
            await provider.check()
        [result] = await provider.send([vendor.delivery(1)])
        assert isinstance(result, Retry)
        assert result.reason == "unauthorized"
