"""What goes wrong in the model itself, as opposed to in the modelled kernel.

The modelled kernel's refusals are negative errnos, as in its source; these are mistakes of
whoever uses the model, or of the model.
"""

from __future__ import annotations

from proctor.errors import ProctorError


class ModelError(ProctorError, RuntimeError):
    """The model was asked for something that cannot happen, or broke its own rules."""


class NotInUserSpace(ModelError):
    """A task that sits in a system call, is stopped or is dead was told to make another."""


class BrokenCount(ModelError):
    """A reference count fell below zero, or a file was released twice."""
