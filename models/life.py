"""A service's life: learning → shadow → live.

```
learning   nothing is judged; lines go to the training buffer      until it has a model
shadow     judged and shown, nobody is woken                       until a whole block of scored lines was mostly of templates the model knows
live       judged and told
```

A job without control topic knows no such steps: a service that has a model is live. A mode set by hand stays until `auto` is set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from models.detectors.rows import Places, Rows, UInt64

Bools = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]

MODES: Final = ("learning", "shadow", "live")
LEARNING, SHADOW, LIVE = range(3)

_RECORD: Final = np.dtype(
    [
        ("touched_ms", "<i8"),
        ("since_ms", "<i8"),
        ("lines", "<i8"),
        ("scored", "<i8"),
        ("told", "<i8"),
        ("block_lines", "<i4"),
        ("block_unknown", "<i4"),
        ("unknown_ratio", "<f4"),
        ("mode", "u1"),
        ("is_by_hand", "u1"),
        ("is_met", "u1"),
    ]
)


@dataclass(frozen=True)
class LifeParams:
    """When a service goes on by itself.

    Attributes:
        is_gradual: a service begins by learning, and is in shadow when it gets its first model; else it is live at once.
        block: scored lines that are looked at together.
        settled_ratio: of a block, the share of lines whose template the model does not know, up to which the service may go live.
        max_services: services kept at most; beyond, those longest without a line give way.
    """

    is_gradual: bool = False
    block: int = 1_000
    settled_ratio: float = 0.02
    max_services: int = 20_000

    def build(self) -> Lives:
        """No service yet."""
        return Lives(self)


class Lives:
    """The lives of a shard's services, by service key.

    State: a row of 60 bytes a service, at most `max_services`.
    """

    def __init__(self, params: LifeParams) -> None:
        self.params = params
        self._rows = Rows(_RECORD, params.max_services)
        self.moved: set[int] = set()  # rows whose mode has changed since somebody emptied this

    def meet(self, keys: UInt64, has_model: Bools) -> Places:
        """The rows of these services; those met for the first time begin. Shapes: `keys uint64[S]`, `has_model bool[S]`."""
        rows = self._rows.at(keys)
        data = self._rows.data
        is_fresh = data["is_met"][rows] == 0
        fresh = rows[is_fresh]
        if len(fresh):
            begins_live = has_model[is_fresh] | (not self.params.is_gradual)
            data["mode"][fresh] = np.where(begins_live, LIVE, LEARNING)
            data["is_met"][fresh] = 1
            self._rows.is_dirty[fresh] = True
        return rows

    def count(self, rows: Places, lines: Int64, now: Int64) -> None:
        """Count the lines of a batch; `lines` and `now`, the newest event time, are by service."""
        data = self._rows.data
        data["since_ms"][rows] = np.where(data["lines"][rows] == 0, now, data["since_ms"][rows])
        data["lines"][rows] += lines
        data["touched_ms"][rows] = np.maximum(data["touched_ms"][rows], now)
        self._rows.is_dirty[rows] = True

    def judge(self, rows: Places, service: npt.NDArray[np.int32], is_unknown: Bools, now: Int64) -> Bools:
        """Whether each scored line is of a live service; one in shadow may become live on the way.

        Args:
            rows: of the services; `[S]`.
            service: of each line, index into `rows`; `[N]`.
            is_unknown: its template is not the model's; `[N]`.
            now: the service's newest event time so far; `[N]`.
        """
        data = self._rows.data
        is_live: Bools = (data["mode"][rows] == LIVE)[service]
        lines = np.bincount(service, minlength=len(rows))
        unknown = np.bincount(service, weights=is_unknown, minlength=len(rows)).astype(np.int64)
        is_shadow = (data["mode"][rows] == SHADOW) & (data["is_by_hand"][rows] == 0)
        for at in np.flatnonzero(is_shadow & (lines > 0)).tolist():
            mine = np.flatnonzero(service == at)
            is_live[mine[self._settles(int(rows[at]), is_unknown[mine], now[mine]) :]] = True
        others = rows[~is_shadow]
        data["block_lines"][others] += lines[~is_shadow]
        data["block_unknown"][others] += unknown[~is_shadow]
        full = others[data["block_lines"][others] >= self.params.block]
        data["unknown_ratio"][full] = data["block_unknown"][full] / data["block_lines"][full]
        data["block_lines"][full] = 0
        data["block_unknown"][full] = 0
        data["scored"][rows] += lines
        self._rows.is_dirty[rows] = True
        return is_live

    def _settles(self, row: int, is_unknown: Bools, now: Int64) -> int:
        """The first of a shadow service's lines that is of a live one; their number if none is. The same for any cut into batches."""
        data, block, count = self._rows.data, self.params.block, len(is_unknown)
        low = 0
        while low < count:
            high = min(count, low + block - int(data["block_lines"][row]))
            data["block_lines"][row] += high - low
            data["block_unknown"][row] += int(is_unknown[low:high].sum())
            low = high
            if data["block_lines"][row] < block:
                break
            data["unknown_ratio"][row] = data["block_unknown"][row] / block
            data["block_lines"][row] = data["block_unknown"][row] = 0
            if data["unknown_ratio"][row] <= self.params.settled_ratio:
                self._go(row, LIVE, int(now[low - 1]))
                data["block_lines"][row] = count - low
                data["block_unknown"][row] = int(is_unknown[low:].sum())
                return low
        return count

    def has_model(self, row: int) -> None:
        """A service got a model: one that was learning by itself is in shadow now; one in shadow is looked at anew."""
        data = self._rows.data
        if data["mode"][row] == LEARNING and not data["is_by_hand"][row]:
            self._go(row, SHADOW if self.params.is_gradual else LIVE, int(data["touched_ms"][row]))
        self._look_anew(row)

    def set_mode(self, row: int, mode: str, *, has_model: bool) -> None:
        """Set a mode by hand; `auto` hands the service back to the criteria."""
        data = self._rows.data
        data["is_by_hand"][row] = mode != "auto"
        if mode == "auto":
            if data["mode"][row] == LEARNING and has_model:
                self._go(row, SHADOW, int(data["touched_ms"][row]))
        elif MODES.index(mode) != data["mode"][row]:
            self._go(row, MODES.index(mode), int(data["touched_ms"][row]))
        self._look_anew(row)

    def _look_anew(self, row: int) -> None:
        self._rows.data["block_lines"][row] = self._rows.data["block_unknown"][row] = 0
        self._rows.is_dirty[row] = True

    def _go(self, row: int, mode: int, now_ms: int) -> None:
        self._rows.data["mode"][row] = mode
        self._rows.data["since_ms"][row] = now_ms
        self.moved.add(row)
        self._rows.is_dirty[row] = True

    def told(self, rows: Places, count: Int64) -> None:
        """Count what was told; by service."""
        self._rows.data["told"][rows] += count
        self._rows.is_dirty[rows] = True

    def is_judged(self, rows: Places) -> Bools:
        """Whether lines of these services are judged at all."""
        judged: Bools = self._rows.data["mode"][rows] != LEARNING
        return judged

    def mode(self, row: int) -> str:
        """The mode of a service."""
        return MODES[int(self._rows.data["mode"][row])]

    def figures(self, row: int) -> dict[str, Any]:
        """What the status of a service says of its life."""
        one = self._rows.data[row]
        lines, ratio = int(one["block_lines"]), float(one["unknown_ratio"])
        if lines and not ratio:
            ratio = int(one["block_unknown"]) / lines
        return {
            "mode": MODES[int(one["mode"])],
            "is_auto": not one["is_by_hand"],
            "mode_since_ms": int(one["since_ms"]),
            "why": self._why(one),
            "lines": int(one["lines"]),
            "scored": int(one["scored"]),
            "unknown_ratio": round(ratio, 4),
            "told": int(one["told"]),
            "last_ts": int(one["touched_ms"]),
        }

    def _why(self, one: Any) -> str:
        mode = int(one["mode"])
        if one["is_by_hand"]:
            return f"It was set to {MODES[mode]} by hand, and stays so until it is set to auto."
        if mode == LEARNING:
            return f"It has no model yet: {int(one['lines']):,} lines so far. driftwood trainer trains one from the buffer."
        if mode == SHADOW:
            return (
                f"It is judged, and nobody is woken, until of {self.params.block:,} lines at most {self.params.settled_ratio:.0%} have templates that "
                f"the model does not know: {int(one['block_lines']):,} lines in this block, {float(one['unknown_ratio']):.1%} in the last one."
            )
        return "It is judged, and anomalies are told."

    # ---- bytes

    def drop(self, keys: UInt64) -> None:
        """Forget services."""
        rows = self._rows.find(keys)
        self._rows.drop(rows[rows >= 0])

    def touched(self) -> bytes:
        """The rows changed since the last call."""
        return self._rows.touched()

    def to_bytes(self) -> bytes:
        """All rows."""
        return self._rows.to_bytes()

    def apply(self, data: bytes) -> None:
        """Put in rows of `to_bytes` or `touched`.

        Raises: ValueError for bytes of another version.
        """
        self._rows.apply(data)

    def check(self) -> None:
        """Raise AssertionError unless the rows are whole."""
        self._rows.check()
        data = self._rows.data[self._rows.is_used]
        assert (data["mode"] <= LIVE).all()
        assert (data["block_unknown"] <= data["block_lines"]).all()
