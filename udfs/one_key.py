"""Elements under one constant key: for operators of which there is one, and that keep state, which PyFlink has for keyed operators only."""

from __future__ import annotations

from typing import Any

from pyflink.common import Row


def under_one_key(element: Any) -> Row:
    """ROW(key, bytes) of an element: bytes, or a row whose second field they are, such as a message or a command."""
    return Row("one", element if isinstance(element, bytes) else element[1])
