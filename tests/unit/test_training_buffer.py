from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import ArtefactError, SettingsError
from models.training_buffer import Covered, RedisParams, Sequence, SequenceBatch, sequences


def batch(rows: list[tuple[int, int, int]], services: int = 3) -> SequenceBatch:
    """Rows of (service, partition, offset); ids, sessions and times follow from the offset."""
    columns = np.array(rows, np.int64).reshape(-1, 3)
    offset = columns[:, 2]
    return SequenceBatch.of(
        services=[f"s{n}" for n in range(services)],
        topics=["logs"],
        service=columns[:, 0].astype(np.int32),
        topic=np.zeros(len(columns), np.int32),
        partition=columns[:, 1].astype(np.int32),
        offset=offset,
        template_ids=(offset * 7 + 0xF000_0000).astype(np.uint32),
        sessions=(offset.astype(np.uint64) << np.uint64(50)) + np.uint64(1),
        ts_ms=1_700_000_000_000 + offset,
        templates=[("s0", 7, "took <*> ms")],
    )


def entries(made: SequenceBatch, service: str) -> list[dict[bytes, bytes]]:
    """As redis-py gives stream entries back."""
    return [
        {k.encode(): v if isinstance(v, bytes) else str(v).encode() for k, v in s.fields().items()}
        for s in made.sequences
        if s.service == service
    ]


def offsets_of(service: str, stream: list[dict[bytes, bytes]]) -> list[tuple[int, int]]:
    return [(s.partition, int(o)) for s in sequences(service, stream) for o in s.offsets]


def test_a_batch_is_cut_by_service_and_partition_with_its_first_and_last_offset():
    made = batch([(0, 0, 5), (1, 0, 6), (0, 1, 9), (0, 0, 8), (1, 0, 7)])
    assert [(s.service, s.partition, s.first_offset, s.last_offset, s.lines) for s in made.sequences] == [
        ("s0", 0, 5, 8, 2),
        ("s0", 1, 9, 9, 1),
        ("s1", 0, 6, 7, 2),
    ]


def test_an_empty_batch_has_no_sequence():
    assert batch([]).sequences == ()


@pytest.mark.parametrize("lines", [2, 3, 63, 64, 65, 500])
def test_a_sequence_round_trips_with_the_full_range_of_each_column(lines: int):
    zeros = np.zeros(lines, np.int32)
    columns = {
        "offset": np.linspace(1 << 40, (1 << 40) + 0xFFFF_FFFF, lines).astype(np.int64),
        "template_ids": np.linspace(0, 0xFFFF_FFFF, lines).astype(np.uint32),
        "sessions": np.arange(lines, dtype=np.uint64) + np.uint64(0xFFFF_FFFF_FFFF_FFFF - lines + 1),
        "ts_ms": np.linspace(-1, 1 << 60, lines).astype(np.int64),
    }
    (packed,) = SequenceBatch.of(["s"], ["t"], zeros, zeros, zeros, **columns).sequences
    again = Sequence.unpack("s", "t", 0, packed.packed)
    for column, given_column in zip(("offsets", "template_ids", "sessions", "ts_ms"), columns.values(), strict=True):
        assert getattr(again, column).tolist() == given_column.tolist()
        assert getattr(again, column).dtype == given_column.dtype


def test_offsets_further_apart_than_the_format_holds_are_refused():
    zeros, offset = np.zeros(2, np.int32), np.array([0, 1 << 32])
    with pytest.raises(ValueError, match="smaller batches"):
        SequenceBatch.of(["s"], ["t"], zeros, zeros, zeros, offset, zeros.astype("u4"), zeros.astype("u8"), offset)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(0, 50)), max_size=30))
def test_a_batch_round_trips_as_an_element(rows: list[tuple[int, int, int]]):
    made = batch(rows)
    assert SequenceBatch.from_bytes(made.to_bytes()) == made


def test_bytes_of_another_version_or_damaged_ones_are_refused_with_what_to_do():
    good = batch([(0, 0, 1)]).sequences[0].packed
    for bad in (b"\x02" + good[1:], good[:-3], b"", good[:1] + b"\x07" + good[2:], good[:2] + b"\xff" * 4 + good[6:]):
        with pytest.raises(ArtefactError):
            Sequence.unpack("s", "t", 0, bad)
    with pytest.raises(ArtefactError):
        SequenceBatch.from_bytes(b"\x09" + batch([]).to_bytes()[1:])
    with pytest.raises(ArtefactError, match="no sequence"):
        list(sequences("s", [{b"x": b"y"}]))


def test_a_small_packet_cannot_claim_a_huge_result():
    import struct

    import zstandard

    bomb = struct.pack("<BBIq", 1, 1, 10, 0) + zstandard.ZstdCompressor().compress(b"\0" * 10_000_000)
    with pytest.raises(ArtefactError):
        Sequence.unpack("s", "t", 0, bomb)


def test_a_replay_doubles_no_line():
    stream = entries(batch([(0, 0, n) for n in range(100)]), "s0")
    assert offsets_of("s0", stream + stream) == [(0, n) for n in range(100)]


def test_records_of_one_message_share_an_offset_and_all_count():
    assert offsets_of("s0", entries(batch([(0, 0, 4), (0, 0, 4), (0, 0, 5)]), "s0")) == [(0, 4), (0, 4), (0, 5)]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(0, 1), min_size=1, max_size=40),
    st.lists(st.integers(0, 39), max_size=8),
    st.lists(st.integers(0, 39), max_size=8),
    st.integers(0, 39),
    st.integers(0, 39),
)
def test_whatever_the_cuts_of_first_run_and_replay_each_line_comes_once_in_order(
    services: list[int], first_cuts: list[int], second_cuts: list[int], died_at: int, restored_at: int
):
    """Oracle: the lines of the service. The first run dies after a batch, the replay starts at a checkpoint before it."""

    def run(rows: list[tuple[int, int, int]], cuts: list[int], start: int) -> list[dict[bytes, bytes]]:
        edges = sorted({start, *(cut for cut in cuts if cut > start), len(rows)})
        return [e for a, b in itertools.pairwise(edges) for e in entries(batch(rows[a:b]), "s0")]

    rows = [(service, 0, offset) for offset, service in enumerate(services)]
    done = rows[:died_at]
    stream = run(done, first_cuts, 0) + run(rows, second_cuts, min(restored_at, len(done)))
    assert offsets_of("s0", stream) == [(0, offset) for offset, service in enumerate(services) if service == 0]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 12)), max_size=20))
def test_covered_ranges_agree_with_a_set_and_stay_disjoint(ranges: list[tuple[int, int]]):
    covered, oracle = Covered(), set()
    probe = np.arange(-1, 80)
    for first, length in ranges:
        covered.add(first, first + length)
        oracle |= set(range(first, first + length + 1))
        assert covered.fresh(probe).tolist() == [offset not in oracle for offset in probe.tolist()]
    edges = [edge for pair in zip(covered._first, covered._last, strict=True) for edge in pair]
    assert edges == sorted(edges)


def test_an_address_names_everything_and_its_secrets_stay_out_of_sight():
    params = RedisParams.from_url("rediss://me:topsecret@cache.example/3?max_entries=10&prefix=dw")
    assert (params.host, params.port, params.database, params.is_tls) == ("cache.example", 6379, 3, True)
    assert params.sequences_key("cart") == "dw:sequences:cart"
    assert params.templates_key("cart") == "dw:templates:cart"
    assert "topsecret" not in repr(params)


def test_all_faults_of_an_address_are_told_at_once():
    with pytest.raises(SettingsError, match=r"number of a database.*max_entries.*colour"):
        RedisParams.from_url("redis://h/x?max_entries=0&colour=blue")
