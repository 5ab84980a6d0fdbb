"""Every setting of the job, typed and checked before anything starts.

Order of precedence: defaults < file (`driftwood.toml`, or `--config`) < environment (`DRIFTWOOD_…`) < flags.
What belongs to the Flink cluster (bundles, checkpoints, restarts, state backend) is in flink-conf/config.yaml and not here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from flink_jobs.addresses import RESULTS, FileAddress, masked, parse_sink, parse_source
from flink_jobs.addresses import KafkaAddress as KafkaAddress
from models.detectors.registry import REGISTRY
from models.errors import SettingsError
from models.fusion import FusionParams


class Settings(BaseSettings):
    """All settings of the job."""

    model_config = SettingsConfigDict(
        env_prefix="DRIFTWOOD_", env_nested_delimiter="__", extra="forbid", frozen=True, toml_file="driftwood.toml"
    )

    source: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="where lines come from; repeatable: kafka://… or file:…"
    )
    sink: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="where results go; repeatable: kafka://…, file:…, loki://…, redis://…, elastic://…",
    )
    kafka_properties: dict[str, SecretStr] = Field(
        default_factory=dict,
        description="Kafka client properties for every source and sink, such as security.protocol and sasl.jaas.config",
    )
    model: Path | None = Field(
        default=None, description="folder of model artefacts: one for each service, and default/"
    )
    control: str | None = Field(
        default=None,
        description="topic of commands to the running job, kafka://…: feedback, models, modes; none: no learning loop",
    )
    store: str | None = Field(
        default=None,
        description="where announced models are: a folder that every TaskManager sees, or s3://bucket/path; default: the model folder",
    )
    shadow_lines: int = Field(
        default=1_000, ge=1, le=10_000_000, description="scored lines after which a service in shadow may go live"
    )
    settled_ratio: float = Field(
        default=0.02,
        ge=0,
        le=1,
        description="share of them whose template the model does not know, up to which it does",
    )
    create_topics: bool = Field(
        default=True, description="make sink topics that are missing, and check the source topics"
    )
    topic_partitions: int = Field(default=1, ge=1, description="partitions of the topics the job makes")
    topic_replicas: int = Field(default=1, ge=1, description="replicas of the topics the job makes")
    compacted_topics: tuple[str, ...] = Field(
        default=("templates", "status"), description="of these, the ones kept by key for ever"
    )
    cluster: str = Field(default="", description="name of this installation; part of every anomaly id")
    job_name: str = Field(default="driftwood", description="name in the Flink web UI")
    parallelism: int | None = Field(
        default=None,
        ge=1,
        le=1_024,
        description="slots the job uses; default: what `flink run -p` or the cluster says, one a core on a mini-cluster",
    )
    shards: int = Field(
        default=8,
        ge=1,
        le=1_024,
        description="state keys over which services are spread; fixed for the life of a state, at least the parallelism",
    )
    guarantee: Literal["exactly-once", "at-least-once"] = Field(
        default="exactly-once", description="of the Kafka sinks"
    )
    checkpoint_interval_s: float = Field(
        default=10.0,
        ge=0.1,
        le=3_600,
        description="time between checkpoints; committed latency is at most this and 1 s",
    )
    reject_ratio: float = Field(
        default=0.5, gt=0, le=1, description="above this share of rejected records the job stops"
    )
    reject_ratio_after: int = Field(default=1_000, ge=1, description="records before reject_ratio is looked at")
    default_service: str = Field(
        default="unknown_service", min_length=1, description="service of a record that names none"
    )
    redaction_key: SecretStr = Field(
        default=SecretStr(""), description="key of the hash that keeps equal redacted values equal"
    )
    session_patterns: dict[str, str] = Field(
        default_factory=dict, description="service → regular expression over the text whose first group is the session"
    )
    timezone: str = Field(default="UTC", description="zone of timestamps that name none")
    text_fallback: Literal["reject", "json"] = Field(
        default="reject", description="a JSON record without a text field is rejected, or its JSON becomes the message"
    )
    unknown_templates: Literal["anomaly", "ignore"] = Field(
        default="anomaly", description="what a template never seen in training is"
    )
    detectors: tuple[str, ...] | None = Field(
        default=None, description="those that vote; default: all that the model has"
    )
    embedding: str = Field(
        default="auto",
        description="how texts become vectors when a model is trained: auto, hashed, the name of an installed sentence model, or its folder",
    )
    suspicious_ratio: float = Field(
        default=0.0,
        ge=0,
        le=0.2,
        description="share of the sessions that training may leave out as suspicious; 0.1 where training lines hold anomalies (docs/detectors.md)",
    )
    budget_per_day: float = Field(
        default=FusionParams().budget_per_day,
        gt=0,
        le=10_000,
        description="false alerts a day that you can live with, all services together",
    )
    sim_th: float = Field(default=0.4, gt=0, le=1, description="Drain: least share of equal tokens")
    depth: int = Field(default=4, ge=3, le=16, description="Drain: depth of the tree")
    max_templates: int = Field(default=2_000, ge=1, description="templates of one service before the overflow bucket")
    keep_words: tuple[str, ...] | None = Field(
        default=None, description="words that always tell templates apart; default: models/masking.py"
    )
    join_traces: bool = Field(
        default=False,
        description="stack traces that come line by line are one line each, in training and in the job; docs/templates.md says what it costs",
    )
    max_ahead_s: float = Field(
        default=86_400,
        ge=0,
        description="an event time further ahead of the broker's is a broken clock: the broker's is taken",
    )
    session_gap_s: float = Field(
        default=86_400, gt=0, description="event time after which a session's history is forgotten"
    )
    max_sessions: int = Field(default=100_000, ge=1, description="open sessions of one shard")
    service_idle_days: float = Field(
        default=7, gt=0, description="days without a line after which a service's state is dropped"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then environment, then file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @field_validator("source", "sink", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        """One address or several with white space between them, as an environment variable has them."""
        return tuple(value.split()) if isinstance(value, str) else value

    @field_validator("detectors", mode="before")
    @classmethod
    def _detectors(cls, value: Any) -> Any:
        """Names with commas between them."""
        names = tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value
        unknown = sorted(set(names or ()) - set(REGISTRY))
        if unknown or (names is not None and not names):
            raise ValueError(
                f"no such detector: {', '.join(unknown) or '(none given)'}; choose from {', '.join(REGISTRY)}"
            )
        return names

    @field_validator("source", "sink")
    @classmethod
    def _addresses(cls, urls: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        """Every fault of every address at once."""
        parse = parse_source if info.field_name == "source" else parse_sink
        wrong = [f"{masked(url)!r} is given twice" for url in sorted({url for url in urls if urls.count(url) > 1})]
        for url in urls:
            try:
                parse(url)
            except SettingsError as error:
                wrong.append(str(error))
        if wrong:
            raise ValueError("; ".join(wrong))
        return urls

    @field_validator("control")
    @classmethod
    def _control(cls, url: str | None) -> str | None:
        if url is not None:
            try:
                KafkaAddress.control(url)
            except SettingsError as error:
                raise ValueError(str(error)) from error
        return url

    @model_validator(mode="after")
    def _files(self) -> Settings:
        """No file holds two kinds of result, and none is read back."""
        sinks = [address for address in map(parse_sink, self.sink) if isinstance(address, FileAddress)]
        sources = [address for address in map(parse_source, self.source) if isinstance(address, FileAddress)]
        kinds: dict[Path, str] = {}
        for address in sinks:
            for kind in RESULTS:
                path = address.place(kind)
                if path is None:
                    continue
                if kinds.setdefault(path, kind) != kind:
                    raise ValueError(
                        f"{path} would hold {kinds[path]} and {kind}; give one of them another path ({kind}=PATH)"
                    )
                if any(source.reads(path) for source in sources):
                    raise ValueError(
                        f"{path} would be read by a source while the sink writes {kind} to it; put results into another folder"
                    )
        return self

    def shown(self) -> dict[str, Any]:
        """The effective settings, secrets masked, for the log at start."""
        addresses = {name: [masked(url) for url in getattr(self, name)] for name in ("source", "sink")}
        if self.control:
            addresses["control"] = masked(self.control)  # type: ignore[assignment]
        return self.model_dump(mode="json", exclude_none=True) | addresses


def load(config: Path | None = None, **flags: Any) -> Settings:
    """The settings from file, environment and flags.

    Args:
        config: a TOML file; by default `driftwood.toml` where it exists.
        flags: values given on the command line; None means not given.

    Raises:
        SettingsError: names every fault at once.
    """
    given = {name: value for name, value in flags.items() if value is not None and value != [] and value != ()}
    if config is not None and not config.is_file():
        raise SettingsError(f"The settings file {config} does not exist.")
    chosen: type[Settings] = Settings
    if config is not None:
        chosen = type("Settings", (Settings,), {"model_config": SettingsConfigDict(toml_file=config)})
    try:
        return chosen(**given)
    except ValidationError as error:
        faults = [
            f"  {'.'.join(str(part) for part in fault['loc']) or 'settings'}: {fault['msg'].removeprefix('Value error, ')}"
            for fault in error.errors()
        ]
        raise SettingsError("These settings are wrong:\n" + "\n".join(faults)) from error
