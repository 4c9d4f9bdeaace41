"""For all tests: no clock decides whether a property holds."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# A busy machine makes an example slow, not wrong.
settings.register_profile("tercet", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tercet")
