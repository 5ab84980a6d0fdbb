"""Grouping accuracy: how many lines a template miner groups exactly as the truth does."""

from __future__ import annotations

import csv
from array import array
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.errors import DataSetError
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


def contents(lines: Sequence[bytes], read_ms: int) -> list[str]:
    """The message of each raw line, its head (time, level, host, process) taken off as the job does it.

    A line that is no record stays as it is.

    Args:
        lines: raw lines, without their ends.
        read_ms: when they were read or written, ms; heads without a year need it.
    """
    count = len(lines)
    raw = Raw(list(lines), "", np.zeros(count, np.int32), np.arange(count), np.full(count, read_ms))
    records, _ = parse(raw, ParseParams())
    texts = [line.decode("utf-8", "replace") for line in lines]
    for row, message in zip(records.row.tolist(), records.message, strict=True):
        texts[row] = message
    return texts


class Miner:
    """Mines the messages of one service, a batch at a time.

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

    def counts(self) -> list[int]:
        """Lines of each template."""
        counts: list[int] = np.bincount(np.frombuffer(self.seq, np.int32), minlength=len(self.shard)).tolist()
        return counts


def mine(messages: Sequence[str], params: TemplateParams | None = None) -> tuple[ShardTemplates, list[int]]:
    """The templates of some messages of one service, and each message's template number."""
    miner = Miner(params)
    miner.add(messages)
    return miner.shard, miner.seq.tolist()


def evaluate_templates(folder: Path | str, params: TemplateParams | None = None) -> dict[str, Any]:
    """Grouping accuracy by system of a folder in the layout of published parsing sets, on the Content column and on the raw lines.

    The folder holds one folder a system with `*_2k.log` (raw) and `*structured*.csv` (columns Content, EventId).

    Raises: DataSetError if no such folder or file is there.
    """
    params = params or TemplateParams()
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
        shard, groups = mine([row["Content"] for row in rows], params)
        figures: dict[str, Any] = {
            "lines": len(rows),
            "true_templates": len(set(truth)),
            "templates": len(shard),
            "grouping_accuracy": grouping_accuracy(groups, truth),
            "grouping_accuracy_raw": None,
        }
        raw = list(structured.parent.glob("*.log"))
        if raw:
            lines = raw[0].read_bytes().splitlines()[: len(rows)]
            written_ms = int(raw[0].stat().st_mtime * 1000)
            if len(lines) == len(rows):
                figures["grouping_accuracy_raw"] = grouping_accuracy(
                    mine(contents(lines, written_ms), params)[1], truth
                )
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
