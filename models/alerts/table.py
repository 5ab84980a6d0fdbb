"""A bounded table by key that knows what changed in it, for state that is written row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, Generic, TypeVar

import orjson

Value = TypeVar("Value")

_VERSION: Final = 1


class Table(Generic[Value]):
    """Values by key, in the order in which they were last put.

    A row of the state is `u8 version ‖ JSON [turn, value]`, or None for a key that is gone; turns tell the order after a restore.

    Args:
        prefix: of the keys in the state.
        limit: of the values; the one put longest ago gives way.
        decode: a value from what orjson made of it.
    """

    def __init__(self, prefix: str, limit: int, decode: Callable[[Any], Value]) -> None:
        self._prefix = prefix
        self._limit = limit
        self._decode = decode
        self._values: dict[str, Value] = {}
        self._turns: dict[str, int] = {}
        self._turn = 0
        self._changed: set[str] = set()

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[tuple[str, Value]]:
        return iter(list(self._values.items()))

    def get(self, key: str | None) -> Value | None:
        """The value of a key; None if there is none."""
        return None if key is None else self._values.get(key)

    def put(self, key: str, value: Value) -> None:
        """Set a key's value, or say that it has changed."""
        self._values.pop(key, None)
        self._values[key] = value
        self._turn += 1
        self._turns[key] = self._turn
        self._changed.add(key)
        if len(self._values) > self._limit:
            self.drop(next(iter(self._values)))

    def drop(self, key: str) -> None:
        """Forget a key."""
        if self._values.pop(key, None) is not None:
            del self._turns[key]
            self._changed.add(key)

    def touched(self) -> dict[str, bytes | None]:
        """The rows that changed since the last call."""
        changed, self._changed = sorted(self._changed), set()
        return {self._prefix + key: self._row(key) for key in changed}

    def _row(self, key: str) -> bytes | None:
        if key not in self._values:
            return None
        value = orjson.dumps((self._turns[key], self._values[key]), option=orjson.OPT_NON_STR_KEYS)
        return bytes([_VERSION]) + value

    def restore(self, rows: dict[str, bytes]) -> None:
        """Take the rows of a state that have this table's prefix.

        Raises: ValueError for rows of another version.
        """
        found = []
        for name, row in rows.items():
            if not name.startswith(self._prefix):
                continue
            if row[0] != _VERSION:
                raise ValueError(
                    f"alert state has version {row[0]}, this release reads {_VERSION}: see CHANGELOG.md for the migration"
                )
            turn, value = orjson.loads(row[1:])
            found.append((turn, name[len(self._prefix) :], value))
        for turn, key, value in sorted(found, key=lambda each: each[:2]):
            self._values[key], self._turns[key], self._turn = self._decode(value), turn, turn

    def check(self) -> None:
        """Raise AssertionError unless the bound holds."""
        assert len(self._values) <= self._limit
        assert self._values.keys() == self._turns.keys()
