"""`driftwood run`: the job, on a mini-cluster in this process; through submit.sh, on a cluster."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from loguru import logger

from models.errors import SettingsError

Source = Annotated[
    list[str] | None,
    typer.Option(
        help="kafka://host:9092/topic[,topic], file:PATH, or file:PATH?follow=1, which goes on as the file grows; repeatable"
    ),
]
Sink = Annotated[
    list[str] | None,
    typer.Option(help="kafka://host:9092/anomalies, file:PATH, loki://…, redis://…, elastic://…; repeatable"),
]
Model = Annotated[Path | None, typer.Option(help="folder of model artefacts, one for each service, and default/")]
Control = Annotated[
    str | None,
    typer.Option(
        help="kafka://host:9092/control: feedback, models and modes reach the running job; services learn by themselves"
    ),
]
StoreOption = Annotated[
    str | None,
    typer.Option("--store", help="where announced models are: a folder that every TaskManager sees, or s3://…"),
]
Config = Annotated[Path | None, typer.Option(help="settings file (TOML); by default ./driftwood.toml where it exists")]
Set = Annotated[list[str] | None, typer.Option("--set", help="any other setting, NAME=VALUE; repeatable")]


def parse_sets(pairs: list[str]) -> dict[str, str]:
    """NAME=VALUE pairs as settings.

    Raises:
        SettingsError: if one has no equals sign.
    """
    wrong = [pair for pair in pairs if "=" not in pair]
    if wrong:
        raise SettingsError(f"--set takes NAME=VALUE, and got {', '.join(wrong)}.")
    return dict(pair.split("=", 1) for pair in pairs)


def command(
    source: Source = None,
    sink: Sink = None,
    model: Model = None,
    control: Control = None,
    store: StoreOption = None,
    config: Config = None,
    parallelism: Annotated[int | None, typer.Option(help="slots the job uses")] = None,
    guarantee: Annotated[str | None, typer.Option(help="of the Kafka sinks: exactly-once or at-least-once")] = None,
    name: Annotated[str | None, typer.Option(help="the job's name in the Flink web UI")] = None,
    sets: Set = None,
    savepoint: Annotated[str | None, typer.Option(help="savepoint or retained checkpoint to begin from")] = None,
    print_plan: Annotated[bool, typer.Option("--print-plan", help="print the execution plan as JSON, and end")] = False,
    web_port: Annotated[int, typer.Option(help="port of the Flink web UI on localhost")] = 8081,
) -> None:
    """Run the job on a mini-cluster in this process, until its sources end or Ctrl-C."""
    from flink_jobs import job
    from flink_jobs.settings import load

    given: dict[str, Any] = {
        "source": source,
        "sink": sink,
        "model": model,
        "control": control,
        "store": store,
        "parallelism": parallelism,
        "guarantee": guarantee,
        "job_name": name,
        **parse_sets(sets or []),
    }
    settings = load(config, **given)
    job.check(settings)
    with tempfile.TemporaryDirectory(prefix="driftwood-") as folder:
        conf = job.local_conf(Path(folder), web_port=web_port)
        if savepoint:
            conf["execution.state-recovery.path"] = savepoint
        env = job.build(settings, conf=conf)
        if print_plan:
            typer.echo(env.get_execution_plan())
            return
        logger.info("the job starts; Flink web UI: http://localhost:{}", web_port)
        env.execute(settings.job_name)
    logger.info("the job has ended: every source was read to its end")
