"""Fixtures and hypothesis profiles."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "dovetail",
    deadline=None,
    derandomize=True,
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("dovetail")
