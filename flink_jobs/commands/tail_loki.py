"""`driftwood tail-loki`: feeds a Kafka topic from an existing Loki, each line once."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated
from urllib.parse import parse_qs, quote, urlsplit

import typer

from models.errors import SettingsError

if TYPE_CHECKING:
    from models.logql import LokiQuery


def command(
    source: Annotated[
        str,
        typer.Option(
            "--from",
            help="loki://[user:password@]host[:3100][?tenant=…&start=…|since=…&limit=…]; loki+https:// for TLS",
        ),
    ],
    to: Annotated[str, typer.Option(help="kafka://host:port/topic")],
    query: Annotated[
        str | None, typer.Option(help='LogQL log query, such as {app="cart"} or {namespace="shop"} != "health"')
    ] = None,
    overlap: Annotated[
        float, typer.Option(min=1, max=3_600, help="Seconds that a line may reach Loki late and still be given.")
    ] = 120,
    sweep: Annotated[
        float, typer.Option(min=1, max=3_600, help="Seconds between two looks at the whole overlap.")
    ] = 60,
    poll: Annotated[float, typer.Option(min=0.1, max=600, help="Seconds between two looks at the newest lines.")] = 2,
    name: Annotated[
        str | None,
        typer.Option(help="What the cursor is kept under. Default: made of Loki's address, tenant and query."),
    ] = None,
    cursor_topic: Annotated[
        str | None, typer.Option(help="Compacted topic that keeps the cursor. Default: TOPIC-cursor.")
    ] = None,
    create: Annotated[
        int | None, typer.Option(min=1, help="Create the topic with this many partitions if it is missing.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="End when all lines up to now (or to ?end=) are given.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the count as JSON.")] = False,
) -> None:
    """Follows a LogQL query and writes each line, with its labels, as one JSON record into a Kafka topic: no gap, no double.

    The first start begins now, or at ?start= or ?since= of --from; every later one where the last ended, however it ended. Lines and cursor are
    committed together: read the topic with isolation.level=read_committed (the job does). Kafka properties come from the settings.
    """
    import xxhash
    from rich.console import Console

    from flink_jobs.settings import KafkaAddress, load
    from flink_jobs.tail_loki.follow import Progress, follow
    from flink_jobs.tail_loki.topic import TailTopic
    from models.errors import DataSetError
    from models.loki_tail import LokiTailParams
    from udfs.clients.loki_reader import LokiPages
    from udfs.clients.patience import Patience

    address = KafkaAddress.parse(to) if to.startswith("kafka://") else None
    if address is None or len(address.topics) != 1:
        raise SettingsError(f"--to {to}: name one topic as kafka://host:port/topic, e.g. kafka://localhost:9092/logs")
    asked, until_ns = read_source(source, query, time.time_ns(), is_bounded=once)
    label = name or xxhash.xxh32_hexdigest(f"{asked.base_url} {asked.tenant} {asked.query}".encode())
    params = LokiTailParams(asked, overlap_ns=int(overlap * 1e9), sweep_ns=int(sweep * 1e9))
    secret = {key: value.get_secret_value() for key, value in load().kafka_properties.items()}
    err = Console(stderr=True, highlight=False)
    told = time.monotonic()

    def tell(progress: Progress) -> None:
        nonlocal told
        if time.monotonic() - told >= 10:
            told = time.monotonic()
            err.print(f"{progress.lines:,} lines given, {progress.behind_s:,.1f} s behind", soft_wrap=True)

    started, is_stopped = time.monotonic(), False
    with TailTopic(address, cursor_topic or f"{address.topics[0]}-cursor", label, secret, create) as topic:
        tail = params.build(topic.notes())
        advice = "Check that Loki is up, then start again: it goes on where it was."
        patience = Patience(asked.retry, f"Loki at {asked.base_url}", advice, DataSetError)
        loki = LokiPages(asked, patience, is_fresh=True)
        how = "begins at" if tail.is_new else "goes on from"
        err.print(
            f"following {asked.query} at {asked.base_url}; {how} {_shown(tail.floor_ns)}, name {label}",
            soft_wrap=True,
            markup=False,
        )
        try:
            follow(tail, loki, topic, poll_s=poll, until_ns=until_ns, tell=tell)
        except KeyboardInterrupt:
            is_stopped = True
        finally:
            loki.close()
    seconds = time.monotonic() - started
    if as_json:
        typer.echo(
            json.dumps({"lines": tail.given, "seconds": round(seconds, 3), "stopped": is_stopped, "name": label})
        )
    else:
        typer.echo(
            f"{'stopped' if is_stopped else 'done'}: {tail.given:,} lines given to {topic.topic} in {seconds:.1f} s"
        )


def read_source(url: str, query: str | None, now_ns: int, *, is_bounded: bool) -> tuple[LokiQuery, int | None]:
    """What is read, and where it ends: at `?end=`, now for a bounded run, else never.

    Raises:
        SettingsError: with every fault of the address.
    """
    from models.logql import LokiQuery

    options = parse_qs(urlsplit(url).query)
    mark = "&" if "?" in url else "?"
    if query is not None:
        if "query" in options:
            raise SettingsError("--from has a ?query= and there is a --query too; give one of them")
        url, mark = f"{url}{mark}query={quote(query)}", "&"
    now_ms = now_ns // 1_000_000
    if not {"start", "since"} & options.keys():
        if "end" in options:
            raise SettingsError("--from has an ?end= and no beginning; give ?start= or ?since= too")
        url = f"{url}{mark}start={now_ms - 1}"  # a range needs some length
    asked = LokiQuery.from_url(url, now_ms)
    return asked, asked.end_ns if "end" in options else now_ns if is_bounded else None


def _shown(time_ns: int) -> str:
    from models.delivery import iso_ms

    return iso_ms(time_ns // 1_000_000)
