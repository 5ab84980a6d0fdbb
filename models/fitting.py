"""Fits the network to distinct windows weighted by their counts."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.deeplog import FIRST_TEMPLATE, UNKNOWN, DeepLog
from models.errors import SettingsError

_HELD_ROWS: Final = 50_000  # held-out rows looked at for the loss of an epoch
_UNKNOWN_RATIO: Final = (
    0.01  # of the context, made unknown: the network must be able to read a window that holds something new
)


@dataclass(frozen=True, slots=True)
class Examples:
    """Distinct rows to learn from.

    Attributes:
        rows: `int32[D, h + 1]`, window then next class.
        fit_count, held_count: how often each occurs in the fit and in the held-out part; `int64[D]`.
        end: the last class, the end of a session.
    """

    rows: npt.NDArray[np.int32]
    fit_count: npt.NDArray[np.int64]
    held_count: npt.NDArray[np.int64]
    end: int


@dataclass(frozen=True)
class FitParams:
    """The network and how it is fitted.

    Attributes:
        hidden, layers, dropout: the network. DeepLog's paper has two layers and finds no difference (its figure 7); here one gave the
            same F1, a lower held-out loss, and costs 40 % of the time (docs/measurements.md).
        learning_rate: at the start; it falls to 0 along a cosine.
        epochs: passes over the distinct windows, within `min_steps` and `max_steps` of the optimiser.
        patience: epochs (at least a fifth of all) without a better held-out loss after which fitting stops; the best state is kept.
        device: `auto` takes CUDA where there is one.
    """

    hidden: int = 64
    layers: int = 1
    dropout: float = 0.1
    learning_rate: float = 2e-3
    epochs: int = 60
    min_steps: int = 1_000
    max_steps: int = 8_000
    patience: int = 8
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.device not in ("auto", "cpu") and not self.device.startswith("cuda"):
            raise SettingsError(f"device is {self.device!r}; choose auto, cpu or cuda.")

    def with_seed(self, seed: int) -> FitParams:
        """The same with another seed."""
        return replace(self, seed=seed)


@dataclass(frozen=True, slots=True)
class Epoch:
    """How far fitting has come.

    Units: losses in nats a window; the rate counts distinct windows a second.
    """

    number: int
    total: int
    loss: float
    held_out_loss: float | None
    windows_per_s: float


@dataclass(frozen=True, slots=True)
class Fit:
    """A fitted network's state on the CPU, and its last report."""

    weights: Mapping[str, Tensor]
    best: Epoch
    epochs: int
    steps: int
    seconds: float
    device: str


def pick_device(device: str) -> torch.device:
    """The device to fit on.

    Raises: SettingsError if CUDA is asked for and there is none.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise SettingsError("device is cuda, but torch sees no CUDA device; choose auto or cpu, or check the driver.")
    return torch.device(device)


def fit(examples: Examples, params: FitParams, report: Callable[[Epoch], None] = lambda epoch: None) -> Fit:
    """Fit a network; the same seed on the same device and number of threads gives the same weights."""
    started = time.monotonic()
    device = pick_device(params.device)
    chance = torch.Generator().manual_seed(params.seed)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(params.seed)
        network = DeepLog(examples.end + 1, params.hidden, params.layers, params.dropout).to(device)
        taught = np.flatnonzero(examples.fit_count)
        rows = torch.from_numpy(examples.rows[taught].astype(np.int64)).to(device)  # [D, h + 1]
        count = torch.from_numpy(examples.fit_count[taught].astype(np.float32)).to(device)
        weight = count / count.mean()
        held = _held_rows(examples, device, chance)

        size = 1 << max(
            4, min(10, round(math.log2(max(1, len(rows) / 16))))
        )  # 16 steps an epoch, up to batches of 1,024
        per_epoch = math.ceil(len(rows) / size)
        total = math.ceil(min(max(params.epochs * per_epoch, params.min_steps), params.max_steps) / per_epoch)
        optimiser = Adam(list(network.parameters()))
        best: Epoch | None = None
        state: dict[str, Tensor] = {}
        number = 0
        for number in range(1, total + 1):
            epoch_started = time.monotonic()
            network.train()
            losses = torch.zeros((), device=device)
            order = torch.randperm(len(rows), generator=chance).to(device)
            for batch in torch.split(order, size):
                windows, following = rows[batch, :-1], rows[batch, -1]
                hidden = (torch.rand(windows.shape, device=device) < _UNKNOWN_RATIO) & (windows >= FIRST_TEMPLATE)
                logits = network(windows.masked_fill(hidden, UNKNOWN))  # [B, C]
                loss = (nn.functional.cross_entropy(logits, following, reduction="none") * weight[batch]).mean()
                loss.backward()  # type: ignore[no-untyped-call]
                done = optimiser.steps / (total * per_epoch)
                optimiser.step(params.learning_rate * (1 + math.cos(math.pi * done)) / 2)
                losses += loss.detach() * len(batch)
            held_loss = _loss(network, held) if held is not None else None
            rate = len(rows) / max(time.monotonic() - epoch_started, 1e-9)
            epoch = Epoch(number, total, float(losses) / len(rows), held_loss, rate)
            report(epoch)
            if best is None or _judged(epoch) < _judged(best):
                best, state = epoch, copy.deepcopy(network.state_dict())
            elif number - best.number >= max(params.patience, total // 5):
                break
    assert best is not None
    weights = {name: tensor.detach().cpu() for name, tensor in state.items()}
    return Fit(weights, best, number, number * per_epoch, time.monotonic() - started, str(device))


class Adam:
    """Adam with the usual constants; the one of torch.optim imports torch's compiler first, which takes seconds.

    Source: Kingma and Ba, Adam: A Method for Stochastic Optimization (ICLR 2015), algorithm 1.
    """

    def __init__(self, weights: list[nn.Parameter]) -> None:
        self._weights = weights
        self._mean = [torch.zeros_like(weight) for weight in weights]
        self._square = [torch.zeros_like(weight) for weight in weights]
        self.steps = 0

    @torch.no_grad()
    def step(self, learning_rate: float, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-8) -> None:
        """One step along the gradients, which are cleared."""
        self.steps += 1
        size = learning_rate / (1 - beta_1**self.steps)
        for weight, mean, square in zip(self._weights, self._mean, self._square, strict=True):
            assert weight.grad is not None
            mean.lerp_(weight.grad, 1 - beta_1)
            square.mul_(beta_2).addcmul_(weight.grad, weight.grad, value=1 - beta_2)
            deviation = (square / (1 - beta_2**self.steps)).sqrt_().add_(epsilon)
            weight.addcdiv_(mean, deviation, value=-size)
            weight.grad = None


def _judged(epoch: Epoch) -> float:
    return epoch.loss if epoch.held_out_loss is None else epoch.held_out_loss


def _held_rows(examples: Examples, device: torch.device, chance: torch.Generator) -> tuple[Tensor, Tensor] | None:
    held = np.flatnonzero(examples.held_count)
    if not len(held):
        return None
    kept = held[torch.randperm(len(held), generator=chance)[:_HELD_ROWS].numpy()]
    rows = torch.from_numpy(examples.rows[kept].astype(np.int64)).to(device)
    return rows, torch.from_numpy(examples.held_count[kept].astype(np.float32)).to(device)


@torch.no_grad()
def _loss(network: DeepLog, held: tuple[Tensor, Tensor]) -> float:
    network.eval()
    total = torch.zeros((), device=held[1].device)
    for rows, count in zip(torch.split(held[0], 2048), torch.split(held[1], 2048), strict=True):
        total += (nn.functional.cross_entropy(network(rows[:, :-1]), rows[:, -1], reduction="none") * count).sum()
    return float(total / held[1].sum())
