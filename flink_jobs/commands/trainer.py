"""`driftwood trainer`: trains models from the training buffer, publishes them, and rolls them back."""

from __future__ import annotations

import getpass
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flink_jobs.commands.run import parse_sets
from models.errors import SettingsError, SinkError

if TYPE_CHECKING:
    from flink_jobs.settings import Settings
    from flink_jobs.trainer.trainer import Trainer, TrainerParams

_WAIT_S = 3_600.0  # for another trainer that is at the service asked for
_QUIET_S = 5.0  # after which a broker or Redis that is away is tried again


def command(
    redis_url: Annotated[
        str, typer.Option("--redis", envvar="DRIFTWOOD_REDIS", help="The training buffer: redis://host:6379/0.")
    ] = "redis://127.0.0.1:6379/0",
    store: Annotated[
        str | None,
        typer.Option(
            help="Where models are kept: a folder, or s3://bucket/path. Default: the setting store, or models."
        ),
    ] = None,
    control: Annotated[
        str | None, typer.Option(help="The control topic: kafka://host:9092/control. Default: the setting control.")
    ] = None,
    service: Annotated[
        list[str] | None, typer.Option(help="Only this service; repeatable. Default: all that have a buffer.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Look at each service once, and end.")] = False,
    now: Annotated[
        str | None, typer.Option(metavar="SERVICE", help="Train this service now, due or not, and end.")
    ] = None,
    roll_back: Annotated[
        str | None, typer.Option(metavar="SERVICE", help="Let this service be judged by an older version, and end.")
    ] = None,
    to: Annotated[str | None, typer.Option(help="With --roll-back: the version. Default: the one before.")] = None,
    show: Annotated[bool, typer.Option("--list", help="List the versions in the store, and end.")] = False,
    every_h: Annotated[
        float, typer.Option(min=0.01, envvar="DRIFTWOOD_EVERY_H", help="Hours after which a model is trained again.")
    ] = 24.0,
    min_lines: Annotated[
        int, typer.Option(min=200, envvar="DRIFTWOOD_MIN_LINES", help="Lines that a first model needs.")
    ] = 2_000,
    min_sessions: Annotated[int, typer.Option(min=1, help="And so many sessions …")] = 100,
    min_minutes: Annotated[float, typer.Option(min=0, help="… or so many minutes.")] = 10.0,
    keep: Annotated[int, typer.Option(min=1, help="Versions kept of each service.")] = 10,
    check_s: Annotated[float, typer.Option(min=0.5, help="Seconds between two looks at the buffer.")] = 30.0,
    detectors: Annotated[
        str | None, typer.Option(help="Which learn, with commas between. Default: all that can learn from the buffer.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    seed: Annotated[int, typer.Option(help="Same seed, device and lines: same model.")] = 0,
    epochs: Annotated[int, typer.Option(min=1, help="DeepLog's passes over the distinct windows.")] = 60,
    threads: Annotated[int, typer.Option(min=1, help="Of torch on the CPU.")] = 1,
    config: Annotated[Path | None, typer.Option(help="Settings file (TOML) of the job that uses the models.")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", help="Any of the job's settings, NAME=VALUE.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="With --list: as JSON.")] = False,
) -> None:
    """Trains each service's model from its buffer when that is due, lets it pass the gate, stores and announces it.

    Templates, windows and the budget are the job's: give the same settings to both. Several trainers may run: each service has one at a time.
    """
    import redis
    import torch

    from flink_jobs.settings import KafkaAddress, load
    from flink_jobs.trainer.control_topic import ControlTopic
    from flink_jobs.trainer.trainer import Trainer
    from models.store import Store
    from models.training_buffer import RedisParams
    from udfs.clients.training_buffer import connect

    if sum((once, now is not None, roll_back is not None, show)) > 1:
        raise SettingsError("--once, --now, --roll-back and --list are four different things; give one of them.")
    if to is not None and roll_back is None:
        raise SettingsError("--to names the version to roll back to; add --roll-back SERVICE.")
    settings = load(config, **parse_sets(sets or []), store=store, control=control)
    if settings.control is None:
        raise SettingsError(
            "No control topic is given, where models are announced: add --control kafka://host:9092/control."
        )
    torch.set_num_threads(threads)
    params = trainer_params(
        settings,
        every_h=every_h,
        min_lines=min_lines,
        min_sessions=min_sessions,
        min_minutes=min_minutes,
        keep=keep,
        detectors=detectors,
        device=device,
        seed=seed,
        epochs=epochs,
    )
    redis_params = RedisParams.from_url(redis_url)
    secrets = {name: value.get_secret_value() for name, value in settings.kafka_properties.items()}
    try:
        with connect(redis_params) as client, ControlTopic(KafkaAddress.control(settings.control), secrets) as topic:
            topic.create()
            trainer = Trainer(client, redis_params, Store.open(settings.store or "models"), topic, params)
            if show:
                _list(trainer, service, as_json)
            elif roll_back is not None:
                sent = trainer.roll_back(roll_back, to, getpass.getuser())
                typer.echo(f"{roll_back}: version {sent.model_version} is announced; the job takes it within a second")
            elif now is not None:
                _now(trainer, now)
            elif once:
                _once(trainer, service)
            else:
                _for_ever(trainer, service, check_s)
    except redis.RedisError as error:
        raise SinkError(
            f"Redis at {redis_params.host}:{redis_params.port} does not answer as it should ({type(error).__name__}: {error}). Check the address, "
            "user and password; nothing half done is left, so the same command can be given again."
        ) from error


def trainer_params(
    settings: Settings,
    *,
    every_h: float,
    min_lines: int,
    min_sessions: int,
    min_minutes: float,
    keep: int,
    detectors: str | None,
    device: str,
    seed: int,
    epochs: int,
) -> TrainerParams:
    """The trainer's parameters from the job's settings and its own options."""
    from flink_jobs.commands.train import detector_names
    from flink_jobs.job import core_params
    from flink_jobs.trainer.trainer import TrainerParams
    from models.fitting import FitParams
    from models.learning.due import DueParams
    from models.learning.gate import GateParams
    from models.learning.telling import JobParams
    from models.train import TrainParams

    batching, shard = core_params(settings)
    return TrainerParams(
        due=DueParams(min_lines=min_lines, min_sessions=min_sessions, min_minutes=min_minutes, every_h=every_h),
        gate=GateParams(),
        train=TrainParams(
            fit=FitParams(device=device, epochs=epochs),
            seed=seed,
            windows=shard.windows,
            templates=shard.templates,
            batching=batching,
            detectors=detector_names(detectors),
            suspicious_ratio=settings.suspicious_ratio,
        ),
        job=JobParams(shard.templates, shard.windows, shard.fusion, shard.is_unknown_anomalous),
        keep=keep,
    )


def _list(trainer: Trainer, services: list[str] | None, as_json: bool) -> None:
    import orjson

    from flink_jobs.trainer.trainer import created_words

    rows = [
        {
            "service": name,
            "version": one.version,
            "created": one.created,
            "lines": one.lines,
            "detectors": one.detectors,
            "is_announced": is_announced,
        }
        for name in services or trainer.store.services()
        for one, is_announced in trainer.versions(name)
    ]
    if as_json:
        typer.echo(orjson.dumps(rows, option=orjson.OPT_INDENT_2))
        return
    if not rows:
        typer.echo(
            "the store holds no model yet; the trainer publishes one when a buffer is full (`driftwood trainer`)"
        )
    for row in rows:
        mark = "announced" if row["is_announced"] else ""
        typer.echo(
            f"{row['service']}  {row['version']}  {created_words(str(row['created']))}  {row['lines']:>9,} lines  {mark}".rstrip()
        )


def _now(trainer: Trainer, service: str) -> None:
    if service not in trainer.services():
        raise SettingsError(
            f"{service!r} has no training buffer; there are: {', '.join(trainer.services()) or 'none'}. The job fills it when it has a "
            "redis:// sink."
        )
    outcome = trainer.look(service, is_asked=True, wait_s=_WAIT_S)
    fields = trainer.records.read(service)
    typer.echo(f"{service}: {outcome}: {fields.get('why', '')}")
    if outcome not in ("published", "unchanged"):
        raise typer.Exit(1)


def _once(trainer: Trainer, services: list[str] | None) -> None:
    for name in services or trainer.services():
        outcome = trainer.look(name)
        typer.echo(f"{name}: {outcome}: {trainer.records.read(name).get('why', 'no line is in its buffer')}")


def _for_ever(trainer: Trainer, services: list[str] | None, check_s: float) -> None:
    """Look at every service again and again, until Ctrl-C; what is away is waited for."""
    import redis
    from loguru import logger

    logger.info("looking at the buffers every {:g} s; Ctrl-C ends", check_s)
    try:
        while True:
            try:
                for name in services or trainer.services():
                    trainer.look(name)
                time.sleep(check_s)
            except (redis.ConnectionError, redis.TimeoutError, redis.exceptions.BusyLoadingError) as error:
                logger.warning("Redis is away ({}); trying again in {:g} s", error, _QUIET_S)
                time.sleep(_QUIET_S)
            except (SettingsError, SinkError) as error:  # the broker; at the start it would have ended the program
                logger.warning("{} Trying again in {:g} s.", error, _QUIET_S)
                time.sleep(_QUIET_S)
    except KeyboardInterrupt:
        logger.info("stopped")
