"""``tercet agreements``, ``approve`` and ``withdraw``; the options of a party and of its budget."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from tercet.crypto.identity import Identity
from tercet.errors import InputError
from tercet.service.cluster import Cluster
from tercet.service.contributor import Contributor
from tercet.service.parties import Agreement, Party
from tercet.service.training_terms import PrivacyTerms, TrainingTerms

if TYPE_CHECKING:
    from tercet.privacy.dp_sgd import Account

Command = Callable[..., Any]

IDENTITY = click.option(
    "--identity",
    envvar="TERCET_IDENTITY",
    metavar="NAME",
    help="Act as NAME, whose NAME.crt and NAME.key lie beside cluster.toml. Or TERCET_IDENTITY.",
)


def party_options(command: Command) -> Command:
    """Add the options that say which cluster, and as whom."""
    for option in (
        IDENTITY,
        click.option(
            "--cluster",
            "cluster_path",
            envvar="TERCET_CLUSTER",
            required=True,
            type=click.Path(dir_okay=False),
            help="cluster.toml. Or set TERCET_CLUSTER.",
        ),
    ):
        command = option(command)
    return command


def budget_options(command: Command) -> Command:
    """Add the options that say which budget of a data owner pays for a private training."""
    for option in (
        click.option(
            "--sampled", is_flag=True, help="Charge what those learn who know no step's rows."
        ),
        click.option(
            "--budget",
            metavar="OWNER/MODEL",
            help="Which budget of it; that of your identity's name and the training's if none.",
        ),
        click.option(
            "--ledger", type=click.Path(dir_okay=False), help="Pay for the privacy from this file."
        ),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("agreement", required=False)
@party_options
def agreements(agreement: str | None, cluster_path: str, identity: str | None) -> None:
    """List the agreements that concern you, or show the terms of one."""
    cluster = Cluster.load(cluster_path, identity)
    with Party(cluster.config, cluster.caller) as party:
        if agreement:
            show_agreement(party.find(agreement), names_of(cluster))
            return
        held = party.agreements()
    table = Table("agreement", "about", "signed", "state")
    for one in held:
        signed = f"{len(one.signed)} of {len(one.terms.signers)}"
        state = "withdrawn" if one.withdrawn else "holds" if one.holds else "waits"
        table.add_row(one.id[:16], one.terms.name, signed, state)
    Console().print(table)


@click.command()
@click.argument("agreement")
@click.option("--yes", is_flag=True, help="Do not ask: the terms were read.")
@click.option(
    "--model",
    type=click.Path(exists=True, dir_okay=False),
    help="The compiled model, to check that its training is what runs.",
)
@budget_options
@party_options
def approve(
    agreement: str,
    yes: bool,
    model: str | None,
    ledger: str | None,
    budget: str | None,
    sampled: bool,
    cluster_path: str,
    identity: str | None,
) -> None:
    """Read the terms of AGREEMENT, and sign it; with --ledger, pay its epsilon from a budget."""
    from tercet.training.consent import check, sign
    from tercet.training.parties import load_model

    cluster = Cluster.load(cluster_path, identity)
    with Party(cluster.config, cluster.caller) as party:
        found = party.find(agreement)
        show_agreement(found, names_of(cluster))
        check(found, load_model(model) if model else None)
        if model:
            click.echo(f"The programs are those of {model}")
        account = account_of(ledger, budget, sampled, cluster.caller, found.terms.name)
        if not yes:
            click.confirm("Sign it?", abort=True)
        signed = sign(party, found, account, sampled=sampled)
    tell_spent(account)
    left = len(signed.missing)
    click.echo("It holds: all have signed" if not left else f"Signed; {left} have still to sign")


@click.command()
@click.argument("agreement")
@party_options
def withdraw(agreement: str, cluster_path: str, identity: str | None) -> None:
    """Withdraw from AGREEMENT for good: what runs under it stops."""
    cluster = Cluster.load(cluster_path, identity)
    with Party(cluster.config, cluster.caller) as party:
        found = party.withdraw(party.find(agreement))
    click.echo(f"withdrawn from {found.terms.name} ({found.id[:16]})")


def show_agreement(agreement: Agreement, names: dict[str, str]) -> None:
    """Print the terms of an agreement and who has signed it."""

    def who(fingerprint: str) -> str:
        known = names.get(fingerprint)
        return f"{known} ({fingerprint[:16]})" if known else fingerprint

    terms = agreement.terms
    table = Table("agreement", agreement.id)
    table.add_row("about", terms.name)
    if isinstance(terms, TrainingTerms):
        for reference in terms.data:
            table.add_row("data", f"{reference.name}, digest {reference.digest.hex()[:16]}")
        table.add_row("joined as", "columns of the same rows" if terms.columns else "rows")
        table.add_row("programs", terms.program)
        table.add_row(
            "work", f"{terms.epochs} epochs, {terms.steps} steps of {terms.batch_size} rows"
        )
        if terms.privacy is not None:
            _add_privacy(table, terms.privacy)
        table.add_row("opened while it runs", ", ".join(terms.metrics) or "nothing")
        ask = f"the model may be asked, as {who(terms.owner)} serves it"
        table.add_row("at the end", ask if terms.serving else "the model may not be asked")
        for receiver in terms.receivers:
            table.add_row("", f"the model is opened to {who(receiver)}")
        if not terms.receivers:
            table.add_row("", "the model is opened to nobody")
    for signer in terms.signers:
        state = "has withdrawn" if signer in agreement.withdrawn else "has not signed"
        if signer in agreement.signed and signer not in agreement.withdrawn:
            state = "has signed"
        table.add_row("signer", f"{who(signer)} {state}")
    Console().print(table)


def account_of(
    ledger: str | None, budget: str | None, sampled: bool, identity: Identity, training: str
) -> Account | None:
    """Return the account that the options name."""
    if ledger is None:
        if budget or sampled:
            raise InputError("a budget without its ledger", "Name the file: --ledger ledger.db")
        return None
    owner, _, model = (budget or f"{identity.name}/{training}").partition("/")
    if not owner or not model:
        raise InputError(f"--budget {budget}", "Give OWNER/MODEL, as `tercet privacy spent` shows")
    from tercet.privacy.dp_sgd import Account
    from tercet.privacy.ledger import Ledger

    return Account(Ledger(ledger), owner, model)


def tell_spent(account: Account | None) -> None:
    """Print what is spent of a budget."""
    if account is not None:
        spent = account.ledger.spent(account.owner, account.model)
        click.echo(f"spent by {account.model} on the data of {account.owner}: {spent}")


def _add_privacy(table: Table, terms: PrivacyTerms) -> None:
    made = terms.sum
    table.add_row(
        "noise",
        f"gradients of each row clipped to {made.clip_norm:g}, noise multiplier "
        f"{made.noise_multiplier:g}; a step samples {made.batch} of {made.rows} rows on average",
    )
    table.add_row(
        "privacy",
        f"epsilon {terms.epsilon:.3f} at delta {terms.delta:g} (PLD, add or remove one row) "
        "towards who knows which rows were sampled, as all parties and workers do",
    )
    table.add_row("", f"epsilon {terms.sampled_epsilon:.3f} towards others (Poisson sampling)")


def names_of(cluster: Cluster) -> dict[str, str]:
    """Return the names by which the workers know the owners of contributions."""
    with Contributor(cluster.config, cluster.owner) as owner:
        return {told.owner_key: told.owner for told in owner.contributions()}
