"""`driftwood doctor`: checks a deployment from end to end, and says in words what is wrong and what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from flink_jobs.commands.run import Config, Model, Set, Sink, Source, parse_sets

if TYPE_CHECKING:
    from flink_jobs.doctor.checks import Check
    from flink_jobs.settings import Settings

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red", "skipped": "bright_black"}


def command(
    source: Source = None,
    sink: Sink = None,
    model: Model = None,
    config: Config = None,
    sets: Set = None,
    flink: Annotated[
        str, typer.Option(envvar="DRIFTWOOD_FLINK", help="Address of the Flink REST interface; empty to leave it out.")
    ] = "http://localhost:8081",
    write: Annotated[
        bool, typer.Option("--write", help='Push one line to each Loki, as {job="driftwood-doctor"}.')
    ] = False,
    canary: Annotated[
        bool,
        typer.Option("--canary", help="Send one malformed record to the first source, and wait for its dead letter."),
    ] = False,
    canary_timeout: Annotated[
        float, typer.Option(min=1, help="Seconds to wait for it; at least the checkpoint interval.")
    ] = 60,
    newest: Annotated[int, typer.Option(min=1, help="Records of each source whose dead letters are counted.")] = 10_000,
    as_json: Annotated[bool, typer.Option("--json", help="Print the checks as JSON.")] = False,
) -> None:
    """Checks the deployment that the settings describe; ends with status 1 if a check fails.

    Give it the settings of the job: file, environment or the same flags. It changes nothing, but for what --write and --canary send.
    """
    from flink_jobs.doctor.checks import is_well
    from flink_jobs.doctor.looks import Looks
    from flink_jobs.settings import load

    settings = load(config, source=source, sink=sink, model=model, **parse_sets(sets or []))
    found: list[Check] = []
    looks = Looks(settings, flink.rstrip("/"), newest, write)
    for check in _all(looks.checks(), settings, canary_timeout if canary else None):
        found.append(check)
        if not as_json:
            _show(check)
    if as_json:
        typer.echo(json.dumps({"ok": is_well(found), "checks": [check.as_dict() for check in found]}, indent=2))
    else:
        counts = {verdict: sum(check.verdict == verdict for check in found) for verdict in _COLOURS}
        typer.echo(", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count))
    if not is_well(found):
        raise typer.Exit(1)


def _all(checks: Iterator[Check], settings: Settings, canary_s: float | None) -> Iterator[Check]:
    from flink_jobs.addresses import parse_sink, parse_source
    from flink_jobs.doctor.canary import send
    from flink_jobs.doctor.checks import Check
    from flink_jobs.settings import KafkaAddress

    yield from checks
    if canary_s is None:
        return
    sources = [at for at in map(parse_source, settings.source) if isinstance(at, KafkaAddress) and at.topics]
    sinks = [at for at in map(parse_sink, settings.sink) if isinstance(at, KafkaAddress)]
    if sources and sinks:
        yield send(settings, sources[0], sinks[0], canary_s)
    else:
        yield Check("canary", "skipped", "A canary needs a kafka:// source with a topic's name, and a kafka:// sink.")


def _show(check: Check) -> None:
    typer.secho(f"{check.verdict:<8}", fg=_COLOURS[check.verdict], nl=False)
    typer.echo(f"{check.name}: {check.what}")
    if check.step:
        typer.echo(f"{'':8}→ {check.step}")
