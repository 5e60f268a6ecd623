from __future__ import annotations

import pytest
from rich.text import Text

from tidings.cli.tables import Column, print_table

COLUMNS = [Column("id"), Column("to"), Column("tries", is_number=True)]
ROWS: list[list[str | Text]] = [
    ["dlv_01k00000000000000000000003", "somebody.with.a.long.name@mail.example.com", Text("12", style="red")]
]


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200, None])
def test_nothing_is_cut_off_at_any_width(
    width: int | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if width is None:
        monkeypatch.delenv("COLUMNS", raising=False)
    else:
        monkeypatch.setenv("COLUMNS", str(width))
    print_table(COLUMNS, ROWS * 3, "A title", ["all of them", "", "36"])
    out = capsys.readouterr().out
    assert out.count("dlv_01k00000000000000000000003") == 3
    assert out.count("somebody.with.a.long.name@mail.example.com") == 3
    assert all(word in out for word in ("A title", "all of them", "12", "36"))
    assert "\x1b" not in out
    assert "…" not in out
    if width is not None and width >= 60:
        assert max(map(len, out.splitlines())) <= width


def test_narrow_rows_name_their_columns(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    print_table(COLUMNS, ROWS)
    assert capsys.readouterr().out.splitlines() == [
        "",
        "dlv_01k00000000000000000000003",
        "  to somebody.with.a.long.name@mail.example.com   tries 12",
        "",
    ]
