"""Every setting of the console, typed and checked before it listens.

Order of precedence: defaults < file (`driftwood-console.toml`, or `--config`) < environment (`DRIFTWOOD_CONSOLE_…`) < flags.
"""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from models.errors import SettingsError

FILE: Final = "driftwood-console.toml"


class ConsoleSettings(BaseSettings):
    """All settings of the console."""

    model_config = SettingsConfigDict(env_prefix="DRIFTWOOD_CONSOLE_", extra="forbid", frozen=True, toml_file=FILE)

    host: str = Field(
        default="127.0.0.1", description="address to listen on; beyond this machine it needs users_file or a proxy"
    )
    port: int = Field(default=3000, ge=0, le=65_535, description="port to listen on; 0 takes a free one")
    kafka: str = Field(default="localhost:9092", description="bootstrap servers, host:port[,host:port]")
    kafka_properties: dict[str, SecretStr] = Field(
        default_factory=dict,
        description="options of the Python Kafka client, such as security_protocol or sasl_plain_password",
    )
    anomalies: str = Field(default="anomalies", min_length=1, description="topic of the anomalies")
    incidents: str = Field(
        default="incidents",
        min_length=1,
        description="topic of the incidents; without one, equal anomalies are grouped",
    )
    status: str = Field(default="status", min_length=1, description="topic on which the job tells of its services")
    templates: str = Field(default="templates", min_length=1, description="topic of the templates")
    control: str = Field(default="control", min_length=1, description="topic of the commands to the job")
    logs: str = Field(default="", description="topic of the lines; searched where there is no loki_url")
    logs_newest: int = Field(
        default=20_000, ge=100, le=1_000_000, description="lines of that topic that a search looks at"
    )
    loki_url: str = Field(default="", description="http(s)://host:3100 of the Loki that keeps the lines")
    loki_selector: str = Field(default='{service_name=~".+"}', description="LogQL selector of all lines there")
    loki_service_label: str = Field(
        default="service_name", pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$", description="label that names the service there"
    )
    loki_tenant: str = Field(default="", description="X-Scope-OrgID of that Loki")
    loki_token: SecretStr = Field(default=SecretStr(""), description="bearer token of that Loki")
    grafana_url: str = Field(default="", description="http(s)://host:3000 of a Grafana; anomalies link to its Explore")
    grafana_datasource: str = Field(default="loki", description="uid of the Loki data source there")
    redis: str = Field(default="", description="redis://host:6379/0 that the trainer writes to; keeps the audit too")
    redis_prefix: str = Field(default="driftwood", min_length=1, description="first part of every key there")
    store: str = Field(default="", description="folder or s3://bucket/path of the models by service and version")
    model: Path | None = Field(default=None, description="folder of models for /api/score where there is no store")
    redaction_key: SecretStr = Field(
        default=SecretStr(""), description="the job's redaction_key, so that equal values look equal here too"
    )
    users_file: Path | None = Field(
        default=None, description="JSON file of users; made by `driftwood console --add-user`"
    )
    secret: SecretStr = Field(
        default=SecretStr(""),
        description="key of the session cookies, 16 characters or more; without it a restart ends all sessions",
    )
    session_hours: float = Field(default=12, gt=0, le=24 * 30, description="a login lasts this long")
    proxy_user_header: str = Field(
        default="", description="header in which a trusted proxy names the user, such as X-Forwarded-User"
    )
    proxy_role_header: str = Field(
        default="", description="header in which it names the role: viewer, triager or admin"
    )
    proxy_addresses: tuple[str, ...] = Field(
        default=(), description="addresses or networks of that proxy; nobody else is believed"
    )
    proxy_default_role: Literal["viewer", "triager", "admin"] = Field(
        default="viewer", description="role of a user for whom neither proxy_role_header nor users_file has one"
    )
    public_url: str = Field(
        default="", description="address by which people reach the console, where it is not host:port"
    )
    max_body_bytes: int = Field(default=1 << 20, ge=1 << 10, le=1 << 26, description="largest request")

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

    @field_validator("loki_url", "grafana_url", "public_url")
    @classmethod
    def _http(cls, url: str) -> str:
        parts = urlsplit(url)
        if url and (parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.username):
            raise ValueError(
                "write http://host:port or https://host:port, with a path prefix if there is one, without user or query"
            )
        return url.rstrip("/")

    @field_validator("proxy_addresses")
    @classmethod
    def _networks(cls, addresses: tuple[str, ...]) -> tuple[str, ...]:
        for address in addresses:
            ip_network(address, strict=False)
        return addresses

    @model_validator(mode="after")
    def _is_guarded(self) -> ConsoleSettings:
        """Nobody reaches a console without a login from another machine."""
        if bool(self.proxy_user_header) != bool(self.proxy_addresses):
            raise ValueError(
                "proxy_user_header and proxy_addresses go together: a header is believed from named addresses only"
            )
        if not self.is_loopback and self.users_file is None and not self.proxy_user_header:
            raise ValueError(
                f"host {self.host} is reached from other machines: give users_file (driftwood console --add-user NAME) or a proxy"
            )
        if self.secret.get_secret_value() and len(self.secret.get_secret_value()) < 16:
            raise ValueError("secret must have 16 characters or more")
        return self

    @property
    def is_loopback(self) -> bool:
        """Only this machine reaches the console."""
        return is_loopback(self.host)

    @property
    def hosts(self) -> frozenset[str]:
        """Names in a request's Host header that are ours; another one is a page that had its name point here (DNS rebinding)."""
        own = {"localhost", "127.0.0.1", "[::1]", self.host, f"[{self.host}]"}
        if self.public_url:
            own.add(urlsplit(self.public_url).hostname or "")
        return frozenset(name.lower() for name in own if name)


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own.

    >>> is_loopback("localhost"), is_loopback("127.0.0.9"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def load(config: Path | None = None, **flags: Any) -> ConsoleSettings:
    """The settings from file, environment and flags.

    Args:
        config: a TOML file; by default `driftwood-console.toml` where it exists.
        flags: values given on the command line; None means not given.

    Raises:
        SettingsError: with every fault at once.
    """
    if config is not None and not config.is_file():
        raise SettingsError(f"The settings file {config} is not there; check --config.")
    given = {name: value for name, value in flags.items() if value is not None}
    kind: type[ConsoleSettings] = ConsoleSettings
    if config is not None:
        # pydantic-settings takes the file from the class.
        kind = type(
            "ConsoleSettings",
            (ConsoleSettings,),
            {"model_config": {**ConsoleSettings.model_config, "toml_file": config}},
        )
    try:
        return kind(**given)
    except ValidationError as error:
        faults = [f"  {'.'.join(map(str, fault['loc'])) or 'settings'}: {fault['msg']}" for fault in error.errors()]
        raise SettingsError("The console's settings are wrong:\n" + "\n".join(faults)) from error
    except ValueError as error:  # a file that is no TOML
        raise SettingsError(f"The settings file {config or FILE} cannot be read: {error}") from error
