from collections.abc import Iterator

import pytest

from tercet.ring import kernels


@pytest.fixture(params=kernels.available_isas(), autouse=True)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every test of this folder runs once on each instruction set this processor has."""
    before = kernels.get_isa()
    kernels.set_isa(request.param)
    yield request.param
    kernels.set_isa(before)
