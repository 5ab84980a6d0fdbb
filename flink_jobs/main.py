"""The entry that `flink run -py` calls on a cluster: the flags of `driftwood run`, Flink's own keys left to the cluster."""

from __future__ import annotations

from typing import Any

import typer

from flink_jobs.commands.run import Config, Control, Model, Set, Sink, Source, StoreOption, parse_sets
from flink_jobs.runtime.logs import to_terminal
from models.errors import DriftwoodError


def submit(
    source: Source = None,
    sink: Sink = None,
    model: Model = None,
    control: Control = None,
    store: StoreOption = None,
    config: Config = None,
    sets: Set = None,
    print_plan: bool = False,
) -> None:
    """Put the job on the cluster that `flink run` speaks to."""
    from flink_jobs import job
    from flink_jobs.settings import load

    given: dict[str, Any] = {
        "source": source,
        "sink": sink,
        "model": model,
        "control": control,
        "store": store,
        **parse_sets(sets or []),
    }
    settings = load(config, **given)
    job.check(settings)
    env = job.build(settings)
    if print_plan:
        typer.echo(env.get_execution_plan())
        return
    client = env.execute_async(settings.job_name)
    typer.echo(f"Job {client.get_job_id()} was submitted.")


def main() -> None:
    """Run; an error meant for the user is printed as one message."""
    to_terminal()
    try:
        app = typer.Typer(
            pretty_exceptions_enable=False
        )  # a pretty traceback shows local variables, settings among them
        app.command()(submit)
        app()
    except DriftwoodError as error:
        typer.secho(f"driftwood: {error}", err=True)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
