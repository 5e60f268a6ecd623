"""`tidings settings`: the settings that apply, and an example of a settings file."""

from __future__ import annotations

import os
import shlex
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from tidings.channels.registry import config_of, kind_of, providers
from tidings.cli.hints import command
from tidings.cli.options import AsJson, DataDir, SettingsFile, settings_from
from tidings.cli.plain import CannotGoOn, command_line, say
from tidings.config import DEFAULT_FILE, Settings
from tidings.model.errors import SettingsError
from tidings.model.vocabulary import Channel

app = command_line()

_HIDDEN = "(set, not shown)"
_WIDTH = 100


@app.command()
def settings(
    example: Annotated[bool, typer.Option("--example", help="Print a settings file with every setting in it.")] = False,
    write: Annotated[
        Path | None,
        typer.Option("--write", metavar="FILE", help="With --example: write this file, unless it exists."),
    ] = None,
    as_json: AsJson = False,
    settings_file: SettingsFile = None,
    data_dir: DataDir = None,
) -> None:
    """Print the settings that apply (always as JSON), or an example.

    Secrets are hidden. The example is a settings file to start with.
    """
    if as_json and example:
        raise CannotGoOn("the example is a TOML file; leave out --json, or --example")
    if write is not None and not example:
        raise CannotGoOn("--write needs --example: the settings that apply come from several sources, secrets hidden")
    if write is not None:
        _write_example(write)
    elif example:
        typer.echo(example_file(), nl=False)
    else:
        shown = msgspec.json.encode(public_view(settings_from(settings_file, data_dir)))
        typer.echo(msgspec.json.format(shown).decode())


def _write_example(path: Path) -> None:
    """Write the example. Only this user can read it: it will hold passwords. Raises CannotGoOn if the file exists."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise CannotGoOn(f"{path} exists already and was not changed; choose another name") from error
    except OSError as error:
        raise CannotGoOn(f"{path} cannot be written: {error.strerror}") from error
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(example_file())
    check = "check" if path == Path(DEFAULT_FILE) else f"check --settings {shlex.quote(str(path))}"
    say(f"{path} is written. Fill in a provider, then: {command(check)}")


def public_view(settings: Settings) -> dict[str, Any]:
    """The settings as JSON values, with all secrets hidden."""
    tree = settings.model_dump(mode="json")
    if tree["database"]["dsn"]:
        tree["database"]["dsn"] = _HIDDEN
    for name, field in Settings.model_fields.items():
        for key, inner in model.model_fields.items() if (model := _model(field)) else ():
            if _secret(inner) and tree[name][key]:
                tree[name][key] = _HIDDEN
    for name, section in tree["providers"].items():
        fields = _fields_of(name, section)
        for key in section:
            if key not in fields or _secret(fields[key]):
                section[key] = _HIDDEN
    return tree


def _fields_of(name: str, section: Mapping[str, Any]) -> Mapping[str, FieldInfo]:
    """The settings that the provider's kind has; none if there is no such kind."""
    try:
        return config_of(kind_of(name, section)).model_fields
    except SettingsError:
        return {}


def example_file() -> str:
    """A TOML file with every setting and its meaning, all commented out."""
    lines = ["# Settings of Tidings. Lines that are commented out show the defaults. `tidings check` finds errors.", ""]
    plain = {name: field for name, field in Settings.model_fields.items() if not _model(field)}
    sections = {name: model for name, field in Settings.model_fields.items() if (model := _model(field))}
    lines += _field("data_dir", plain["data_dir"])
    for name, model in sections.items():
        lines += ["", *_comment(model.__doc__ or ""), f"[{name}]"]
        for key, field in model.model_fields.items():
            lines += _field(key, field)
    lines += ["", *_comment(f"Which providers serve a channel: {plain['channels'].description}."), "[channels]"]
    for channel in Channel:
        names = [name for name, provider in providers().items() if provider.channel is channel]
        lines.append(f"# {channel.value} = {_toml(names)}")
    for name, provider in providers().items():
        doc = (provider.__doc__ or "").strip().split("\n\n")[0]
        lines += ["", *_comment(f"{provider.channel.value}: {doc}"), f"# [providers.{name}]"]
        fields = config_of(provider).model_fields
        for key in sorted(fields, key=lambda key: not fields[key].is_required()):
            lines += _field(key, fields[key], name if key == "kind" else None)
    example = next(iter(providers()))
    lines += ["", *_comment("A second account at the same vendor has its own section, and is named in [channels].")]
    lines += [f"# [providers.{example}-second]", f"# kind = {_toml(example)}"]
    return "\n".join(lines) + "\n"


def _model(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _field(name: str, field: FieldInfo, example: str | None = None) -> list[str]:
    """The lines of a setting: its meaning and its default, or `example` if it has none."""
    is_required = field.is_required()
    meaning = (field.description or "") + (" (required)" if is_required else "")
    value = (field.examples or [""])[0] if is_required else field.get_default(call_default_factory=True)
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if value is None:
        value = example if example is not None else (field.examples or [""])[0]
    return [*_comment(meaning.strip()), f"# {name} = {_toml(value)}"]


def _comment(text: str) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), _WIDTH, initial_indent="# ", subsequent_indent="# ")


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(inner) for inner in value) + "]"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + " }" if value else "{}"
    # A JSON string is a valid basic string of TOML.
    return msgspec.json.encode(str(value)).decode()


def _secret(field: FieldInfo) -> bool:
    return "SecretStr" in repr(field.annotation)
