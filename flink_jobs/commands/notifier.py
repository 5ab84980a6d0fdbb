"""`driftwood notifier`: reads incidents and tells people, by the routes in a file."""

from __future__ import annotations

import os
import threading
import time
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from models.errors import DriftwoodError, SettingsError, SinkError

if TYPE_CHECKING:
    from models.alerts.routes import Routes


def command(
    routes: Annotated[Path, typer.Option(help="TOML file of routes; docs/alerts.md describes it.")],
    incidents: Annotated[str | None, typer.Option(help="kafka://host:port/incidents")] = None,
    test: Annotated[
        str | None, typer.Option(metavar="ROUTE", help="Send one test message by this route, and end.")
    ] = None,
    group: Annotated[
        str, typer.Option(help="Consumer group; each route's name is put behind it.")
    ] = "driftwood-notifier",
    ledger: Annotated[
        str, typer.Option(help="Compacted topic of what was told; it is made if it is missing.")
    ] = "notifications",
    replicas: Annotated[int, typer.Option(min=1, help="Replicas of that topic, where it is made.")] = 1,
) -> None:
    """Tells people of incidents: webhook, Slack-compatible chat, Alertmanager, e-mail.

    Each message is told once, also over restarts; a receiver that is away gets it later. Kafka properties
    (security.protocol=SASL_SSL, sasl.…) come from the settings, as for `driftwood run`.
    """
    read = read_routes(routes)
    read.check_secrets(os.environ)
    if test is not None:
        _test(read, test)
        return
    if incidents is None:
        raise SettingsError("--incidents is missing: name the topic as kafka://host:port/incidents")
    _run(read, incidents, group, ledger, replicas)


def read_routes(path: Path) -> Routes:
    """The routes in a file.

    Raises:
        SettingsError: it is missing, no TOML, or something in it is wrong.
    """
    from models.alerts.routes import Routes

    try:
        file = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(
            f"The routes file {path} is not there; check the path (the folder is {Path.cwd()})."
        ) from None
    except OSError as error:
        raise SettingsError(
            f"The routes file {path} cannot be read: {error.strerror}; check its permissions."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"The routes file {path} is no TOML: {error}.") from error
    return Routes.of(file)


def _test(routes: Routes, name: str) -> None:
    from flink_jobs.notifier.senders import Outcome, sender
    from models.alerts.example import example_notice

    route = routes.named(name)
    result = sender(route, routes.links, os.environ).send(example_notice(int(time.time() * 1000)), {})
    if result.outcome is not Outcome.DELIVERED:
        raise SinkError(f"Route {name} did not deliver the test message: {result.detail}.")
    typer.echo(f"Route {name} delivered the test message{f', {result.detail}' if result.detail else ''}.")


def _run(routes: Routes, incidents: str, group: str, ledger: str, replicas: int) -> None:
    from kafka.errors import KafkaError
    from loguru import logger

    from flink_jobs.feed import client_options
    from flink_jobs.notifier.ledger import make_topic
    from flink_jobs.notifier.senders import sender
    from flink_jobs.notifier.worker import RouteWorker
    from flink_jobs.settings import KafkaAddress, load

    address = KafkaAddress.parse(incidents) if incidents.startswith("kafka://") else None
    if address is None or len(address.topics) != 1:
        raise SettingsError(f"--incidents {incidents}: name one topic as kafka://host:port/incidents")
    secret = {name: value.get_secret_value() for name, value in load().kafka_properties.items()}
    options: dict[str, Any] = {
        "bootstrap_servers": address.servers.split(","),
        "bootstrap_timeout_ms": 10_000,
        **client_options({**secret, **address.properties}),
    }
    try:
        make_topic(options, ledger, replicas)
        workers = {
            route.name: RouteWorker(
                route,
                sender(route, routes.links, os.environ),
                options,
                topic=address.topics[0],
                group=group,
                ledger=ledger,
            )
            for route in routes.routes
        }
    except KafkaError as error:
        raise SettingsError(
            f"The Kafka broker at {address.servers} cannot be used ({type(error).__name__}: {error}); check the address, and "
            "kafka_properties if it asks for a login or TLS."
        ) from error
    logger.info("telling of incidents on {} by {}", address.topics[0], ", ".join(workers))
    _together(workers)


def _together(workers: dict[str, Any]) -> None:
    """Run the routes side by side until one fails or Ctrl-C; then all stop."""
    from loguru import logger

    stop = threading.Event()
    failures: list[tuple[str, BaseException]] = []

    def run(name: str) -> None:
        try:
            workers[name].run(stop.is_set)
        except BaseException as error:
            failures.append((name, error))
            stop.set()

    threads = [threading.Thread(target=run, args=(name,), name=name) for name in workers]
    for thread in threads:
        thread.start()
    try:
        while not stop.wait(0.5):
            pass
    except KeyboardInterrupt:
        logger.info("stopping; what is not told yet is told after the next start")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    if failures:
        name, error = failures[0]
        if isinstance(error, DriftwoodError):
            raise error
        raise SinkError(
            f"Route {name} stopped ({type(error).__name__}: {error}); nothing is lost: start the notifier again, it goes on where it was."
        ) from error
