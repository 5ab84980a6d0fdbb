"""What a detector is: learn from normal lines, then give each line of a batch a score; higher is stranger.

```
training lines ─ Corpus ─→ params.learn ─→ Learned (arrays and facts: the artefact's part)
                                              │ params.build
batch ─ Seen ─→ detector.step ─→ Scores ──────┘──→ fusion: p-values against normal scores, one verdict
                detector.explain ─→ Evidence: one sentence for a person
```

A score has no unit that another detector could read: fusion compares it with the scores of the same detector on held-out normal
lines. It must only order lines. NaN means: nothing to say of this line.

Every detector passes tests/unit/test_detectors.py: same seed, same result; any cut into batches, the same scores; state restored at
any cut goes on as if nothing had happened; inputs unchanged; state within its bound.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Final, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Bools = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]
UInt8 = npt.NDArray[np.uint8]

DIGITS: Final = 5  # scores are rounded, so that neither the cut into batches nor the number of threads shows
Report = Callable[[str, float, float | None], None]  # (what is being done, share done 0–1, loss or None)


def quiet(what: str, done: float, loss: float | None) -> None:
    """A report that nobody reads."""


@dataclass(frozen=True, slots=True)
class Ends:
    """Sessions that came to an end: their deadline passed with no further line.

    Shapes: `windows int32[E, h]` classes of the last lines, the newest last; `key uint64[E]`; `ts int64[E]` of the newest line.
    """

    windows: Int32
    key: UInt64
    ts: Int64

    def __len__(self) -> int:
        return len(self.ts)


@dataclass(frozen=True, slots=True)
class Seen:
    """One model's lines of a batch, in source order, as every detector sees them.

    Shapes: [N] columns unless said.

    Attributes:
        code: class of the line's template: 1 unknown to the model, from 2 on the model's templates.
        windows: `int32[N, h]` classes of the lines before it in its session; 0 where there is none.
        seq: number of its template in the shard; tells unknown templates apart, means nothing across restarts of a training.
        ts: event time, ms.
        now: the newest event time of its service up to and with this line, ms; it never falls.
        level: 0 none, 1 TRACE … 6 FATAL.
        key: of its session, or of the service's own sequence for lines without one.
        service: key of its service.
        has_session: whether `key` is a session.
        is_late: too late for its window, which is then empty.
        text: index into `texts`.
        texts: distinct masked texts.
        message: the redacted messages, one a line.
        ends: sessions that ended in this batch.
    """

    code: Int32
    windows: Int32
    seq: Int32
    ts: Int64
    now: Int64
    level: UInt8
    key: UInt64
    service: UInt64
    has_session: Bools
    is_late: Bools
    text: Int32
    texts: Sequence[str]
    message: pa.LargeStringArray
    ends: Ends

    def __len__(self) -> int:
        return len(self.ts)

    def take(self, rows: npt.NDArray[np.integer[Any]], ends: npt.NDArray[np.integer[Any]] | None = None) -> Seen:
        """These lines only, in this order; and these ends, all if None."""
        columns = {
            column.name: getattr(self, column.name)[rows]
            for column in fields(self)
            if column.name not in ("texts", "message", "ends")
        }
        kept = self.ends
        if ends is not None:
            kept = Ends(kept.windows[ends], kept.key[ends], kept.ts[ends])
        return replace(self, **columns, message=self.message.take(pa.array(rows)), ends=kept)


@dataclass(frozen=True, slots=True)
class Scores:
    """How strange each line is, and each end; NaN where the detector has nothing to say.

    Shapes: `line float32[N]`, `end float32[E]`.
    """

    line: Float32
    end: Float32

    @classmethod
    def silent(cls, seen: Seen) -> Scores:
        """Nothing to say of anything."""
        return cls(np.full(len(seen), np.nan, np.float32), np.full(len(seen.ends), np.nan, np.float32))


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a person is told.

    Attributes:
        sentence: what was seen, and what was expected instead.
        expected: likely classes at this place with their probability, the likeliest first.
        nearest: the nearest normal text, where there is such a thing.
        differing: the tokens of the line that the nearest text lacks.
    """

    sentence: str
    expected: Sequence[tuple[int, float]] = ()
    nearest: str | None = None
    differing: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Corpus:
    """Normal lines to learn from, in source order, cut into batches.

    Attributes:
        batches: the lines.
        names: template text by class; empty for 0 and 1. A session's end is the class `len(names)`.
        length: lines in a window.
        is_held: which lines a network may look at to stop fitting, but not learn from; None lets the detector choose.
    """

    batches: Sequence[Seen]
    names: Sequence[str]
    length: int
    is_held: Bools | None = None

    def __len__(self) -> int:
        return sum(map(len, self.batches))

    def column(self, name: str) -> npt.NDArray[Any]:
        """One column over all batches."""
        return np.concatenate([getattr(batch, name) for batch in self.batches])


@dataclass(frozen=True, slots=True)
class Learned:
    """What a detector has learned, as the artefact keeps it: arrays as safetensors, facts as JSON."""

    arrays: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


class Detector(ABC):
    """A detector at work in one shard.

    State: none, unless the four methods below say otherwise; then per shard, with a bound in its params.
    """

    @abstractmethod
    def step(self, seen: Seen) -> Scores:
        """The scores of a batch; state moves on by it."""

    @abstractmethod
    def explain(self, seen: Seen, at: int, *, is_end: bool = False) -> Evidence:
        """Why line `at` (or end `at`) of the batch that `step` saw last has its score."""

    def touched(self) -> bytes:
        """The state changed since the last call, for `apply`; empty if there is none."""
        return b""

    def to_bytes(self) -> bytes:
        """All state, for `apply` on a fresh detector."""
        return b""

    def apply(self, data: bytes) -> None:
        """Put in what `to_bytes` and then each later `touched` gave, in order.

        Raises: ValueError for bytes of another version.
        """
        if data:
            raise ValueError(f"{type(self).__name__} keeps no state, but the job's state holds some for it")

    def drop(self, service: int) -> None:  # noqa: B027 — without state there is nothing to do
        """Forget a service, by its key."""

    def check(self) -> None:  # noqa: B027 — without state there is nothing to check
        """Raise AssertionError unless the state is whole and within its bound."""


class Params(Protocol):
    """The frozen parameters of a kind of detector; the class is what registry.py lists.

    Attributes:
        name: in settings, artefacts and anomalies.
        is_heavy: asked for a second opinion on what was told, not about every line.
        family: what it looks at: the `order` of lines, their `text`, their `number`, the `value`s in them. Those of one family share one voice.
        is_fitted_once: too slow to be learned again for calibration, which then takes its word on held-out lines.
        is_service_wide: speaks of the whole service and not of the session of the line that shows it.
    """

    name: ClassVar[str]
    is_heavy: ClassVar[bool]
    family: ClassVar[str]
    is_fitted_once: ClassVar[bool]
    is_service_wide: ClassVar[bool]

    def learn(self, corpus: Corpus, *, seed: int = 0, report: Report = quiet) -> Learned:
        """What these normal lines teach.

        Raises: DataSetError if they are too few, with how many are needed.
        """
        ...

    def build(self, learned: Learned, names: Sequence[str]) -> Detector:
        """A detector with empty state; `names` as in `Corpus`.

        Raises: ValueError if what was learned does not hold together.
        """
        ...
