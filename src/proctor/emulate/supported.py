"""Which calls can be performed on a caller's behalf.

By itself, since policies ask for it on platforms where no performer could run.
"""

from __future__ import annotations

from typing import Final

#: The calls that :meth:`proctor.emulate.performers.Performers.perform` performs.
SUPPORTED: Final = frozenset({"mknod", "mknodat", "open", "openat", "openat2", "creat"})
