"""A participant in a process of its own: python -m tests.federated.ward FOLDER NAME ADDRESS [MORE].

MORE is a JSON object: ``minimum``; ``sleep``, seconds that each training takes from round
``sleep_from`` on; ``budget``, epsilon of its ledger; ``dumb``, the round in which it contributes
and says nothing; ``linger``, the round after which it takes a while to ask again.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

from tercet import Cluster
from tercet.crypto.identity import PublicIdentity
from tercet.errors import TercetError
from tercet.federated import Participant, joining, participate
from tercet.privacy import Account, Budget, Ledger


def main() -> None:
    folder, name, address = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    more = json.loads(sys.argv[4]) if len(sys.argv) > 4 else {}
    cluster = Cluster.load(folder / "cluster.toml", name)
    account = None
    if "budget" in more:
        ledger = Ledger(folder / f"{name}.db")
        ledger.allow(name, "test", Budget(more["budget"], 1e-3))
        account = Account(ledger, name, "test")

    def train(weights, number):
        print(f"round {number}", flush=True)
        if number >= more.get("sleep_from", 1):
            time.sleep(more.get("sleep", 0))
        return [w + np.float32(0.25) for w in weights]

    participant = Participant(cluster.owner, train, minimum=more.get("minimum", 2), account=account)
    if "dumb" in more:
        tell = joining.Tell

        def silence(number, failure=None):
            if number == more["dumb"]:
                time.sleep(60)
            return tell(number, failure)

        joining.Tell = silence
    ask = joining.Ask

    def wait_and_ask(after):
        time.sleep(1.5 if after == more.get("linger") else 0)
        return ask(after)

    joining.Ask = wait_and_ask
    server = PublicIdentity.load(folder / "owner.crt")
    try:
        outcome = participate(participant, cluster, server, address, patience=5)
    except TercetError as error:
        print(f"error: {error}", flush=True)
        sys.exit(1)
    print(json.dumps(outcome), flush=True)


if __name__ == "__main__":
    main()
