"""`tidings simulate`: its output, and the command that repeats a broken seed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidings.cli.application import run
from tidings.pipeline.runtime.reader import Reader


def test_seeds_that_keep_every_rule(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["simulate", "--seeds", "2", "--from", "5", "--cores", "1"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("2 seeds: ")
    assert said.endswith("Every rule was kept.\n")


def test_the_trace_of_one_seed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["simulate", "--seed", "5", "--trace"]) == 0
    assert "worker-1 starts" in capsys.readouterr().out


def test_a_broken_rule_comes_with_the_command_that_repeats_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def loses_everything(self: object, claim: object, outputs: object) -> None:
        await claim.done()  # type: ignore[attr-defined]

    monkeypatch.setattr(Reader, "_finish", loses_everything)
    settings = tmp_path / "mine.toml"
    settings.write_text("[deliver]\nattempts = 7\n")
    assert run(["simulate", "--seeds", "3", "--cores", "1", "--settings", str(settings)]) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith(f"simulate --seed 1 --settings {settings}")
    assert run(last.split()[last.split().index("simulate") :]) == 1
    said = capsys.readouterr().out
    assert "seed 1 broke a rule:" in said
    assert "nothing that was accepted is lost" in said
