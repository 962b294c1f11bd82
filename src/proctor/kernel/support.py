"""What a probe found out: :class:`Support`."""

from __future__ import annotations

from proctor.records import NamedTuple


class Support(NamedTuple):
    """One line of the table that ``proctor doctor`` prints."""

    #: What was asked for, in the kernel's words.
    feature: str
    #: True, False, or None when it could not be found out.
    ok: bool | None
    #: Why not, or what was found.
    detail: str = ""
    #: The Linux that has it first; "" if that is no question.
    since: str = ""
    #: What changes for the user without it.
    consequence: str = ""
    #: Whether nothing can be supervised without it.
    essential: bool = False
