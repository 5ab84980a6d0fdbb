"""Lines for measuring: many templates, random parameters, a stated share of windows never seen, at over 100,000 lines/s.

A slot holds one open session. A session walks round one workflow (a fixed cycle of templates of its service), so its windows
repeat those of earlier sessions; some sessions hold two foreign templates in a row, and the windows that hold both are new.

```
workflow  a b c d e f g h … a b c d …        session = 40 lines of it
foreign   a b c X Y d e f g h i j k l m …    9 windows of length 10 hold X and Y
```
Everything is a function of (seed, slot, session number): no state but one line counter a slot.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.sample.shapes import iso_time
from models.sample.shop import START_MS

Ints = NDArray[np.int64]
_WINDOW = 10
_TOUCHED = _WINDOW + 1  # windows that hold at least one of two foreign lines in a row
_NEW = _WINDOW - 1  # those that hold both; with one of them alone, windows soon repeat
_VERBS = (
    "Accepted",
    "Allocated",
    "Archived",
    "Assigned",
    "Attached",
    "Balanced",
    "Cached",
    "Checked",
    "Claimed",
    "Closed",
    "Collected",
    "Committed",
    "Compacted",
    "Copied",
    "Created",
    "Deferred",
    "Detached",
    "Dispatched",
    "Drained",
    "Elected",
)
_NOUNS = (
    "block",
    "bucket",
    "buffer",
    "channel",
    "chunk",
    "cursor",
    "document",
    "endpoint",
    "entry",
    "frame",
    "handle",
    "index",
    "lease",
    "message",
    "node",
    "object",
    "page",
    "partition",
)
_PHRASES = (
    "for tenant %d on shard %d after %d ms",
    "of %d bytes from 10.20.30.%d port %d",
    "with revision %d and offset %d in %d ms",
    "held by worker %d until epoch %d plus %d s",
    "under quota %d with %d waiting and %d running",
)
_TAIL = '"}'  # what ends a line after its message
_LETTERS = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz", np.uint8)
_FILL = "while the coordinator kept its term and the peers agreed about the order of all earlier changes in this group"


@dataclass(frozen=True)
class BenchParams:
    """What the measured lines look like.

    Args:
        lines: how many.
        services: spread evenly.
        templates: distinct templates over all services; a service uses those of `workflows_per_service` workflows.
        open_sessions: sessions under way at any time.
        session_lines: length of a session; then another with a new id takes its place.
        novel_ratio: share of the windows never seen before, once each workflow was walked once (0 gives training lines).
        line_bytes: about this long.
        random_ratio: share of lines that end with a random word, which no mask knows and no other line has.
        lines_per_s: of event time.
        workflow_lines: length of a workflow's cycle.

    Raises:
        ValueError: a figure is out of its range.
    """

    lines: int = 1_000_000
    services: int = 6
    templates: int = 320
    open_sessions: int = 600
    session_lines: int = 40
    workflow_lines: int = 16
    workflows_per_service: int = 4
    novel_ratio: float = 0.1
    line_bytes: int = 250
    random_ratio: float = 0.0
    lines_per_s: int = 10_000
    seed: int = 11
    start_ms: int = START_MS

    def __post_init__(self) -> None:
        if min(self.lines, self.services, self.open_sessions, self.lines_per_s) < 1:
            raise ValueError("lines, services, open_sessions and lines_per_s must be at least 1")
        if not self.workflow_lines <= self.templates <= len(_VERBS) * len(_NOUNS):
            raise ValueError(f"templates must lie between workflow_lines and {len(_VERBS) * len(_NOUNS)}")
        if self.session_lines < _TOUCHED + 2:
            raise ValueError(f"session_lines must be at least {_TOUCHED + 2}")
        if not 0 <= self.novel_ratio <= _NEW / self.session_lines:
            raise ValueError(f"novel_ratio can be at most {_NEW / self.session_lines:.2f} with sessions this long")
        if not 0 <= self.random_ratio <= 1:
            raise ValueError("random_ratio must lie between 0 and 1")


@dataclass(frozen=True, slots=True)
class BenchColumns:
    """One block of lines before they are written: Shapes: all int64[N]."""

    ts: Ints
    service: Ints
    session: Ints
    template: Ints


def bench_columns(params: BenchParams, block: int = 10_000) -> Iterator[BenchColumns]:
    """Blocks of (time, service, session key, template), in order."""
    rng = np.random.default_rng(params.seed)
    written = np.zeros(params.open_sessions, dtype=np.int64)  # int64[slots], lines of each slot so far
    workflows = _workflows(params)
    for start in range(0, params.lines, block):
        size = min(block, params.lines - start)
        slot = rng.integers(0, params.open_sessions, size)  # int64[N]
        at = written[slot] + _rank(slot)
        written += np.bincount(slot, minlength=params.open_sessions)
        # Slots begin at different places of their first session, so that sessions do not all end together
        at += slot * 7 % params.session_lines
        number, place = at // params.session_lines, at % params.session_lines
        key = _mix(slot * 1_000_003 + number, params.seed)
        service = (slot + number * 7) % params.services
        yield BenchColumns(
            ts=params.start_ms + (start + np.arange(size)) * 1000 // params.lines_per_s,
            service=service,
            session=key,
            template=_templates(params, workflows, service, key, place),
        )


def bench_lines(params: BenchParams, block: int = 10_000) -> Iterator[list[bytes]]:
    """Blocks of messages (flat JSON), in order; random parameters in every line.

    >>> len(next(bench_lines(BenchParams(lines=25), block=20)))
    20
    """
    formats = _formats(params)
    rng, word_rng = np.random.default_rng((params.seed, 1)), np.random.default_rng((params.seed, 2))
    names = [f"svc-{number:04d}" for number in range(params.services)]
    for columns in bench_columns(params, block):
        size = len(columns.ts)
        seconds = {second: iso_time(second * 1000)[:-5] for second in np.unique(columns.ts // 1000).tolist()}
        numbers = rng.integers(1, 255, (3, size))
        numbers[0] *= rng.integers(1, 40, size)
        rows = zip(
            columns.template.tolist(),
            (columns.ts // 1000).tolist(),
            (columns.ts % 1000).tolist(),
            columns.service.tolist(),
            columns.session.tolist(),
            *numbers.tolist(),
            strict=True,
        )
        text = [formats[t] % (seconds[s], ms, names[v], k, a, b, c) for t, s, ms, v, k, a, b, c in rows]
        if params.random_ratio:
            for line in np.flatnonzero(word_rng.random(size) < params.random_ratio).tolist():
                text[line] = f"{text[line].removesuffix(_TAIL)} {_word(word_rng)}{_TAIL}"
        yield "\n".join(text).encode().split(b"\n")


def novel_window_ratio(params: BenchParams, after: int = 0, by_service: bool = False) -> float:
    """The share of windows (the ten templates before a line, in its session) never seen before, counted one by one.

    Args:
        params: of the lines.
        after: count only the lines from this one on; the ones before still make windows known.
        by_service: the same window in another service is another window (one model a service).
    """
    history: dict[int, tuple[int, ...]] = {}
    seen: set[tuple[int, tuple[int, ...]]] = set()
    new = counted = line = 0
    for columns in bench_columns(params):
        for service, session, template in zip(
            columns.service.tolist(), columns.session.tolist(), columns.template.tolist(), strict=True
        ):
            window = history.get(session, ())
            known_as = (service if by_service else 0, window)
            if line >= after:
                counted += 1
                new += known_as not in seen
            seen.add(known_as)
            history[session] = (*window, template)[-_WINDOW:]
            line += 1
    return new / max(1, counted)


def _workflows(params: BenchParams) -> Ints:
    """int64[workflows, workflow_lines]: the cycle of templates of each workflow, over all templates."""
    amount = -(-params.templates // params.workflow_lines)
    places = np.arange(amount * params.workflow_lines) % params.templates
    return places.reshape(amount, params.workflow_lines)


def _templates(params: BenchParams, workflows: Ints, service: Ints, key: Ints, place: Ints) -> Ints:
    choice = _mix(key, 2) % params.workflows_per_service
    own = (service * params.workflows_per_service + choice) % len(workflows)
    template: Ints = workflows[own, place % params.workflow_lines]
    # The two foreign lines stand where all the windows that see them still belong to the session
    has_foreign = (_mix(key, 4) % 1_000_000) < params.novel_ratio * params.session_lines / _NEW * 1_000_000
    foreign_at = 1 + _mix(key, 5) % (params.session_lines - _TOUCHED - 1)
    is_foreign = has_foreign & ((place == foreign_at) | (place == foreign_at + 1))
    other = (service * params.workflows_per_service + _mix(key * 2 + place, 6) % params.workflows_per_service) % len(
        workflows
    )
    return np.where(is_foreign, workflows[other, _mix(key * 2 + place, 7) % params.workflow_lines], template)


def _formats(params: BenchParams) -> list[str]:
    formats = []
    for number in range(params.templates):
        verb, noun = _VERBS[number % len(_VERBS)], _NOUNS[number // len(_VERBS)]
        head = f"{verb} {noun} {_PHRASES[number % len(_PHRASES)]}"
        level = "WARN" if number % 23 == 0 else "INFO"
        shell = '{"@timestamp":"%s.%03dZ","service":"%s","level":"{level}","request_id":"%016x","message":"{text}"}'
        spare = params.line_bytes - len(shell) - len(head) - 24
        fill = _FILL[: max(0, spare)].rsplit(" ", 1)[0] if spare < len(_FILL) else _FILL
        formats.append(shell.replace("{level}", level).replace("{text}", f"{head} {fill}".strip()))
    return formats


def _word(rng: np.random.Generator) -> str:
    """Twelve random letters."""
    return rng.choice(_LETTERS, 12).tobytes().decode()


def _rank(keys: Ints) -> Ints:
    """For each element, how many equal ones stand before it.

    >>> _rank(np.array([5, 7, 5, 5, 7])).tolist()
    [0, 0, 1, 2, 1]
    """
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    lengths = np.diff(np.r_[starts, len(keys)])
    rank = np.empty(len(keys), dtype=np.int64)
    rank[order] = np.arange(len(keys)) - np.repeat(starts, lengths)
    return rank


def _mix(keys: Ints, salt: int) -> Ints:
    """Well spread non-negative numbers below 2⁶³ from keys: the finaliser of SplitMix64 (Steele et al., 2014)."""
    with np.errstate(over="ignore"):
        z = keys.astype(np.uint64) + np.uint64(salt + 1) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(1)).astype(np.int64)
