"""Finds every provider: each concrete `Provider` in a file `channels/<channel>/<file>.py` is one."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType, ModuleType
from typing import Any

from tidings import channels
from tidings.channels.settings import ProviderConfig, read
from tidings.channels.tools import Tools
from tidings.model.errors import SettingsError
from tidings.ports.provider import Provider


@cache
def providers() -> Mapping[str, type[Provider[Any]]]:
    """Every provider's class by its name, sorted. Raises TypeError when two files use one name."""
    found: dict[str, type[Provider[Any]]] = {}
    for room in pkgutil.iter_modules(channels.__path__, f"{channels.__name__}."):
        if not room.ispkg:
            continue
        package = importlib.import_module(room.name)
        for file in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            for provider in _defined_in(importlib.import_module(file.name)):
                if provider.name in found:
                    raise TypeError(f"two providers are named {provider.name!r}: {found[provider.name]} and {provider}")
                found[provider.name] = provider
    return MappingProxyType(dict(sorted(found.items())))


def config_of(provider: type[Provider[Any]]) -> type[ProviderConfig]:
    """The provider's `Config`: its settings as a pydantic model. Raises TypeError when it has none."""
    config = getattr(provider, "Config", None)
    if not (inspect.isclass(config) and issubclass(config, ProviderConfig)):
        raise TypeError(f"{provider.__name__} needs a class attribute Config that derives from ProviderConfig")
    return config


def build(name: str, settings: Mapping[str, Any], tools: Tools) -> Provider[Any]:
    """The provider `name`, ready to send.

    Raises:
        SettingsError: there is no such provider, or its settings cannot be used; each is named as
            `providers.<name>.<field>`.
    """
    known = providers()
    if name not in known:
        raise SettingsError(f"there is no provider {name!r}; there are {', '.join(known)}.")
    provider: Any = known[name]
    built: Provider[Any] = provider(read(name, config_of(provider), settings), tools)
    return built


def _defined_in(module: ModuleType) -> list[type[Provider[Any]]]:
    return [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, Provider)
        and value.__module__ == module.__name__
        and not inspect.isabstract(value)
    ]
