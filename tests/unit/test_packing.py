from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from models.packing import group_key, pack, shard_of, unpack
from models.parsing import Raw, Records, Reject

SHARDS = 4


def _records(rows: list[tuple[str, str | None, str]]) -> tuple[Raw, Records]:
    count = len(rows)
    raw = Raw(
        values=[b""] * count,
        topic="logs",
        partition=np.zeros(count, np.int32),
        offset=np.arange(100, 100 + count, dtype=np.int64),
        timestamp_ms=np.full(count, 5, np.int64),
    )
    return raw, Records(
        row=np.arange(count, dtype=np.int32),
        index=np.zeros(count, np.int32),
        ts=np.arange(count, dtype=np.int64),
        service=[service for service, _, _ in rows],
        level=np.full(count, 3, np.uint8),
        host=[None] * count,
        session=[session for _, session, _ in rows],
        message=[message for _, _, message in rows],
    )


ROWS = st.lists(
    st.tuples(
        st.sampled_from(["cart", "mail", "stock", "ördér"]),
        st.sampled_from([None, "s-1", "s-2"]),
        st.text(min_size=1, max_size=12),
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=40, deadline=None)
@given(ROWS)
def test_every_line_arrives_once_in_order_in_the_shard_of_its_service(rows: list[tuple[str, str | None, str]]) -> None:
    raw, records = _records(rows)
    masked = [message.upper() for _, _, message in rows]
    expected: dict[int, list[tuple[int, str, str | None, str, str]]] = {}
    for offset, ((service, session, message), text) in enumerate(zip(rows, masked, strict=True), start=100):
        expected.setdefault(shard_of(service, SHARDS), []).append((offset, service, session, message, text))
    found = {}
    for shard, blob in pack(raw, records, masked, [], SHARDS):
        lines = unpack(blob)
        found[shard] = [
            (
                int(lines.offset[line]),
                lines.services[lines.service_of_text[lines.text[line]]],
                lines.sessions[lines.session[line]] if lines.session[line] >= 0 else None,
                lines.message(line),
                lines.texts[lines.text[line]].split("\0", 1)[1],
            )
            for line in range(len(lines))
        ]
        groups = [group_key(service, session) for _, service, session, _, _ in found[shard]]
        assert lines.group.tolist() == groups
        assert len(set(lines.texts)) == len(lines.texts)
    assert found == expected


def test_rejects_ride_with_the_first_shard_and_alone_when_there_is_no_line() -> None:
    raw, records = _records([("cart", None, "a"), ("mail", None, "b")])
    refused = [Reject(1, 0, "empty", "parse", "blank", b"", "00")]
    blobs = [unpack(blob) for _, blob in pack(raw, records, ["a", "b"], refused, SHARDS)]
    assert [len(lines.rejects) for lines in blobs] == [1, 0]
    assert blobs[0].rejects[0]["offset"] == 101
    _, nothing = _records([])
    ((shard, blob),) = pack(raw, nothing, [], refused, SHARDS)
    assert (shard, len(unpack(blob)), unpack(blob).rejects[0]["reason"]) == (0, 0, "empty")


def test_an_empty_batch_gives_nothing() -> None:
    raw, records = _records([])
    assert pack(raw, records, [], [], SHARDS) == []
