"""``KerasHook``: gives Keras models ``share``, ``serve`` and ``stop``."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from numpy.typing import ArrayLike

from tercet import api
from tercet.errors import InputError, NotFoundError, RefusedError, WorkerError
from tercet.service.messages import Description, Status
from tercet.service.owner import Owner
from tercet.syft.cluster import TFECluster
from tercet.syft.whole import whole

#: A cluster holds one model at a time, under this name.
MODEL = "model"

_POLL = 0.05

# Beside the models, not on them: Keras tracks what is set on a model.
_shared: WeakKeyDictionary[Any, TFECluster] = WeakKeyDictionary()


class KerasHook:
    """Adds ``share``, ``serve`` and ``stop`` to ``keras.Model``.

    Args:
        keras: the module ``keras``, version 3, on any backend.

    Raises:
        InputError: if it is something else.
    """

    def __init__(self, keras: Any) -> None:
        model = getattr(keras, "Model", None)
        if not isinstance(model, type) or not hasattr(model, "stateless_call"):
            raise InputError(
                f"{getattr(keras, '__name__', keras)!r} is not Keras 3", "Give KerasHook(keras)"
            )
        self.keras = keras
        for method in (share, serve, stop):
            setattr(model, method.__name__, method)


def share(self: Any, cluster: TFECluster, sample: ArrayLike | None = None) -> None:
    """Share the model with the cluster: its weights leave this process only as shares.

    Args:
        self: the model.
        cluster: three workers, started.
        sample: typical inputs, which make predictions cheaper; see ``tercet.share``.

    Raises:
        UnsupportedOperation: naming the layer that Tercet cannot run.
        RefusedError: if this model, or another one, is shared there already.
        WorkerError: if the cluster is not started.
    """
    if not isinstance(cluster, TFECluster):
        raise InputError(f"a {type(cluster).__name__} is not a cluster", "Give a TFECluster")
    if self in _shared:
        raise RefusedError("the model is shared already", "Call model.stop() first")
    cluster.check()
    held = [s for s in cluster.tercet.status() if isinstance(s, Status)]
    if any(model.name == MODEL for state in held for model in state.models):
        raise RefusedError(
            "another model is shared on this cluster",
            "Call stop() on it first; if the process that shared it is gone: "
            f"tercet remove {MODEL} --cluster {cluster.path}",
        )
    api.share(self, cluster.tercet, MODEL, sample=sample)
    _shared[self] = cluster


def serve(self: Any, num_requests: float | None = 5) -> None:
    """Serve the model until ``num_requests`` requests are answered; print a line for each.

    Each worker refuses any further request by itself. Can be called again. An interrupt (Ctrl-C)
    ends serving and returns.

    Args:
        self: the model.
        num_requests: a whole number, or ``None`` to serve until an interrupt or ``stop``.

    Raises:
        WorkerError: if the model is not shared, or a worker that this process started ends.
        NotFoundError: if the model is removed meanwhile.
    """
    cluster = _cluster_of(self, "serve")
    wanted = None if num_requests is None else whole(num_requests, "num_requests")
    cluster.check()
    with Owner(cluster.tercet.config, cluster.tercet.owner) as owner:
        watch = _Watch(owner.status())
        try:
            api.serve(MODEL, cluster.tercet, max_requests=wanted)
            print(
                "Serving" + (f" {wanted} requests." if wanted else "; Ctrl-C ends it."), flush=True
            )
            while watch.look(owner.status(), wanted):
                cluster.check()
                time.sleep(_POLL)
        except KeyboardInterrupt:
            api.stop(MODEL, cluster.tercet)
            print("Interrupted: the model is not served any more.", flush=True)


def stop(self: Any) -> None:
    """Stop serving the model and delete its shares from the cluster.

    Raises:
        WorkerError: if it is not shared.
        TransportError: if a worker cannot be reached.
    """
    cluster = _cluster_of(self, "stop")
    if not cluster.gone:
        with contextlib.suppress(NotFoundError):  # somebody removed it; all the better
            api.stop(MODEL, cluster.tercet)
            api.remove(MODEL, cluster.tercet)
    del _shared[self]


def _cluster_of(model: Any, method: str) -> TFECluster:
    cluster = _shared.get(model)
    if cluster is None:
        raise WorkerError(f"{method}: the model is not shared", "Call model.share(cluster) first")
    return cluster


class _Watch:
    """Follows from the outside how far the three workers are.

    A worker's count of answers begins at 0 when it starts; what counts here are its steps.
    """

    def __init__(self, states: Sequence[Status | BaseException]) -> None:
        self._last = [0 if (m := _find(s)) is None else m.answered for s in states]
        self._answered = [0] * len(states)
        self._printed = 0
        self._complained: set[int] = set()

    def look(self, states: Sequence[Status | BaseException], wanted: int | None) -> bool:
        """Print what is new; return whether there is more to come.

        Raises:
            NotFoundError: if the model is gone.
        """
        models = []
        for index, state in enumerate(states):
            if isinstance(state, BaseException):
                if index not in self._complained:
                    self._complained.add(index)
                    print(f"Waiting: {state}", flush=True)
                continue
            self._complained.discard(index)
            model = _find(state)
            if model is None:
                raise NotFoundError(
                    f"the model was removed from worker {state.name} while it was served",
                    "Call model.stop() and share it again",
                )
            models.append(model)
            last = self._last[index]
            self._answered[index] += model.answered - (last if model.answered >= last else 0)
            self._last[index] = model.answered
        while self._printed < min(self._answered):
            self._printed += 1
            print(f"Served encrypted prediction {self._printed} to client.", flush=True)
        # Counted is not answered: as long as one runs, removing the model would spoil it.
        if len(models) < len(states) or any(m.running for m in models):
            return True
        if wanted is not None and all(m.used_requests >= wanted for m in models):
            if failed := wanted - self._printed:
                print(f"{failed} of {wanted} requests were counted and failed.", flush=True)
            return False
        return any(m.policy.serving for m in models)


def _find(state: Status | BaseException) -> Description | None:
    models = state.models if isinstance(state, Status) else []
    return next((m for m in models if m.name == MODEL), None)
