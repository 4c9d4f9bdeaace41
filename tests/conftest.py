"""For all tests: no clock decides whether a property holds, and Ctrl-C reaches child processes."""

from __future__ import annotations

import signal

from hypothesis import HealthCheck, settings

# A busy machine makes an example slow, not wrong.
settings.register_profile("tercet", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tercet")

# A shell ignores SIGINT for what it runs in the background, and children would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
