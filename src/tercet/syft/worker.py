"""``TFEWorker``: in 2019 both the handle of a worker and the client that asks it."""

from __future__ import annotations

import weakref
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tercet import api
from tercet.errors import InputError, NotFoundError
from tercet.syft.cluster import TFECluster
from tercet.syft.home import canonical
from tercet.syft.hook import MODEL
from tercet.syft.whole import check_shape

Rows = NDArray[np.float32]


class TFEClient:
    """Asks the model of a cluster. Every answer belongs to one question, whoever else asks."""

    def __init__(self) -> None:
        self._client: api.Client | None = None
        # One thread: a client's connections serve one request at a time.
        self._thread: ThreadPoolExecutor | None = None
        self._asked: deque[Future[Rows]] = deque()
        # Scripts of 2019 close nothing: do it when the client, or the process, is gone.
        self._close: weakref.finalize[[ThreadPoolExecutor, api.Client], TFEClient] | None = None

    def connect_to_model(
        self, input_shape: object, output_shape: object, cluster: TFECluster
    ) -> None:
        """Connect to the model that ``cluster`` holds.

        Args:
            input_shape: the model's, with a first extent for the rows: any number, ``None`` or
                -1. Queries may have any number of rows all the same.
            output_shape: likewise.
            cluster: the same three workers as at the model's owner.

        Raises:
            InputError: if a shape is not the model's.
            NotFoundError: if the cluster holds no model yet.
            TransportError: if a worker cannot be reached.
        """
        if not isinstance(cluster, TFECluster):
            raise InputError(f"a {type(cluster).__name__} is not a cluster", "Give a TFECluster")
        client = api.connect(cluster.tercet)
        try:
            model = client.describe(MODEL)
            check_shape(input_shape, model.input_shape, "input")
            check_shape(output_shape, model.output_shape, "output")
        except NotFoundError:
            client.close()
            raise NotFoundError(
                "no model is shared on this cluster",
                "Its owner calls model.share(cluster), then model.serve()",
            ) from None
        except BaseException:
            client.close()
            raise
        self.close()
        self._client = client
        self._thread = ThreadPoolExecutor(1, "tercet-query")
        self._close = weakref.finalize(self, _close, self._thread, client)

    def query_model(self, data: ArrayLike) -> Rows:
        """Return the model's outputs, (rows, ...), for ``data``, (rows, ...), which nobody sees.

        Raises:
            InputError: if ``connect_to_model`` was not called, or the data do not fit.
            RefusedError: if the model is not served, or has answered all its requests.
            TransportError, WorkerError: if a worker is missing or fails.
        """
        return self._submit(data).result()

    def query_model_async(self, data: ArrayLike) -> None:
        """Ask as ``query_model`` does, and return at once; ``query_model_join`` has the answer.

        Several may be under way. The data are copied.
        """
        self._asked.append(self._submit(np.array(data)))

    def query_model_join(self) -> Rows:
        """Wait for the answer to the oldest ``query_model_async`` that was not joined yet.

        Raises:
            InputError: if there is none.
            As ``query_model``.
        """
        if not self._asked:
            raise InputError("no query is under way", "Call query_model_async(x) first")
        return self._asked.popleft().result()

    def close(self) -> None:
        """Close the connection; what is under way is finished first."""
        if self._close is not None:
            self._close()
        self._thread = self._client = self._close = None
        self._asked.clear()

    def _submit(self, data: ArrayLike) -> Future[Rows]:
        if self._client is None or self._thread is None:
            raise InputError(
                "not connected to a model",
                "Call connect_to_model(input_shape, output_shape, cluster) first",
            )
        return self._thread.submit(_predict, self._client, data)


def _predict(client: api.Client, data: ArrayLike) -> Rows:
    result = client.predict(MODEL, data)
    assert not isinstance(result, api.TopK)  # ``serve`` sets a policy that releases scores
    return result


def _close(thread: ThreadPoolExecutor, client: api.Client) -> None:
    thread.shutdown()
    client.close()


class TFEWorker(TFEClient):
    """One of the three workers, or (without any argument of meaning) a client.

    Args:
        host: ``host:port`` of the worker.
        auto_managed: whether ``cluster.start()`` starts its process, on this machine. If not, it
            must run already; the error says how to start it.

    Raises:
        ConfigError: if ``host`` is not an address.
    """

    def __init__(self, host: str = "localhost:4000", auto_managed: bool = True) -> None:
        super().__init__()
        canonical(host)
        self.host = host
        self.auto_managed = bool(auto_managed)

    def __repr__(self) -> str:
        return f"TFEWorker(host={self.host!r}, auto_managed={self.auto_managed})"
