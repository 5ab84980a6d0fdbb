"""Following files: a simulated file system on which a writer, a rotator and a reader take turns."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.generations import HEAD_BYTES, FileId, Generation, Seen, fingerprint, rotated_from
from models.tail import COMMON, Tail, TailParams

LOG = "/logs/app.log"
BEGIN_MS = 1_700_000_000_000


@dataclass(eq=False)
class Inode:
    number: int
    data: bytearray = field(default_factory=bytearray)
    modified_ms: int = 0

    @property
    def file(self) -> FileId:
        return 1, self.number


class Disk:
    """Files with names and inodes; the lowest free inode is given out first, as ext4 and tmpfs do."""

    def __init__(self) -> None:
        self.names: dict[str, Inode] = {}
        self.open: dict[FileId, tuple[str, Inode]] = {}  # what the reader holds
        self.now_ms = BEGIN_MS
        self.followed = [LOG]

    def create(self, path: str, *also_open: Inode) -> Inode:
        taken = {inode.number for inode in [*self.names.values(), *also_open, *(i for _, i in self.open.values())]}
        inode = Inode(min(set(range(1, len(taken) + 2)) - taken), modified_ms=self.now_ms)
        self.names[path] = inode
        return inode

    def write(self, inode: Inode, data: bytes) -> None:
        inode.data += data
        inode.modified_ms = self.now_ms

    def _seen(self, path: str, inode: Inode) -> Seen:
        return Seen(path, inode.file, len(inode.data), inode.modified_ms * 1_000_000)

    def logs(self) -> list[Seen]:
        return [self._seen(path, self.names[path]) for path in sorted(self.followed) if path in self.names]

    def beside(self, path: str) -> list[Seen]:
        return [self._seen(name, inode) for name, inode in self.names.items() if not name.endswith(".gz")]

    def hold(self, seen: Seen) -> bool:
        if seen.file in self.open:
            return True
        inode = self.names.get(seen.path)
        if inode is None or inode.file != seen.file:
            return False
        self.open[seen.file] = seen.path, inode
        return True

    def held(self, file: FileId) -> Seen | None:
        return self._seen(*self.open[file]) if file in self.open else None

    def release(self, file: FileId) -> None:
        self.open.pop(file, None)

    def read(self, file: FileId, start: int, count: int) -> bytes:
        return bytes(self.open[file][1].data[start : start + count])


class Reader:
    """The tail with its checkpoints: what was read after the last one is read again after a restart."""

    def __init__(self, disk: Disk, params: TailParams | None = None) -> None:
        self.disk = disk
        self.params = params or TailParams()
        self.tail: Tail = self.params.build()
        self.entries: dict[str, bytes] = {}
        self.lines: list[tuple[str, int, int, bytes]] = []  # path, partition, offset, line
        self.notes: list[str] = []
        self._kept: tuple[dict[str, bytes], list[tuple[str, int, int, bytes]]] = ({}, [])

    def poll(self) -> None:
        has_more = True
        while has_more:
            step = self.tail.step(self.disk, self.disk.now_ms)
            for raw in step.batches:
                assert 0 < len(raw.values) <= self.params.batch_lines
                topics = [raw.topic] * len(raw.values) if isinstance(raw.topic, str) else raw.topic
                self.lines += zip(topics, raw.partition.tolist(), raw.offset.tolist(), raw.values, strict=True)
            for key, entry in step.writes.items():
                if entry is None:
                    del self.entries[key]
                else:
                    self.entries[key] = entry
            self.notes += step.notes
            has_more = step.has_more
            self.tail.check()

    def checkpoint(self) -> None:
        self._kept = dict(self.entries), list(self.lines)

    def restart(self) -> None:
        self.entries, self.lines = dict(self._kept[0]), list(self._kept[1])
        self.disk.open.clear()
        self.tail = self.params.build(self.entries)

    def settle(self) -> None:
        """Look often enough that every rotated file has been waited for."""
        for _ in range(2 * len(self.disk.names) + 2):
            self.disk.now_ms += self.params.rotate_wait_ms
            self.poll()

    def values(self, path: str = LOG) -> list[bytes]:
        """The lines of a log; their numbers go from 0 without a gap, in one partition."""
        mine = [(partition, offset, value) for name, partition, offset, value in self.lines if name == path]
        assert [offset for _, offset, _ in mine] == list(range(len(mine)))
        assert len({partition for partition, _, _ in mine}) <= 1
        return [value for _, _, value in mine]


@pytest.fixture
def disk() -> Disk:
    return Disk()


def rotate(disk: Disk, path: str = LOG) -> None:
    """app.log → app.log.1 → app.log.2 …, the last way round."""
    numbers = [n for n in range(99) if f"{path}.{n}" in disk.names]
    for number in reversed(numbers):
        disk.names[f"{path}.{number + 1}"] = disk.names.pop(f"{path}.{number}")
    disk.names[f"{path}.1"] = disk.names.pop(path)


def test_lines_come_as_they_are_written_and_a_partial_one_waits_for_its_newline(disk):
    reader, log = Reader(disk), disk.create(LOG)
    disk.write(log, b"one\r\ntwo\nthr")
    reader.poll()
    assert reader.values() == [b"one", b"two"]
    reader.settle()
    assert reader.values() == [b"one", b"two"]
    disk.write(log, b"ee\n")
    reader.poll()
    assert reader.lines[-1] == (LOG, 0, 2, b"three")


def test_the_time_of_a_line_is_when_its_file_was_written(disk):
    disk.write(disk.create(LOG), b"one\n")
    disk.now_ms += 5_000
    (raw,) = Reader(disk).tail.step(disk, disk.now_ms).batches
    assert raw.timestamp_ms.tolist() == [BEGIN_MS]
    assert raw.offset.dtype == raw.timestamp_ms.dtype == np.int64
    assert raw.partition.dtype == np.int32


def test_a_rotated_file_is_read_to_its_end_before_the_next_is_begun(disk):
    reader, old = Reader(disk), disk.create(LOG)
    disk.write(old, b"one\n")
    reader.poll()
    rotate(disk)
    new = disk.create(LOG)
    disk.write(old, b"two\nlast without newline")
    disk.write(new, b"three\n")
    reader.poll()
    assert reader.values() == [b"one", b"two"]
    reader.settle()
    assert reader.values() == [b"one", b"two", b"last without newline", b"three"]


def test_the_wait_for_a_rotated_file_is_over_a_second_after_its_last_write(disk):
    reader, old = Reader(disk), disk.create(LOG)
    disk.write(old, b"one\n")
    rotate(disk)
    disk.write(disk.create(LOG), b"two\n")
    disk.now_ms += 999
    reader.poll()
    assert reader.values() == [b"two"], "written before the job began, and rotated away"
    reader, disk.now_ms = Reader(disk), BEGIN_MS
    disk.names.clear()
    old = disk.create(LOG)
    reader.poll()
    disk.write(old, b"one\n")
    rotate(disk)
    disk.write(disk.create(LOG), b"two\n")
    disk.now_ms += 999
    reader.poll()
    assert reader.values() == [b"one"]
    disk.now_ms += 1
    reader.poll()
    assert reader.values() == [b"one", b"two"]


def test_a_writer_that_has_not_reopened_its_log_yet_is_waited_for(disk):
    reader, old = Reader(disk), disk.create(LOG)
    reader.poll()
    rotate(disk)
    disk.create(LOG)  # by logrotate, empty
    reader.settle()
    disk.write(old, b"written after the rotation\n")
    reader.settle()
    assert reader.values() == [b"written after the rotation"]


def test_what_another_process_still_writes_to_a_rotated_file_is_read_too(disk):
    reader, old = Reader(disk), disk.create(LOG)
    reader.poll()
    rotate(disk)
    disk.write(disk.create(LOG), b"one\n")
    reader.settle()
    disk.write(old, b"late\n")
    reader.settle()
    assert reader.values() == [b"one", b"late"]


def test_several_rotations_between_two_looks_lose_nothing(disk):
    reader, log = Reader(disk), disk.create(LOG)
    reader.poll()
    for number in range(5):
        disk.write(log, b"%d\n" % number)
        rotate(disk)
        log = disk.create(LOG)
    disk.write(log, b"5\n")
    reader.settle()
    assert reader.values() == [b"%d" % number for number in range(6)]


def test_rotated_files_from_before_the_first_start_are_not_read(disk):
    disk.write(disk.create(f"{LOG}.1"), b"old\n")
    disk.now_ms += 60_000
    log = disk.create(LOG)
    disk.write(log, b"one\n")
    reader = Reader(disk)
    reader.poll()
    rotate(disk)
    disk.write(disk.create(LOG), b"two\n")
    reader.settle()
    assert reader.values() == [b"one", b"two"]


def test_a_deleted_file_is_read_to_its_end_and_its_inode_may_come_back(disk):
    reader, log = Reader(disk), disk.create(LOG)
    disk.write(log, b"first line of the first file\n")
    reader.poll()
    disk.write(log, b"two\n")
    del disk.names[LOG]
    reader.checkpoint()
    reader.settle()
    assert reader.values() == [b"first line of the first file", b"two"]
    reader.checkpoint()
    reader.restart()  # nothing is open any more
    again = disk.create(LOG)
    assert again.number == log.number
    disk.write(again, b"another line of a second file\n")
    reader.settle()
    assert reader.values() == [b"first line of the first file", b"two", b"another line of a second file"]
    assert len(reader.notes) == 1


@pytest.mark.parametrize("is_longer", [False, True], ids=["shorter than before", "already longer than before"])
def test_a_truncated_file_begins_anew(disk, is_longer):
    reader, log = Reader(disk), disk.create(LOG)
    disk.write(log, b"a line\nanother line\n")
    reader.poll()
    log.data.clear()
    disk.now_ms += 1
    disk.write(log, b"new line\n" * (9 if is_longer else 1))
    reader.poll()
    assert reader.values()[2:] == [b"new line"] * (9 if is_longer else 1)
    (note,) = reader.notes
    assert LOG in note
    assert "truncated" in note


def copy_of(disk: Disk, path: str) -> None:
    rotated = f"{LOG}.1"
    copy = disk.create(rotated)
    disk.write(copy, bytes(disk.names[path].data))


def test_reading_goes_on_in_the_copy_that_was_made_before_a_truncation(disk):
    reader, log = Reader(disk), disk.create(LOG)
    disk.write(log, b"1: a line that was read\n")
    reader.poll()
    disk.write(log, b"2: a line that was not\n")
    copy_of(disk, LOG)
    log.data.clear()
    disk.write(log, b"3: a line after that\n")
    reader.settle()
    assert [value[:2] for value in reader.values()] == [b"1:", b"2:", b"3:"]
    rotate(disk)
    disk.write(disk.create(LOG), b"4: the copy is not read again when it is renamed\n")
    reader.settle()
    assert [value[:2] for value in reader.values()] == [b"1:", b"2:", b"3:", b"4:"]
    assert not reader.notes


@pytest.mark.parametrize("lines", [1, 30, 80], ids=["of a line", "below a KiB", "above a KiB"])
def test_a_copy_that_ends_before_what_was_read_is_never_read(disk, lines):
    reader, log = Reader(disk), disk.create(LOG)
    reader.poll()
    for number in range(lines):
        disk.write(log, b"%02d: the number of the line is first\n" % number)
    copy_of(disk, LOG)
    disk.write(log, b"written between copy and truncation\n")
    reader.poll()
    log.data.clear()
    disk.write(log, b"after it\n")
    reader.settle()
    rotate(disk)
    disk.write(disk.create(LOG), b"last\n")
    reader.settle()
    assert reader.values()[lines:] == [b"written between copy and truncation", b"after it", b"last"]


def test_another_inode_with_the_same_content_is_the_same_file_after_a_restart(disk):
    """Device numbers may change when a machine boots, and inodes when a volume is restored."""
    reader, log = Reader(disk), disk.create(LOG)
    disk.write(log, b"a line of the log\n")
    reader.poll()
    reader.checkpoint()
    disk.create("/logs/other")
    moved = disk.create(LOG)
    disk.write(moved, b"a line of the log\nmore\n")
    assert moved.file != log.file
    reader.restart()
    reader.settle()
    assert reader.values() == [b"a line of the log", b"more"]


def test_many_logs_have_partitions_of_their_own_and_share_batches(disk):
    disk.followed = [f"/logs/{name}.log" for name in "cab"]
    reader = Reader(disk)
    for path in disk.followed:
        disk.write(disk.create(path), path.encode() + b"\n")
    (raw,) = reader.tail.step(disk, disk.now_ms).batches
    assert raw.topic == sorted(disk.followed)
    assert raw.partition.tolist() == [0, 1, 2]


def test_of_files_that_are_followed_a_rotated_one_is_no_log_of_its_own(disk):
    disk.followed = [LOG, f"{LOG}.1", "/logs/app-2024-01-31.log"]
    disk.write(disk.create(f"{LOG}.1"), b"old\n")
    disk.now_ms += 1
    disk.write(disk.create(LOG), b"one\n")
    reader = Reader(disk)
    reader.poll()
    disk.names["/logs/app-2024-01-31.log"] = disk.names.pop(LOG)
    disk.write(disk.create(LOG), b"two\n")
    reader.settle()
    assert {path for path, *_ in reader.lines} == {LOG}
    assert reader.values() == [b"one", b"two"]


def test_a_file_renamed_to_another_followed_name_is_not_read_twice_and_goes_on_there(disk):
    other = "/logs/other.log"
    disk.followed = [LOG, other]
    reader, log = Reader(disk), disk.create(LOG)
    disk.write(log, b"one\n")
    reader.poll()
    disk.names[other] = disk.names.pop(LOG)
    disk.write(disk.create(LOG), b"two\n")
    reader.settle()
    disk.write(log, b"three\n")
    reader.settle()
    assert reader.values() == [b"one", b"two"]
    assert reader.values(other) == [b"three"]


def test_two_names_of_one_file_are_one_log(disk):
    disk.followed = [LOG, "/logs/current"]
    reader, log = Reader(disk), disk.create(LOG)
    disk.names["/logs/current"] = log
    disk.write(log, b"one\n")
    reader.settle()
    disk.write(log, b"two\n")
    reader.settle()
    assert [value for *_, value in reader.lines] == [b"one", b"two"]


def test_quiet_files_are_closed_and_opened_again_when_they_grow(disk):
    reader, log = Reader(disk), disk.create(LOG)
    disk.write(log, b"one\ntw")
    reader.poll()
    assert disk.open
    disk.now_ms += reader.params.linger_ms
    reader.poll()
    assert not disk.open
    reader.poll()
    disk.write(log, b"o\n")
    reader.poll()
    assert reader.values() == [b"one", b"two"]


def test_a_deleted_file_is_not_kept_open_for_ever(disk):
    reader, log = Reader(disk), disk.create(LOG)
    disk.write(log, b"one\ntwo")
    reader.poll()
    del disk.names[LOG]
    disk.now_ms += reader.params.linger_ms
    reader.poll()
    assert not disk.open
    assert reader.values() == [b"one", b"two"]


def test_a_step_is_bounded_and_gives_each_log_its_turn(disk):
    disk.followed = [f"/logs/{name}.log" for name in "ab"]
    for path in disk.followed:
        disk.write(disk.create(path), b"0123456\n" * 10)
    params = TailParams(chunk_bytes=16, step_bytes=16, batch_lines=3)
    tail = params.build()
    seen = []
    for _ in range(4):
        step = tail.step(disk, disk.now_ms)
        assert step.has_more
        assert sum(len(raw.values) for raw in step.batches) == 2
        seen += [raw.topic for raw in step.batches]
    assert seen == [*disk.followed, *disk.followed]
    reader = Reader(disk, params)
    reader.poll()
    assert [len(reader.values(path)) for path in disk.followed] == [10, 10]


def test_a_line_beyond_all_measure_is_cut(disk):
    reader, log = Reader(disk, TailParams(chunk_bytes=8)), disk.create(LOG)
    disk.write(log, b"x" * 20)
    reader.poll()
    disk.write(log, b"x\nshort\n")
    reader.poll()
    assert reader.values() == [b"x" * 8, b"x" * 8, b"x" * 5, b"short"]


def test_logs_that_are_gone_are_forgotten_beyond_a_bound_and_their_partition_is_not_given_out_again(disk):
    reader = Reader(disk, TailParams(max_gone=2))
    for number in range(5):
        disk.followed = [f"/logs/{number}.log"]
        disk.write(disk.create(disk.followed[0]), b"x\n")
        reader.poll()
        if number % 2:  # it is closed before it is deleted, or after
            disk.now_ms += reader.params.linger_ms
            reader.poll()
        del disk.names[disk.followed[0]]
        disk.now_ms += reader.params.linger_ms
        reader.poll()
    assert sorted(reader.entries) == [COMMON, "/logs/3.log", "/logs/4.log"]
    disk.followed = ["/logs/0.log"]
    disk.write(disk.create("/logs/0.log"), b"y\n")
    reader.poll()
    assert reader.lines[-1] == ("/logs/0.log", 5, 0, b"y")


def test_a_look_at_quiet_files_writes_no_state(disk):
    reader = Reader(disk)
    disk.write(disk.create(LOG), b"one\n")
    reader.poll()
    assert reader.tail.step(disk, disk.now_ms + 10).writes == {}


def test_state_of_another_version_is_refused(disk):
    with pytest.raises(ValueError, match="version"):
        TailParams().build({LOG: b"\x07[0,0,[]]"})


@given(st.binary(max_size=2 * HEAD_BYTES), st.integers(0, 2 * HEAD_BYTES), st.booleans())
def test_a_copy_is_known_at_any_length_and_another_file_is_not(content, cut, is_changed):
    disk = Disk()
    log, copy = disk.create(LOG), disk.create(f"{LOG}.1")
    head = bytes([content[0] ^ 1]) + content[1:] if is_changed and content else content
    disk.write(log, content)
    disk.write(copy, head[:cut])
    seen, other = disk.logs()[0], disk.beside(LOG)[1]
    assert disk.hold(seen)
    assert disk.hold(other)
    read = Generation(log.file, len(content), fingerprint(content[:HEAD_BYTES]))
    is_other = is_changed and content and cut
    assert read.is_in(other, disk) == (cut >= len(content) and not is_other)
    assert read.has_copy(other, disk) == (32 <= cut < len(content) and not is_other)


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("app.log.12", "app.log"),
        ("app.log.old", "app.log"),
        ("app.log-20240131-1706659200", "app.log"),
        ("app.log.2024-01-31_12", "app.log"),
        ("app.1.log", "app.log"),
        ("app-2024-01-31.log", "app.log"),
        ("app.2024-01-31.log", "app.log"),
        ("catalina.out-20240131", "catalina.out"),
        ("web-2", None),
        ("app.log", None),
        (".1", None),
    ],
)
def test_the_names_that_rotation_gives(name, base):
    assert rotated_from(name) == base
    assert rotated_from(f"/var/log/{name}") == (base and f"/var/log/{base}")


# -- a writer, a rotator and a reader in any order ---------------------------------------------------------------------

RENAMES = ["line", "line", "partial", "rotate", "rename", "create", "expire", "poll", "poll", "checkpoint", "restart"]
ANY = [*RENAMES, "copy", "truncate", "delete"]
PADDINGS = st.sampled_from([1, 40, 600])


class World:
    """One writer with an open log, and the truth of what it wrote."""

    def __init__(self) -> None:
        self.disk = Disk()
        self.inode = self.disk.create(LOG)
        self.files = [self.inode]  # every file the log was, in order
        self.number = 0
        self.reader = Reader(self.disk)
        self.reader.poll()
        self.reader.checkpoint()
        self.at_risk: set[bytes] = set()  # what a truncation removed
        self.removed: list[Inode] = []
        self.is_copied = False  # logrotate copies and truncates; nothing is renamed in between

    def step(self, what: str, padding: int, wait_ms: int) -> None:
        self.disk.now_ms += wait_ms
        if self.is_copied and what in ("rotate", "rename", "create", "copy", "delete"):
            what = "truncate"
        getattr(self, what)(padding)

    def _text(self, padding: int) -> bytes:
        self.number += 1
        return b"%08d:" % self.number + b"x" * (23 + padding)  # 32 bytes, the least that tells a copy

    def line(self, padding: int) -> None:
        self.disk.write(self.inode, self._text(padding) + b"\n")

    def partial(self, padding: int) -> None:
        self.disk.write(self.inode, self._text(padding))

    def rename(self, padding: int) -> None:
        if LOG in self.disk.names:
            rotate(self.disk)

    def create(self, padding: int) -> None:
        """The writer reopens its log."""
        if LOG not in self.disk.names:
            self.inode = self.disk.create(LOG, self.inode)
            self.files.append(self.inode)

    def rotate(self, padding: int) -> None:
        self.rename(padding)
        self.create(padding)

    def expire(self, padding: int) -> None:
        """Delete the oldest rotated file, if a checkpoint covers all of it."""
        numbers = [n for n in range(99) if f"{LOG}.{n}" in self.disk.names]
        if numbers:
            path = f"{LOG}.{numbers[-1]}"
            inode, safe = self.disk.names[path], {value for *_, value in self.reader._kept[1]}
            if inode is not self.inode and set(lines_of(inode)) <= safe:
                del self.disk.names[path]

    def copy(self, padding: int) -> None:
        """copytruncate's first half."""
        numbers = [n for n in range(99) if f"{LOG}.{n}" in self.disk.names]
        for number in reversed(numbers):
            self.disk.names[f"{LOG}.{number + 1}"] = self.disk.names.pop(f"{LOG}.{number}")
        if self.disk.names.get(LOG) is self.inode:
            copy_of(self.disk, LOG)
            self.is_copied = True

    def truncate(self, padding: int) -> None:
        """copytruncate's second half, or somebody's `> app.log`."""
        self.is_copied = False
        self.at_risk |= set(lines_of(self.inode))
        self.inode.data.clear()
        self.inode.modified_ms = self.disk.now_ms

    def delete(self, padding: int) -> None:
        """The log or any rotated file is removed."""
        paths = sorted(self.disk.names)
        if paths:
            path = paths[padding % len(paths)]
            self.removed.append(self.disk.names.pop(path))

    def poll(self, padding: int) -> None:
        self.reader.poll()

    def checkpoint(self, padding: int) -> None:
        self.reader.checkpoint()

    def restart(self, padding: int) -> None:
        self.reader.restart()

    def end(self) -> None:
        self.reader.settle()
        self.create(0)
        self.inode.data += b"\n"  # the last partial line's end, or an empty line
        self.inode.modified_ms = self.disk.now_ms
        self.reader.settle()


def lines_of(inode: Inode) -> list[bytes]:
    return bytes(inode.data).removesuffix(b"\n").split(b"\n") if inode.data else []


def moves(kinds: list[str]) -> st.SearchStrategy[list[tuple[str, int, int]]]:
    waits = st.sampled_from([0, 1, 250, 1_000, 2_000])
    return st.lists(st.tuples(st.sampled_from(kinds), PADDINGS, waits), max_size=40)


@settings(max_examples=150, deadline=None)
@given(moves(RENAMES))
def test_with_rotation_by_renaming_no_line_is_lost_and_none_comes_twice(steps):
    world = World()
    for step in steps:
        world.step(*step)
    world.end()
    assert world.reader.values() == [line for inode in world.files for line in lines_of(inode)]


@settings(max_examples=150, deadline=None)
@given(moves(ANY))
def test_whatever_happens_to_files_no_line_comes_twice_and_only_what_was_removed_is_lost(steps):
    world = World()
    for step in steps:
        world.step(*step)
    world.end()
    numbers = [int(value[:8]) for value in world.reader.values() if value]
    assert len(numbers) == len(set(numbers))
    written = {line for inode in world.files for line in lines_of(inode) if line}
    lost = {int(line[:8]) for line in written} - set(numbers)
    risked = {int(line[:8]) for line in world.at_risk.union(*map(lines_of, world.removed)) if line}
    assert lost <= risked
