"""Texts as vectors: an LSTM autoencoder over words, whose narrow middle is the code of a text.

```
words of a text ─ embedding ─ LSTM ─ last state ─ linear, tanh ─→ code ─ LSTM over the code, again and again ─ linear ─→ the words, last one first
```

Source: Bursic, Cuculo, D'Amelio, Anomaly Detection from Log Files Using Unsupervised Deep Learning (FM 2019 workshops); the reversed output is
Srivastava et al., Unsupervised Learning of Video Representations using LSTMs (ICML 2015).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.detectors.contract import DIGITS, Float32
from models.fitting import Adam

Int64 = npt.NDArray[np.int64]

MAX_TOKENS: Final = 32  # of a text; what comes after is not looked at
_FIRST_WORD: Final = 2  # 0 is padding, 1 any word that is not known
_WORD: Final = re.compile(r"<[^<>\s]*>|[^\W_]+")
_EMBEDDING: Final = 32
_CHUNK: Final = 64  # texts evaluated at once, always as many, so that a text's numbers never depend on its neighbours
_HIDDEN_RATIO: Final = 0.05  # of the words, shown as unknown ones: one strange word must not change the whole code
_GAIN: Final = (
    3.0  # of the code before the decoder; without it some starts never leave the plateau where all texts are alike
)
_LOOK: Final = 25  # steps between two looks at the loss
_ENOUGH: Final = 0.05  # nats a word; below there is nothing left to learn


def words_of(text: str) -> list[str]:
    """The words of a text that count.

    >>> words_of("Payment <num> of user_7 declined: no money")
    ['payment', '<num>', 'of', 'user', '7', 'declined', 'no', 'money']
    """
    return _WORD.findall(text.lower())[:MAX_TOKENS]


def vocabulary(texts: Sequence[str], most: int) -> list[str]:
    """The words of these texts, the most frequent first, ties by word; at most `most`."""
    count = Counter(word for text in texts for word in words_of(text))
    return sorted(count, key=lambda word: (-count[word], word))[:most]


class TextAutoencoder(nn.Module):
    """The network.

    Shapes: tokens `int64[B, T]`, 0 after the end → code `float32[B, K]` → logits `float32[B, T, W]` of the words, the last one first.
    """

    def __init__(self, words: int, hidden: int, code: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words + _FIRST_WORD, _EMBEDDING, padding_idx=0)
        self.encoder = nn.LSTM(_EMBEDDING, hidden, batch_first=True)
        self.narrow = nn.Linear(hidden, code)
        self.decoder = nn.LSTM(code, hidden, batch_first=True)
        self.head = nn.Linear(hidden, words + _FIRST_WORD)
        with (
            torch.no_grad()
        ):  # to begin with, nothing is forgotten: it learns in fewer steps (Jozefowicz et al., ICML 2015)
            for lstm in (self.encoder, self.decoder):
                lstm.get_parameter("bias_ih_l0")[hidden : 2 * hidden] = 1.0

    def encode(self, tokens: Tensor) -> Tensor:
        """The code of each text; one without words has that of padding."""
        states, _ = self.encoder(self.embedding(tokens))  # [B, T, H]
        last = ((tokens > 0).sum(1) - 1).clamp_min(0)  # [B]
        state = states[torch.arange(len(tokens)), last]  # [B, H]
        return torch.tanh(self.narrow(state))  # [B, K]

    def decode(self, code: Tensor, steps: int) -> Tensor:
        """The states that the words are read from, the last word first; `float32[B, T, H]`."""
        states: Tensor = self.decoder((_GAIN * code)[:, None].expand(-1, steps, -1))[0]
        return states


class TextCodes:
    """Codes of texts, and how badly each is rebuilt from its code.

    State: a memo of at most `memo_texts` texts; dropping it changes no answer.

    Args:
        words: the vocabulary, in order.
        weights: the state of a `TextAutoencoder`.
        memo_texts: bound of the memo.

    Raises: ValueError if words and weights do not fit together.
    """

    def __init__(self, words: Sequence[str], weights: Mapping[str, npt.NDArray[Any]], memo_texts: int = 4_096) -> None:
        try:
            code, hidden = weights["narrow.weight"].shape
            self._network = TextAutoencoder(len(words), hidden, code)
            self._network.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in weights.items()})
        except (KeyError, RuntimeError, ValueError) as error:
            raise ValueError(f"text autoencoder: the weights do not fit: {error}") from error
        self._network.eval()
        self._number = {word: number for number, word in enumerate(words, start=_FIRST_WORD)}
        self._memo_texts = memo_texts
        self._memo: dict[str, tuple[Float32, float]] = {}
        self.size = code

    def encode(self, texts: Sequence[str]) -> Float32:
        """The code of each text; `float32[D, K]`."""
        return self._evaluate(texts, is_rebuilt=False)[0]

    def rebuild(self, texts: Sequence[str]) -> tuple[Float32, Float32]:
        """The code of each text, and the mean surprise at its words when they are rebuilt from it.

        Shapes: `float32[D, K]`, `float32[D]`. Units: nats a word.
        """
        if len(self._memo) + len(texts) > self._memo_texts:
            self._memo = {}
        missing = [text for text in dict.fromkeys(texts) if text not in self._memo]
        if missing:
            codes, errors = self._evaluate(missing, is_rebuilt=True)
            self._memo.update(zip(missing, zip(codes, errors.tolist(), strict=True), strict=True))
        found = [self._memo[text] for text in texts]
        codes = np.array([code for code, _ in found], np.float32).reshape(len(texts), self.size)
        return codes, np.array([error for _, error in found], np.float32)

    def _evaluate(self, texts: Sequence[str], *, is_rebuilt: bool) -> tuple[Float32, Float32]:
        tokens = tokens_of(texts, self._number)
        codes, errors = np.empty((len(texts), self.size), np.float32), np.zeros(len(texts), np.float32)
        chunk = torch.zeros((_CHUNK, MAX_TOKENS), dtype=torch.int64)
        with torch.inference_mode():
            for low in range(0, len(texts), _CHUNK):
                part = torch.from_numpy(tokens[low : low + _CHUNK])
                chunk.zero_()
                chunk[: len(part)] = part
                code = self._network.encode(chunk)
                codes[low : low + _CHUNK] = code[: len(part)].numpy()
                if is_rebuilt:
                    errors[low : low + _CHUNK] = _surprise(self._network, chunk, code)[: len(part)].numpy()
        rounded: Float32 = codes.round(DIGITS)
        surprise: Float32 = errors.round(DIGITS)
        return rounded, surprise


def fit_codes(
    texts: Sequence[str],
    words: Sequence[str],
    *,
    hidden: int,
    code: int,
    max_steps: int,
    seed: int,
    report: Callable[[float, float], None],
) -> dict[str, npt.NDArray[Any]]:
    """Fit the autoencoder to distinct texts; gives its state.

    Args:
        texts: what to rebuild.
        words: the vocabulary.
        hidden: size of the two LSTMs.
        code: size of a code.
        max_steps: of the optimiser; fitting stops before once nothing is left to learn.
        seed: the same one gives the same state.
        report: told the share done and the loss in nats a word.
    """
    tokens = torch.from_numpy(tokens_of(texts, {word: at for at, word in enumerate(words, start=_FIRST_WORD)}))
    chance = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = TextAutoencoder(len(words), hidden, code)
        optimiser = Adam(list(network.parameters()))
        size = min(64, max(8, len(tokens)))
        order = torch.zeros(0, dtype=torch.int64)
        losses: list[float] = []
        for step in range(max_steps):
            while len(order) < size:
                order = torch.cat((order, torch.randperm(len(tokens), generator=chance)))
            batch, order = tokens[order[:size]], order[size:]
            batch = batch[:, : max(1, int((batch > 0).sum(1).max()))]  # [B, T]
            is_hidden = (torch.rand(batch.shape, generator=chance) < _HIDDEN_RATIO) & (batch > 0)
            states = network.decode(network.encode(batch.masked_fill(is_hidden, 1)), batch.shape[1])
            wanted = _reversed(batch)
            is_word = wanted > 0
            loss = nn.functional.cross_entropy(network.head(states[is_word]), wanted[is_word])
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step(1e-2 * (1 + math.cos(math.pi * step / max_steps)) / 2)
            losses.append(float(loss.detach()))
            if (step + 1) % _LOOK == 0:
                mean = sum(losses[-_LOOK:]) / _LOOK
                report((step + 1) / max_steps, mean)
                if mean < _ENOUGH:
                    break
    return {name: tensor.detach().numpy() for name, tensor in network.state_dict().items()}


def tokens_of(texts: Sequence[str], number: Mapping[str, int]) -> Int64:
    """The numbers of the words of each text, filled up with 0; `int64[D, MAX_TOKENS]`."""
    tokens = np.zeros((len(texts), MAX_TOKENS), np.int64)
    for row, text in enumerate(texts):
        found = [number.get(word, 1) for word in words_of(text)]
        tokens[row, : len(found)] = found
    return tokens


def _reversed(tokens: Tensor) -> Tensor:
    """Each row's words, the last one first, then its padding.

    >>> _reversed(torch.tensor([[5, 6, 7], [8, 0, 0]])).tolist()
    [[7, 6, 5], [8, 0, 0]]
    """
    place = (tokens > 0).sum(1, keepdim=True) - 1 - torch.arange(tokens.shape[1])  # [B, T]
    return tokens.gather(1, place.clamp_min(0)).masked_fill(place < 0, 0)


def _surprise(network: TextAutoencoder, tokens: Tensor, code: Tensor) -> Tensor:
    """The mean surprise at the words of each text, rebuilt from its code; `float32[B]`."""
    wanted = _reversed(tokens)
    logits = network.head(network.decode(code, tokens.shape[1]))  # [B, T, W]
    each = nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none").view(wanted.shape)
    is_word = wanted > 0
    return (each * is_word).sum(1) / is_word.sum(1).clamp_min(1)
