"""Rows of a table as long as a vocabulary, at secret places, over three real worker processes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tercet
from tercet.errors import InputError
from tercet.service.cluster import LocalCluster

WORDS, WIDTH, LENGTH = 30_522, 64, 16


def looked_up(x: jax.Array, table: jax.Array) -> jax.Array:
    return table[x.astype(jnp.int32)]


def test_a_vocabulary(cluster: LocalCluster) -> None:
    rng = np.random.default_rng(8)
    table = rng.normal(0, 1, (WORDS, WIDTH)).astype(np.float32)
    ids = rng.integers(0, WORDS, (3, LENGTH))
    ids[0, :3] = 0, WORDS - 1, 20_000
    traced = tercet.trace(looked_up, (LENGTH,), table)
    report = tercet.check(traced, batch=3)
    tercet.share(traced, cluster, "words")
    tercet.serve("words", cluster)
    try:
        with tercet.connect(cluster) as client:
            got = client.predict("words", ids)
            np.testing.assert_allclose(got, table[ids], atol=2.0**-16)
            assert client.last_cost is not None
            assert client.last_cost.bytes == report.bytes
            beyond = client.predict("words", np.full((1, LENGTH), WORDS + 5))
            np.testing.assert_allclose(beyond[0, 0], table[-1], atol=2.0**-16)
            for bad, words in ((ids + 0.5, "whole number"), (ids * 1e6, "out of range")):
                with pytest.raises(InputError, match=words):
                    client.predict("words", bad)
    finally:
        tercet.remove("words", cluster)
