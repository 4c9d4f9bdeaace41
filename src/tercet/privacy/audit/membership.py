"""Membership inference: can one tell the records of the training set from others?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tercet.errors import InputError

Floats = NDArray[np.float64]

_SMALLEST = 1e-12


class Roc(NamedTuple):
    """A receiver operating characteristic.

    Attributes:
        fpr: share of non-members taken for members, rising from 0 to 1.
        tpr: share of members found, at each of these.
        auc: area under the curve; 0.5 is guessing.
    """

    fpr: Floats
    tpr: Floats
    auc: float

    def tpr_at(self, fpr: float) -> float:
        """Return the share of members found at a false positive rate of at most ``fpr``."""
        return float(self.tpr[self.fpr <= fpr].max())


def roc(members: Floats, others: Floats) -> Roc:
    """Return the curve of thresholds on a score that is higher for members.

    Args:
        members: scores of records of the training set, shape (n,).
        others: scores of records that are not in it, shape (m,).

    Raises:
        InputError: one of them is empty or has a score that is not a number.
    """
    scores = np.concatenate([members, others])
    if not len(members) or not len(others) or np.isnan(scores).any():
        raise InputError(
            "there are no members, no non-members, or scores that are not numbers",
            "Give records of both kinds on which the model has a finite loss",
        )
    truth = np.concatenate([np.ones(len(members)), np.zeros(len(others))])
    order = np.argsort(-scores, kind="stable")
    # Equal scores are taken together: a threshold cannot come between them.
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    found, wrong = np.cumsum(truth[order])[last], np.cumsum(1 - truth[order])[last]
    tpr = np.concatenate([[0.0], found / len(members)])
    fpr = np.concatenate([[0.0], wrong / len(others)])
    return Roc(fpr, tpr, float((np.diff(fpr) * (tpr[1:] + tpr[:-1]) / 2).sum()))


def confidence(model: Any, x: NDArray[Any], y: NDArray[Any]) -> Floats:
    """Return log(p / (1 - p)) of the true class of each row, for a classifier.

    It orders records as the loss does, and is close to normal (Carlini et al. 2022, section V).

    Args:
        model: a Keras classifier that returns probabilities or logits, shape (n, classes).
        x: inputs, shape (n, ...).
        y: classes, integers, shape (n,).

    Raises:
        InputError: the labels are no classes of the model.
    """
    out = np.asarray(model.predict(x, batch_size=256, verbose=0), np.float64)
    if (
        out.ndim != 2
        or y.shape != (len(out),)
        or not np.issubdtype(y.dtype, np.integer)
        or not ((y >= 0) & (y < out.shape[1])).all()
    ):
        raise InputError(
            f"labels of shape {y.shape} do not belong to outputs of shape {out.shape}",
            "Give x, and y with one class number a row; the model must be a classifier",
        )
    out = out.copy()
    if (out < 0).any() or not np.allclose(out.sum(1), 1, atol=1e-3):
        out = np.exp(out - out.max(1, keepdims=True))
        out /= out.sum(1, keepdims=True)
    true = out[np.arange(len(y)), y].copy()
    out[np.arange(len(y)), y] = 0  # by subtraction from the sum, small rests would be lost
    rest = out.sum(1)
    odds: Floats = np.log(np.maximum(true, _SMALLEST)) - np.log(np.maximum(rest, _SMALLEST))
    return odds


def likelihood_ratio(target: Floats, references: Sequence[Floats]) -> Floats:
    """Return the offline likelihood-ratio score of each record (Carlini et al. 2022, LiRA).

    How far the model's confidence stands above that of models which have not seen the record: a
    record that is easy for any model is no member for that.

    Args:
        target: ``confidence`` under the audited model, shape (n,).
        references: the same under each of two or more models trained without these records.

    Raises:
        InputError: fewer than two references.
    """
    if len(references) < 2:
        raise InputError("a likelihood ratio from one model", "Give two reference models or more")
    known = np.stack(references)
    # One deviation for all records: with few references it is the steadier estimate.
    deviation = float(np.sqrt(known.var(0, ddof=1).mean()))
    return np.asarray((target - known.mean(0)) / max(deviation, _SMALLEST))
