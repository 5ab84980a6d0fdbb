"""The `driftwood` command: one function a subcommand, each in its own file under commands/."""

from __future__ import annotations

from importlib import import_module

import typer

from flink_jobs.runtime.logs import to_terminal
from flink_jobs.runtime.processes import interrupt_on_sigterm
from models.errors import DriftwoodError

app = typer.Typer(
    name="driftwood",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Finds, in a stream of logs, the lines that do not belong.",
)

COMMANDS = (
    "run",
    "train",
    "trainer",
    "feedback",
    "evaluate",
    "templates",
    "workflow",
    "sample",
    "replay",
    "demo",
    "bench",
    "console",
    "notifier",
    "tail_loki",
    "doctor",
)

for _name in COMMANDS:
    app.command(_name.replace("_", "-"))(import_module(f"flink_jobs.commands.{_name}").command)


def main() -> None:
    """Run the command line; an error meant for the user is printed as one message, with exit status 2."""
    to_terminal()
    interrupt_on_sigterm()
    try:
        app()
    except DriftwoodError as error:
        typer.secho(f"driftwood: {error}", fg=typer.colors.RED, err=True)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
