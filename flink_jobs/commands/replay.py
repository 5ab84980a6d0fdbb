"""`driftwood replay`: sends the lines of a file into a Kafka topic, one message a line, as fast or as slow as asked."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Annotated

import typer

from models.errors import SettingsError


def command(
    file: Annotated[Path, typer.Argument(help="Plain, .gz or .zst; one message a line.")],
    to: Annotated[str, typer.Option(help="kafka://host:port/topic")],
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Lines a second. Default: as fast as the broker takes them.")
    ] = None,
    speed: Annotated[
        float | None,
        typer.Option(min=0.001, help="Follow the lines' own times, this many times as fast (1 = as they came)."),
    ] = None,
    loop: Annotated[bool, typer.Option("--loop", help="Begin again at the end of the file, until Ctrl-C.")] = False,
    key_field: Annotated[
        str | None,
        typer.Option(help="Key each message by this JSON field (dots reach inside: service.name). Default: no key."),
    ] = None,
    create: Annotated[
        int | None, typer.Option(min=1, help="Create the topic with this many partitions if it is missing.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the count as JSON.")] = False,
) -> None:
    """Sends the lines of FILE into a Kafka topic; they keep their order inside a partition.

    Without a key a message goes to any partition: where the order of one service matters, use a topic of one partition or
    --key-field. Kafka properties (security.protocol=SASL_SSL, sasl.…) come from the settings, as for `driftwood run`.
    """
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from flink_jobs.feed import Sent, check_readable, client_options, open_producer, send_lines
    from flink_jobs.settings import KafkaAddress, load
    from models.datasets import read_lines

    if rate is not None and speed is not None:
        raise SettingsError("--rate and --speed contradict each other; give one of them")
    address = KafkaAddress.parse(to) if to.startswith("kafka://") else None
    if address is None or len(address.topics) != 1:
        raise SettingsError(f"--to {to}: name one topic as kafka://host:port/topic, e.g. kafka://localhost:9092/logs")
    topic = address.topics[0]
    check_readable(file)
    secret = {name: value.get_secret_value() for name, value in load().kafka_properties.items()}
    err = Console(stderr=True)
    sent = Sent()
    is_stopped = False
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task(f"sending to {topic}", total=None)

        def tell(so_far: Sent) -> None:
            text = f"{so_far.lines:,} lines sent to {topic}, {so_far.lines_per_s:,.0f} lines/s"
            progress.update(task, description=text)

        options = client_options({**secret, **address.properties})
        with open_producer(address.servers, topic, create, options) as producer:
            rounds = itertools.repeat(file) if loop else [file]
            lines = itertools.chain.from_iterable(read_lines(path) for path in rounds)
            try:
                send_lines(lines, producer, topic, rate=rate, speed=speed, key_field=key_field, sent=sent, tell=tell)
            except KeyboardInterrupt:
                is_stopped = True
    if as_json:
        report = {"lines": sent.lines, "bytes": sent.bytes, "seconds": round(sent.seconds, 3), "stopped": is_stopped}
        typer.echo(json.dumps(report))
    else:
        word = "stopped" if is_stopped else "done"
        typer.echo(
            f"{word}: {sent.lines:,} lines sent to {topic} in {sent.seconds:.1f} s ({sent.lines_per_s:,.0f} lines/s)"
        )
    if is_stopped:
        raise typer.Exit(130)
