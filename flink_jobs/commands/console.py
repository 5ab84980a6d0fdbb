"""`driftwood console`: the triage console, a web application on this machine's port 3000."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from models.errors import SettingsError


def command(
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65_535, help="Port to listen on. Default: 3000.")] = None,
    kafka: Annotated[
        str | None, typer.Option(help="Bootstrap servers, host:port[,host:port]. Default: localhost:9092.")
    ] = None,
    redis: Annotated[
        str | None, typer.Option(help="redis://host:6379/0: what the trainer says, and the audit of logins.")
    ] = None,
    store: Annotated[str | None, typer.Option(help="Folder or s3://bucket/path of the models.")] = None,
    model: Annotated[Path | None, typer.Option(help="Folder of models for /api/score where there is no store.")] = None,
    logs: Annotated[str | None, typer.Option(help="Topic of the lines, to search them without a Loki.")] = None,
    loki_url: Annotated[str | None, typer.Option(help="http://host:3100 of the Loki that keeps the lines.")] = None,
    grafana_url: Annotated[str | None, typer.Option(help="http://host:3000 of a Grafana to link to.")] = None,
    users_file: Annotated[Path | None, typer.Option(help="JSON file of users; without one there is no login.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="Settings file. Default: driftwood-console.toml, if there is one.")
    ] = None,
    add_user: Annotated[
        str | None, typer.Option(metavar="NAME", help="Add a user to --users-file, or change one, and stop.")
    ] = None,
    add_token: Annotated[
        str | None, typer.Option(metavar="NAME", help="Add a token for a program to --users-file, print it, and stop.")
    ] = None,
    role: Annotated[str, typer.Option(help="viewer, triager or admin; for --add-user and --add-token.")] = "viewer",
) -> None:
    """Serves the console: anomalies as they come, why each was told, and marks that the running job obeys at once.

    All that it shows is on the Kafka topics of the job, so it may be stopped and started at any moment. Every setting is also a
    variable DRIFTWOOD_CONSOLE_… and a key of the settings file; docs/console.md lists them.
    """
    from console.settings import load

    if add_user is not None or add_token is not None:
        _add(users_file, add_user, add_token, role)
        return
    settings = load(
        config,
        host=host,
        port=port,
        kafka=kafka,
        redis=redis,
        store=store,
        model=model,
        logs=logs,
        loki_url=loki_url,
        grafana_url=grafana_url,
        users_file=users_file,
    )
    from console.server import server

    serving = server(settings)
    where = settings.public_url or f"http://{settings.host}:{settings.port}"
    typer.echo(f"console: {where} (Ctrl-C stops it)")
    if settings.users_file is None and not settings.proxy_user_header:
        typer.echo(
            "no login: whoever uses this machine is admin. --users-file USERS.json --add-user NAME --role admin makes users."
        )
    serving.run()
    if not serving.started:
        raise SettingsError(
            f"The console cannot listen on {settings.host}:{settings.port}; is the port taken? Choose another --port."
        )


def _add(users_file: Path | None, add_user: str | None, add_token: str | None, role: str) -> None:
    from console.access import Users
    from console.settings import load

    path = users_file or load().users_file
    if path is None:
        raise SettingsError("Say where users are kept: --users-file USERS.json.")
    users = Users(path)
    if add_user is not None:
        password = typer.prompt(f"Password of {add_user}", hide_input=True, confirmation_prompt=True)
        users.add(add_user, role, password)
        typer.echo(f"{add_user} is {role} now, in {path}")
    if add_token is not None:
        token = users.add_token(add_token, role)
        typer.echo(f"{token}\nThis is the only time it is shown. Use it as: Authorization: Bearer TOKEN")
