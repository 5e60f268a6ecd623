"""Adjusts the schemas that FastAPI and msgspec generate, so that client generators understand them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

_REF = "#/components/schemas/"
_INSTANTS = frozenset({"at", "since", "until"})
_SPARSE = frozenset(
    {"BatchItem", "Content", "EmailContent", "FilterView", "Problem", "PushContent", "InappContent", "Variable"}
)
"""Answers that omit fields without a value."""


def plain(doc: dict[str, Any]) -> None:
    """Change the schemas of an OpenAPI document in place.

    - A whole number is an `integer`, and its bounds are whole.
    - An object without declared properties accepts any properties.
    - An instant has the format `date-time`.
    - A field that an answer always has is required there.
    - An optional field of a request has no `default`, because generators would then treat it as always present. The
      default stands in the description.
    """
    schemas: dict[str, Any] = doc["components"]["schemas"]
    in_requests = _reachable(schemas, [operation.get("requestBody", {}) for operation in _operations(doc)])
    for name, schema in schemas.items():
        _without_defaults(schema, always_present=name not in in_requests and name not in _SPARSE)
        for field, inner in schema.get("properties", {}).items():
            if field in _INSTANTS or field.endswith("_at"):
                _instant(inner)
    for node in _objects(doc):
        _whole(node)
        if node.get("type") == "object" and not node.keys() & {"properties", "additionalProperties", "oneOf", "anyOf"}:
            node["additionalProperties"] = True


def _operations(doc: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for item in doc["paths"].values():
        yield from item.values()


def _reachable(schemas: Mapping[str, Any], roots: list[Any]) -> set[str]:
    """The names of the schemas that `roots` refer to, directly or not."""
    names: set[str] = set()
    to_visit = list(roots)
    while to_visit:
        for node in _objects(to_visit.pop()):
            reference = node.get("$ref", "")
            name = reference.removeprefix(_REF) if isinstance(reference, str) else ""
            if name in schemas and name not in names:
                names.add(name)
                to_visit.append(schemas[name])
    return names


def _without_defaults(schema: dict[str, Any], *, always_present: bool) -> None:
    for name, field in schema.get("properties", {}).items():
        if "default" not in field:
            continue
        value = field.pop("default")
        if always_present:
            schema["required"] = [*schema.get("required", []), name]
        elif isinstance(value, bool | int) or (isinstance(value, str) and value):
            note = f"without it: {value if isinstance(value, str) else json.dumps(value)}"
            field["description"] = f"{field['description']}; {note}" if field.get("description") else note


def _instant(schema: dict[str, Any]) -> None:
    for option in (schema, *schema.get("anyOf", ())):
        if option.get("type") == "string":
            option["format"] = "date-time"


def _whole(schema: dict[str, Any]) -> None:
    if schema.get("type") == "number" and schema.get("multipleOf") == 1:
        schema["type"] = "integer"
        del schema["multipleOf"]
    if schema.get("type") == "integer":
        for bound in ("minimum", "maximum"):
            if isinstance(schema.get(bound), float):
                schema[bound] = int(schema[bound])


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Each object in a JSON value, except in examples, which are no schemas."""
    if isinstance(value, dict):
        yield value
        for name, inner in value.items():
            if name not in {"example", "examples"}:
                yield from _objects(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _objects(inner)
