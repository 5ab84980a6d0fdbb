"""DeepLog: an LSTM that has learned which template comes next, and by how much a line differs from that.

Source: Du et al., DeepLog: Anomaly Detection and Diagnosis from System Logs through Deep Learning (CCS 2017), section 3.1 (the
network). Added here: padding at a session's start, so that its first lines are judged too; an end class, so that a session that stops where
none ever stopped is found. What its probabilities mean for a line is decided in models/detectors/deeplog.py.

Classes: 0 padding, 1 unknown, then the templates by ascending id, last the end of a session.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.memo import ScoreMemo

Int32 = npt.NDArray[np.int32]
Float32 = npt.NDArray[np.float32]

PADDING: Final = 0
UNKNOWN: Final = 1
FIRST_TEMPLATE: Final = 2
DIGITS: Final = 5  # probabilities are rounded, so that the cut into batches and the number of threads change no verdict

# Up to here one-hot input; it generalises better than a small embedding. Beyond, an embedding saves time in training.
_ONE_HOT_CLASSES: Final = 256
_EMBEDDING: Final = 64


class DeepLog(nn.Module):
    """The network: one-hot or embedded template classes, stacked LSTM, logits of the next class.

    Shapes: windows `int64[B, h]` → logits `float32[B, C]`.
    """

    def __init__(self, classes: int, hidden: int = 64, layers: int = 2, dropout: float = 0.1) -> None:
        super().__init__()
        self.classes = classes
        self.embedding = nn.Embedding(classes, _EMBEDDING) if classes > _ONE_HOT_CLASSES else None
        size = classes if self.embedding is None else _EMBEDDING
        self.lstm = nn.LSTM(size, hidden, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, classes)

    def forward(self, windows: Tensor) -> Tensor:
        """Logits of the class that follows each window."""
        if self.embedding is None:
            inputs = nn.functional.one_hot(windows, self.classes).to(self.head.weight.dtype)  # [B, h, C]
        else:
            inputs = self.embedding(windows)  # [B, h, E]
        outputs, _ = self.lstm(inputs)  # [B, h, H]
        logits: Tensor = self.head(self.dropout(outputs[:, -1]))  # [B, C]
        return logits


class DeepLogScorer:
    """Probability and rank of each line's class after its window.

    Each distinct window is evaluated once, in chunks of one fixed size filled up with padding: the arithmetic of a row never depends on
    its neighbours, so the answers are bit-equal for any order, any cut into batches, and with the memo dropped.

    State: a memo of at most `memo_entries` (window, next) pairs of 4·h + 20 bytes; dropping it changes no answer.

    Args:
        weights: the state of a `DeepLog`.
        chunk: windows evaluated at once; more is faster for many new windows, less for few.
        memo_entries: bound of the memo.
    """

    def __init__(self, weights: Mapping[str, Tensor], chunk: int = 128, memo_entries: int = 1 << 16) -> None:
        self._layers = [Layer(weights, index) for index in range(_layer_count(weights))]
        self._head = weights["head.weight"].detach().float().T.contiguous()  # [H, C]
        self._head_bias = weights["head.bias"].detach().float()
        self.classes = int(self._head_bias.shape[0])
        self._chunk = chunk
        self._memo_entries = memo_entries
        self._memo: ScoreMemo | None = None  # made when the window length is known
        self._latest: dict[
            bytes, Float32
        ] = {}  # what the last evaluation gave, by window: anomalies ask for it again at once

    @property
    def end(self) -> int:
        """The class of a session's end."""
        return self.classes - 1

    def score(self, windows: Int32, following: Int32) -> tuple[Float32, Int32]:
        """How likely each class was after its window, and how many templates were likelier.

        Equal probabilities rank by class. An unknown or padding class has probability 0 and the last rank.

        Shapes: `windows int32[B, h]`, `following int32[B]` → `probability float32[B]`, `rank int32[B]`.
        """
        if self._memo is None or self._memo.length != windows.shape[1]:
            self._memo = ScoreMemo(windows.shape[1], self._memo_entries)
        memo = self._memo
        keys = memo.keys(windows, following)
        probability, rank, is_known = memo.find(keys, windows, following)
        missing = np.flatnonzero(~is_known)
        if len(missing):
            rows = np.column_stack((windows[missing], following[missing]))
            distinct, place, inverse = np.unique(rows, axis=0, return_index=True, return_inverse=True)
            found, order = self._evaluate(distinct[:, :-1], distinct[:, -1])
            probability[missing], rank[missing] = found[inverse.ravel()], order[inverse.ravel()]
            memo.put(keys[missing][place], distinct, found, order)
        return probability, rank

    def end_probability(self, windows: Int32) -> Float32:
        """How likely the session's end was after each window; `float32[B]`."""
        return self.score(windows, np.full(len(windows), self.end, np.int32))[0]

    def expected(self, window: Int32, k: int) -> list[tuple[int, float]]:
        """The `k` likeliest templates after one window, as (class, probability)."""
        return self.expected_each(window[None, :], k)[0]

    def expected_each(self, windows: Int32, k: int) -> list[list[tuple[int, float]]]:
        """`expected` for many windows, each distinct one evaluated once; `windows int32[B, h]`."""
        if not len(windows):
            return []
        distinct, inverse = np.unique(windows, axis=0, return_inverse=True)
        likely: Float32 = np.empty((len(distinct), self.classes), np.float32)
        found = [self._latest.get(key) for key in map(bytes, distinct)]
        missing = [at for at, row in enumerate(found) if row is None]
        for at, row in enumerate(found):
            if row is not None:
                likely[at] = row
        if missing:
            likely[missing] = self.probabilities(distinct[missing])
        templates = likely[:, FIRST_TEMPLATE : self.end]  # [D, templates]
        best = _largest(templates, k)
        values = np.take_along_axis(templates, best, axis=1).astype(np.float64).round(DIGITS)
        answers = [
            list(zip(codes, probabilities, strict=True))
            for codes, probabilities in zip((best + FIRST_TEMPLATE).tolist(), values.tolist(), strict=True)
        ]
        return [answers[at] for at in inverse.ravel().tolist()]

    def probabilities(self, windows: Int32) -> Float32:
        """The rounded probability of every class after each window; `float32[B, C]`, 0 for padding and unknown."""
        count, size = len(windows), self._chunk
        result: Float32 = np.empty((count, self.classes), np.float32)
        chunk = torch.zeros((size, windows.shape[1]), dtype=torch.int64)
        with torch.inference_mode():
            for low in range(0, count, size):
                part = torch.from_numpy(windows[low : low + size].astype(np.int64))
                chunk.zero_()
                chunk[: len(part)] = part
                result[low : low + size] = self._forward(chunk)[: len(part)].numpy()
        rounded: Float32 = np.round(result, DIGITS)
        return rounded

    def drop_memo(self) -> None:
        """Forget what was evaluated; changes no answer."""
        self._memo = None
        self._latest = {}

    def _evaluate(self, windows: Int32, following: Int32) -> tuple[Float32, Int32]:
        starts = np.append(True, (windows[1:] != windows[:-1]).any(axis=1))  # sorted: the same window lies together
        evaluated = windows[starts]
        rows = self.probabilities(evaluated)
        self._latest = dict(zip(map(bytes, evaluated), rows, strict=True))
        likely = rows[np.cumsum(starts) - 1]  # [B, C]
        probability = np.take_along_axis(likely, following[:, None].astype(np.intp), axis=1)  # [B, 1]
        templates = likely[:, FIRST_TEMPLATE : self.end]
        is_before = np.arange(FIRST_TEMPLATE, self.end) < following[:, None]
        is_likelier = (templates > probability) | ((templates == probability) & is_before)
        rank = is_likelier.sum(axis=1).astype(np.int32)
        rank[following < FIRST_TEMPLATE] = self.classes
        return probability[:, 0], rank

    def _forward(self, windows: Tensor) -> Tensor:
        """Probabilities of one chunk; the same arithmetic as `DeepLog.forward`, the input layer being a look-up."""
        first, *others = self._layers
        count, steps = windows.shape
        by_step = windows.T.reshape(-1)  # [h·B], all rows of step 0 first
        outputs = first.run(torch.index_select(first.inputs, 0, by_step).view(steps, count, -1))  # [h, B, H]
        for layer in others:
            gates = torch.addmm(layer.bias, outputs.view(steps * count, -1), layer.inputs)
            outputs = layer.run(gates.view(steps, count, -1))
        logits = torch.addmm(self._head_bias, outputs[-1], self._head)  # [B, C]
        logits[:, :FIRST_TEMPLATE] = -torch.inf
        return torch.softmax(logits, dim=1)


class Layer:
    """One LSTM layer, laid out for speed: one sigmoid serves all four gates.

    The gates lie in the order input, forget, output, cell. tanh(x) is 2·sigmoid(2x) − 1, which torch computes six times as fast (measured: 8,192
    values in 4 µs against 25), so the cell gate's weights are doubled here.

    Shapes: `inputs float32[C, 4H]` (first layer: a table by class, bias included) or `[H, 4H]`, `recurrent float32[H, 4H]`.
    """

    def __init__(self, weights: Mapping[str, Tensor], index: int) -> None:
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        inputs, recurrent, bias_in, bias_rec = (weights[f"lstm.{name}_l{index}"].detach().float() for name in names)
        self.hidden = int(recurrent.shape[1])
        gates = torch.arange(4 * self.hidden).view(4, -1)[[0, 1, 3, 2]].flatten()
        scale = torch.ones(4 * self.hidden)
        scale[3 * self.hidden :] = 2.0
        self.bias = (bias_in + bias_rec)[gates] * scale  # [4H]
        self.recurrent = (recurrent[gates].T * scale).contiguous()  # [H, 4H]
        self.inputs = (inputs[gates].T * scale).contiguous()
        if index == 0:
            embedding = weights.get("embedding.weight")
            table = self.inputs if embedding is None else embedding.detach().float() @ self.inputs
            self.inputs = (table + self.bias).contiguous()  # [C, 4H]

    def run(self, inputs: Tensor) -> Tensor:
        """The hidden states of each step.

        Shapes: the gates' inputs `float32[h, B, 4H]` → `float32[h, B, H]`.
        """
        steps, size, hidden = inputs.shape[0], inputs.shape[1], self.hidden
        states = torch.empty(steps, size, hidden)
        state = cell = torch.zeros(size, hidden)
        for step in range(steps):
            opened = torch.addmm(inputs[step], state, self.recurrent) if step else inputs[0].clone()
            kept, forgotten, shown, fresh = torch.split(opened.sigmoid_(), hidden, dim=1)  # [B, H] each
            cell = torch.addcmul(kept * fresh.mul_(2.0).sub_(1.0), forgotten, cell)  # [B, H]
            state = torch.mul(shown, (cell * 2.0).sigmoid_().mul_(2.0).sub_(1.0), out=states[step])  # [B, H]
        return states


def _largest(values: Float32, k: int) -> npt.NDArray[np.intp]:
    """Where the `k` largest values of each row are, largest first, of equal ones the first; `[R, C]` → `[R, min(k, C)]`.

    >>> _largest(np.array([[0.1, 0.4, 0.1, 0.4]], np.float32), 3).tolist()
    [[1, 3, 0]]
    """
    left = values.copy()
    rows = np.arange(len(left))
    best = np.empty((len(left), min(k, left.shape[1])), np.intp)
    for place in range(best.shape[1]):
        best[:, place] = left.argmax(axis=1)
        left[rows, best[:, place]] = -1.0
    return best


def _layer_count(weights: Mapping[str, Tensor]) -> int:
    return sum(name.startswith("lstm.weight_hh_l") for name in weights)
