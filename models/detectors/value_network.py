"""The network of the value model: from a template's last values to its next.

One small LSTM serves all templates; an embedding tells them apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.deeplog import Layer
from models.detectors.value_columns import CLIP, COLUMNS
from models.fitting import Adam

Float32 = npt.NDArray[np.float32]
Places = npt.NDArray[np.intp]
UInt64 = npt.NDArray[np.uint64]

WIDTH: Final = COLUMNS + 1  # of a line's vector: its normalised values, then 1; all 0 where there is no line

_EMBEDDING: Final = 8
_CHUNK: Final = 128  # windows evaluated at once, always
_BATCH: Final = 256  # windows in a step of the optimiser


@dataclass(frozen=True, slots=True)
class Tape:
    """Lines laid out so that the lines before each are the rows before its own.

    Shapes: `vectors float32[P, WIDTH]`, `place intp[M]` of each line.
    """

    vectors: Float32
    place: Places

    @classmethod
    def lay(cls, vectors: Float32, keys: UInt64, history: Float32) -> Tape:
        """The tape of lines in order of their keys, each key's lines behind its history; `history float32[distinct keys, h, WIDTH]`."""
        is_first = np.append(True, keys[1:] != keys[:-1])
        first = np.flatnonzero(is_first)
        length = history.shape[1]
        place = np.arange(len(keys)) + np.cumsum(is_first) * length
        tape = np.empty((len(keys) + len(first) * length, WIDTH), np.float32)
        tape[(first + np.arange(len(first)) * length)[:, None] + np.arange(length)] = history
        tape[place] = vectors
        return cls(tape, place)

    def before(self, place: Places, length: int) -> Float32:
        """The `length` vectors before each of these places; `[B, length, WIDTH]`."""
        found: Float32 = self.vectors[place[:, None] + np.arange(-length, 0)]
        return found


class ValueNetwork(nn.Module):
    """Template and last vectors → next values.

    Shapes: template `int64[B]`, windows `float32[B, h, WIDTH]` → `float32[B, COLUMNS]`.
    """

    def __init__(self, templates: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(templates, _EMBEDDING)
        self.lstm = nn.LSTM(WIDTH + _EMBEDDING, hidden, batch_first=True)
        self.head = nn.Linear(hidden + _EMBEDDING, COLUMNS)

    def forward(self, template: Tensor, windows: Tensor) -> Tensor:
        """The normalised values expected next."""
        kind = self.embedding(template)  # [B, E]
        each = kind[:, None, :].expand(-1, windows.shape[1], -1)  # [B, h, E]
        outputs, _ = self.lstm(torch.cat((windows, each), dim=2))  # [B, h, H]
        values: Tensor = self.head(torch.cat((outputs[:, -1], kind), dim=1))  # [B, COLUMNS]
        return values


@dataclass(frozen=True, slots=True)
class Task:
    """What the network is fitted to.

    Shapes: `template intp[M]`, `targets float32[M, COLUMNS]` (NaN where there is nothing to learn), `lines intp[F]` (of the tape, to fit on).
    """

    tape: Tape
    template: Places
    targets: Float32
    lines: Places


def fit(
    task: Task, templates: int, hidden: int, length: int, steps: int, seed: int, report: Callable[[float, float], None]
) -> dict[str, Float32]:
    """The weights after so many steps; the same seed gives the same.

    A Huber loss on clipped values: heavy tails are not to rule the network. `report` takes the share done and the loss.
    """
    chance = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ValueNetwork(templates, hidden)
    targets = np.clip(task.targets, -CLIP, CLIP)
    optimiser = Adam(list(network.parameters()))
    order = np.zeros(0, np.intp)
    for step in range(steps):
        if len(order) < min(_BATCH, len(task.lines)):
            order = np.concatenate((order, chance.permutation(task.lines)))
        lines, order = order[:_BATCH], order[_BATCH:]
        wanted = torch.from_numpy(targets[lines])
        given = network(
            torch.from_numpy(task.template[lines]), torch.from_numpy(task.tape.before(task.tape.place[lines], length))
        )
        is_known = ~wanted.isnan()
        loss = nn.functional.smooth_l1_loss(given[is_known], wanted[is_known])
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step(3e-3 * (1 + math.cos(math.pi * step / steps)) / 2)
        if step % 50 == 49 or step == steps - 1:
            report((step + 1) / steps, float(loss.detach()))
    return {name: tensor.detach().numpy() for name, tensor in network.state_dict().items()}


class Predictor:
    """The network at work: the same arithmetic in chunks of one size, so that no window's answer depends on its neighbours."""

    def __init__(self, weights: Mapping[str, npt.NDArray[Any]]) -> None:
        tensors = {name: torch.from_numpy(np.array(array, np.float32)) for name, array in weights.items()}
        as_second = {name.replace("_l0", "_l1"): tensor for name, tensor in tensors.items()}
        self._layer = Layer(as_second, 1)  # a layer that reads vectors; the first would read classes
        self._embedding = tensors["embedding.weight"]
        self._head = tensors["head.weight"].T.contiguous()
        self._head_bias = tensors["head.bias"]
        self.templates = len(self._embedding)

    def predict(self, template: Places, windows: Float32) -> npt.NDArray[np.float64]:
        """The normalised values expected after each window; `[B]`, `[B, h, WIDTH]` → `[B, COLUMNS]`."""
        result = np.empty((len(template), COLUMNS), np.float64)
        steps = windows.shape[1]
        inputs = torch.zeros(steps, _CHUNK, WIDTH + _EMBEDDING)
        with torch.inference_mode():
            for low in range(0, len(template), _CHUNK):
                part = torch.from_numpy(windows[low : low + _CHUNK])
                kind = torch.index_select(self._embedding, 0, torch.from_numpy(template[low : low + _CHUNK]))  # [b, E]
                inputs.zero_()
                inputs[:, : len(part), :WIDTH] = part.transpose(0, 1)
                inputs[:, : len(part), WIDTH:] = kind
                gates = torch.addmm(self._layer.bias, inputs.view(steps * _CHUNK, -1), self._layer.inputs)
                state = self._layer.run(gates.view(steps, _CHUNK, -1))[-1]  # [B, H]
                values = torch.addmm(self._head_bias, torch.cat((state, inputs[-1, :, WIDTH:]), dim=1), self._head)
                result[low : low + _CHUNK] = values[: len(part)].numpy()
        return result
