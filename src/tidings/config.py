"""Settings: frozen, checked at start, and read here alone.

Order, later wins: the defaults, the settings file (TOML), environment variables `TIDINGS_<SECTION>__<NAME>`, the
command line. A provider's own section is checked by the provider's `Config`.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tidings.model.errors import SettingsError
from tidings.model.vocabulary import Channel

ENVIRONMENT_PREFIX = "TIDINGS_"
DEFAULT_FILE = "tidings.toml"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Http(_Section):
    """Where the API listens, and how it is reached from outside."""

    host: str = "127.0.0.1"
    port: int = Field(default=8400, ge=0, le=65535, description="0 takes any free port")
    public_url: str | None = Field(
        default=None, description="the base URL that vendors and browsers reach; None: host and port"
    )
    max_body_bytes: int = Field(default=1_048_576, ge=1024, description="a larger request body is refused with 413")


class Database(_Section):
    """PostgreSQL."""

    dsn: str | None = Field(default=None, description="None: a system PostgreSQL's binaries, else the bundled ones")
    pool_size: int = Field(default=10, ge=2)


class QueueSettings(_Section):
    """The queue between the stages."""

    kind: str = Field(default="postgres", pattern="^(postgres|kafka)$")
    brokers: str = Field(default="", description="Kafka bootstrap servers: host:port,host:port")
    partitions: int = Field(default=8, ge=1)
    replication: int = Field(default=1, ge=1, description="3 for production, with min.insync.replicas=2")


class Sandbox(_Section):
    """The vendors' stand-in with its viewer."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: int = Field(default=8401, ge=0, le=65535)
    smtp_port: int = Field(default=8425, ge=0, le=65535)


class Delivering(_Section):
    """How `deliver` tries."""

    attempts: int = Field(default=3, ge=1, le=20)
    backoff_base: float = Field(
        default=2.0, gt=0, description="seconds before the second try, at most; doubles each time"
    )
    backoff_cap: float = Field(default=900.0, gt=0, description="no wait is longer, in seconds")
    lease: float = Field(default=60.0, ge=5, description="seconds that a killed worker's batch stays with it")


class Telemetry(_Section):
    """Logs and traces."""

    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$")
    log_format: str = Field(default="json", pattern="^(json|text)$")
    otlp_endpoint: str | None = Field(default=None, description="OTLP/HTTP base URL; None: no traces are exported")


class Settings(_Section):
    """Everything that can be set."""

    data_dir: Path = Path("tidings-data")
    http: Http = Http()
    database: Database = Database()
    queue: QueueSettings = QueueSettings()
    sandbox: Sandbox = Sandbox()
    deliver: Delivering = Delivering()
    telemetry: Telemetry = Telemetry()
    channels: dict[Channel, tuple[str, ...]] = Field(
        default={}, description="the providers of each channel, best first; a channel that is absent uses the sandbox"
    )
    providers: dict[str, dict[str, Any]] = Field(default={}, description="each provider's own settings, by its name")

    @property
    def public_url(self) -> str:
        """The base URL of the API as others reach it, without a trailing slash."""
        return (self.http.public_url or f"http://{self.http.host}:{self.http.port}").rstrip("/")


def load(file: Path | None = None, environment: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    """The settings from `file` (default: `tidings.toml` here, if it exists), the environment, and `overrides`.

    `overrides` are nested like the file (`http={"port": 0}`).

    Raises:
        SettingsError: the file is missing or not TOML, or a value cannot be used; the text names the setting.
    """
    tree: dict[str, Any] = _from_file(file)
    for path, value in _from_environment(os.environ if environment is None else environment):
        _merge(tree, path, value)
    for section, value in overrides.items():
        if isinstance(value, Mapping):
            for name, inner in value.items():
                _merge(tree, [section, name], inner)
        else:
            _merge(tree, [section], value)
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        lines = [f"  {'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}" for problem in error.errors()]
        raise SettingsError("these settings cannot be used:\n" + "\n".join(lines)) from error


def _from_file(file: Path | None) -> dict[str, Any]:
    path = file or Path(DEFAULT_FILE)
    if not path.exists():
        if file is None:
            return {}
        raise SettingsError(f"there is no settings file {path}")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not valid TOML: {error}") from error


def _from_environment(environment: Mapping[str, str]) -> list[tuple[list[str], str]]:
    return [
        (name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__"), value)
        for name, value in sorted(environment.items())
        if name.startswith(ENVIRONMENT_PREFIX)
    ]


def _merge(tree: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        inner = tree.setdefault(part, {})
        if not isinstance(inner, dict):
            raise SettingsError(f"{'.'.join(path)}: {part} is a value, not a section")
        tree = inner
    tree[path[-1]] = value
