"""Three hospitals train a PyTorch model: DP-SGD by Opacus at each, secure sums on three workers.

    pip install torch opacus '.[privacy]'
    python examples/hospitals_opacus.py [--epsilon 3] [--rounds 10] [--examples 1500]

Opacus clips and adds noise; the account of it is Tercet's own, by PLD, at the rate at which Opacus
really samples, and each hospital's ledger is asked before every round.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from opacus import PrivacyEngine
from torch.utils.data import DataLoader, TensorDataset

from tercet import LocalCluster
from tercet.data import load_digits
from tercet.federated import Participant, train
from tercet.privacy import Account, Budget, GaussianSum, Ledger, noise_multiplier

NAMES = ["ward-1", "ward-2", "ward-3"]


def network() -> torch.nn.Module:
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(784, 32), torch.nn.Tanh(), torch.nn.Linear(32, 10))


def weights_of(model: torch.nn.Module) -> list[np.ndarray]:
    return [p.detach().numpy().copy() for p in model.parameters()]


def put(model: torch.nn.Module, weights: list[np.ndarray]) -> None:
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), weights, strict=True):
            parameter.copy_(torch.from_numpy(np.array(value)))


class OpacusTrainer:
    """An epoch of DP-SGD in each round; epsilon is that of all rounds together."""

    def __init__(
        self, x: np.ndarray, y: np.ndarray, account: Account, epsilon: float, delta: float,
        rounds: int, batch_size: int = 64, clip_norm: float = 1.0, learning_rate: float = 1.0,
    ) -> None:  # fmt: skip
        rows = TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
        self._loader = DataLoader(rows, batch_size=batch_size)
        steps = len(self._loader)
        # Opacus takes each row with probability 1 / steps, not batch_size / rows.
        multiplier = noise_multiplier(epsilon, delta, rounds * steps, 1 / steps)
        self._event = GaussianSum(multiplier, steps, 1 / steps)
        self._account, self._clip_norm, self._rate = account, clip_norm, learning_rate

    def __call__(self, weights: list[np.ndarray], number: int) -> list[np.ndarray]:
        self._account.ledger.spend(self._account.owner, self._account.model, [self._event])
        model = network()
        put(model, weights)
        private, optimizer, loader = PrivacyEngine().make_private(
            module=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=self._rate),
            data_loader=self._loader,
            noise_multiplier=self._event.noise_multiplier,
            max_grad_norm=self._clip_norm,
        )
        for x, y in loader:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(private(x), y).backward()
            optimizer.step()
        return weights_of(model)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epsilon", type=float, default=3.0, help="of an example, all rounds")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--examples", type=int, help="of all hospitals; all there are by default")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module="opacus|torch")
    warnings.filterwarnings("ignore", message="Full backward hook")
    digits = load_digits()
    x, x_test = (a.reshape(-1, 784) for a in (digits.x_train, digits.x_test))
    x, y = x[: options.examples], digits.y_train[: options.examples]
    model = network()
    with LocalCluster(parties=NAMES) as cluster, tempfile.TemporaryDirectory() as folder:
        hospitals = []
        for i, name in enumerate(NAMES):
            ledger = Ledger(Path(folder) / f"{name}.db")
            ledger.allow(name, "digits", Budget(options.epsilon, 1e-4))
            trainer = OpacusTrainer(
                x[i::3], y[i::3], Account(ledger, name, "digits"),
                options.epsilon, 1e-4, options.rounds,
            )  # fmt: skip
            hospitals.append(Participant(cluster.as_party(name).owner, trainer, minimum=3))
        holder = SimpleNamespace(
            name="digits",
            get_weights=lambda: weights_of(model),
            set_weights=lambda weights: put(model, weights),
        )
        train(holder, hospitals, cluster, rounds=options.rounds, clip_norm=10.0, minimum=3)
        print(f"each example has spent {ledger.spent(name, 'digits')}")
    with torch.no_grad():
        found = model(torch.from_numpy(x_test)).argmax(1).numpy()
    print(f"accuracy {(found == digits.y_test).mean():.1%} on {len(x_test)} test images")


if __name__ == "__main__":
    main()
