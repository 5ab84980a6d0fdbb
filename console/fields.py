"""Fields of JSON that came from elsewhere: one of another type counts as absent. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson


def read_object(raw: bytes) -> dict[str, Any]:
    """The object in a message's value; empty where it is none."""
    try:
        found = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def text(found: Mapping[str, Any], name: str) -> str:
    """A text; empty where there is none."""
    value = found.get(name)
    return value if isinstance(value, str) else ""


def number(found: Mapping[str, Any], name: str) -> float:
    """A number; 0 where there is none."""
    value = found.get(name)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else 0


def mapping(found: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """An object; empty where there is none."""
    value = found.get(name)
    return value if isinstance(value, Mapping) else {}


def mappings(value: object) -> list[Mapping[str, Any]]:
    """The objects of a list."""
    return [row for row in value if isinstance(row, Mapping)] if isinstance(value, list) else []


def texts(value: object) -> tuple[str, ...]:
    """The texts of a list."""
    return tuple(row for row in value if isinstance(row, str)) if isinstance(value, list) else ()
