"""Growing files as numbered lines: what to read next, through rotation, truncation, deletion and restarts.

A log is a path. Its generations are the files that the path has stood for, oldest first:

```
app.log  ──→  generation 0: 1042 done        app.log.2      read to its end
              generation 1: 1077 at 88,120   app.log.1      renamed a moment ago; read to its end before the next is begun
              generation 2: 1080 at 0        app.log        what the path names now: the current one
```

A file is known by device and inode, and by a hash of its first bytes: an inode is given out again after a deletion, and a copy has
another inode. What happens to a file is told from that:

- renamed (rotation): its identity is found beside the log, or it is still open; it is read to its end, then the next.
- rotated several times since the last look: files with a rotated name that are not known are generations in between.
- truncated (shorter, or other first bytes): the log begins anew. If a copy was made first (copytruncate), reading goes on in the copy.
- deleted: what is open is read to its end. After a restart it is gone.

Lines are counted through all generations, so (path, partition, line number) is unique for ever. A last line without newline waits
for it, until its file is rotated away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from models.generations import FileId, Files, Generation, Log, Seen, age, is_copy, payload, rotated_from, versioned
from models.parsing import Raw

#: Key of the entry that holds what is common to all logs; no path is empty.
COMMON: Final = ""
#: Endings of files that are complete: they are never followed.
COMPRESSED: Final = (".gz", ".zst", ".bz2", ".xz", ".lz4", ".zip", ".br", ".Z")


@dataclass(frozen=True)
class TailParams:
    """How files are followed.

    Attributes:
        rotate_wait_ms: a file that was rotated away is read until nothing was written to it for this long and the next one has content.
        linger_ms: an open file that is quiet for this long is closed; one that was rotated away is no longer looked at.
        chunk_bytes: read from one log at a time; a line longer than this is cut in several.
        step_bytes: read in one step, from all logs.
        batch_lines: lines in a batch.
        max_gone: logs whose path names no file any more, and whose line count is kept in case it does again.
    """

    rotate_wait_ms: int = 1_000
    linger_ms: int = 300_000
    chunk_bytes: int = 4 << 20
    step_bytes: int = 16 << 20
    batch_lines: int = 10_000
    max_gone: int = 1_000

    def build(self, entries: Mapping[str, bytes] | None = None) -> Tail:
        """The tail, new or as its entries left it."""
        return Tail(self, entries or {})


@dataclass(frozen=True, slots=True)
class TailStep:
    """What one look at the files gave.

    Attributes:
        batches: the lines, in order inside each log.
        writes: entries to be kept by key; None drops one.
        has_more: there is more to be read at once.
        notes: what a person should know.
    """

    batches: list[Raw]
    writes: dict[str, bytes | None]
    has_more: bool
    notes: list[str]


class Tail:
    """All logs of one source.

    State: `COMMON` and one entry a log of at most 400 bytes a generation. Bound: the files that are there, and `max_gone` logs.
    """

    def __init__(self, params: TailParams, entries: Mapping[str, bytes]) -> None:
        self.params = params
        self._written: dict[str, bytes | None] = dict(entries)
        self._began_ms: int | None = None
        self._next_partition = 0
        if COMMON in entries:
            self._began_ms, self._next_partition = payload(entries[COMMON])
        self.logs = {path: Log.from_bytes(path, data) for path, data in entries.items() if path != COMMON}
        self._owner = {generation.file: log for log in self.logs.values() for generation in log.generations}
        self._turn = 0
        self._looked_at: set[str] = set()
        self._notes: list[str] = []

    def step(self, files: Files, now_ms: int) -> TailStep:
        """Look at every log once and read what is new, up to the bounds of a step.

        Args:
            files: the file system.
            now_ms: the time, on the clock of the files' modification times.
        """
        if self._began_ms is None:
            self._began_ms = now_ms
        self._notes, self._looked_at = [], set()
        named = {seen.path: seen for seen in files.logs()}
        for path in named:
            base = rotated_from(path)
            if path not in self.logs and base not in named and base not in self.logs:
                self.logs[path] = Log(path, self._next_partition)
                self._next_partition += 1
        lines = _Lines()
        has_more = self._read_in_turn(named, files, now_ms, lines)
        self._forget(named, files)
        return TailStep(lines.batches(self.params.batch_lines), self._writes(), has_more, self._notes)

    def check(self) -> None:
        """Passes when no file belongs to two places at once and every partition to one log."""
        files = [generation.file for log in self.logs.values() for generation in log.generations]
        assert len(files) == len(set(files)), "a file is read twice"
        partitions = [log.partition for log in self.logs.values()]
        assert len(partitions) == len(set(partitions)), "a partition has two logs"
        assert all(partition < self._next_partition for partition in partitions), (
            "a partition number is given out again"
        )

    # -- which files a log stands for ----------------------------------------------------------------------------------

    def _settle(self, log: Log, seen: Seen | None, files: Files) -> None:
        """Bring a log's generations up to date with what its path names."""
        if seen is not None and not self._may_read(log, seen, files):
            seen = None
        if log.is_found and (seen is None or seen == log.seen):
            log.seen = seen
            return
        if seen is not None and not files.hold(seen):
            return  # replaced since it was seen; the next look tells
        last = log.generations[-1] if log.generations else None
        is_same = seen is not None and last is not None and last.file == seen.file and last.is_in(seen, files)
        if not (log.is_found and is_same):
            self._find(log, seen, files)
        log.seen, log.is_found, log.is_idle = seen, True, False

    def _may_read(self, log: Log, seen: Seen, files: Files) -> bool:
        """False where another log reads that file and has not done with it; what it has done with is handed over."""
        other = self._other(log, seen, files)
        if other is None:
            return True
        generation = next(generation for generation in other.generations if generation.file == seen.file)
        if not generation.is_done or (other.seen is not None and other.seen.file == seen.file):
            return False
        generation.is_done = False
        other.generations.remove(generation)
        log.generations.append(generation)
        self._owner[seen.file] = log
        self._looked_at |= {log.path, other.path}
        return True

    def _other(self, log: Log, seen: Seen, files: Files) -> Log | None:
        """The other log that a file belongs to."""
        owner = self._owner.get(seen.file)
        if owner is None or owner is log:
            return None
        if files.held(seen.file) is not None:  # as long as a file is open, its inode is its own
            return owner
        if not files.hold(seen):
            return owner
        generation = next(generation for generation in owner.generations if generation.file == seen.file)
        is_known = generation.is_in(seen, files)
        files.release(seen.file)
        if is_known:
            return owner
        owner.generations.remove(generation)  # its file is gone, and the inode was given out again
        del self._owner[seen.file]
        self._looked_at.add(owner.path)
        return None

    def _find(self, log: Log, seen: Seen | None, files: Files) -> None:
        """Find each generation's file again, under whatever name, and add those that are new."""
        near = {other.file: other for other in files.beside(log.path) if self._other(log, other, files) is None}
        if seen is not None:
            near[seen.file] = seen
        tried = {generation.file for generation in log.generations} | set(near)
        # Of a file of which nothing was read, nothing but the inode is known; once it was closed, that may be another's.
        blank = {g.file for g in log.generations if not g.position and files.held(g.file) is None}
        known = [generation for generation in log.generations if generation.file not in blank]
        found = self._by_identity(known, near, files)
        unknown = [
            other
            for file, other in near.items()
            if file not in found and (other is seen or file in blank or rotated_from(other.path) == log.path)
        ]
        kept = set(found.values())
        found |= self._by_content([generation for generation in known if generation not in kept], unknown, files)
        self._disown(log)
        for file, generation in found.items():
            generation.file = file
        kept = set(found.values())
        self._tell_lost([generation for generation in known if generation not in kept], log)
        current = found.get(seen.file, Generation(seen.file)) if seen is not None else None
        log.generations = [generation for generation in known if generation in kept and generation is not current]
        is_begun = current is not None and current.position > 0  # whatever is older was known by then
        if not is_begun and (current is not None or not log.is_found):
            others = [other for other in unknown if other is not seen and other.file not in found]
            there = [*filter(None, (seen, *(files.held(generation.file) for generation in log.generations)))]
            log.generations += self._missed(others, known, there, blank, files)
        if current is not None:
            current.is_done = False
            log.generations.append(current)
        self._owner |= {generation.file: log for generation in log.generations}
        for file in tried - {generation.file for generation in log.generations}:
            files.release(file)

    def _disown(self, log: Log) -> None:
        for generation in log.generations:
            if self._owner.get(generation.file) is log:
                del self._owner[generation.file]

    def _tell_lost(self, lost: list[Generation], log: Log) -> None:
        if any(not generation.is_done for generation in lost):
            self._notes.append(
                f"{log.path}: the file that was being read is gone: truncated, or deleted or compressed while nobody looked; "
                "lines that were in it and not read yet are lost"
            )

    def _by_identity(
        self, known: list[Generation], near: Mapping[FileId, Seen], files: Files
    ) -> dict[FileId, Generation]:
        """Generations whose file is open, or beside the log, and begins as it did."""
        found = {}
        for generation in known:
            there = files.held(generation.file) or near.get(generation.file)
            if there is not None and files.hold(there) and generation.is_in(there, files):
                found[there.file] = generation
        return found

    def _by_content(self, lost: list[Generation], unknown: list[Seen], files: Files) -> dict[FileId, Generation]:
        """Generations that go on in a copy: one with the same first bytes, and all that was read."""
        found: dict[FileId, Generation] = {}
        for generation in lost:
            for other in unknown:
                is_free = generation.position and other.file not in found and other.size >= generation.position
                if is_free and files.hold(other) and generation.is_in(other, files):
                    found[other.file] = generation
                    break
        return found

    def _missed(
        self, unknown: list[Seen], known: list[Generation], there: list[Seen], blank: set[FileId], files: Files
    ) -> list[Generation]:
        """Rotated files of a log that nobody looked at, oldest first: written since the tail began, and no copy.

        Args:
            unknown: the files in question.
            known: the generations up to now; what was read of them may be gone.
            there: the files of those that are there, and the current one.
            blank: files that were followed, though nothing was read yet; they may be older.
            files: the file system.
        """
        assert self._began_ms is not None
        new = []
        for other in sorted(unknown, key=age):
            is_new = other.modified_ms >= self._began_ms or other.file in blank
            if not (other.size and is_new and files.hold(other)):
                continue
            is_known = any(generation.has_copy(other, files) for generation in known)
            is_double = any(is_copy(other, original, files) for original in there)
            new.append(Generation.copied(other, files) if is_known or is_double else Generation(other.file))
        return new

    # -- reading -------------------------------------------------------------------------------------------------------

    def _read_in_turn(self, named: Mapping[str, Seen], files: Files, now_ms: int, lines: _Lines) -> bool:
        """Read from each log, beginning with the one at which the last step was full; True if there is more."""
        logs = list(self.logs.values())
        has_more = False
        start, self._turn = self._turn, 0
        for number in range(len(logs)):
            at = (start + number) % len(logs)
            if lines.size >= self.params.step_bytes:
                self._turn = at
                return True
            self._settle(logs[at], named.get(logs[at].path), files)
            if not logs[at].is_idle:
                self._looked_at.add(logs[at].path)
                has_more |= self._read(logs[at], files, now_ms, lines)
        return has_more

    def _read(self, log: Log, files: Files, now_ms: int, lines: _Lines) -> bool:
        """Read what is new, oldest generation first; True if there is more to be read at once."""
        # Newest first: once a later file has content, its writer is done with the ones before, and their sizes are final.
        there = [files.held(generation.file) for generation in reversed(log.generations)][::-1]
        log.is_idle = True
        for number, (generation, here) in enumerate(zip(log.generations, there, strict=True)):
            if here is None:
                continue  # it was quiet for so long that it was closed
            is_current = log.seen is not None and log.seen.file == generation.file
            if not is_current and not generation.is_in(here, files):
                log.is_found = log.is_idle = False  # truncated under another name, or none
                return True
            if not self._take(log, generation, here, files, lines):
                log.is_idle = False
                return True
            quiet_ms = now_ms - here.modified_ms
            is_quiet = not 0 <= quiet_ms < self.params.rotate_wait_ms  # a time to come is that of another clock
            has_next = any(later is not None and later.size > 0 for later in there[number + 1 :])
            is_dead = quiet_ms >= self.params.linger_ms
            if not is_current and is_quiet and (generation.is_done or has_next or is_dead):
                self._take_rest(log, generation, here, files, lines)
                generation.is_done = True
            if is_dead:
                files.release(generation.file)
            else:
                log.is_idle = False
            if not (is_current or generation.is_done):
                break
        return False

    def _take(self, log: Log, generation: Generation, here: Seen, files: Files, lines: _Lines) -> bool:
        """Take one chunk's whole lines; True if the file's end was reached."""
        count = min(self.params.chunk_bytes, here.size - generation.position)
        data = files.read(generation.file, generation.position, count) if count > 0 else b""
        is_at_end = not data or generation.position + len(data) >= here.size
        end = data.rfind(b"\n") + 1
        if not end and len(data) == self.params.chunk_bytes:
            end = len(data)  # a line beyond all measure: cut
        if end:
            self._add(log, generation, data[:end], here, files, lines)
        return is_at_end

    def _take_rest(self, log: Log, generation: Generation, here: Seen, files: Files, lines: _Lines) -> None:
        """Take the last line of a file that was rotated away, though no newline ends it."""
        if rest := files.read(generation.file, generation.position, max(0, here.size - generation.position)):
            self._add(log, generation, rest, here, files, lines)

    def _add(self, log: Log, generation: Generation, data: bytes, here: Seen, files: Files, lines: _Lines) -> None:
        generation.advance(len(data), files)
        values = [line.rstrip(b"\r") for line in data.removesuffix(b"\n").split(b"\n")]
        lines.add(log, values, len(data), here.modified_ms)
        log.line += len(values)

    # -- state ---------------------------------------------------------------------------------------------------------

    def _forget(self, named: Mapping[str, Seen], files: Files) -> None:
        """Drop the oldest logs that are gone and closed, beyond the bound; one that comes back has another partition."""
        gone = [
            log
            for path, log in self.logs.items()
            if path not in named and log.is_found and not any(map(files.held, (g.file for g in log.generations)))
        ]
        for log in sorted(gone, key=lambda log: log.partition)[: max(0, len(gone) - self.params.max_gone)]:
            del self.logs[log.path]
            self._looked_at.add(log.path)
            self._disown(log)

    def _writes(self) -> dict[str, bytes | None]:
        """The entries that differ from those written last."""
        now = {path: self.logs[path].to_bytes() if path in self.logs else None for path in self._looked_at}
        now[COMMON] = versioned([self._began_ms, self._next_partition])
        writes = {path: entry for path, entry in now.items() if self._written.get(path) != entry}
        self._written |= writes
        for path in self._looked_at - self.logs.keys():
            del self._written[path]
        return writes


class _Lines:
    """Lines on their way into batches."""

    def __init__(self) -> None:
        self.size = 0
        self._parts: list[tuple[Log, int, list[bytes], int]] = []

    def add(self, log: Log, values: list[bytes], size: int, modified_ms: int) -> None:
        """Take the next lines of a log, whose first is number `log.line`."""
        self.size += size
        self._parts.append((log, log.line, values, modified_ms))

    def batches(self, batch_lines: int) -> list[Raw]:
        """All lines, cut into batches."""
        if not self._parts:
            return []
        logs, firsts, values, modified = zip(*self._parts, strict=True)
        counts = [len(part) for part in values]
        flat = [value for part in values for value in part]
        topic = [log.path for log, count in zip(logs, counts, strict=True) for _ in range(count)]
        partition = np.repeat(np.array([log.partition for log in logs], np.int32), counts)
        offset = np.concatenate([np.arange(f, f + n, dtype=np.int64) for f, n in zip(firsts, counts, strict=True)])
        timestamp_ms = np.repeat(np.array(modified, np.int64), counts)
        return [
            Raw(flat[low:high], _one(topic[low:high]), partition[low:high], offset[low:high], timestamp_ms[low:high])
            for low, high in pairwise([*range(0, len(flat), batch_lines), len(flat)])
        ]


def _one(topics: list[str]) -> list[str] | str:
    """One for all, where all are the same."""
    return topics[0] if len(set(topics)) == 1 else topics
