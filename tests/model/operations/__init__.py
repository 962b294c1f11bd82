"""The operations that the comparison draws from.

Each takes the world and a source of choices, picks somebody who can do it, and makes one step; or
says False if nobody can just now.  :data:`OPERATIONS` (in :mod:`tests.model.operations.table`) has them
with their weights; the modules beside it hold them by what they are about.
"""

from __future__ import annotations

from tests.model.operations.choices import Choices
from tests.model.operations.table import NAMES, OPERATIONS

__all__ = ["NAMES", "OPERATIONS", "Choices"]
