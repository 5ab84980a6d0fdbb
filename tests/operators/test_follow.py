"""Following real files, and the operator around it, opened and called as Flink would."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from models.batch import BatchParams
from models.packing import unpack
from models.tail import TailParams
from udfs.follow import LOOK_MS, FollowFilesFn, LogFiles, matching

PARAMS = BatchParams(shards=1).to_json()
LONG_AGO_S = 1_600_000_000


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "app.log"


@pytest.fixture
def files(log: Path) -> Iterator[LogFiles]:
    made = LogFiles(str(log))
    yield made
    made.close()


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


class FakeState:
    """A MapState that is a dict."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}

    def items(self) -> Any:
        return list(self.data.items())

    def put(self, key: str, value: bytes) -> None:
        self.data[key] = value

    def remove(self, key: str) -> None:
        del self.data[key]


class FakeRuntime:
    """What open() asks for."""

    def __init__(self, state: FakeState) -> None:
        self.get_map_state = lambda descriptor: state


class FakeContext:
    """Timers that were set."""

    def __init__(self) -> None:
        self.timers: set[int] = set()

    def timer_service(self) -> FakeContext:
        return self

    def register_processing_time_timer(self, at: int) -> None:
        self.timers.add(at)


def opened(state: FakeState, pattern: object) -> FollowFilesFn:
    function = FollowFilesFn(PARAMS, str(pattern))
    function.open(FakeRuntime(state))
    return function


def look(function: FollowFilesFn) -> list[tuple[int, str]]:
    """One look: (offset, message) of each line."""
    found = []
    for row in function.on_timer(0, FakeContext()):
        lines = unpack(row[1])
        found += [(offset, lines.message(at)) for at, offset in enumerate(lines.offset.tolist())]
    return found


def test_lines_are_packed_as_they_come_and_go_on_after_a_restart(log):
    state = FakeState()
    function = opened(state, log)
    assert look(function) == []
    append(log, "2024-01-31 10:00:00 INFO one\n2024-01-31 10:00:01 INFO tw")
    assert look(function) == [(0, "one")]
    function.close()
    append(log, "o\n")
    again = opened(state, log)
    assert look(again) == [(1, "two")]
    log.rename(log.with_name("app.log.1"))
    append(log.with_name("app.log.1"), "2024-01-31 10:00:02 INFO three\n")
    os.utime(log.with_name("app.log.1"), (LONG_AGO_S, LONG_AGO_S))
    append(log, "2024-01-31 10:00:03 INFO four\n")
    assert look(again) == [(2, "three"), (3, "four")]
    again.close()


def test_an_element_starts_one_timer_on_the_full_interval_and_a_look_the_next(log):
    function = opened(FakeState(), log)
    ctx = FakeContext()
    assert list(function.process_element(b"", ctx)) == []
    list(function.on_timer(0, ctx))
    assert 1 <= len(ctx.timers) <= 2
    assert all(timer % LOOK_MS == 0 for timer in ctx.timers)


def test_a_look_reads_on_until_nothing_is_left(log):
    log.write_bytes(b"".join(b"2024-01-31 10:00:00 INFO %06d %s\n" % (n, b"x" * 900) for n in range(10_000)))
    function = opened(FakeState(), log)
    found = look(function) + look(function)  # 9 MB: two chunks, several batches
    assert [offset for offset, _ in found] == list(range(10_000))
    function.close()


def test_positions_of_files_that_are_gone_leave_the_state(tmp_path, monkeypatch):
    state = FakeState()
    function = opened(state, tmp_path)
    monkeypatch.setattr(
        "udfs.follow.TailParams", lambda batch_lines: TailParams(rotate_wait_ms=0, linger_ms=0, max_gone=0)
    )
    append(tmp_path / "a.log", "2024-01-31 10:00:00 INFO one\n")
    assert look(function) == [(0, "one")]
    assert str(tmp_path / "a.log") in state.data
    (tmp_path / "a.log").unlink()
    look(function)
    look(function)
    assert list(state.data) == [""]


def test_a_folder_a_pattern_and_a_path_name_files_and_leave_out_the_rest(tmp_path):
    for name in ("b.log", "a.log", "a.log.gz", ".hidden.log", "c.txt"):
        (tmp_path / name).write_text(name)
    (tmp_path / "sub").mkdir()
    (tmp_path / "gone.log").symlink_to("nowhere")

    def names(pattern: object) -> list[str]:
        return [Path(seen.path).name for seen in LogFiles(str(pattern)).logs()]

    assert names(tmp_path) == ["a.log", "b.log", "c.txt"]
    assert names(tmp_path / "*.log") == ["a.log", "b.log"]
    assert names(tmp_path / ".hidden.log") == [".hidden.log"]
    assert names(tmp_path / "absent.log") == []
    assert names(tmp_path / "nowhere" / "*.log") == []
    assert matching(str(tmp_path / "b.log")) == [tmp_path / "b.log"]


def test_a_link_is_followed_by_its_own_name_and_is_no_other_file_beside_it(tmp_path, log):
    (tmp_path / "real-2024-01-31.log").write_text("x\n")
    log.symlink_to("real-2024-01-31.log")
    files = LogFiles(str(log))
    (seen,) = files.logs()
    assert seen.path == str(log)
    assert [other.path for other in files.beside(seen.path)] == [str(tmp_path / "real-2024-01-31.log")]
    assert files.beside(str(tmp_path / "nowhere" / "app.log")) == []


def test_a_file_that_is_held_is_read_under_any_name_and_after_its_deletion(log, files):
    log.write_text("one two")
    (seen,) = files.logs()
    assert files.held(seen.file) is None
    assert files.hold(seen)
    assert files.hold(seen)
    log.rename(log.with_name("app.log.1"))
    assert files.read(seen.file, 4, 99) == b"two"
    log.with_name("app.log.1").unlink()
    assert files.read(seen.file, 0, 3) == b"one"
    assert files.held(seen.file).size == 7
    files.release(seen.file)
    files.release(seen.file)
    assert files.held(seen.file) is None


def test_a_name_that_means_another_file_by_now_is_not_held(log, files):
    log.write_text("one")
    (seen,) = files.logs()
    (log.with_name("new")).write_text("two")
    shutil.move(log.with_name("new"), log)
    assert not files.hold(seen)
    log.unlink()
    assert not files.hold(seen)


def test_real_files_are_followed_through_rotation_truncation_and_restart(log):
    """logrotate on a real file system, where inodes are given out again."""
    state, written, found, rotated = FakeState(), [], [], log.with_name("app.log.1")
    function = opened(state, log)
    look(function)
    for number in range(60):
        append(log, f"2024-01-31 10:00:00 INFO number {number} in this log\n")
        written.append(f"number {number} in this log")
        if number % 7 == 3:
            for old in range(4, 0, -1):
                if (path := log.with_name(f"app.log.{old}")).exists():
                    path.rename(log.with_name(f"app.log.{old + 1}"))
            if number % 2:
                log.rename(rotated)
                log.touch()
            else:
                found += look(function)
                shutil.copyfile(log, rotated)
                os.truncate(log, 0)
            os.utime(rotated, (LONG_AGO_S + number, LONG_AGO_S + number))  # nothing waits for its writer
        if number % 5 == 2:
            found += look(function)
        if number % 11 == 10:
            found += look(function)
            function.close()
            function = opened(state, log)
    found += look(function)
    function.close()
    assert found == list(enumerate(written))
