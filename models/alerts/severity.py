"""How bad an anomaly is for the people who run the service: from what its text says, how sure the verdict is, and the level.

```
message ─ words, pairs, stems ─ weights (severity.safetensors) ─→ text     ┐
level, if there is one ───────────────────────────────────────→ a leaning  ├─ sum ─ softmax ─→ severity, confidence
strength over threshold, detectors that agree, kinds of line ─→ a leaning  ┘
```

The text speaks first: an anomaly is often written as INFO, and ERROR is often nothing that anyone must act on. Without a level only that leaning is
missing. The weights are learned by models/alerts/train_severity.py from wordings of our own (severity_corpus.py); the leanings are set by hand.
"""

from __future__ import annotations

import itertools
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

import numpy as np
from safetensors.numpy import load

from models.alerts.severity_corpus import SEVERITIES
from models.parsing.levels import LEVELS

Logits = tuple[float, float, float, float]

WEIGHTS: Final = "severity.safetensors"
#: A critical anomaly that is surer than this cannot wait.
IMMEDIATE: Final = 0.85
#: A detector whose evidence is below this has no say (models/patterns.py has the same bound).
_NOTABLE: Final = 1.5
#: What follows says little more about how bad it is, and costs time.
_CHARS: Final = 512

_TOKEN: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_STEM: Final = 5
_WARNING: Final = 1
_CRITICAL: Final = 3

#: What a level says, by its index in LEVELS: least where nothing is declared, and never enough to outvote a clear text.
_BY_LEVEL: Final[tuple[Logits, ...]] = (
    (0.0, 0.0, 0.0, 0.0),
    (0.6, 0.0, -0.3, -0.8),  # TRACE
    (0.6, 0.0, -0.3, -0.8),  # DEBUG
    (0.4, 0.0, -0.2, -0.5),  # INFO
    (-0.4, 0.8, 0.0, -0.3),  # WARN
    (-1.0, -0.3, 0.8, 0.2),  # ERROR
    (-1.5, -1.0, 0.3, 1.8),  # FATAL
)
#: For each doubling of what the verdict is sure of.
_BY_WEIGHT: Final[Logits] = (-0.4, 0.0, 0.15, 0.15)
#: Where the anomaly is that something did not come (the rest of a session, a service's lines), the text is of a harmless line before it.
_BY_ABSENCE: Final[Logits] = (-1.5, 1.0, 0.5, -0.5)
_TEXT_OF_ABSENCE: Final = 0.5


@dataclass(frozen=True, slots=True)
class Severity:
    """How bad it is.

    Attributes:
        name: one of `SEVERITIES`.
        confidence: from 0 to 1, how likely this name is the right one.
    """

    name: str
    confidence: float

    @property
    def is_immediate(self) -> bool:
        """True for what cannot wait: critical, and sure."""
        return self.name == SEVERITIES[_CRITICAL] and self.confidence > IMMEDIATE


def rank(name: str | None) -> int:
    """The place of a severity, 0 for the least; what an anomaly of an older release leaves open counts as a warning.

    >>> rank("critical"), rank(None)
    (3, 1)
    """
    return SEVERITIES.index(name) if name in SEVERITIES else _WARNING


def severity(
    message: str,
    level: int,
    strength: float,
    threshold: float,
    kind: str = "line",
    votes: Mapping[str, float] | None = None,
    pieces: int = 1,
) -> Severity:
    """The severity of one anomaly; about 30 µs.

    Args:
        message: the line.
        level: its level, by its index in LEVELS; 0 if there is none, or it is hidden.
        strength: of the verdict.
        threshold: from which on it is told.
        kind: line, end or rate, as the anomaly has it.
        votes: evidence by detector.
        pieces: kinds of line that make up the evidence.

    >>> severity("data corruption detected in table orders", 0, 4.0, 2.0).name
    'critical'
    """
    text = text_logits(message)
    voices = sum(1 for evidence in (votes or {}).values() if evidence >= _NOTABLE)
    weight = _doublings(strength / threshold if threshold > 0 else 1.0, 3)
    weight += 0.5 * _doublings(pieces, 2) + 0.25 * _doublings(voices, 2)
    leaning = [by_level + weight * each for by_level, each in zip(_BY_LEVEL[level], _BY_WEIGHT, strict=True)]
    if kind != "line":
        summed = [_TEXT_OF_ABSENCE * t + a + b for t, a, b in zip(text, _BY_ABSENCE, leaning, strict=True)]
    else:
        summed = [t + b for t, b in zip(text, leaning, strict=True)]
    return _softmax(summed)


def severities(anomalies: Sequence[Mapping[str, Any]]) -> list[Severity]:
    """The severity of each anomaly of the contract (docs/anomaly.schema.json)."""
    return [
        severity(
            anomaly["message"],
            LEVELS.index(anomaly["level"] or ""),
            anomaly["strength"],
            anomaly["threshold"],
            anomaly["kind"],
            anomaly["detectors"],
            len(anomaly["evidence"]),
        )
        for anomaly in anomalies
    ]


def _doublings(value: float, most: int) -> float:
    return min(float(most), math.log2(value)) if value > 1 else 0.0


def _softmax(logits: Sequence[float]) -> Severity:
    top = max(logits)
    likely = [math.exp(each - top) for each in logits]
    best = likely.index(max(likely))  # of equals the less harmful
    return Severity(SEVERITIES[best], round(likely[best] / sum(likely), 3))


# ---- the text


def features(message: str) -> list[int]:
    """The features of a text as hashes: words, pairs of neighbours, and stems; numbers by their kind, never by their value.

    >>> len(features("OutOfMemoryError: Java heap space"))
    14
    """
    tokens = [_number(token) if token[0].isdigit() else token.lower() for token in _TOKEN.findall(message[:_CHARS])]
    words = [token for token in tokens if token]
    found = [*words, *map(" ".join, itertools.pairwise(words))]
    found += [f"{word[:_STEM]}*" for word in words if len(word) > _STEM]
    return [zlib.crc32(feature.encode()) for feature in found]


def _number(digits: str) -> str:
    """HTTP's classes of answers, zero, and nothing for all other numbers.

    >>> [_number(digits) for digits in ("0", "503", "200", "17")]
    ['#0', '#5xx', '#2xx', '']
    """
    if digits == "0":
        return "#0"
    return f"#{digits[0]}xx" if len(digits) == 3 and digits[0] in "245" and digits[1] in "0123" else ""


def text_logits(message: str) -> Logits:
    """What the text alone says: one logit a severity, calibrated so that their softmax are probabilities."""
    table, bias = _weights()
    hashes = features(message)
    a = b = c = d = 0.0
    for feature in hashes:
        row = table.get(feature)
        if row is not None:
            a, b, c, d = a + row[0], b + row[1], c + row[2], d + row[3]
    scale = 1 / math.sqrt(len(hashes) or 1)
    return a * scale + bias[0], b * scale + bias[1], c * scale + bias[2], d * scale + bias[3]


@cache
def _weights() -> tuple[dict[int, Logits], Logits]:
    """Weights by feature, and the bias, from the file beside this one: `features` uint32[F], `weights` float16[F, 4], `bias` float32[4]."""
    arrays = load(files("models.alerts").joinpath(WEIGHTS).read_bytes())
    rows = arrays["weights"].astype(np.float64).tolist()
    table = {feature: tuple(row) for feature, row in zip(arrays["features"].tolist(), rows, strict=True)}
    return table, tuple(arrays["bias"].astype(np.float64).tolist())
