"""The command ``taskloom``: finds the verb, turns errors into one line and an exit code.

Nothing here but click is imported before a verb is chosen, so that ``--help`` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

import click

from taskloom import __version__
from taskloom.errors import TaskloomError, nearest

#: verb -> what it does, in one line; each verb is the module of this package with its name
VERBS: dict[str, str] = {
    "pool": "Open experts of one base, check that they fit, and list them.",
    "diff": "Look at what experts changed in their base, before merging them.",
    "select": "Rank the experts of a pool for a target task.",
    "data": "Choose the examples of a pool that help a target.",
    "mix": "Weigh the domains or tasks of a training mixture.",
    "group": "Take some of many sources together, or group all of them.",
    "train": "Train one expert of a base on one task.",
    "transfer": "Try every source task on every target task, for a matrix of what helps what.",
    "collect": "Collect a statistic of an expert on its task, for merges that need one.",
    "extract": "Extract a LoRA adapter from a full fine-tune.",
    "merge": "Merge experts into one model, or adapters into one adapter.",
    "soup": "Average experts into a soup that is tasted on validation.",
    "loop": "Alternate training on tasks and merging, by rounds.",
    "cold": "Fuse models of contributors that keep their data and exchange weights only.",
    "fit": "Fit the numbers of a recipe on examples of tasks.",
    "edit": "Add, forget or infer a task by arithmetic, and say what changed.",
    "bench": "Measure every merging method on suites of tasks, for the ledger of claims.",
    "parts": "Merge experts into what all share and a small part per task.",
    "restore": "Make the model of one task from its parts again.",
    "verify": "Check a merged model against its record and its sources.",
    "eval": "Score models on tasks, with n and a 95 % interval.",
    "auto": "Try what could help a target within some minutes, and hand over what does.",
    "run": "Carry out a plan: select, train, merge, evaluate, guard, hand over, report.",
    "report": "Write the report of a finished run again.",
    "methods": "List everything registered: merging methods, scores, metrics, sources.",
    "tasks": "List the tasks that are declared.",
    "demo": "Run the built-in demo from a pool of experts to a report.",
}
#: exit codes that no error class owns
USAGE, UNEXPECTED, INTERRUPTED, PIPE_CLOSED = 2, 70, 130, 141


class Verbs(click.Group):
    """A group that imports a verb's module when the verb is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the verbs in the order in which they are used."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one verb, or None if there is no such verb."""
        if cmd_name not in VERBS:
            return None
        command: click.Command = import_module(f"taskloom.cli.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb; an unknown one is answered with the nearest."""
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            guess = nearest(args[0], VERBS)
            did = f"did you mean {guess!r}? " if guess else ""
            ctx.fail(f"no verb {args[0]!r}: {did}Verbs: {', '.join(VERBS)}")
        name, command, rest = super().resolve_command(ctx, args)
        if name == "merge":
            from taskloom.cli.mergekit import instead

            command = instead(command, rest)
        return name, command, rest

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs from the table, without importing them."""
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="taskloom", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help="On an error, print the whole traceback.")
@click.option("--quiet", is_flag=True, help="No progress; only results and errors.")
@click.pass_context
def taskloom(ctx: click.Context, debug: bool, quiet: bool) -> None:
    """Choose, combine, check and hand over what models learned on other tasks.

    Every verb is a call of the library. Results go to the standard output, progress and errors to
    the standard error. "taskloom VERB --help" explains a verb.
    """
    ctx.obj = {"quiet": quiet}


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    # Before torch is imported: its idle threads sleep. Where processors are shared, threads that spin
    # for one another make short batches several times slower; where they are not, it costs a little.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(invoke(sys.argv[1:] if args is None else list(args)))


def invoke(args: list[str]) -> int:
    """Run the command line and return the exit code; errors are printed as one line."""
    debug = "--debug" in args[: _verb_at(args)]
    try:
        status = taskloom.main(args, prog_name="taskloom", standalone_mode=False)
        sys.stdout.flush()
    except (KeyboardInterrupt, click.Abort) as stopped:
        return _fail(str(stopped) or "interrupted", INTERRUPTED)
    except (BrokenPipeError, SystemExit):
        # Whoever read our output has left (click turns that into SystemExit, and nothing else);
        # the interpreter must not flush into the closed pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except Exception as error:
        if debug:
            raise
        return _explain(error)
    return status if isinstance(status, int) else 0


def _explain(error: Exception) -> int:
    if isinstance(error, TaskloomError):
        return _fail(str(error), error.exit_code)
    if isinstance(error, click.UsageError):
        where = error.ctx.command_path if error.ctx else "taskloom"
        return _fail(f"{error.format_message()} (see: {where} --help)", USAGE)
    if isinstance(error, click.ClickException):
        return _fail(error.format_message(), error.exit_code)
    return _fail(
        f"unexpected {type(error).__name__}: {error} (a fault of taskloom, not of the input; "
        "'taskloom --debug ...' shows where)",
        UNEXPECTED,
    )


def _fail(message: str, status: int) -> int:
    click.echo(f"error: {' '.join(message.split())}", err=True)
    return status


def _verb_at(args: list[str]) -> int:
    """Index of the verb: the global options stand before it and take no values."""
    return next((i for i, word in enumerate(args) if not word.startswith("-")), len(args))


if __name__ == "__main__":
    main()
