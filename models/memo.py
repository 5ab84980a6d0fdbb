"""A bounded memory of scores, looked up and filled for a whole batch at once."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Int32 = npt.NDArray[np.int32]
UInt64 = npt.NDArray[np.uint64]
Float32 = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

_WAYS: Final = 4
# Any odd numbers spread well (multiply-shift hashing, Dietzfelbinger et al. 1997); drawn once, so that runs can be compared.
_MULTIPLIERS: Final[UInt64] = np.random.default_rng(20170).integers(1, 2**64, 257, dtype=np.uint64) | np.uint64(1)


class ScoreMemo:
    """(window, next) → probability and rank, in sets of four: a full set forgets its entries in turn.

    The rows themselves are kept and compared, so equal hashes of different rows never mix their scores.

    State: `entries` rows of 4·h + 20 bytes. Dropping it changes no answer.
    """

    def __init__(self, length: int, entries: int) -> None:
        self.length = length
        bits = max(1, (max(entries // _WAYS, 2) - 1).bit_length())
        self._shift = np.uint64(64 - bits)
        sets = 1 << bits
        self._rows: Int32 = np.full((sets * _WAYS, length + 1), -1, np.int32)
        self._keys: UInt64 = np.zeros((sets, _WAYS), np.uint64)
        self._probability: Float32 = np.zeros(sets * _WAYS, np.float32)
        self._rank: Int32 = np.zeros(sets * _WAYS, np.int32)
        self._turn = np.zeros(sets, np.int64)

    def keys(self, windows: Int32, following: Int32) -> UInt64:
        """A hash of each row; `uint64[B]`."""
        keys: UInt64 = following.astype(np.uint64) * _MULTIPLIERS[self.length]
        for at in range(self.length):
            keys += windows[:, at].astype(np.uint64) * _MULTIPLIERS[at]
        return keys

    def find(self, keys: UInt64, windows: Int32, following: Int32) -> tuple[Float32, Int32, Bools]:
        """The scores of the rows that are remembered, and which those are."""
        sets = (keys >> self._shift).astype(np.intp)
        is_same = self._keys[sets] == keys[:, None]
        place = sets * _WAYS + is_same.argmax(axis=1)
        rows = self._rows[place]
        is_known: Bools = (rows[:, -1] == following) & (rows[:, :-1] == windows).all(axis=1)
        return self._probability[place], self._rank[place], is_known

    def put(self, keys: UInt64, rows: Int32, probability: Float32, rank: Int32) -> None:
        """Remember these distinct rows (window, then next)."""
        order = np.argsort(keys, kind="stable")
        sets = (keys[order] >> self._shift).astype(np.intp)
        start = np.flatnonzero(np.append(True, sets[1:] != sets[:-1]))
        count = np.diff(np.append(start, len(sets)))
        number = np.arange(len(sets)) - np.repeat(start, count)  # of the row among those of its set
        kept = number < _WAYS
        order, sets, number = order[kept], sets[kept], number[kept]
        way = (self._turn[sets] + number) % _WAYS
        self._turn[sets[number == 0]] += np.minimum(count, _WAYS)
        place = sets * _WAYS + way
        self._keys[sets, way] = keys[order]
        self._rows[place] = rows[order]
        self._probability[place] = probability[order]
        self._rank[place] = rank[order]
