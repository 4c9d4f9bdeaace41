"""``tercet privacy``: plan the noise of a run, set a budget, see what is spent."""

from __future__ import annotations

from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table

from tercet.errors import InputError
from tercet.privacy.events import Relation, sampler_of

LEDGER = click.option(
    "--ledger",
    "path",
    envvar="TERCET_LEDGER",
    required=True,
    type=click.Path(dir_okay=False),
    help="The data owner's ledger. Or set TERCET_LEDGER.",
)
RELATION = click.option(
    "--relation",
    type=click.Choice([r.value for r in Relation]),
    default=Relation.ADD_OR_REMOVE.value,
    show_default=True,
    help="Which data sets count as neighbours.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="For scripts.")


@click.group()
def privacy() -> None:
    """Differential privacy: plan a run, set a budget, see what is spent."""


@privacy.command()
@click.option("--epsilon", required=True, type=float, help="Budget of the run.")
@click.option("--delta", required=True, type=float, help="Well below 1 / number of records.")
@click.option("--rounds", type=click.IntRange(1), help="Rounds (or steps) in all.")
@click.option("--rate", type=float, help="Probability of a record to be in a round.")
@click.option("--examples", type=click.IntRange(1), help="Or: size of the data set,")
@click.option("--batch", type=click.IntRange(1), help="expected size of a batch")
@click.option("--epochs", type=float, help="and passes through the data.")
@RELATION
@click.option("--clip", type=float, help="Secure sums: clipping norm of an update,")
@click.option("--parameters", type=click.IntRange(1), help="its length")
@click.option("--fraction-bits", default=16, show_default=True, type=click.IntRange(0, 40))
@JSON
def plan(
    epsilon: float,
    delta: float,
    rounds: int | None,
    rate: float | None,
    examples: int | None,
    batch: int | None,
    epochs: float | None,
    relation: str,
    clip: float | None,
    parameters: int | None,
    fraction_bits: int,
    as_json: bool,
) -> None:
    """Tell the noise that keeps a run within a budget."""
    from tercet.privacy.plan import plan as make_plan
    from tercet.privacy.plan import plan_aggregate

    if examples and batch and epochs and rounds is None and rate is None:
        rate = min(batch / examples, 1.0)
        rounds = max(round(epochs * examples / batch), 1)
    elif rounds is None or any(value is not None for value in (examples, batch, epochs)):
        raise InputError(
            "it is not clear how many rounds there are",
            "Give --rounds, and --rate if records are sampled; or --examples, --batch, --epochs",
        )
    if (clip is None) != (parameters is None):
        raise InputError("half of a secure sum is described", "Give --clip and --parameters")
    made = make_plan(epsilon, delta, rounds, 1.0 if rate is None else rate, Relation(relation))
    if clip is not None and parameters is not None:
        made = plan_aggregate(made, clip, fraction_bits, parameters)
    if as_json:
        print(msgspec.json.encode(made).decode())
        return
    table = Table("", "", show_header=False)
    table.add_row("noise multiplier", f"{made.noise_multiplier:.4f} clipping norms")
    table.add_row("rounds, sampling", f"{made.rounds}, {made.sampler} at {made.sampling_rate:.6g}")
    table.add_row("neighbouring relation", made.relation)
    table.add_row("epsilon by PLD", f"{made.epsilon:.3f} at delta {made.delta:g}")
    checked = "no bound" if made.cross_check is None else f"{made.cross_check:.3f}"
    table.add_row("epsilon by RDP", checked)
    table.add_row("epsilon if the sample is known", f"{made.unsampled_epsilon:.3f}")
    if made.aggregate is not None:
        table.add_row("variance of a worker's share", f"{made.aggregate.share_variance:,}")
        table.add_row("deviation seen by the recipient", f"{made.aggregate.total_deviation:.4g}")
        table.add_row("epsilon of two shares by RDP", f"{made.aggregate.epsilon:.3f}")
    Console().print(table)


@privacy.command()
@click.argument("owner")
@click.argument("model")
@click.option("--epsilon", required=True, type=float)
@click.option("--delta", required=True, type=float)
@RELATION
@LEDGER
def allow(owner: str, model: str, epsilon: float, delta: float, relation: str, path: str) -> None:
    """Set what MODEL may spend on the data of OWNER."""
    from tercet.privacy.ledger import Budget, Ledger

    Ledger(path).allow(owner, model, Budget(epsilon, delta, Relation(relation)))
    click.echo(f"{model} may spend epsilon {epsilon:g} at delta {delta:g} on the data of {owner}")


@privacy.command()
@LEDGER
@JSON
def spent(path: str, as_json: bool) -> None:
    """Show what is spent of every budget in a ledger."""
    from tercet.privacy.ledger import Ledger

    ledger = Ledger(path)
    rows: list[dict[str, Any]] = []
    for (owner, model), budget in ledger.budgets().items():
        found = ledger.spent(owner, model)
        together = ledger.spent_on_all_models(owner, budget.delta, budget.relation)
        rows.append(
            {
                "owner": owner,
                "model": model,
                "epsilon": found.epsilon,
                "budget": budget.epsilon,
                "delta": budget.delta,
                "accountant": found.accountant,
                "samplers": [s.value for s in found.samplers],
                "relation": budget.relation.value,
                "runs": [
                    {**msgspec.to_builtins(event), "sampler": sampler_of(event).value}
                    for event in ledger.events(owner, model)
                ],
                "epsilon_of_all_models": together.epsilon,
            }
        )
    if as_json:
        print(msgspec.json.encode(rows).decode())
        return
    table = Table("owner", "model", "epsilon", "of", "delta", "by", "sampling", "relation", "runs")
    table.add_column("all models together")
    for row in rows:
        table.add_row(
            row["owner"],
            row["model"],
            f"{row['epsilon']:.3f}",
            f"{row['budget']:g}",
            f"{row['delta']:g}",
            row["accountant"],
            " and ".join(row["samplers"]),
            row["relation"],
            str(len(row["runs"])),
            f"{row['epsilon_of_all_models']:.3f}",
        )
    Console().print(table)
