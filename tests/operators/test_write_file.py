"""The file sink, opened and called as Flink would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from pyflink.common import Row

from udfs.one_key import under_one_key
from udfs.write_file import WriteFileFn


class FakeState:
    """A ValueState that is an attribute."""

    stored: int | None = None

    def value(self) -> int | None:
        return self.stored

    def update(self, value: int) -> None:
        self.stored = value


class FakeRuntime:
    """What open() asks for."""

    def __init__(self, state: FakeState) -> None:
        self.get_state = lambda descriptor: state


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "new" / "out.jsonl"


def opened(out: Path, state: FakeState, *, has_anomalies: bool = False) -> WriteFileFn:
    function = WriteFileFn(str(out), has_anomalies=has_anomalies)
    function.open(FakeRuntime(state))
    return function


def write(function: WriteFileFn, *elements: bytes) -> None:
    for element in elements:
        assert list(function.process_element(element, None)) == []


def anomaly(number: int, **fields: Any) -> bytes:
    return orjson.dumps({"anomaly_id": f"a{number}", "revision": 0} | fields)


def test_the_lines_of_an_element_are_in_the_file_when_the_call_returns(out):
    function = opened(out, FakeState())
    write(function, b'{"n":1}\n{"n":2}', b'{"n":3}')
    assert out.read_bytes() == b'{"n":1}\n{"n":2}\n{"n":3}\n'
    function.close()


def test_what_was_written_after_the_checkpoint_is_written_once_however_it_is_cut(out):
    state = FakeState()
    function = opened(out, state)
    write(function, b"1", b"2\n3")
    kept = state.stored
    write(function, b"4\n5", b"6")
    function.close()
    state.stored = kept
    again = opened(out, state)
    assert out.read_bytes() == b"1\n2\n3\n4\n5\n6\n", "the state can be read with the first element only"
    write(again, b"4", b"5\n6\n7")
    assert out.read_bytes() == b"1\n2\n3\n4\n5\n6\n7\n"
    again.close()


def test_without_a_checkpoint_only_a_torn_last_line_is_cut_off(out):
    out.parent.mkdir()
    out.write_bytes(b"1\n2\nto")
    function = opened(out, FakeState())
    write(function, b"3")
    assert out.read_bytes() == b"1\n2\n3\n"
    function.close()


def test_a_file_that_somebody_moved_away_is_begun_anew(out):
    state = FakeState()
    function = opened(out, state)
    write(function, b"1", b"2")
    function.close()
    out.rename(out.with_name("moved"))
    again = opened(out, state)
    write(again, b"3")
    assert out.read_bytes() == b"3\n"
    assert state.stored == 2
    again.close()


def test_anomalies_that_an_earlier_run_wrote_are_left_out(out):
    first = opened(out, FakeState(), has_anomalies=True)
    write(first, anomaly(1) + b"\n" + anomaly(2))
    first.close()
    second = opened(out, FakeState(), has_anomalies=True)
    write(second, anomaly(2) + b"\n" + anomaly(2, revision=1) + b"\n" + anomaly(3))
    second.close()
    assert out.read_bytes().splitlines() == [anomaly(1), anomaly(2), anomaly(2, revision=1), anomaly(3)]


def test_lines_and_messages_become_rows_under_one_key():
    assert under_one_key(b"lines") == Row("one", b"lines")
    assert under_one_key(Row(b"key", b"line")) == Row("one", b"line")
