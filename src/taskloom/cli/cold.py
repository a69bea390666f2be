"""``taskloom cold``: ColD fusion among processes that exchange weights through a folder or a store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

import taskloom
from taskloom.cli import options, output
from taskloom.cli.listen import listening

if TYPE_CHECKING:
    from taskloom.runs.loops.federation import Fused

exchange = click.option(
    "--exchange",
    required=True,
    metavar="PATH|URL",
    help="Folder that all reach, or a folder of an object store (s3://bucket/folder).",
)
poll = click.option(
    "--poll", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True, help="Seconds."
)


@click.group(
    "cold",
    epilog=(
        "\b\nExample:\n"
        "  taskloom cold open --base models/base --exchange /shared/cold\n"
        "  taskloom cold contribute --task trec6 --exchange /shared/cold --rounds 5   # on one machine\n"
        "  taskloom cold contribute --task sms_spam --exchange /shared/cold --rounds 5   # on another\n"
        "  taskloom cold fuse --exchange /shared/cold --rounds 5 --quorum 2 --deadline 600\n"
        "\nEvery one of these verbs prints JSON for machines with --json."
    ),
)
def command() -> None:
    """Fuse models of contributors that keep their data and exchange weights only.

    The server opens an exchange with a base; contributors tune it on data of their own and hand the
    bodies in; the server averages them into the next base. Contributions that are late are skipped,
    those that are corrupt, not finite or of another base refused, each by name.
    """


@command.command("open")
@options.base
@exchange
@options.as_json
def open_(base: str, exchange: str, as_json: bool) -> None:
    """Put a base into an exchange, as that of round 0."""
    from taskloom.runs.loops.federation import open_federation

    current = open_federation(base, exchange)
    if as_json:
        output.print_json(current)
        return
    click.echo(f"{exchange}: round {current.round} is open, base {current.digest[:12]}")


@command.command()
@exchange
@click.option("--task", required=True, help="Task whose data stay here.")
@click.option("--as", "contributor", help="Name of the contributor; the task's if left out.")
@click.option("--rounds", type=click.IntRange(1), default=1, show_default=True, help="To take part in.")
@click.option("--steps", type=click.IntRange(1), default=50, show_default=True, help="Of each.")
@click.option(
    "--train",
    "training",
    multiple=True,
    metavar="OPTION=VALUE",
    help="Option of training, such as batch_size; repeat for each.",
)
@click.option(
    "--patience", type=float, default=3600.0, show_default=True, help="Seconds to wait for a round."
)
@poll
@options.seed
@options.as_json
def contribute(
    exchange: str,
    task: str,
    contributor: str | None,
    rounds: int,
    steps: int,
    training: tuple[str, ...],
    patience: float,
    poll: float,
    seed: int,
    as_json: bool,
) -> None:
    """Tune the base of the open round on a task of one's own, and hand the weights in."""
    with listening() as progress:
        found = taskloom.contribute(
            exchange,
            task,
            contributor=contributor,
            rounds=rounds,
            steps=steps,
            train=options.parsed(training),
            patience=patience,
            poll=poll,
            seed=seed,
            progress=progress,
        )
    if as_json:
        output.print_json(found)
        return
    for each in found:
        what = f"tuned on {each.examples} examples, {each.value:.3f} on validation"
        told = "handed in" if each.handed_in else "too late: the round was closed meanwhile"
        click.echo(f"round {each.number}, {each.contributor}: {what}; {told}")


@command.command()
@exchange
@click.option("--as", "contributor", required=True, help="Name of the contributor.")
@click.option("--model", required=True, metavar="PATH", help="Directory of the tuned model.")
@click.option("--examples", type=click.IntRange(1), required=True, help="It was tuned on so many.")
@click.option("--force", is_flag=True, help="Replace what was handed in before.")
@options.as_json
def offer(
    exchange: str, contributor: str, model: str, examples: int, force: bool, as_json: bool
) -> None:
    """Hand in weights that were tuned elsewhere, from the base of the open round."""
    from taskloom.runs.loops.contributor import offer as hand_in

    manifest = hand_in(exchange, contributor, model, examples=examples, replace=force)
    if as_json:
        output.print_json(manifest)
        return
    click.echo(f"round {manifest.round}: {contributor} handed in {len(manifest.tensors)} tensors")


@command.command()
@exchange
@click.option("--rounds", type=click.IntRange(1), default=1, show_default=True, help="To close.")
@click.option(
    "--quorum",
    type=click.IntRange(1),
    default=2,
    show_default=True,
    help="Accepted contributions that close a round at once.",
)
@click.option("--deadline", type=float, help="Seconds to wait in a round; without it for the quorum.")
@click.option(
    "--least",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Contributions needed at the deadline.",
)
@click.option(
    "--weigh",
    type=click.Choice(["equal", "examples"]),
    default="equal",
    show_default=True,
    help="Every contribution alike, or by its number of examples.",
)
@poll
@options.as_json
def fuse(
    exchange: str,
    rounds: int,
    quorum: int,
    deadline: float | None,
    least: int,
    weigh: str,
    poll: float,
    as_json: bool,
) -> None:
    """Wait for contributions, and average them into the base of the next round."""
    with listening() as progress:
        found = taskloom.fuse(
            exchange,
            rounds=rounds,
            quorum=quorum,
            deadline=deadline,
            least=least,
            weigh="examples" if weigh == "examples" else "equal",
            poll=poll,
            progress=progress,
        )
    if as_json:
        output.print_json([each.plain() for each in found])
        return
    for each in found:
        _tell(each)


def _tell(fused: Fused) -> None:
    said = ", ".join(f"{name} {weight:.3g}" for name, weight in fused.weights.items())
    click.echo(f"round {fused.number}, closed by the {fused.closed_by}: {said}")
    for each in fused.verdicts:
        if each.decision != "accepted":
            click.echo(f"  {each.contributor}: {each.decision}: {each.reason}")
    click.echo(f"  base of round {fused.number + 1}: {fused.path} ({fused.digest[:12]})")
