"""What the trainer keeps in Redis: the state of each service's training, the last runs, who is training it.

```
<prefix>:trainer:<service>        hash: state, why, at, done, step, lines, sessions, loss, gate, due, notes, version;
                                  last: the last training; publishing: a version on its way out; asked_ms: when a training was asked for
<prefix>:trainings:<service>      list of the last 50 trainings as JSON, the newest first
<prefix>:trainer-lock:<service>   who trains the service now; it expires unless renewed
```
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any, Final, cast

import orjson
import redis
from redis.exceptions import LockError
from redis.lock import Lock

from models.errors import DriftwoodError
from models.learning.due import Last
from models.training_buffer import RedisParams

RUNS: Final = 50
LOCK_S: Final = 60.0


class LostLockError(DriftwoodError):
    """Another trainer may be at the same service: what this one made is not published."""


class Lease:
    """A service's lock, renewed in the background until it is given back."""

    def __init__(self, lock: Lock, seconds: float) -> None:
        self._lock = lock
        self._stop = threading.Event()
        self._is_lost = False
        self._seconds = seconds
        self._thread = threading.Thread(target=self._renew, name="lock renewal", daemon=True)
        self._thread.start()

    def _renew(self) -> None:
        while not self._stop.wait(self._seconds / 4):
            try:
                self._lock.reacquire()
            except LockError:
                self._is_lost = True
                return
            except redis.RedisError:  # tried again; `check` asks before anything is published
                continue

    def check(self) -> None:
        """Renew the lock now.

        Raises: LostLockError if it is not ours any more.
        """
        try:
            if not self._is_lost:
                self._lock.reacquire()
                return
        except LockError:
            pass
        raise LostLockError(
            "The lock of this training ran out while Redis was away, and another trainer may be at the same service; nothing was published, "
            "and the service is looked at again."
        )

    def release(self) -> None:
        """Give the lock back, if it is still ours."""
        self._stop.set()
        self._thread.join()
        with suppress(LockError, redis.RedisError):
            self._lock.release()


class Records:
    """The trainer's records of all services.

    Args:
        client: a connection.
        params: the prefix of the keys.
        lock_s: time after which the lock of a trainer that died is free.
    """

    def __init__(self, client: redis.Redis, params: RedisParams, lock_s: float = LOCK_S) -> None:
        self._client = client
        self._prefix = params.prefix
        self._lock_s = lock_s

    def read(self, service: str) -> dict[str, str]:
        """All fields of a service; empty if there are none."""
        found = cast("dict[bytes, bytes]", self._client.hgetall(self._key(service)))
        return {name.decode(): value.decode(errors="replace") for name, value in found.items()}

    def write(self, service: str, fields: Mapping[str, str | int | float]) -> None:
        """Set some fields of a service."""
        self._client.hset(self._key(service), mapping=dict(fields))

    def last(self, service: str) -> Last | None:
        """The last training of a service; None if there was none."""
        found = cast("bytes | None", self._client.hget(self._key(service), "last"))
        return Last(**orjson.loads(found)) if found else None

    def finish(self, service: str, last: Last, fields: Mapping[str, str | int | float], run: Mapping[str, Any]) -> None:
        """Note the end of a training: its outcome, that nothing is on its way out any more, and the run in the list."""
        pipeline = self._client.pipeline(transaction=True)
        mapping = {**fields, "last": orjson.dumps(asdict(last)), "publishing": "", "done": 1}
        pipeline.hset(self._key(service), mapping=mapping)
        pipeline.lpush(self._list_key(service), orjson.dumps(run))
        pipeline.ltrim(self._list_key(service), 0, RUNS - 1)
        pipeline.execute()

    def runs(self, service: str) -> list[dict[str, Any]]:
        """The last trainings, the newest first."""
        found = cast("list[bytes]", self._client.lrange(self._list_key(service), 0, RUNS - 1))
        return [orjson.loads(run) for run in found]

    @contextmanager
    def lease(self, service: str, wait_s: float = 0.0) -> Iterator[Lease | None]:
        """The service's lock while it is worked on; None if another has it and does not give it back in time."""
        lock = self._client.lock(self._lock_key(service), timeout=self._lock_s, thread_local=False)
        if not lock.acquire(blocking=wait_s > 0, blocking_timeout=wait_s or None):
            yield None
            return
        lease = Lease(lock, self._lock_s)
        try:
            yield lease
        finally:
            lease.release()

    def _key(self, service: str) -> str:
        return f"{self._prefix}:trainer:{service}"

    def _list_key(self, service: str) -> str:
        return f"{self._prefix}:trainings:{service}"

    def _lock_key(self, service: str) -> str:
        return f"{self._prefix}:trainer-lock:{service}"
