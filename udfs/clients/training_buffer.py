"""Keeps the training buffer in Redis, and reads it back for the trainer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from models.errors import SinkError
from models.training_buffer import PackedSequence, RedisParams, Sequence, SequenceBatch, sequences
from udfs.clients.patience import Patience

ADVICE = "The job restarts from its last checkpoint and sends the batch again. Check that Redis is up and has memory."
#: Answers that a later try may better: starting up, failing over, busy with a script, or out of memory for now.
_PASSING = (redis.exceptions.BusyLoadingError, redis.exceptions.ReadOnlyError, redis.exceptions.OutOfMemoryError)
_PASSING_TEXTS = (
    "LOADING",
    "READONLY",
    "OOM",
    "BUSY",
    "MASTERDOWN",
    "TRYAGAIN",
    "CLUSTERDOWN",
    "NOREPLICAS",
    "MISCONF",
)
_CREDENTIALS = (redis.exceptions.AuthenticationError, redis.exceptions.NoPermissionError)
PAGE = 100


def connect(params: RedisParams) -> redis.Redis:
    """A connection as the settings say; it opens on first use, and leaves retries to us."""
    options: dict[str, Any] = {}
    if params.is_tls:
        options = {"ssl": True} | ({"ssl_ca_certs": params.ca_file} if params.ca_file else {})
    return redis.Redis(
        host=params.host,
        port=params.port,
        db=params.database,
        username=params.user or None,
        password=params.password or None,
        socket_timeout=params.retry.timeout_s,
        socket_connect_timeout=params.retry.timeout_s,
        retry=Retry(NoBackoff(), 0),
        **options,
    )


class TrainingBuffer:
    """A sink for sequence batches; Redis itself holds which services are known.

    State: the names of at most `max_services` services.

    Args:
        params: where and how.
        patience: the waits; tests give one that does not sleep.
    """

    def __init__(self, params: RedisParams, patience: Patience | None = None) -> None:
        self._params = params
        target = f"Redis at {params.host}:{params.port}"
        self._patience = patience or Patience(params.retry, target, ADVICE)
        self._redis = connect(params)
        self._known: set[str] = set()
        self.sent = 0  # lines
        self.refused = 0  # lines of services beyond the cap

    @property
    def retried(self) -> int:
        """Pipelines that were sent again, so far."""
        return self._patience.retried

    def deliver(self, data: bytes, /) -> list[bytes]:
        """Adds a batch (`SequenceBatch.to_bytes`) to the buffer, in one pipeline; gives no dead letters.

        Not a transaction: a try that broke in the middle is made again whole, and readers drop what is there twice.

        Raises:
            SinkError: Redis was away, or refused for a setting's sake. The batch must be delivered again.
        """
        batch = SequenceBatch.from_bytes(data)
        self._patience.begin()
        while True:
            try:
                kept = self._admit(batch)
                self._write(batch, kept)
            except _CREDENTIALS as error:
                raise SinkError(
                    f"Redis refused the credentials ({error}). Check user and password of the Redis buffer, and the user's "
                    f"right to XADD, HSET, SADD, SMEMBERS on {self._params.prefix}:*."
                ) from error
            except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, *_PASSING) as error:
                self._patience.wait(f"{type(error).__name__}: {error}")
            except redis.exceptions.ResponseError as error:
                if not str(error).startswith(_PASSING_TEXTS):
                    raise SinkError(
                        f"Redis refused a command ({error}). Is another program's key named {self._params.prefix}:…? "
                        "Choose another ?prefix=."
                    ) from error
                self._patience.wait(str(error))
            else:
                self.sent += sum(sequence.lines for sequence in kept)
                self.refused += sum(s.lines for s in batch.sequences) - sum(s.lines for s in kept)
                return []

    def _admit(self, batch: SequenceBatch) -> list[PackedSequence]:
        """The sequences of services within the cap; Redis's own set makes it hold over restarts and workers."""
        names = {s.service for s in batch.sequences} | {service for service, _, _ in batch.templates}
        if not names <= self._known and len(self._known) < self._params.max_services:
            members = self._redis.smembers(self._params.services_key)
            self._known = {name.decode(errors="surrogateescape") for name in members}
            # Sorted: which service comes first under a full cap must not hang on the order of a set.
            self._known |= set(sorted(names - self._known)[: max(0, self._params.max_services - len(self._known))])
        return [sequence for sequence in batch.sequences if sequence.service in self._known]

    def _write(self, batch: SequenceBatch, kept: list[PackedSequence]) -> None:
        texts: dict[str, dict[str, str]] = {}
        for service, number, text in batch.templates:
            if service in self._known:
                texts.setdefault(service, {})[f"{number:08x}"] = text
        pipeline = self._redis.pipeline(transaction=False)
        if kept or texts:
            # With each batch: a Redis that came back empty must know its services again.
            pipeline.sadd(self._params.services_key, *sorted({s.service for s in kept} | set(texts)))
        # Texts first: a reader never meets an id without its text.
        for service, by_id in texts.items():
            pipeline.hset(self._params.templates_key(service), mapping=by_id)
        for sequence in kept:
            key = self._params.sequences_key(sequence.service)
            pipeline.xadd(key, sequence.fields(), maxlen=self._params.max_entries, approximate=True)
        pipeline.execute()

    def close(self) -> None:
        """Closes the connection."""
        self._redis.close()


def read_services(client: redis.Redis, params: RedisParams) -> list[str]:
    """The services that have a buffer, sorted."""
    return sorted(name.decode(errors="surrogateescape") for name in client.smembers(params.services_key))


def read_sequences(client: redis.Redis, params: RedisParams, service: str) -> Iterator[Sequence]:
    """The service's sequences, oldest first, each line once; read in pages, so that a long stream needs little memory."""
    return sequences(service, _entries(client, params.sequences_key(service)))


def _entries(client: redis.Redis, key: str) -> Iterator[dict[bytes, bytes]]:
    after = "-"
    while page := client.xrange(key, min=after, count=PAGE):
        for _, fields in page:
            yield fields
        after = "(" + page[-1][0].decode()


def read_templates(client: redis.Redis, params: RedisParams, service: str) -> dict[int, str]:
    """Template id → text of the service."""
    found = client.hgetall(params.templates_key(service))
    return {int(number, 16): text.decode(errors="replace") for number, text in found.items()}
