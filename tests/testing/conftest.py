"""Tests of handlers on fake targets; none of them needs Linux unless it says so."""

from proctor.testing.fixtures import fake_target

__all__ = ["fake_target"]
