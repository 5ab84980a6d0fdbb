"""A small GPT over template classes: the network, its pretraining by next-class prediction, and its refinement by a top-k reward.

Source: Radford et al., Language Models are Unsupervised Multitask Learners (2019), section 2.3: a decoder-only transformer, norms at the
input of each part, one table for input and output. Han, Yuan and Trabelsi, LogGPT: Log Anomaly Detection via GPT (IEEE BigData 2023), section
III: pretrain on normal sequences, then refine by reinforcement learning.

Classes are those of models/deeplog.py: 0 stands before a session's first line, and so starts a sequence; 1 unknown; then the templates; last the
end of a session. The first two are never predicted, so logits begin at the first template.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.deeplog import FIRST_TEMPLATE, UNKNOWN
from models.fitting import Adam

_UNKNOWN_RATIO: Final = 0.01  # of the context, made unknown in pretraining: a window may hold what is new
_WARM_UP: Final = 0.05  # of the steps
_LOOKS: Final = 20  # at the held-out loss, and reports
_EVALUATED: Final = 1_024  # rows at once where no gradient is needed
_DRAWS: Final = 8  # lists for each window of a refinement step
_DRAWN: Final = 1 << 20  # logits with noise in a refinement step, at most
_PASSES: Final = 3  # over the lists of one refinement step
_CLIP: Final = 0.2  # Schulman et al., table 3
_DIGITS: Final = 3  # of −log10 of a probability: far coarser than what another order of additions changes

Progress = Callable[[float, float | None], None]  # (share done, loss)
Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]


class GPT(nn.Module):
    """The network: what each line is and where it stands, causal blocks, logits of the class after the newest line.

    Shapes: windows `int64[B, h]` → logits `float32[B, P]`, P = classes − 2: the templates and the end.
    """

    def __init__(
        self, classes: int, length: int, width: int = 64, heads: int = 4, layers: int = 2, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.token = nn.Embedding(classes, width)
        self.place = nn.Embedding(length, width)
        self.blocks = nn.ModuleList(_Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                # GPT-2's 0.02 is half of 1/√768; of so narrow a network, 1/√W learns in half the steps. What is added
                # to the states starts smaller the more layers add to them.
                is_added = name.endswith(("heard.weight", "narrow.weight"))
                nn.init.normal_(weight, std=1 / math.sqrt(width * (2 * layers if is_added else 1)))

    def forward(self, windows: Tensor) -> Tensor:
        """Logits of the class that follows each window."""
        states = self.token(windows) + self.place.weight  # [B, h, W]
        *inner, last = self.blocks
        for block in inner:
            states = block(states, asked=windows.shape[1])  # [B, h, W]
        newest = self.norm(last(states, asked=1)[:, 0])  # [B, W]; nothing reads the older places
        logits: Tensor = newest @ self.token.weight[FIRST_TEMPLATE:].T  # [B, P]
        return logits


class _Block(nn.Module):
    """Causal self-attention, then two layers on each place by itself; both add to what came in.

    Shapes: `float32[B, h, W]` → `float32[B, asked, W]`, the newest places.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.before = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.heard = nn.Linear(width, width)
        self.between = nn.LayerNorm(width)
        self.wide = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, asked: int) -> Tensor:
        """The states of the newest `asked` places: all of them, or one."""
        known = self.before(states)  # [B, h, W]
        query = self._by_head(self.query(known[:, -asked:]))  # [B, H, asked, W/H]
        key, value = map(self._by_head, self.key_value(known).chunk(2, dim=2))  # [B, H, h, W/H] each
        found = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=asked > 1)
        states = states[:, -asked:] + self.dropout(self.heard(found.transpose(1, 2).flatten(2)))  # [B, asked, W]
        inner = nn.functional.gelu(self.wide(self.between(states)))  # [B, asked, 4W]
        result: Tensor = states + self.dropout(self.narrow(inner))  # [B, asked, W]
        return result

    def _by_head(self, states: Tensor) -> Tensor:
        return states.view(*states.shape[:2], self.heads, -1).transpose(1, 2)  # [B, H, h, W/H]


def surprises(network: GPT, windows: Int32, chunk: int) -> Float32:
    """−log10 of the probability of every class that can follow each window, rounded.

    Windows are evaluated in chunks of one size, filled up: a row's arithmetic never depends on its neighbours.

    Shapes: `windows int32[B, h]` → `float32[B, P]`, from the first template on.
    """
    result: Float32 = np.empty((len(windows), network.token.num_embeddings - FIRST_TEMPLATE), np.float32)
    filled = torch.zeros((chunk, windows.shape[1]), dtype=torch.int64)
    network.eval()
    with torch.inference_mode():
        for low in range(0, len(windows), chunk):
            part = torch.from_numpy(windows[low : low + chunk].astype(np.int64))
            filled.zero_()
            filled[: len(part)] = part
            result[low : low + chunk] = torch.log_softmax(network(filled), dim=1)[: len(part)].numpy()
    rounded: Float32 = np.round(result / -np.float32(math.log(10)), _DIGITS)
    return rounded


@dataclass(frozen=True, slots=True)
class Counted:
    """Distinct windows with what came next, and how often each was seen.

    Shapes: `windows int64[D, h]`, `following int64[D]` (class − 2, as logits have it), `count float32[D]`.
    """

    windows: Tensor
    following: Tensor
    count: Tensor

    @classmethod
    def of(cls, rows: Int32, count: npt.NDArray[np.int64]) -> Counted:
        """The rows (window, next class) that were seen at all."""
        seen = np.flatnonzero(count)
        kept = torch.from_numpy(rows[seen].astype(np.int64))
        return cls(kept[:, :-1], kept[:, -1] - FIRST_TEMPLATE, torch.from_numpy(count[seen].astype(np.float32)))

    def __len__(self) -> int:
        return len(self.count)

    def take(self, places: Tensor) -> Counted:
        """These rows."""
        return Counted(self.windows[places], self.following[places], self.count[places])


@dataclass(frozen=True, slots=True)
class HeldOut:
    """How well a network foresees lines that it was not taught.

    Attributes:
        loss: nats a line.
        outside_ratio: share of the lines that were not among the top k.
    """

    loss: float
    outside_ratio: float


@torch.no_grad()
def look(network: GPT, held: Counted, top_k: int) -> HeldOut:
    """The figures of a network on these lines."""
    network.eval()
    loss = outside = 0.0
    for places in torch.split(torch.arange(len(held)), _EVALUATED):
        part = held.take(places)
        logits = network(part.windows)  # [B, P]
        own = logits.gather(1, part.following[:, None])  # [B, 1]
        loss += float(((logits.logsumexp(1) - own[:, 0]) * part.count).sum())
        is_outside = (~(logits <= own)).sum(1) >= top_k  # a network whose logits are no numbers foresees nothing
        outside += float((is_outside * part.count).sum())
    total = float(held.count.sum())
    return HeldOut(loss / total, outside / total)


@dataclass(frozen=True, slots=True)
class Course:
    """How long a network is taught.

    Attributes:
        steps: of the optimiser in pretraining, of drawing and learning in refinement.
        size: windows in a step.
        learning_rate: it falls to 0, in pretraining along a cosine and after a warm-up, in refinement along a line.
    """

    steps: int
    size: int
    learning_rate: float

    def is_told(self, step: int) -> bool:
        """Whether progress is told after this step, counted from 0."""
        return (step + 1) % max(1, self.steps // _LOOKS) == 0 or step + 1 == self.steps


def pretrain(
    network: GPT, taught: Counted, held: Counted | None, course: Course, chance: torch.Generator, progress: Progress
) -> None:
    """Teach a network which class comes next; of the states looked at, the one with the least held-out loss is kept.

    Args:
        network: changed in place.
        taught: what to learn.
        held: what says which state was best; None for the last one.
        course: how long.
        chance: draws the order.
        progress: told about `_LOOKS` times.
    """
    optimiser = Adam(list(network.parameters()))
    least, best = math.inf, network.state_dict()
    order = torch.zeros(0, dtype=torch.int64)
    for step in range(course.steps):
        while len(order) < course.size:
            order = torch.cat((order, torch.randperm(len(taught), generator=chance)))
        batch, order = taught.take(order[: course.size]), order[course.size :]
        hidden = (torch.rand(batch.windows.shape, generator=chance) < _UNKNOWN_RATIO) & (
            batch.windows >= FIRST_TEMPLATE
        )
        network.train()
        logits = network(batch.windows.masked_fill(hidden, UNKNOWN))  # [B, P]
        losses = nn.functional.cross_entropy(logits, batch.following, reduction="none")  # [B]
        loss = (losses * batch.count).mean() / taught.count.mean()
        loss.backward()  # type: ignore[no-untyped-call]
        fall = (1 + math.cos(math.pi * step / course.steps)) / 2
        optimiser.step(course.learning_rate * min((step + 1) / (_WARM_UP * course.steps), fall))
        if course.is_told(step):
            reached = float(loss.detach()) if held is None else look(network, held, 1).loss
            progress((step + 1) / course.steps, reached)
            if held is not None and reached < least:
                least, best = reached, copy.deepcopy(network.state_dict())
    network.load_state_dict(best)


def refine(
    network: GPT, taught: Counted, top_k: int, course: Course, chance: torch.Generator, progress: Progress
) -> None:
    """Teach a network to have what really came next among its k predictions.

    A window of normal lines is the prompt, and a list of k distinct classes the action, drawn from the network (the k largest of its logits with
    Gumbel noise). The reward is +1 if the list holds the class that really came, else −1. The policy follows the clipped gradient; a list's
    advantage is its reward less the mean reward of its window's lists, so that windows whose lists all hold the class teach nothing.

    Source: Han et al., section III (prompt, policy, reward); Schulman et al., Proximal Policy Optimization Algorithms (2017), equation 7; Kool
    et al., Stochastic Beams and Where to Find Them (ICML 2019), section 2 (drawing without replacement). Unlike Han et al., the list is drawn instead
    of being the k likeliest, because a reward that the action cannot change has no gradient; and every context is what really came,
    never what the network made of it, as it is when lines are judged.

    Args:
        network: changed in place.
        taught: what to learn.
        top_k: classes in a list; less than P.
        course: how long.
        chance: draws windows and lists.
        progress: told about `_LOOKS` times; the loss is the mean reward, negative.
    """
    size = max(1, min(course.size, _DRAWN // (_DRAWS * (network.token.num_embeddings - FIRST_TEMPLATE))))
    optimiser = Adam(list(network.parameters()))
    network.eval()  # without dropout, the old and the new policy differ by what was learned only
    for step in range(course.steps):
        batch = taught.take(torch.randperm(len(taught), generator=chance)[:size])
        with torch.no_grad():
            logits = network(batch.windows)  # [B, P]
            noise = torch.empty(_DRAWS, *logits.shape).exponential_(generator=chance).log_().neg_()  # [R, B, P]
            listed = (logits + noise).topk(top_k, dim=2).indices  # [R, B, k], in the order drawn
            reward = (listed == batch.following[:, None]).any(2) * 2.0 - 1.0  # [R, B]
            advantage = reward - reward.mean(0)  # [R, B]
            telling = advantage.any(0).nonzero()[:, 0]
            listed, advantage = listed[:, telling], advantage[:, telling]
            old = _log_probability(logits[telling], listed)  # [R, B]
        told = batch.take(telling)
        for _ in range(_PASSES if len(told) else 0):
            ratio = (_log_probability(network(told.windows), listed) - old).exp()  # [R, B]
            gain = torch.minimum(ratio * advantage, ratio.clamp(1 - _CLIP, 1 + _CLIP) * advantage)  # [R, B]
            loss = -(gain.mean(0) * told.count).sum() / batch.count.sum()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step(course.learning_rate * (1 - step / course.steps))
        if course.is_told(step):
            progress((step + 1) / course.steps, -float((reward.mean(0) * batch.count).sum() / batch.count.sum()))


def _log_probability(logits: Tensor, listed: Tensor) -> Tensor:
    """How likely lists of classes are to be drawn one after the other without replacement, in nats.

    Shapes: `logits float32[B, P]`, `listed int64[R, B, k]` → `float32[R, B]`.

    >>> logits = torch.tensor([[0.5, 0.3, 0.2]]).log()
    >>> _log_probability(logits, torch.tensor([[[0, 1]], [[2, 0]]])).exp()[:, 0]  # 0.5 · 0.3/0.5, then 0.2 · 0.5/0.8
    tensor([0.3000, 0.1250])
    """
    every = logits.expand(len(listed), -1, -1)  # [R, B, P]
    own = every.gather(2, listed)  # [R, B, k]
    others = every.scatter(2, listed, -torch.inf).logsumexp(2, keepdim=True)  # [R, B, 1], of those never drawn
    left = torch.cat((others, own.flip(2)), 2).logcumsumexp(2)[..., 1:].flip(2)  # [R, B, k], before each draw
    return (own - left).sum(2)
