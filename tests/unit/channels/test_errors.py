"""The error tables: the result of each row, and that the documentation's page agrees with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidings.channels.errors import ACCOUNT_WAIT_S, follow, markdown, tables
from tidings.channels.registry import providers
from tidings.model.sending import Rejected, Retry
from tidings.model.vocabulary import Reason
from tidings.policy.retry import is_fault, is_throttled

PAGE = Path(__file__).resolve().parents[3] / "docs" / "provider-errors.md"
THROTTLED = {"throttled", "queue_full"}
ABOUT_ONE_ADDRESS = {
    "deferred_by_policy",
    "handset_unreachable",
    "mailbox_busy",
    "mailbox_disabled",
    "mailbox_full",
    "insufficient_storage",
    "local_error",
    "temporary",
    "third_party_auth",
    "unknown_error",
}
"""Reasons to try again that say nothing about the provider as a whole, so no circuit breaker may count them."""
WITH_A_VENDOR = [kind for kind, provider in providers().items() if provider.ERRORS]


def test_the_page_says_what_the_tables_say() -> None:
    text = PAGE.read_text(encoding="utf-8")
    shown = text[text.index("\n## ") + 1 :]
    assert shown == markdown(providers()), "run: tidings providers errors --markdown, and put it into the page"


def test_a_changed_row_changes_the_page() -> None:
    rows = {30007: Rejected("filtered", fallback=True, suppress=True, detail="filtered")}
    changed = type("Changed", (providers()["twilio"],), {"ERRORS": rows})
    before, after = markdown({"twilio": providers()["twilio"]}), markdown({"twilio": changed})
    assert "| 30007 | filtered | filtered | another provider | suppressed |" in after
    assert "| 30007 | filtered as unwanted by Twilio or the carrier | filtered | final | |" in before


@pytest.mark.parametrize("kind", WITH_A_VENDOR)
def test_every_row_is_on_the_page_and_explained(kind: str) -> None:
    provider = providers()[kind]
    text = markdown({kind: provider})
    assert provider.ERRORS_PAGE in text
    for code, row in provider.ERRORS.items():
        assert f"| {code} | {row.detail} | {row.reason} |" in text
        assert row.detail
    for name, event in provider.EVENTS.items():
        assert event.detail
        assert f"| {name} | {event.detail} |" in text


@pytest.mark.parametrize("kind", WITH_A_VENDOR)
def test_codes_stand_in_order(kind: str) -> None:
    codes = [row[0] for row in next(tables(providers()[kind])).rows]
    numbers = [int(code) for code in codes if code.isdecimal()]
    assert numbers == sorted(numbers)
    if kind == "smtp":
        assert codes.index("5.1.8") < codes.index("5.1.10") < codes.index("5.2.1")


@pytest.mark.parametrize("kind", WITH_A_VENDOR)
def test_rows_that_try_again_or_elsewhere_suppress_no_address(kind: str) -> None:
    for row in providers()[kind].ERRORS.values():
        assert isinstance(row, Retry) or not (row.suppress and row.fallback)
        assert not isinstance(row, Retry) or row.after_s is None or row.after_s > 0


def test_the_policy_knows_which_rows_are_the_accounts_fault_or_ask_for_less() -> None:
    rows = [row for kind in WITH_A_VENDOR for row in providers()[kind].ERRORS.values() if isinstance(row, Retry)]
    for row in rows:
        assert is_fault(row) or row.after_s != ACCOUNT_WAIT_S or row.reason in ABOUT_ONE_ADDRESS | THROTTLED, row
        assert is_throttled(row) == (row.reason in THROTTLED), row
        assert not (is_fault(row) and row.reason in ABOUT_ONE_ADDRESS), row
    assert {row.reason for row in rows if not is_fault(row) and not is_throttled(row)} == ABOUT_ONE_ADDRESS


@pytest.mark.parametrize("kind", WITH_A_VENDOR)
def test_no_row_uses_a_reason_of_tidings(kind: str) -> None:
    provider = providers()[kind]
    said = {row.reason for row in (*provider.ERRORS.values(), *provider.EVENTS.values())}
    assert said & set(Reason) == set()


def test_a_provider_without_a_vendor_has_no_tables() -> None:
    assert list(tables(providers()["inbox"])) == []
    assert markdown({"inbox": providers()["inbox"]}) == ""


def test_the_vendors_words_and_wait_go_before_the_tables() -> None:
    row = Retry("throttled", 60.0, "too many")
    assert follow(row, "slow down", 5.0) == Retry("throttled", 5.0, "slow down")
    assert follow(row, "", None) == row
    assert follow(row, "", 0.0) == Retry("throttled", 0.0, "too many")
    gone = Rejected("gone", suppress=True, detail="not there")
    assert follow(gone, "", 5.0) == gone
    assert follow(gone, "bye") == Rejected("gone", suppress=True, detail="bye")
