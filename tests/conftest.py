"""Hypothesis profiles, and what the shell that starts the tests must not change."""

import signal

from hypothesis import HealthCheck, settings

settings.register_profile(
    "dovetail",
    deadline=None,
    derandomize=True,
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("dovetail")

# A shell lets what it starts in the background ignore Ctrl-C, and all that is started from there.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
