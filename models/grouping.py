"""Grouping accuracy: how many lines a template miner groups exactly as the truth does."""

from __future__ import annotations

import csv
from array import array
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from models.errors import DataSetError
from models.header import SAMPLE_LINES, Header, find_header
from models.masking import mask
from models.parsing import ParseParams, Raw, parse
from models.templates import ShardTemplates, TemplateParams


def grouping_accuracy(predicted: Sequence[Hashable], truth: Sequence[Hashable]) -> float:
    """The share of lines whose predicted group holds exactly the lines of their true group.

    >>> grouping_accuracy(["a", "a", "b", "c"], ["x", "x", "y", "y"])
    0.5

    Source: Zhu et al., Tools and Benchmarks for Automated Log Parsing (ICSE-SEIP 2019), section III.
    """
    if len(predicted) != len(truth):
        raise ValueError(f"{len(predicted)} predictions for {len(truth)} lines")
    if not truth:
        return 1.0
    groups, true_groups = Counter(predicted), Counter(truth)
    both = Counter(zip(predicted, truth, strict=True))
    right = sum(n for (group, true), n in both.items() if n == groups[group] == true_groups[true])
    return right / len(truth)


class Contents:
    """The message of each raw line of one file, its head taken off: first as the job does it, then any columns left.

    The job knows times, levels, hosts and processes in the usual places; what else all lines of this file begin with is
    found in the first batch (`models.header`). A line that is no record stays as it is.

    Args:
        read_ms: when the lines were read or written, ms; heads without a year need it.
    """

    def __init__(self, read_ms: int) -> None:
        self._read_ms = read_ms
        self._header: Header | None = None
        self._is_first = True

    def read(self, lines: Sequence[bytes]) -> list[str]:
        """The messages of one batch of lines, given without their ends."""
        count = len(lines)
        raw = Raw(list(lines), "", np.zeros(count, np.int32), np.arange(count), np.full(count, self._read_ms))
        records, _ = parse(raw, ParseParams())
        texts = [line.decode("utf-8", "replace") for line in lines]
        rows = records.row.tolist()
        is_headed = [False] * count
        for row, message in zip(rows, records.message, strict=True):
            is_headed[row] = len(message) < len(texts[row])
            texts[row] = message
        if self._is_first:
            self._is_first = False
            sample = [text for text in texts[:SAMPLE_LINES] if text.strip()]
            mostly = 2 * sum(is_headed[:SAMPLE_LINES]) > len(sample)
            self._header = find_header(sample, is_headed=mostly)
        return texts if self._header is None else [self._header.content(text) for text in texts]


def contents(lines: Sequence[bytes], read_ms: int) -> list[str]:
    """The message of each raw line of one file, all at once."""
    return Contents(read_ms).read(lines)


class Grouped(NamedTuple):
    """Lines by template.

    Attributes:
        groups: the template number of each line.
        templates: their texts, for people.
        ids: their external ids.
    """

    groups: Sequence[int]
    templates: list[str]
    ids: list[int]

    def counts(self) -> list[int]:
        """Lines of each template."""
        counts: list[int] = np.bincount(np.asarray(self.groups, np.int64), minlength=len(self.templates)).tolist()
        return counts


class LineMiner(Protocol):
    """What finds the templates of some messages, a batch at a time."""

    @property
    def lines(self) -> int:
        """Messages so far."""

    def add(self, messages: Sequence[str]) -> None:
        """Take one batch."""

    def grouped(self) -> Grouped:
        """The templates of all messages so far."""


class Miner:
    """Mines the messages of one service as the job does, a batch at a time.

    State: the templates, and the template number of every line so far (`seq`, 4 bytes a line).
    """

    def __init__(self, params: TemplateParams | None = None) -> None:
        self.shard = (params or TemplateParams()).build()
        self.seq = array("i")

    @property
    def lines(self) -> int:
        """Messages so far."""
        return len(self.seq)

    def add(self, messages: Sequence[str]) -> None:
        """Mine one batch."""
        place: dict[str, int] = {}
        texts = mask(messages, self.shard.params.masking).to_list()
        text_of_line = np.fromiter((place.setdefault(text, len(place)) for text in texts), np.int32, len(texts))
        none = np.zeros(len(texts), np.int64)
        step = self.shard.step([f"\0{text}" for text in place], text_of_line, none, none.astype(np.uint8))
        self.seq.frombytes(step.seq.tobytes())

    def grouped(self) -> Grouped:
        """The templates of all messages so far."""
        shard = self.shard
        texts = [shard.template(seq) for seq in range(len(shard))]
        return Grouped(np.frombuffer(self.seq, np.int32).tolist(), texts, shard.ids.tolist())


def mine(messages: Sequence[str], params: TemplateParams | None = None) -> tuple[ShardTemplates, list[int]]:
    """The templates of some messages of one service, and each message's template number."""
    miner = Miner(params)
    miner.add(messages)
    return miner.shard, miner.seq.tolist()


def evaluate_templates(folder: Path | str, miner: Callable[[], LineMiner] = Miner) -> dict[str, Any]:
    """Grouping accuracy by system of a folder in the layout of published parsing sets, on the Content column and on the raw lines.

    The folder holds one folder a system with `*_2k.log` (raw) and `*structured*.csv` (columns Content, EventId).

    Args:
        folder: of the set.
        miner: makes one for the lines of one system.

    Raises: DataSetError if no such folder or file is there.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataSetError(f"{root} is no folder; give one with a folder for each system.")
    systems = {}
    for structured in sorted(root.glob("*/*structured*.csv")):
        with structured.open(newline="", encoding="utf-8", errors="replace") as file:
            rows = list(csv.DictReader(file))
        if not rows or not {"Content", "EventId"} <= rows[0].keys():
            raise DataSetError(f"{structured} lacks the columns Content and EventId; is it a structured log file?")
        truth = [row["EventId"] for row in rows]
        found = _grouped(miner(), [row["Content"] for row in rows])
        figures: dict[str, Any] = {
            "lines": len(rows),
            "true_templates": len(set(truth)),
            "templates": len(found.templates),
            "grouping_accuracy": grouping_accuracy(found.groups, truth),
            "grouping_accuracy_raw": None,
        }
        raw = list(structured.parent.glob("*.log"))
        if raw:
            lines = raw[0].read_bytes().splitlines()[: len(rows)]
            written_ms = int(raw[0].stat().st_mtime * 1000)
            if len(lines) == len(rows):
                raw_found = _grouped(miner(), contents(lines, written_ms))
                figures["grouping_accuracy_raw"] = grouping_accuracy(raw_found.groups, truth)
        systems[structured.parent.name] = figures
    if not systems:
        raise DataSetError(
            f"{root} holds no */*structured*.csv; give a folder with one subfolder a system (see the README of the data set)."
        )
    average = {
        name: sum(figures[name] or 0.0 for figures in systems.values()) / len(systems)
        for name in ("grouping_accuracy", "grouping_accuracy_raw")
    }
    return {"dataset": root.name, "unit": "template", "systems": systems, "average": average}


def _grouped(miner: LineMiner, messages: Sequence[str]) -> Grouped:
    miner.add(messages)
    return miner.grouped()
