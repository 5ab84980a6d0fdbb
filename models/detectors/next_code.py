"""The next line's code from those of the lines before it: a bidirectional LSTM over the window.

Source: Bursic, Cuculo, D'Amelio, Anomaly Detection from Log Files Using Unsupervised Deep Learning (FM 2019 workshops); the spread beside the code is added here,
because where a session may go several ways every one of them is far from the mean that a prediction alone would be.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.deeplog import FIRST_TEMPLATE, PADDING, UNKNOWN
from models.detectors.contract import Float32, Int32, Int64
from models.fitting import Adam

_CHUNK: Final = 128  # windows evaluated at once, always as many
_UNKNOWN_RATIO: Final = 0.01  # of the context, made unknown: a window that holds something new must be readable
_LOOK: Final = 50  # steps between two looks at the held-out loss
_PATIENCE: Final = 4  # looks without a better one …
_BETTER: Final = 0.005  # … by this much
_EPOCHS: Final = 60
_LEAST_STEPS: Final = 300
_SPREAD_WEIGHT: Final = 0.1  # of the spread's part of the loss
_LEAST_SPREAD: Final = 0.1  # in the unit of the codes' own mean distance


class NextCode(nn.Module):
    """The network.

    Shapes: codes of the lines before `float32[B, h, K + 1]` (the last column: whether there is no line) → code of the next
    `float32[B, K]`, and how far from it the next line usually lies `float32[B]`.
    """

    def __init__(self, code: int, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(code + 1, hidden, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * hidden, code + 1)

    def forward(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """The code that should come next, and its spread."""
        _, (states, _) = self.lstm(codes)  # [2, B, H]
        found = self.head(torch.cat((states[0], states[1]), dim=1))  # [B, K + 1]
        return found[:, :-1], _LEAST_SPREAD + nn.functional.softplus(found[:, -1])


class NextCodes:
    """The code that should follow each window.

    Args:
        table: code of each class, `float32[C, K]`; those of padding and unknown are 0.
        weights: the state of a `NextCode`.

    Raises: ValueError if they do not fit together.
    """

    def __init__(self, table: Float32, weights: Mapping[str, npt.NDArray[Any]]) -> None:
        try:
            hidden = weights["head.weight"].shape[1] // 2
            self._network = NextCode(table.shape[1], hidden)
            self._network.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in weights.items()})
        except (KeyError, RuntimeError, IndexError) as error:
            raise ValueError(f"next code: the weights do not fit: {error}") from error
        self._network.eval()
        self._inputs = _inputs(table)

    def predict(self, windows: Int32) -> tuple[Float32, Float32]:
        """The code after each window and its spread; `windows int32[D, h]` → `float32[D, K]`, `float32[D]`."""
        code: Float32 = np.empty((len(windows), self._inputs.shape[1] - 1), np.float32)
        spread: Float32 = np.empty(len(windows), np.float32)
        chunk = torch.zeros((_CHUNK, windows.shape[1]), dtype=torch.int64)
        with torch.inference_mode():
            for low in range(0, len(windows), _CHUNK):
                part = torch.from_numpy(windows[low : low + _CHUNK].astype(np.int64))
                chunk.zero_()
                chunk[: len(part)] = part
                found, width = self._network(self._inputs[chunk])
                code[low : low + _CHUNK] = found[: len(part)].numpy()
                spread[low : low + _CHUNK] = width[: len(part)].numpy()
        return code, spread


def fit_next(
    rows: Int32,
    fit_count: Int64,
    held_count: Int64,
    table: Float32,
    *,
    hidden: int,
    max_steps: int,
    seed: int,
    report: Callable[[float, float], None],
) -> dict[str, npt.NDArray[Any]]:
    """Fit the network to distinct (window, next) rows; gives the state with the smallest held-out loss.

    Args:
        rows: `int32[D, h + 1]`.
        fit_count: how often each row is learned from.
        held_count: how often each row is held out.
        table: code of each class.
        hidden: size of the LSTM, in each direction.
        max_steps: of the optimiser.
        seed: the same one gives the same state.
        report: told the share done and the held-out loss.
    """
    chance = torch.Generator().manual_seed(seed)
    every, codes = torch.from_numpy(rows.astype(np.int64)), torch.from_numpy(table)
    inputs = _inputs(table)
    taught = torch.from_numpy(np.flatnonzero(fit_count))
    weight = torch.from_numpy(np.sqrt(fit_count[fit_count > 0]).astype(np.float32))  # rare ways must be learned too
    held = torch.from_numpy(np.flatnonzero(held_count))
    held_weight = torch.from_numpy(held_count[held_count > 0].astype(np.float32))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = NextCode(table.shape[1], hidden)
        optimiser = Adam(list(network.parameters()))
        size = 1 << max(4, min(8, round(math.log2(max(1, len(taught) / 8)))))
        max_steps = min(max_steps, max(_LEAST_STEPS, _EPOCHS * len(taught) // size))
        best, looked, state = math.inf, 0, network.state_dict()
        for step in range(max_steps):
            batch = every[taught[torch.multinomial(weight, size, replacement=True, generator=chance)]]
            windows = batch[:, :-1]
            is_hidden = (torch.rand(windows.shape, generator=chance) < _UNKNOWN_RATIO) & (windows >= FIRST_TEMPLATE)
            found, spread = network(inputs[windows.masked_fill(is_hidden, UNKNOWN)])
            loss = _losses(found, spread, codes[batch[:, -1]]).mean()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step(5e-3 * (1 + math.cos(math.pi * step / max_steps)) / 2)
            if (step + 1) % _LOOK == 0 or step + 1 == max_steps:
                judged = _held_loss(network, inputs, codes, every[held], held_weight)
                report((step + 1) / max_steps, judged)
                if judged < best - _BETTER:
                    best, looked, state = judged, 0, copy.deepcopy(network.state_dict())
                elif (looked := looked + 1) >= _PATIENCE:
                    break
    return {name: tensor.detach().numpy() for name, tensor in state.items()}


def _inputs(table: Float32) -> Tensor:
    """What the network is shown of each class; `float32[C, K + 1]`."""
    inputs = torch.zeros(len(table), table.shape[1] + 1)
    inputs[:, :-1] = torch.from_numpy(table)
    inputs[PADDING, -1] = 1.0
    return inputs


def _losses(found: Tensor, spread: Tensor, wanted: Tensor) -> Tensor:
    """The mean squared distance of each row, and how badly the spread foretold it (normal log-likelihood); `float32[B]`."""
    distance = (found - wanted).square().mean(1)
    return distance + _SPREAD_WEIGHT * (distance.detach() / spread.square() + 2 * spread.log())


@torch.no_grad()
def _held_loss(network: NextCode, inputs: Tensor, codes: Tensor, rows: Tensor, weight: Tensor) -> float:
    total = torch.zeros(())
    for part, count in zip(torch.split(rows, 2048), torch.split(weight, 2048), strict=True):
        found, spread = network(inputs[part[:, :-1]])
        total += (_losses(found, spread, codes[part[:, -1]]) * count).sum()
    return float(total / weight.sum())
