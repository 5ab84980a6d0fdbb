"""From settings to a running job: the Flink environment, the graph in it, and its start."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loguru import logger

from flink_jobs.runtime.environment import ROOT
from flink_jobs.settings import Settings
from models.batch import BatchParams
from models.errors import ArtefactError, SettingsError
from models.fusion import Fusion, FusionParams
from models.life import LifeParams
from models.masking import MaskParams
from models.parsing import ParseParams
from models.shard import ShardParams
from models.templates import TemplateParams
from models.traces import TraceParams
from models.windows import WindowParams

if TYPE_CHECKING:
    from flink_jobs.addresses import Sink
    from models.artefact import Artefact

#: Key groups of the keyed state: the most that a job can ever be scaled to; fixed for the life of a state.
MAX_PARALLELISM = 1024

#: Ticks of the detect operator a day (udfs/detect.py).
_TICKS_A_DAY = 288


def core_params(settings: Settings) -> tuple[BatchParams, ShardParams]:
    """The parameters of the two halves of the core: before and after the key."""
    masking = MaskParams() if settings.keep_words is None else MaskParams(keep_words=frozenset(settings.keep_words))
    return (
        BatchParams(
            parse=ParseParams(
                default_service=settings.default_service,
                redaction_key=settings.redaction_key.get_secret_value().encode(),
                session_patterns=tuple(sorted(settings.session_patterns.items())),
                time_zone=settings.timezone,
                text_fallback=settings.text_fallback,
            ),
            masking=masking,
            shards=settings.shards,
            reject_ratio=settings.reject_ratio,
            reject_ratio_after=settings.reject_ratio_after,
            max_ahead_ms=int(settings.max_ahead_s * 1000),
        ),
        ShardParams(
            cluster=settings.cluster,
            templates=TemplateParams(
                sim_th=settings.sim_th, depth=settings.depth, max_templates=settings.max_templates, masking=masking
            ),
            windows=WindowParams(session_gap_ms=int(settings.session_gap_s * 1000), max_sessions=settings.max_sessions),
            fusion=FusionParams(settings.budget_per_day, detectors=settings.detectors),
            life=LifeParams(settings.control is not None, settings.shadow_lines, settings.settled_ratio),
            traces=TraceParams() if settings.join_traces else None,
            is_unknown_anomalous=settings.unknown_templates == "anomaly",
            idle_ticks=max(1, round(settings.service_idle_days * _TICKS_A_DAY)),
        ),
    )


def check(settings: Settings) -> None:
    """Everything that can be known to be wrong before the job is submitted.

    Raises:
        SettingsError: no source; `ArtefactError`: the model folder cannot be used.
    """
    if not settings.source:
        raise SettingsError("No source is given: add --source kafka://host:9092/topic or --source file:app.log.")
    if settings.model:
        from models.artefact import load_all

        artefacts = load_all(settings.model)
        if not artefacts:
            raise ArtefactError(
                f"{settings.model} holds no model; train one with `driftwood train DATA --service S --out {settings.model}`."
            )
        logger.info("models: {}", ", ".join(f"{service} {artefact.version}" for service, artefact in artefacts.items()))
        shard = core_params(settings)[1]
        for service, artefact in artefacts.items():
            fusion = Fusion(artefact.calibration, replace(shard.fusion, shares=len(artefacts)), is_heavy=False)
            logger.info("{}: {} vote; told from strength {:.1f} on", service, ", ".join(fusion.names), fusion.threshold)
        for warning in differences(artefacts, shard):
            logger.warning(warning)
    elif settings.control:
        logger.info(
            "no model is given: every service begins by learning, and is judged when a model for it is announced (driftwood trainer)"
        )
    else:
        logger.warning("no model is given (--model): the job learns templates only and reports no anomaly")
    if settings.control and not settings.store:
        logger.warning(
            "a control topic is given and no store: models cannot be announced; set store to a folder that every TaskManager sees, or s3://…"
            if settings.model is None
            else f"announced models are looked for in {settings.model}; set store to look elsewhere"
        )


def differences(artefacts: Mapping[str, Artefact], shard: ShardParams) -> list[str]:
    """What of the job differs from what models were trained with: which setting, what follows, what to do; one text a setting."""
    found = []
    windows = shard.windows
    gaps = {
        name: artefact.session_gap_ms
        for name, artefact in artefacts.items()
        if artefact.session_gap_ms != windows.session_gap_ms
    }
    if gaps:
        trained = ", ".join(f"{name}: {gap_ms / 1000:g}" for name, gap_ms in gaps.items())
        found.append(
            f"session_gap_s is {windows.session_gap_ms / 1000:g} here, and was another in training ({trained}): sessions are forgotten earlier "
            "or later than the model has seen, so lines after a pause are judged by other lines before them; set session_gap_s to the "
            "value of the training, or train again with this one"
        )
    lengths = {name: artefact.length for name, artefact in artefacts.items() if artefact.length != windows.length}
    if lengths:
        trained = ", ".join(f"{name}: {length}" for name, length in lengths.items())
        found.append(
            f"a window holds {windows.length} lines here, and another number in training ({trained}): the model sees windows of a length "
            "that it has not learned, and its probabilities are off; train again with this release"
        )
    mining = shard.templates.mining()
    for setting in ("sim_th", "depth", "masking"):
        others = {
            name: a.mining[setting]
            for name, a in artefacts.items()
            if a.mining.get(setting, mining[setting]) != mining[setting]
        }
        if others:
            trained = (
                ""
                if setting == "masking"
                else f" ({', '.join(f'{name}: {value:g}' for name, value in others.items())})"
            )
            found.append(
                f"{setting} is not what it was in the training of {', '.join(others)}{trained}: lines get other templates than the model "
                "knows and look new to it; set what the training had, or train again with these settings"
            )
    return found


def check_patience(sinks: Iterable[Sink], checkpoint_timeout_s: float) -> None:
    """Passes when no sink that is away can hold a checkpoint beyond its timeout.

    Raises:
        SettingsError: names each sink whose retries take too long.
    """
    wrong = []
    for sink in sinks:
        retry = getattr(sink, "retry", None)
        if retry is None:
            continue  # Kafka and files: nothing of ours is repeated
        try:
            retry.check(checkpoint_timeout_s)
        except SettingsError as error:
            wrong.append(f"{type(sink).__name__.removesuffix('Params')}: {error}")
    if wrong:
        raise SettingsError("\n".join(wrong))


def build(settings: Settings, *, conf: Mapping[str, str] | None = None) -> Any:
    """The execution environment with the whole graph in it.

    Args:
        settings: the job's settings.
        conf: Flink keys of a mini-cluster in this process; None on a cluster, which has its own.
    """
    from flink_jobs import topics
    from flink_jobs.runtime import java

    java.prepare()
    from pyflink.common import Configuration
    from pyflink.datastream import StreamExecutionEnvironment
    from pyflink.table import StreamTableEnvironment

    from flink_jobs.addresses import parse_sink
    from flink_jobs.connectors import Sinks
    from flink_jobs.pipeline import build_pipeline

    logger.info("settings: {}", settings.shown())
    sinks = Sinks.of(settings.sink)
    off = sinks.off()
    if off:
        logger.info("sinks that are not configured and so are off: {}", ", ".join(off))
    configuration = Configuration()
    for name, value in {
        "table.local-time-zone": "UTC",
        "pipeline.name": settings.job_name,
        "execution.checkpointing.interval": f"{round(settings.checkpoint_interval_s * 1000)} ms",
        **(conf or {}),
    }.items():
        configuration.set_string(name, value)
    env = StreamExecutionEnvironment.get_execution_environment(configuration)
    parallelism = env.get_parallelism() if settings.parallelism is None else settings.parallelism
    if settings.shards < parallelism:
        raise SettingsError(
            f"shards is {settings.shards}, below the parallelism of {parallelism}: some slots would stay idle; "
            "set shards to a multiple of the parallelism (before the job's first start: it is part of the state)."
        )
    check_patience(map(parse_sink, settings.sink), env.get_checkpoint_config().get_checkpoint_timeout() / 1000)
    if settings.create_topics:
        topics.ensure(settings, sinks.topics())
    env.set_parallelism(parallelism)
    env.set_max_parallelism(MAX_PARALLELISM)
    batching, shard = core_params(settings)
    build_pipeline(env, StreamTableEnvironment.create(env), settings, batching, shard)
    return env


def local_conf(folder: Path, *, web_port: int | None = None) -> dict[str, str]:
    """Flink keys for a mini-cluster in this process: those of flink-conf/, on localhost, with state under a folder.

    Args:
        folder: checkpoints and RocksDB files go here.
        web_port: port of the web UI; None takes a free one.
    """
    from flink_jobs.runtime import jars
    from flink_jobs.runtime.cluster import configuration

    local = {
        **configuration(),
        "execution.checkpointing.dir": (folder / "checkpoints").as_uri(),
        "execution.checkpointing.savepoint-dir": (folder / "savepoints").as_uri(),
        "io.tmp.dirs": str(folder),
        "pipeline.jars": jars.connector_jar().as_uri(),
        "python.executable": sys.executable,
        "python.client.executable": sys.executable,
        "rest.address": "localhost",
        "rest.bind-address": "localhost",
        "rest.bind-port": str(web_port or 0),
        "jobmanager.bind-host": "localhost",
        "taskmanager.bind-host": "localhost",
        "taskmanager.host": "localhost",
    }
    for name in [
        name
        for name in local
        if name.startswith(("metrics.reporter", "taskmanager.memory", "jobmanager.memory", "env."))
    ]:
        del local[name]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return local
