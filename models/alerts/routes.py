"""Who is told of what, and how: the routes file of `driftwood notifier`, read and checked before anything starts.

```toml
[links]
console = "https://driftwood.example.org/incidents/{incident_id}"

[[route]]
name = "on-call"
kind = "slack"                  # webhook, slack, alertmanager or email
host = "hooks.example.com"      # the only host it is sent to
url_env = "SLACK_URL"           # the environment variable that holds the address, because whoever has it can post
severity = "error"              # this and worse
services = ["cart*", "pay-*"]
```

Secrets are named here and never written here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator

from models.alerts.severity import rank
from models.alerts.telling import OVER
from models.errors import SettingsError

#: Kinds of message that a route may choose from; `merged` counts as resolved.
KINDS: Final = ("opened", "escalated", "reopened", "reminder", "resolved")
_FIELDS: Final = ("incident_id", "service", "from_ms", "to_ms")
_VARIABLE: Final = r"^[A-Za-z_][A-Za-z0-9_]*$"
_ADDRESS: Final = r"^[^@\s<>,;]{1,64}@[A-Za-z0-9.-]{1,255}$"

Variable = Annotated[str, Field(pattern=_VARIABLE)]
Address = Annotated[str, Field(pattern=_ADDRESS)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Links(_Strict):
    """Where a message says to look next; `{incident_id}`, `{service}`, `{from_ms}` and `{to_ms}` are filled in."""

    console: str | None = None
    grafana: str | None = None

    @field_validator("console", "grafana")
    @classmethod
    def _web(cls, link: str | None) -> str | None:
        if link is None:
            return None
        unknown = sorted(set(re.findall(r"\{([^}]*)\}", link)) - set(_FIELDS))
        if urlsplit(link).scheme not in ("http", "https") or unknown:
            raise ValueError(
                f"a link starts with http:// or https:// and has no other fields than {', '.join(f'{{{f}}}' for f in _FIELDS)}"
            )
        return link

    def of(self, incident: Mapping[str, Any]) -> dict[str, str]:
        """The links of one incident, by name."""
        values = {
            "incident_id": incident["incident_id"],
            "service": incident["worst"]["service"],
            "from_ms": str(incident["started_ms"] - 300_000),
            "to_ms": str(incident["last_ms"] + 300_000),
        }
        found = {}
        for name, link in (("console", self.console), ("grafana", self.grafana)):
            if link is not None:
                for field, value in values.items():
                    link = link.replace(f"{{{field}}}", quote(value, safe=""))
                found[name] = link
        return found


class _Route(_Strict):
    """What all routes have.

    Attributes:
        name: unique; part of what is remembered as told.
        severity: of incidents that are told, the least.
        services: patterns such as `cart*`; an incident is told if any of its services fits one.
        tell: kinds of message.
        per_hour, burst: messages an hour, and at once; what is over that comes as one digest.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    severity: Literal["informational", "warning", "error", "critical"] = "informational"
    services: tuple[str, ...] = Field(default=("*",), min_length=1)
    tell: tuple[Literal["opened", "escalated", "reopened", "reminder", "resolved"], ...] = KINDS
    per_hour: float = Field(default=30, gt=0, le=100_000)
    burst: int = Field(default=10, ge=2, le=10_000)

    def matches(self, incident: Mapping[str, Any]) -> bool:
        """True for an incident that this route is for, whatever was told of it."""
        is_bad_enough = rank(incident["severity"]) >= rank(self.severity)
        return is_bad_enough and any(fnmatchcase(s, pattern) for s in incident["services"] for pattern in self.services)

    def tells(self, kind: str) -> bool:
        """True for a kind of message that this route wants."""
        return ("resolved" if kind in OVER else kind) in self.tell


class WebRoute(_Route):
    """Messages by HTTP.

    Attributes:
        url: where to; or `url_env`, the variable that holds it, with the `host` that it must name.
        token_env: the variable of a bearer token; or `user` and `password_env`.
        ca_file: certificates to trust instead of the system's.
    """

    kind: Literal["webhook", "slack", "alertmanager"]
    url: str | None = None
    url_env: Variable | None = None
    host: str | None = None
    token_env: Variable | None = None
    user: str = ""
    password_env: Variable | None = None
    ca_file: str = ""

    @model_validator(mode="after")
    def _where(self) -> WebRoute:
        if (self.url is None) == (self.url_env is None):
            raise ValueError("give either url or url_env")
        if self.url is not None:
            checked_url(self.url, self.host)
        elif self.host is None:
            raise ValueError("url_env needs host, the host that the address must name")
        if bool(self.user) != (self.password_env is not None) or (self.user and self.token_env):
            raise ValueError("give token_env, or user and password_env, or none of them")
        return self

    @property
    def secrets(self) -> tuple[str, ...]:
        """The environment variables that it needs."""
        return tuple(name for name in (self.url_env, self.token_env, self.password_env) if name is not None)


class MailRoute(_Route):
    """Messages by e-mail.

    Attributes:
        host, port, tls: the mail server; `none` sends in the clear.
        user, password_env: its login, if it wants one.
        sender, to: the addresses.
    """

    kind: Literal["email"]
    host: str = Field(min_length=1)
    port: int = Field(default=587, ge=1, le=65_535)
    tls: Literal["starttls", "tls", "none"] = "starttls"
    user: str = ""
    password_env: Variable | None = None
    sender: Address
    to: tuple[Address, ...] = Field(min_length=1, max_length=50)
    ca_file: str = ""

    @model_validator(mode="after")
    def _login(self) -> MailRoute:
        if bool(self.user) != (self.password_env is not None):
            raise ValueError("give user and password_env, or neither")
        if self.user and self.tls == "none":
            raise ValueError("a password is not sent in the clear: set tls to starttls or tls")
        return self

    @property
    def secrets(self) -> tuple[str, ...]:
        """The environment variables that it needs."""
        return () if self.password_env is None else (self.password_env,)


Route = WebRoute | MailRoute
_ROUTE: Final[TypeAdapter[Route]] = TypeAdapter(Annotated[Route, Field(discriminator="kind")])


def checked_url(url: str, host: str | None) -> str:
    """The address, if it is one of http or https, has no login in it, and names the host.

    Raises: ValueError otherwise; the message is free of the address, which may be a secret.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("the address must start with http:// or https:// and name a host")
    if parts.username or parts.password:
        raise ValueError("no user and password in the address; use user and password_env")
    if host is not None and parts.hostname.lower() != host.lower():
        raise ValueError(f"the address is not at the host that the route names ({host})")
    return url


@dataclass(frozen=True)
class Routes:
    """The whole file."""

    links: Links
    routes: tuple[Route, ...]

    @classmethod
    def of(cls, file: Mapping[str, Any]) -> Routes:
        """The routes in the file, as TOML gives it.

        Raises:
            SettingsError: names every fault at once.
        """
        faults = [
            f"{name} is unknown; there are [links] and [[route]]" for name in sorted(file.keys() - {"links", "route"})
        ]
        links = Links()
        try:
            links = Links.model_validate(file.get("links", {}))
        except ValidationError as error:
            faults += _faults("links", error)
        routes: list[Route] = []
        rows = file.get("route")
        if not isinstance(rows, list) or not rows:
            faults.append("there is no [[route]]")
            rows = []
        for number, row in enumerate(rows, start=1):
            name = row.get("name") if isinstance(row, dict) else None
            try:
                routes.append(_ROUTE.validate_python(row))
            except ValidationError as error:
                faults += _faults(f"route {name if isinstance(name, str) else number}", error)
        names = [route.name for route in routes]
        faults += [f"route {name} is there twice" for name in sorted({n for n in names if names.count(n) > 1})]
        if faults:
            raise SettingsError("The routes file is wrong:\n" + "\n".join(f"  {fault}" for fault in faults))
        return cls(links, tuple(routes))

    def check_secrets(self, environment: Mapping[str, str]) -> None:
        """Passes when every variable that the routes name is set, and every address in one may be used.

        Raises:
            SettingsError: names all that are missing or wrong.
        """
        faults = []
        for route in self.routes:
            faults += [
                f"route {route.name}: the environment variable {name} is not set"
                for name in route.secrets
                if not environment.get(name)
            ]
            if isinstance(route, WebRoute) and route.url_env is not None and environment.get(route.url_env):
                try:
                    checked_url(environment[route.url_env], route.host)
                except ValueError as error:
                    faults.append(f"route {route.name}: {route.url_env}: {error}")
        if faults:
            raise SettingsError("The routes cannot be used:\n" + "\n".join(f"  {fault}" for fault in faults))

    def named(self, name: str) -> Route:
        """The route of a name.

        Raises:
            SettingsError: there is none.
        """
        for route in self.routes:
            if route.name == name:
                return route
        raise SettingsError(f"There is no route {name!r}; there are: {', '.join(route.name for route in self.routes)}.")


def _faults(where: str, error: ValidationError) -> list[str]:
    """One line a fault, without the value, which may be a secret that was put in the wrong place."""
    return [
        f"{where}: {'.'.join(str(part) for part in fault['loc'] if part not in ('webhook', 'slack', 'alertmanager', 'email'))}"
        f"{': ' if fault['loc'] else ''}{fault['msg'].removeprefix('Value error, ')}"
        for fault in error.errors(include_url=False, include_input=False)
    ]
