"""`driftwood demo`: a broker, the job, a log with faults, and what the job says about it, in two minutes.

```
sample or --input ─→ learning part ─→ learn ─→ model folder
                  └→ the rest ─→ replay ─→ topic logs ─→ the job ─→ topic anomalies ─→ this terminal ─→ summary
```
Everything started here is stopped at the end, after an error and after Ctrl-C.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import sys
import tempfile
import threading
import time
import webbrowser
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from flink_jobs.demo_log import DemoLog
    from flink_jobs.settings import Settings

LOGS, ANOMALIES, REJECTS, TEMPLATES, VERDICTS = "logs", "anomalies", "logs-rejected", "templates", "verdicts"
STATUS, CONTROL = "status", "control"
# The rest of the sample goes by in about this long, so that anomalies can be read as they come
_REPLAY_S = 25.0
_LEAST_RATE = 200.0
# After the last line: how long the job may take to finish what it has, and how long no anomaly may come
_DRAIN_S = 90.0
_QUIET_S = 3.0
# Of one request in one service the first anomaly is shown in full; what follows from it is counted
_FULL_VIEWS = 1_000
# Short and steep: 13 s on one core for the sample's 400 distinct windows; below 1,000 steps or at a fifth of the rate, swapped
# and missing steps of some services are no longer found
_LEARNING_STEPS = 1_200
_DETECTORS = ("deeplog", "novelty", "ngram", "count", "frequency", "workflow", "deeplog-value")
_BUDGET_PER_DAY = 40.0  # the log is a few minutes long: a budget of 5 a day would allow next to nothing in that time
_LEARNING_RATE = 0.01


class JobHandle(Protocol):
    """A running job."""

    web_url: str

    def check(self) -> None:
        """Raises DriftwoodError, with the reason, if the job has failed or ended."""

    def stop(self) -> None:
        """Ends the job and all that was started for it; safe to call twice."""


class StartJob(Protocol):
    """Starts the job on this machine with the web UI, returns when it runs.

    The demo calls it with `source`, `sink` (kafka, with the topics `rejects`, `templates` and `verdicts`), `model` (the folder of
    artefacts, one a service) and `checkpoint_interval_s` set; the topics are there already.
    """

    def __call__(self, settings: Settings, /, *, folder: Path) -> JobHandle:
        """Starts the job; `folder` is for its logs and checkpoints, and goes when the demo ends."""


def command(
    input: Annotated[  # noqa: A002 - the option's name
        Path | None,
        typer.Option(help="Your own log (plain, .gz, .zst) instead of the sample: learns from its first 60 %."),
    ] = None,
    requests: Annotated[int, typer.Option(min=200, help="Requests in the sample.")] = 3_600,
    seed: Annotated[int, typer.Option(help="Of the sample and of the training.")] = 7,
    rate: Annotated[
        float | None, typer.Option(min=1, help="Lines a second to replay. Default: done in about 25 s.")
    ] = None,
    stay: Annotated[bool, typer.Option("--stay", help="Stay up at the end, until Ctrl-C.")] = False,
    with_console: Annotated[
        bool,
        typer.Option(
            "--console",
            help="Bring up the triage console, Redis and the trainer too, open it in the browser, and stay.",
        ),
    ] = False,
) -> None:
    """Shows Driftwood at work: starts a broker and the job, learns, replays a log with faults, prints the anomalies."""
    from loguru import logger
    from rich.console import Console

    # The job's own notes would stand between the anomalies
    logger.remove()
    logger.add(sys.stderr, level="WARNING", format="{message}", backtrace=False, diagnose=False)
    console = Console(highlight=False)
    with _signals_as_before():
        try:
            run_demo(console, input, requests, seed, rate, stay, with_console)
        except KeyboardInterrupt:
            console.print("\nStopped; nothing is left running.", style="dim")
            raise typer.Exit(130) from None


def run_demo(
    console: Console,
    source: Path | None,
    requests: int,
    seed: int,
    rate: float | None,
    stay: bool,
    with_console: bool = False,
) -> None:
    """The demo from top to bottom; every step prints one line with its time.

    What was started is stopped in the opposite order; a second Ctrl-C does not disturb that.
    """
    from flink_jobs.demo_log import own_log, sample_log
    from flink_jobs.runtime.broker import Broker
    from flink_jobs.runtime.redis import RedisServer
    from flink_jobs.show import Steps

    steps = Steps(console)
    with contextlib.ExitStack() as stack, _undisturbed_end():
        folder = Path(tempfile.mkdtemp(prefix="driftwood-demo-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        with steps.step("preparing the log") as step:
            log = sample_log(folder, requests, seed) if source is None else own_log(source, folder)
            step.result = f"{log.learn_lines:,} lines to learn from, {log.rest_lines:,} to watch{log.note}"
        with steps.step("starting a Kafka broker") as step:
            broker = stack.enter_context(Broker(folder / "broker"))
            for topic in (LOGS, ANOMALIES, REJECTS, VERDICTS):
                broker.create_topic(topic)
            broker.create_topic(TEMPLATES, configs={"cleanup.policy": "compact"})
            step.result = broker.bootstrap
        buffer = stack.enter_context(RedisServer(folder / "redis")).url if with_console else None
        settings = job_settings(broker.bootstrap, folder, buffer)
        with steps.step("learning what is normal") as step:
            step.result = learn(log.learn_file, folder / "model", seed, settings, step.now)
        with steps.step("starting the job") as step:
            job = start_job(settings, folder=folder / "job")
            stack.callback(job.stop)
            step.result = f"web UI {job.web_url}"
        if buffer is not None:
            with steps.step("starting the console") as step:
                step.result = url = start_console(stack, settings, broker.bootstrap, folder, buffer)
            if sys.stdout.isatty():
                webbrowser.open(url)
        feed = stack.enter_context(Feed(log, broker.bootstrap, rate or max(_LEAST_RATE, log.rest_lines / _REPLAY_S)))
        console.print(
            f"replaying {log.rest_lines:,} lines into the topic {LOGS}; anomalies as they arrive:\n", style="bold"
        )
        shown = Shown(console)
        watch(broker.bootstrap, feed, job, shown)
        conclude(
            console,
            log,
            shown,
            feed,
            count_templates(broker.bootstrap),
            rejected=count_messages(broker.bootstrap, REJECTS),
        )
        if buffer is not None:
            start_trainer(stack, settings, folder, buffer)
            console.print(f"\nThe trainer learns from what was normal; triage at {url}", style="bold")
        if stay or with_console:
            console.print(
                f"\nStaying up: web UI {job.web_url}, broker {broker.bootstrap}. Ctrl-C ends it.", style="bold"
            )
            watch(broker.bootstrap, feed, job, shown, forever=True)


def start_job(settings: Settings, /, *, folder: Path) -> JobHandle:
    """Starts the job on a mini-cluster of this process (see `StartJob`)."""
    from flink_jobs.local_job import LocalJob

    return LocalJob(settings, folder)


def start_console(stack: contextlib.ExitStack, settings: Settings, servers: str, folder: Path, buffer: str) -> str:
    """Starts the console over the demo's topics; gives its address."""
    from flink_jobs.runtime.programs import Console as ConsoleProgram

    arguments = ["--kafka", servers, "--logs", LOGS, "--redis", buffer, "--model", str(settings.model)]
    program = ConsoleProgram([*arguments, "--store", str(settings.store)], folder / "console")
    return stack.enter_context(program).url


def start_trainer(stack: contextlib.ExitStack, settings: Settings, folder: Path, buffer: str) -> None:
    """Starts the trainer over the demo's buffer; its log is in the demo's folder."""
    from flink_jobs.runtime.programs import Program

    assert settings.control is not None
    arguments = ["--redis", buffer, "--store", str(settings.store), "--control", settings.control]
    budget = ["--set", f"budget_per_day={settings.budget_per_day}"]
    stack.enter_context(Program("trainer", [*arguments, *budget, "--min-minutes", "1"], folder / "trainer"))


def job_settings(servers: str, folder: Path, buffer: str | None = None) -> Settings:
    """The job's settings in the demo: the topics of its own broker, short checkpoints; `buffer` is a Redis for what the trainer learns from."""
    from flink_jobs.settings import load

    model = folder / "model"
    kafka = f"kafka://{servers}/{ANOMALIES}?rejects={REJECTS}&templates={TEMPLATES}&verdicts={VERDICTS}&status={STATUS}"
    return load(
        source=(f"kafka://{servers}/{LOGS}?start=earliest",),
        sink=(kafka,) if buffer is None else (kafka, buffer),
        store=str(folder / "store"),
        control=f"kafka://{servers}/{CONTROL}",
        model=model,
        checkpoint_interval_s=5.0,
        budget_per_day=_BUDGET_PER_DAY,
        job_name="driftwood demo",
    )


def learn(file: Path, model: Path, seed: int, settings: Settings, tell: Callable[[str], None]) -> str:
    """Trains one model for all services of the file; says what came of it.

    Args:
        file: normal lines.
        model: folder for the artefact.
        seed: of the training.
        settings: the job's; lines are parsed and mined as the job will do it.
        tell: called with what is going on.
    """
    import torch

    from flink_jobs.job import core_params
    from models.datasets import read_lines
    from models.fitting import FitParams
    from models.train import TrainParams, train_lines

    batching, shard = core_params(settings)
    fit = FitParams(learning_rate=_LEARNING_RATE, min_steps=_LEARNING_STEPS, max_steps=_LEARNING_STEPS)
    params = TrainParams(
        detectors=_DETECTORS, fit=fit, seed=seed, windows=shard.windows, templates=shard.templates, batching=batching
    )

    def report(_: str, what: str, done: float, loss: float | None) -> None:
        tell(f"learning what is normal: {done:.0%}, {what} …")

    # Batches this small gain nothing by threads, and lose much where other work runs beside
    torch.set_num_threads(1)
    trained = train_lines(read_lines(file), model, params, default=True, report=report)
    (artefact,) = trained.artefacts.values()
    services = len(artefact.training["services"])
    return f"{trained.lines:,} records of {services} services, {len(artefact.templates)} templates, one model"


@dataclass
class Feed:
    """Sends the rest of the log into the topic from a thread of its own."""

    log: DemoLog
    servers: str
    rate: float
    error: BaseException | None = None
    sent: int = 0
    _thread: threading.Thread | None = None
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Feed:
        self._thread = threading.Thread(target=self._run, name="demo-replay", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=10)

    @property
    def is_done(self) -> bool:
        """Whether all lines are with the broker (or sending failed: see `error`)."""
        return self._thread is not None and not self._thread.is_alive()

    def _run(self) -> None:
        from flink_jobs.feed import Sent, open_producer, send_lines
        from models.datasets import read_lines

        def lines() -> Iterator[bytes]:
            for line in read_lines(self.log.rest_file):
                if self._stop.is_set():
                    return
                yield line

        def tell(sent: Sent) -> None:
            self.sent = sent.lines

        try:
            with open_producer(self.servers, LOGS) as producer:
                self.sent = send_lines(lines(), producer, LOGS, rate=self.rate, tell=tell).lines
        except Exception as error:
            self.error = error


@dataclass
class Shown:
    """Prints anomalies and keeps what the summary needs.

    Of a request in a service the first anomaly is printed in full; the ones after it follow from it (their windows hold
    the same odd lines) and are counted. So are repeats of one background line.
    """

    console: Console
    anomalies: list[dict[str, object]] = field(default_factory=list)
    folded: int = 0
    _seen: set[tuple[object, ...]] = field(default_factory=set)
    _ids: set[object] = field(default_factory=set)

    def add(self, anomaly: Mapping[str, Any]) -> None:
        """Takes an anomaly as it arrives; one that was delivered twice counts once."""
        from flink_jobs.show import print_anomaly

        key = (anomaly.get("anomaly_id"), anomaly.get("revision"))
        if key in self._ids:
            return
        self._ids.add(key)
        self.anomalies.append({name: anomaly.get(name) for name in ("anomaly_id", "service", "session", "ts")})
        session = anomaly.get("session")
        same = (
            (anomaly.get("service"), session) if session else (anomaly.get("service"), None, anomaly.get("fingerprint"))
        )
        if same in self._seen or len(self._seen) >= _FULL_VIEWS:
            self.folded += 1
            return
        self._seen.add(same)
        print_anomaly(self.console, anomaly)


@dataclass
class Account:
    """Which offsets of the topic the job has scored or rejected, from the accounts it writes to `verdicts`."""

    _done: set[int] = field(default_factory=set)

    def add(self, account: Mapping[str, Any]) -> None:
        """Takes one account; the topic has one partition, so an offset says it all."""
        for part in account["accounts"]:
            for first, last in part["scored"]:
                self._done.update(range(first, last + 1))
        self._done.update(offset for _, _, offset, _ in account["rejected"])

    def __len__(self) -> int:
        return len(self._done)


def watch(servers: str, feed: Feed, job: JobHandle, shown: Shown, forever: bool = False) -> None:
    """Prints anomalies until the log is through and the job has said all; with `forever` until Ctrl-C.

    Raises:
        DriftwoodError: the job failed, or lines could not be sent.
    """
    account = Account()
    fed_at: float | None = None
    heard_at = time.monotonic()
    with contextlib.closing(_consumer(servers, ANOMALIES, VERDICTS)) as consumer:
        while True:
            for part, records in consumer.poll(timeout_ms=200).items():
                heard_at = time.monotonic()
                take = shown.add if part.topic == ANOMALIES else account.add
                for record in records:
                    take(json.loads(record.value))
            if feed.error is not None:
                raise feed.error
            job.check()
            if forever or not feed.is_done:
                continue
            now = time.monotonic()
            fed_at = fed_at or now
            if len(account) >= feed.sent and now - heard_at > _QUIET_S:
                return
            if now - fed_at > _DRAIN_S:
                if left := feed.sent - len(account):
                    shown.console.print(f"{left:,} lines are still open after {_DRAIN_S:.0f} s; not waiting longer.")
                return


def _consumer(servers: str, *topics: str) -> Any:
    from kafka import KafkaConsumer, TopicPartition

    # Uncommitted: what a person watches need not wait for the next checkpoint
    consumer = KafkaConsumer(bootstrap_servers=servers, enable_auto_commit=False, isolation_level="read_uncommitted")
    consumer.assign([TopicPartition(topic, 0) for topic in topics])
    consumer.seek_to_beginning()
    return consumer


def _read_all(servers: str, topic: str) -> Iterator[Any]:
    """All messages of a topic of one partition that are there now."""
    with contextlib.closing(_consumer(servers, topic)) as consumer:
        (part,) = consumer.assignment()
        end = consumer.end_offsets([part])[part]
        deadline = time.monotonic() + 10
        while consumer.position(part) < end and time.monotonic() < deadline:
            for records in consumer.poll(timeout_ms=200).values():
                yield from records


def count_templates(servers: str) -> int:
    """Distinct templates in the catalogue's topic (compacted: a key may stand there more than once)."""
    return len({record.key for record in _read_all(servers, TEMPLATES) if record.value is not None})


def count_messages(servers: str, topic: str) -> int:
    """Messages in a topic."""
    return sum(1 for _ in _read_all(servers, topic))


def conclude(console: Console, log: DemoLog, shown: Shown, feed: Feed, templates: int, rejected: int) -> None:
    """Prints the summary: lines, templates, anomalies; against the truth where there is one."""
    from flink_jobs.show import summary_view
    from models.sample.truth import compare

    sessions = {anomaly["session"] for anomaly in shown.anomalies if anomaly["session"] is not None}
    console.rule("summary")
    console.print(
        f"{feed.sent:,} lines, {templates:,} templates, {len(shown.anomalies):,} anomalies in {len(sessions):,} requests"
        f" ({shown.folded:,} more of the same not printed), {rejected:,} rejected"
    )
    if log.truth is not None:
        console.print(summary_view(compare(log.truth, shown.anomalies)))


@contextlib.contextmanager
def _undisturbed_end() -> Iterator[None]:
    """Ignores Ctrl-C once the work is over, while what was started is being stopped."""
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


@contextlib.contextmanager
def _signals_as_before() -> Iterator[None]:
    """Leaves the handlers of Ctrl-C and SIGTERM as they were found."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
