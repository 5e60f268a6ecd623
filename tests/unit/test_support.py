from __future__ import annotations

import pytest

from support import eventually, needs, parts


async def test_eventually_gives_what_became_true() -> None:
    answers = iter([0, None, "yes"])
    assert await eventually(lambda: next(answers)) == "yes"


async def test_eventually_shows_the_last_failure() -> None:
    async def never() -> bool:
        raise AssertionError("2 of 3 came")

    with pytest.raises(AssertionError, match="2 of 3 came"):
        await eventually(never, timeout=0.05)
    with pytest.raises(AssertionError, match="the last answer was 0"):
        await eventually(lambda: 0, timeout=0.05)


class TestParts:
    @pytest.fixture
    def nowhere(self, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.setattr(parts, "_missed", {})
        monkeypatch.setitem(parts.PARTS, "quantum", lambda: "no qubits: install some")
        parts.missing.cache_clear()
        return "quantum"

    def test_what_is_missing_is_skipped_and_counted(self, nowhere: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("CI", raising=False)
        with pytest.raises(pytest.skip.Exception, match="install some"):
            parts.require(nowhere)
        assert parts._missed == {nowhere: 1}

    def test_in_ci_it_fails(self, nowhere: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CI", "1")
        with pytest.raises(pytest.fail.Exception, match="CI must have every part"):
            parts.require(nowhere)

    @needs()
    def test_what_is_there_is_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(parts.PARTS, "air", lambda: None)
        parts.missing.cache_clear()
        parts.require("air")
        assert parts.missing("air") is None
