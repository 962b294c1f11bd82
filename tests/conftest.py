"""For all tests: how fast something is, is no reason to fail (first uses import, and pages fault)."""

from hypothesis import settings

settings.register_profile("proctor", deadline=None)
settings.load_profile("proctor")
