"""A guarded model over real processes."""

from __future__ import annotations

import numpy as np
import pytest

import tercet
from tercet.api import Lowered
from tercet.errors import InputError, RangeError
from tercet.program.passes import guard, narrow
from tercet.service.cluster import LocalCluster
from tests.service.conftest import reference


def test_a_value_out_of_range_is_told_to_whoever_asked(
    cluster: LocalCluster, model: Lowered
) -> None:
    (relu,) = (n for n, i in enumerate(model.program.instructions) if i.op == "relu")
    program = guard(narrow(model.program, {relu: (1 << 23) // 16 - 1}))
    assert tercet.share(Lowered(program, model.arrays), cluster, "guarded").guarded
    tercet.serve("guarded", cluster)
    x = np.random.default_rng(0).normal(0, 2, (3, 8))
    with tercet.connect(cluster) as client:
        with pytest.raises(InputError, match="accept_guard=True"):
            client.predict("guarded", x)
        assert client.describe("guarded").used_requests == 0
        answer = client.predict("guarded", x, accept_guard=True)
        np.testing.assert_allclose(answer, reference(model, x), atol=5e-3)
        x[1] *= 2000
        with pytest.raises(RangeError, match="1 of 3 rows: 1"):
            client.predict("guarded", x, accept_guard=True)
    tercet.remove("guarded", cluster)
