"""Raw rows to packed batches: parse, mask, pack, and the brake on a topic that holds no logs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import orjson

from models.errors import RejectRatioError
from models.masking import MaskParams, mask
from models.packing import pack
from models.parsing import BENIGN_REASONS, REASONS, ParseParams, Raw, parse


@dataclass(frozen=True)
class BatchParams:
    """How raw rows become packed batches.

    Attributes:
        parse: shapes, redaction and limits.
        masking: masks, keep-words and limits.
        shards: state keys over which services are spread.
        reject_ratio: above this share of rejected rows, blank ones left out, the job stops …
        reject_ratio_after: … once this many rows were seen.
        max_ahead_ms: an event time further ahead of the broker's than this is a broken clock, and the broker's time is taken: one such line
            would otherwise carry its service's time away, and all that follow would be late.
    """

    parse: ParseParams = field(default_factory=ParseParams)
    masking: MaskParams = field(default_factory=MaskParams)
    shards: int = 8
    reject_ratio: float = 0.5
    reject_ratio_after: int = 1_000
    max_ahead_ms: int = 24 * 3_600_000

    def to_json(self) -> str:
        """The parameters as they travel to the worker."""
        return orjson.dumps(
            {
                "parse": self.parse.to_json(),
                "masking": self.masking.to_json(),
                "shards": self.shards,
                "reject_ratio": self.reject_ratio,
                "reject_ratio_after": self.reject_ratio_after,
                "max_ahead_ms": self.max_ahead_ms,
            }
        ).decode()

    @classmethod
    def from_json(cls, text: str) -> BatchParams:
        """The inverse of `to_json`."""
        data = orjson.loads(text)
        return cls(
            parse=ParseParams.from_json(data.pop("parse")), masking=MaskParams.from_json(data.pop("masking")), **data
        )

    def build(self) -> Batcher:
        """A batcher of its own counts."""
        return Batcher(self)


class Batcher:
    """Turns raw rows into packed batches.

    State: two counts since the start of this worker, for the brake; they decide nothing about a record.
    """

    def __init__(self, params: BatchParams) -> None:
        self.params = params
        self._rows = 0
        self._rejected = 0

    def step(self, raw: Raw) -> list[tuple[int, bytes]]:
        """One packed batch for each shard, in the order of their first line.

        Raises:
            RejectRatioError: if more than `reject_ratio` of all rows so far were no records.
        """
        records, rejects = parse(raw, self.params.parse)
        self._rows += len(raw.values)
        self._rejected += sum(reject.reason not in BENIGN_REASONS for reject in rejects)
        if self._rows >= self.params.reject_ratio_after and self._rejected > self.params.reject_ratio * self._rows:
            reasons = sorted({reject.reason for reject in rejects})
            raise RejectRatioError(
                f"{self._rejected} of {self._rows} records were rejected, above the limit of {self.params.reject_ratio:.0%} "
                f"(latest reasons: {', '.join(f'{reason}: {REASONS[reason]}' for reason in reasons)}). Is this a topic of logs? "
                "Look at the dead letters, then correct the source, set text_fallback, or raise reject_ratio."
            )
        broker_ms = raw.timestamp_ms[records.row]  # 0 where there is no broker
        is_ahead = (broker_ms > 0) & (records.ts > broker_ms + self.params.max_ahead_ms)
        if is_ahead.any():
            records = replace(records, ts=np.where(is_ahead, broker_ms, records.ts))
        return pack(raw, records, mask(records.message, self.params.masking), rejects, self.params.shards)
