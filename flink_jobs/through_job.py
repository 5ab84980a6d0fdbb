"""An evaluation's lines through the whole job, on a mini-cluster of this process."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from flink_jobs.settings import Settings


def score_through_job(lines: Iterable[bytes], models: Path, settings: Settings) -> Iterator[Mapping[str, Any]]:
    """The anomalies that the job writes for these lines, in the order it wrote them.

    The lines go through a file, so a line's number, from 0, is its offset, as it is through the core.

    Args:
        lines: in source order.
        models: folder of the models.
        settings: the job's; its sources, sinks and model are replaced.
    """
    from flink_jobs import job

    with tempfile.TemporaryDirectory(prefix="driftwood-evaluate-") as name:
        folder = Path(name)
        source, sink = folder / "evaluate.log", folder / "anomalies.jsonl"
        with source.open("wb") as file:
            for line in lines:
                file.write(line + b"\n")
        files = {
            "source": (f"file:{source}",),
            "sink": (f"file:{sink}",),
            "model": models,
            "job_name": "driftwood evaluate",
            "parallelism": 1,  # the file's parts must be read in order
        }
        own = settings.model_copy(update=files)
        job.check(own)
        job.build(own, conf=job.local_conf(folder)).execute(own.job_name)
        if sink.exists():
            with sink.open("rb") as found:
                for line in found:
                    yield orjson.loads(line)
