"""What the trainer says of itself, from Redis: where each service's training stands, and how the last ones went."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import orjson

from models.errors import SinkError

if TYPE_CHECKING:
    from redis import Redis

_RUNS: Final = 20


@dataclass(frozen=True)
class Gate:
    """One criterion that a candidate, or the buffer, had to meet; `words` say it with its figures."""

    criterion: str
    figure: float | None
    bound: float | None
    is_passed: bool
    words: str = ""


@dataclass(frozen=True)
class Training:
    """One training: how it went, its losses, its gates, and the version it gave; or where the present one stands.

    Attributes:
        due: what the next training waits for.
        step, done: what it is at, and the share that is done, while it runs.
        notes: what is worth knowing of it, in sentences.
    """

    state: str
    at: str
    lines: int | None = None
    version: str = ""
    why: str = ""
    loss: tuple[float, ...] = ()
    gates: tuple[Gate, ...] = ()
    due: tuple[Gate, ...] = ()
    step: str = ""
    done: float | None = None
    notes: tuple[str, ...] = ()


def read_training(data: bytes) -> Training | None:
    """A training from the trainer's JSON; None where it is none. Fields of another type count as absent.

    >>> read_training(b'{"state": "published", "at": "2026-01-02", "loss": [2, 1.5]}').loss
    (2.0, 1.5)
    """
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return training_of(found) if isinstance(found, dict) else None


def training_of(found: dict[str, Any]) -> Training:
    """A training from its fields."""
    lines = found.get("lines")
    return Training(
        state=str(found.get("state") or "?"),
        at=str(found.get("at") or found.get("at_ms") or ""),
        lines=lines if isinstance(lines, int) else None,
        version=str(found.get("version") or ""),
        why=str(found.get("why") or ""),
        loss=tuple(float(value) for value in _list(found.get("loss")) if isinstance(value, int | float)),
        gates=_gates(found.get("gate")),
        due=_gates(found.get("due")),
        step=str(found.get("step") or ""),
        done=_number(found.get("done")),
        notes=tuple(str(note) for note in _list(found.get("notes"))),
    )


def _gates(value: object) -> tuple[Gate, ...]:
    return tuple(
        Gate(
            str(gate.get("criterion") or "?"),
            _number(gate.get("figure")),
            _number(gate.get("bound")),
            gate.get("is_passed") is True,
            str(gate.get("words") or ""),
        )
        for gate in _list(value)
        if isinstance(gate, dict)
    )


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


class Trainings:
    """Reads what the trainer writes. Blocking: call it in a thread."""

    def __init__(self, client: Redis | None, prefix: str) -> None:
        self._client = client
        self._prefix = prefix

    @property
    def is_there(self) -> bool:
        """A Redis is named."""
        return self._client is not None

    def of(self, service: str) -> tuple[Training | None, list[Training]]:
        """Where a service's training stands, and its last trainings, the newest first.

        Raises:
            SinkError: Redis does not answer.
        """
        if self._client is None:
            return None, []
        from redis import RedisError

        try:
            # redis types every answer as if it might be awaited; this client is not asynchronous.
            state = cast("dict[bytes, bytes]", self._client.hgetall(f"{self._prefix}:trainer:{service}"))
            runs = cast("list[bytes]", self._client.lrange(f"{self._prefix}:trainings:{service}", 0, -1))
        except RedisError as error:
            raise SinkError(
                f"Redis does not answer ({type(error).__name__}: {error}); start it, or correct the setting `redis`."
            ) from error
        fields = {_decoded(name): _value(value) for name, value in state.items()}
        found = [run for data in runs if (run := read_training(data)) is not None]
        found.sort(key=lambda run: run.at, reverse=True)
        return (training_of(fields) if fields else None), found[:_RUNS]


def _decoded(data: bytes) -> str:
    return data.decode(errors="replace")


def _value(data: bytes) -> Any:
    """A field of the hash: JSON where it is, else text."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return _decoded(data)
