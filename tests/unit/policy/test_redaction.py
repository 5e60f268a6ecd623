from __future__ import annotations

import pytest

from tidings.policy.redaction import without_addresses


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ("451 4.3.0 <ada@example.com>: lookup failed", "451 4.3.0 <<address>>: lookup failed"),
        ('no user "ü.da+x@bücher.example" here', 'no user "<address>" here'),
        ("The number +49 151 2345-6789 is busy", "The number <number> is busy"),
        ("20429: Too Many Requests for 4915123456789", "20429: Too Many Requests for <number>"),
        ("token dGhpc19pc19hX3Rva2VuX29mX2FfZGV2aWNl:APA91b is gone", "token <token> is gone"),
        ("unreachable no session with mail.example:587: [Errno 111] refused", None),
        ("provider_error HTTP status 503", None),
    ],
)
def test_addresses_are_blotted_out_and_the_rest_stays(said: str, left: str | None) -> None:
    assert without_addresses(said) == (said if left is None else left)
