from __future__ import annotations

from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.model.errors import Invalid
from tidings.policy.idempotency import ASK_AGAIN_AFTER_S, check_key, fingerprint, in_flight


@given(st.binary(), st.binary(), st.text(max_size=10), st.text(max_size=10))
def test_the_same_request_has_the_same_fingerprint_and_no_other(
    one: bytes, other: bytes, here: str, there: str
) -> None:
    assert len(fingerprint(one, here)) == 16
    assert fingerprint(one) == fingerprint(one, "")
    if "\0" not in here + there:
        assert (fingerprint(one, here) == fingerprint(other, there)) == ((one, here) == (other, there))


@given(st.text(max_size=300))
def test_a_key_is_visible_ascii(text: str) -> None:
    visible = 0 < len(text) <= 255 and all("!" <= character <= "~" for character in text)
    if visible:
        assert check_key(text) == text
    else:
        with pytest.raises(Invalid, match="visible ASCII") as refused:
            check_key(text)
        assert (refused.value.code, refused.value.path) == ("invalid_idempotency_key", "Idempotency-Key")


def test_a_uuid_is_a_key() -> None:
    key = str(uuid4())
    assert check_key(key) == key


def test_a_request_whose_first_one_is_under_way_may_ask_again_soon() -> None:
    error = in_flight()
    assert (error.code, error.retry_after_s) == ("idempotency_in_flight", ASK_AGAIN_AFTER_S)
