"""Options that several commands share, and the settings that they lead to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeAlias

import msgspec
import typer

from tidings.config import Settings, load

SettingsFile: TypeAlias = Annotated[
    Path | None,
    typer.Option("--settings", metavar="FILE", help="The settings file [./tidings.toml, if there is one]."),
]
DataDir: TypeAlias = Annotated[
    Path | None, typer.Option("--data-dir", metavar="FOLDER", help="The data folder [tidings-data].")
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Url: TypeAlias = Annotated[
    str | None, typer.Option("--url", help="The API's URL [TIDINGS_API_URL, or the running `tidings up`].")
]
Key: TypeAlias = Annotated[
    str | None, typer.Option("--key", help="The API key [TIDINGS_API_KEY, or the key of `tidings up`].")
]


def print_json(value: Any) -> None:
    """Print the value as JSON."""
    print(msgspec.json.format(msgspec.json.encode(value)).decode(), flush=True)


def settings_from(file: Path | None, data_dir: Path | None, **overrides: Any) -> Settings:
    """The settings, with the values from the command line. Raises SettingsError."""
    if data_dir is not None:
        overrides["data_dir"] = str(data_dir)
    return load(file, **overrides)
