"""The training buffer of one service as training lines: in order, without suspects, with templates as an artefact keeps them.

```
sequences (by partition, each line once) ─ gather ─→ BufferedLines ─ without ─→ BufferedLines ─ Buffer ─→ models.train.learn
                                           in order   no suspects, nothing that people called anomalous
```

The buffer holds template ids, sessions and times; no message, no level. The detectors that need those cannot learn here: `LEARNABLE` names the others.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from models.detectors.registry import REGISTRY
from models.detectors.rows import mix
from models.drain import PARAMETER
from models.masking import LITERAL_PARAMETER, MaskParams, tokenise
from models.packing import group_key
from models.templates import ENTRY_VERSION, OVERFLOW_ID, display
from models.training_buffer import Sequence as Packed
from models.training_set import Part

Bools = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]
UInt32 = npt.NDArray[np.uint32]
UInt64 = npt.NDArray[np.uint64]

#: What stands in the buffer for a line that was withheld, as a suspect or because its service had too many templates.
WITHHELD: Final = OVERFLOW_ID
#: Detectors that need the message or the masked text of a line.
_NEEDS_TEXT: Final = frozenset({"rapid", "semantic", "deeplog-value", "autoencoder"})
LEARNABLE: Final = tuple(name for name in REGISTRY if name not in _NEEDS_TEXT)

_LONG: Final = (
    1_000  # lines of a session that is no request but a container or a host: one suspect in it must not cost all
)
_PART: Final = 10_000  # lines of a part, as a batch of the job has them


@dataclass(frozen=True, slots=True, eq=False)
class BufferedLines:
    """Lines of one service in source order.

    Shapes: all [N]; `template uint32` (external ids, 0 for a line withheld), `key uint64` (of the session, or of a stretch of the service's
    own sequence), `has_session bool`, `ts int64` (event time, ms).
    """

    service: str
    template: UInt32
    key: UInt64
    has_session: Bools
    ts: Int64

    def __len__(self) -> int:
        return len(self.ts)

    @property
    def sessions(self) -> int:
        """How many sessions there are."""
        return len(np.unique(self.key[self.has_session]))

    @property
    def minutes(self) -> float:
        """From the earliest line to the latest."""
        return float(self.ts.max() - self.ts.min()) / 60_000 if len(self) else 0.0

    def take(self, rows: npt.NDArray[Any]) -> BufferedLines:
        """These lines only."""
        return BufferedLines(self.service, self.template[rows], self.key[rows], self.has_session[rows], self.ts[rows])

    def joined(self, into: Mapping[int, int]) -> BufferedLines:
        """With templates that count as another one replaced by it."""
        if not into:
            return self
        used, which = np.unique(self.template, return_inverse=True)
        last = np.array([into.get(number, number) for number in used.tolist()], np.uint32)
        return replace(self, template=last[which.ravel()])

    def before(self) -> UInt32:
        """The template of the line before each in its session or stretch; 0 for the first."""
        order = np.argsort(self.key, kind="stable")
        follows = self.key[order[1:]] == self.key[order[:-1]]
        found = np.zeros(len(self), np.uint32)
        found[order[1:][follows]] = self.template[order[:-1][follows]]
        return found

    def without(self, is_out: Bools) -> BufferedLines:
        """The lines without those: a session that holds one is left out whole, a long one and the service's own sequence are parted there.

        >>> lines = BufferedLines("s", np.array([5, 6, 7], "u4"), np.full(3, 9, "u8"), np.zeros(3, bool), np.arange(3))
        >>> parted = lines.without(np.array([False, True, False]))
        >>> parted.template.tolist(), len(set(parted.key.tolist()))
        ([5, 7], 2)
        """
        if not is_out.any():
            return self
        _, which, count = np.unique(self.key, return_inverse=True, return_counts=True)
        which = which.ravel()
        outs = np.bincount(which, weights=is_out)
        is_short = self.has_session & (count[which] <= _LONG)
        kept = ~is_out & ~(is_short & (outs[which] > 0))
        order = np.argsort(which, kind="stable")
        stretch = np.empty(len(self), np.int64)  # lines left out of the same key up to this one
        stretch[order] = np.cumsum(is_out[order]) - (np.cumsum(outs) - outs)[which[order]].astype(np.int64)
        key = np.where(stretch > 0, mix(self.key, stretch), self.key)
        return BufferedLines(self.service, self.template[kept], key[kept], self.has_session[kept], self.ts[kept])

    def sha256(self) -> str:
        """Of the lines themselves."""
        columns = (self.template, self.key, self.has_session, self.ts)
        return hashlib.sha256(b"".join(np.ascontiguousarray(column).tobytes() for column in columns)).hexdigest()


def gather(service: str, sequences: Iterable[Packed]) -> BufferedLines:
    """The lines of a service's sequences, in the order in which a job may have read them.

    Inside a partition that is the order of offsets. Partitions are merged by the newest event time that each had reached, so that a session
    whose lines lie in several is in the order of its times, and lines of one partition never change places.
    """
    parts = list(sequences)
    if not parts:
        none = np.zeros(0, np.int64)
        return BufferedLines(service, none.astype(np.uint32), none.astype(np.uint64), none.astype(np.bool_), none)
    places = {place: at for at, place in enumerate(sorted({(part.topic, part.partition) for part in parts}))}
    place = np.concatenate([np.full(len(part.offsets), places[part.topic, part.partition]) for part in parts])
    offset = np.concatenate([part.offsets for part in parts])
    ts = np.concatenate([part.ts_ms for part in parts])
    order = np.lexsort((offset, place))  # stable: lines of one record stay in order
    reached = ts[order]
    starts = np.searchsorted(place[order], np.arange(len(places) + 1))
    for low, high in itertools.pairwise(starts.tolist()):
        reached[low:high] = np.maximum.accumulate(reached[low:high])
    order = order[np.argsort(reached, kind="stable")]
    key = np.concatenate([part.sessions for part in parts])[order]
    own = np.uint64(group_key(service, None))
    has_session = (key != own) & (key != 0)
    return BufferedLines(
        service,
        np.concatenate([part.template_ids for part in parts])[order],
        np.where(has_session, key, own),
        has_session,
        ts[order],
    )


class BufferedTemplates:
    """The templates of a service from their ids and texts; a `models.training_set.MinedTemplates`.

    The text that made a template is not in the buffer; its present tokens stand for it. A job that kept its templates knows them by id; one that
    mined them anew finds their kin by these tokens, but for texts that begin with a value.

    Args:
        service: whose they are.
        texts: template id → text, as the buffer's hash has them.
        masking: how texts become tokens.
    """

    def __init__(self, service: str, texts: Mapping[int, str], masking: MaskParams) -> None:
        self.service = service
        known = sorted(number for number in texts if number != WITHHELD)
        found = tokenise([texts[number] for number in known], masking)
        self.tokens = [tuple(PARAMETER if one == LITERAL_PARAMETER else one for one in tokens) for tokens in found]
        self._ids = np.array(known, np.uint32)

    @property
    def ids(self) -> UInt32:
        """The external id of each template, by seq; ascending."""
        return self._ids

    def template(self, seq: int) -> str:
        """The text of a template."""
        return display(self.tokens[seq])

    def export(self, service: str) -> list[dict[str, Any]]:
        """The templates as an artefact keeps them."""
        rows = zip(self._ids.tolist(), map(" ".join, self.tokens), strict=True)
        entries = [(seq, number, text) for seq, (number, text) in enumerate(rows) if service == self.service]
        return [
            {"v": ENTRY_VERSION, "seq": seq, "id": number, "service": service, "created": text, "tokens": text}
            for seq, number, text in entries
        ]

    def seq(self, template: UInt32) -> npt.NDArray[np.int32]:
        """The seq of each id; −1 where there is no text of it."""
        if not len(self._ids):
            return np.full(len(template), -1, np.int32)
        at = np.minimum(np.searchsorted(self._ids, template), len(self._ids) - 1)
        return np.where(self._ids[at] == template, at, -1).astype(np.int32)


class Buffer:
    """Lines and templates together, as `models.train.learn` takes them; a `models.training_set.Gathered`.

    Only templates that the lines have are in it: what was seen in sessions left out was not learned.

    Raises: KeyError if a line's template has no text; `textless` says which those are.
    """

    def __init__(self, lines: BufferedLines, texts: Mapping[int, str], masking: MaskParams) -> None:
        self.lines = lines
        used = np.unique(lines.template).tolist()
        self.templates = BufferedTemplates(lines.service, {number: texts[number] for number in used}, masking)

    @property
    def services(self) -> list[str]:
        """The one service."""
        return [self.lines.service]

    @cached_property
    def parts(self) -> Sequence[Part]:
        """The lines in parts of the size of a batch."""
        texts = [self.templates.template(seq) for seq in range(len(self.templates.ids))]
        return [self._part(low, texts) for low in range(0, len(self.lines), _PART)]

    def _part(self, low: int, texts: Sequence[str]) -> Part:
        lines = self.lines.take(np.arange(low, min(low + _PART, len(self.lines))))
        count = len(lines)
        seq = self.templates.seq(lines.template)
        return Part(
            seq=seq,
            ts=lines.ts,
            level=np.zeros(count, np.uint8),
            group=lines.key,
            service=np.zeros(count, np.int32),
            has_session=lines.has_session,
            text=seq,
            texts=texts,
            message=pa.nulls(count, pa.large_string()),
        )


def textless(lines: BufferedLines, texts: Mapping[int, str]) -> Bools:
    """Which lines cannot be learned: withheld, or of a template that has no text."""
    used, which = np.unique(lines.template, return_inverse=True)
    is_out = np.array([number == WITHHELD or number not in texts for number in used.tolist()], np.bool_)
    missing: Bools = is_out[which.ravel()]
    return missing
