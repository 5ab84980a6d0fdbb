"""A batch of records on its way from the parser to the keyed operator: one packed batch for each shard.

```
records of one Arrow batch (many services)          one packed batch a shard, on its way through the JVM as bytes
  ts service level host session message …   ──►     version (1) ‖ header length u32 ‖ header JSON ‖ Arrow record batch (IPC, no schema)
```

The header holds the strings of the dictionaries (services, hosts, sessions, topics), the distinct masked texts, and the rejects,
which ride with the first shard. The columns are fixed-width arrays and the messages. Everything that costs time a line is done
once for the whole Arrow batch: Arrow's dictionary encoding for strings, one stable sort by shard, slices after that.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import orjson
import polars as pl
import pyarrow as pa
import xxhash

from models.parsing import Raw, Records, Reject

VERSION = 1
_HEAD = struct.Struct("<BI")

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]
U64 = npt.NDArray[np.uint64]

_SCHEMA = pa.schema(
    [
        ("text", pa.int32()),
        ("ts", pa.int64()),
        ("level", pa.uint8()),
        ("group", pa.uint64()),
        ("session", pa.int32()),
        ("host", pa.int32()),
        ("topic", pa.int32()),
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        ("index", pa.int32()),
        ("kafka_ts", pa.int64()),
        ("message", pa.large_string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Lines:
    """The lines of one shard in source order, and the rejects that ride with them.

    Shapes: every column has N rows; `texts` and `service_of_text` have T entries, one for each distinct (service, masked text).
    Units: `ts` and `kafka_ts` are ms since the epoch, UTC.
    """

    services: list[str]
    texts: list[str]  # "service\0masked text"
    service_of_text: I32  # index into services
    text: I32  # index into texts
    ts: I64
    level: U8
    group: U64  # one key for each (service, session), and one for a service's lines without session
    session: I32  # index into sessions; −1 where there is none
    sessions: list[str]
    host: I32  # index into hosts; −1 where there is none
    hosts: list[str]
    topic: I32  # index into topics
    topics: list[str]
    partition: I32
    offset: I64
    index: I32  # of the record inside its Kafka message
    kafka_ts: I64
    messages: pa.LargeStringArray
    rejects: list[dict[str, object]]

    def __len__(self) -> int:
        return len(self.ts)

    def message(self, line: int) -> str:
        """The line's redacted message."""
        return str(self.messages[line].as_py())


@lru_cache(maxsize=100_000)
def shard_of(service: str, shards: int) -> int:
    """The shard that holds a service's state; the same in every run and version.

    >>> shard_of("cart", 8)
    5
    """
    return xxhash.xxh3_64_intdigest(service.encode()) % shards


def group_key(service: str, session: str | None) -> int:
    """The 64-bit key of one sequence of lines: a session inside a service, or the service itself."""
    return xxhash.xxh3_64_intdigest(f"{service}\0{session or ''}".encode())


def _encode(values: Sequence[str | None] | pa.Array) -> tuple[I32, list[str]]:
    """The values as codes into a list of distinct strings; −1 for None."""
    array = (values if isinstance(values, pa.Array) else pa.array(values, pa.string())).dictionary_encode()
    codes = array.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32, copy=False)
    return codes, array.dictionary.to_pylist()


def _compact(codes: I32, values: list[str]) -> tuple[I32, list[str]]:
    """The codes and values that one shard uses; −1 stays −1."""
    used = np.zeros(len(values) + 1, np.bool_)
    used[codes] = True  # −1 marks the last slot, which no value has
    used[-1] = False
    renumbered = (np.cumsum(used) - 1).astype(np.int32)
    renumbered[-1] = -1
    return renumbered[codes], [values[i] for i in np.flatnonzero(used)]


def _reject_to_json(raw: Raw, reject: Reject) -> dict[str, object]:
    topic = raw.topic if isinstance(raw.topic, str) else raw.topic[reject.row]
    return {
        "reason": reject.reason,
        "stage": reject.stage,
        "detail": reject.detail,
        "topic": topic,
        "partition": int(raw.partition[reject.row]),
        "offset": int(raw.offset[reject.row]),
        "index": reject.index,
        "kafka_ts": int(raw.timestamp_ms[reject.row]),
        "digest": reject.digest,
        "value": reject.redacted_bytes.decode("utf-8", "replace"),
    }


def pack(
    raw: Raw, records: Records, masked: Sequence[str] | pl.Series, rejects: Sequence[Reject], shards: int
) -> list[tuple[int, bytes]]:
    """One packed batch for each shard that has a line, and the rejects on the first of them.

    Args:
        raw: the source rows, for their origin.
        records: what the parser made of them, N records.
        masked: the masked message of each record.
        rejects: the rows that are no record.
        shards: how many shards there are; fixed for the life of a state.

    Returns:
        Pairs of shard and bytes, in the order of their first line.
    """
    refused = [_reject_to_json(raw, reject) for reject in rejects]
    if not len(records.ts):
        return (
            [(0, _serialise([], [], np.zeros(0, np.int32), {}, refused, _SCHEMA.empty_table().to_batches()))]
            if refused
            else []
        )
    service, services = _encode(records.service)
    text, texts = _encode(masked.to_arrow() if isinstance(masked, pl.Series) else masked)
    host, hosts = _encode(records.host)
    session, sessions = _encode(records.session)
    topic, topics = (
        (np.zeros(len(service), np.int32), [raw.topic])
        if isinstance(raw.topic, str)
        else _encode([raw.topic[row] for row in records.row])
    )
    group = _group_keys(service, services, session, sessions)
    pairs, text_of_line = np.unique(service.astype(np.int64) * len(texts) + text, return_inverse=True)
    pair_service, pair_text = np.divmod(pairs, len(texts))

    shard_of_service = np.array([shard_of(name, shards) for name in services], np.int32)
    shard = shard_of_service[service]
    order = np.argsort(shard, kind="stable")
    bounds = np.flatnonzero(np.diff(shard[order], prepend=-1, append=-1))
    messages = pa.array(records.message, pa.large_string())
    row = records.row
    packed: list[tuple[int, int, bytes]] = []
    for start, end in pairwise(bounds.tolist()):
        lines = order[start:end]
        used_texts, text_codes = np.unique(text_of_line[lines], return_inverse=True)
        service_codes, used_services = _compact(pair_service[used_texts].astype(np.int32), services)
        host_codes, used_hosts = _compact(host[lines], hosts)
        session_codes, used_sessions = _compact(session[lines], sessions)
        topic_codes, used_topics = _compact(topic[lines], topics)
        rows = row[lines]
        columns = [
            pa.array(column)
            for column in (
                text_codes.astype(np.int32),
                records.ts[lines],
                records.level[lines],
                group[lines],
                session_codes,
                host_codes,
                topic_codes,
                raw.partition[rows],
                raw.offset[rows],
                records.index[lines],
                raw.timestamp_ms[rows],
            )
        ]
        columns.append(messages.take(pa.array(lines)))
        batch = pa.record_batch(columns, schema=_SCHEMA)
        names = {"hosts": used_hosts, "sessions": used_sessions, "topics": used_topics}
        shard_texts = [
            f"{used_services[s]}\0{texts[t]}" for s, t in zip(service_codes, pair_text[used_texts], strict=True)
        ]
        blob = _serialise(used_services, shard_texts, service_codes, names, refused if not packed else [], [batch])
        packed.append((int(lines[0]), int(shard[lines[0]]), blob))
    return [(which, blob) for _, which, blob in packed]


def _group_keys(service: I32, services: list[str], session: I32, sessions: list[str]) -> U64:
    pairs, inverse = np.unique(service.astype(np.int64) * (len(sessions) + 1) + session + 1, return_inverse=True)
    which_service, which_session = np.divmod(pairs, len(sessions) + 1)
    keys = np.fromiter(
        (
            group_key(services[s], sessions[n - 1] if n else None)
            for s, n in zip(which_service.tolist(), which_session.tolist(), strict=True)
        ),
        np.uint64,
        len(pairs),
    )
    return keys[inverse]


def _serialise(
    services: list[str],
    texts: list[str],
    service_of_text: I32,
    names: dict[str, list[str]],
    rejects: list[dict[str, object]],
    batches: list[pa.RecordBatch],
) -> bytes:
    header = orjson.dumps(
        {
            "services": services,
            "texts": texts,
            "service_of_text": service_of_text.tolist(),
            "hosts": names.get("hosts", []),
            "sessions": names.get("sessions", []),
            "topics": names.get("topics", []),
            "rejects": rejects,
        }
    )
    body = batches[0].serialize() if batches else b""
    return b"".join((_HEAD.pack(VERSION, len(header)), header, memoryview(body)))


def unpack(blob: bytes) -> Lines:
    """The lines of a packed batch.

    Raises:
        ValueError: if the bytes are of another version; a job must not be upgraded while batches are in flight between two versions.
    """
    version, header_bytes = _HEAD.unpack_from(blob)
    if version != VERSION:
        raise ValueError(
            f"packed batch of version {version}, this job reads version {VERSION}: restart from a savepoint"
        )
    head = orjson.loads(blob[_HEAD.size : _HEAD.size + header_bytes])
    body = pa.py_buffer(blob).slice(_HEAD.size + header_bytes)
    if body.size:
        batch = pa.ipc.read_record_batch(body, _SCHEMA)
    else:
        batch = pa.record_batch([pa.array([], field.type) for field in _SCHEMA], schema=_SCHEMA)
    column = {field.name: batch.column(i) for i, field in enumerate(_SCHEMA)}
    array = {name: values.to_numpy() for name, values in column.items() if name != "message"}
    return Lines(
        services=head["services"],
        texts=head["texts"],
        service_of_text=np.array(head["service_of_text"], np.int32),
        sessions=head["sessions"],
        hosts=head["hosts"],
        topics=head["topics"],
        rejects=head["rejects"],
        messages=column["message"],
        **array,
    )
