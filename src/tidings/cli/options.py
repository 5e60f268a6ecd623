"""Options that several commands share, and what they mean together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeAlias

import msgspec
import typer

from tidings.config import Settings, load

SettingsFile: TypeAlias = Annotated[
    Path | None,
    typer.Option("--settings", metavar="FILE", help="The settings file; without it, ./tidings.toml if there is one."),
]
DataDir: TypeAlias = Annotated[
    Path | None, typer.Option("--data-dir", metavar="FOLDER", help="Where everything is kept [tidings-data].")
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Url: TypeAlias = Annotated[
    str | None, typer.Option("--url", help="The API's address; without it TIDINGS_API_URL, then what runs here.")
]
Key: TypeAlias = Annotated[
    str | None, typer.Option("--key", help="The API key; without it TIDINGS_API_KEY, then the one of `tidings up`.")
]


def print_json(value: Any) -> None:
    """The value as JSON for programs."""
    print(msgspec.json.format(msgspec.json.encode(value)).decode(), flush=True)


def settings_from(file: Path | None, data_dir: Path | None, **overrides: Any) -> Settings:
    """The settings with what the command line says. Raises SettingsError."""
    if data_dir is not None:
        overrides["data_dir"] = str(data_dir)
    return load(file, **overrides)
