"""What :func:`proctor.run`, :func:`proctor.spawn` and their asyncio twins take, said once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import IO, TYPE_CHECKING, Any, Literal, Union

from proctor.kernel.plan import IdRange, LaunchOptions
from proctor.records import TypedDict

if TYPE_CHECKING:
    from proctor.call.verdict import Deny, Verdict
    from proctor.filter.rules import Filter
    from proctor.observe.amount import Amount
    from proctor.observe.events import Observer
    from proctor.supervisor.container import Quotas
    from proctor.supervisor.deciding import Performer
    from proctor.supervisor.world_port import World

Stdio = Union[int, IO[Any], None]


class Performing(TypedDict, total=False):
    """How calls are performed; see :class:`proctor.performing.Performers`."""

    nested: Literal["deny", "allow"]
    owner_userns: Iterable[int]
    o_path: Literal["deny", "run"]
    cgroup: Literal["join", "ignore"]
    limit: int
    idle: float
    deadline: float | None


class SpawnOptions(LaunchOptions, total=False):
    """See :func:`proctor.spawn`."""

    default: Verdict | None
    on_error: Deny | None
    deadline: float | None
    on_deadline: Verdict | None
    observers: Iterable[Observer]
    performer: Performer | None
    performing: Performing | None
    workers: int | None
    quotas: Quotas | None
    logging: Amount | None
    world: World | None
    filter: Filter | None
    stdin: Stdio
    stdout: Stdio
    stderr: Stdio
    delegate: bool
    pass_fds: Iterable[int]
    userns: bool | Sequence[IdRange]


class RunOptions(SpawnOptions, total=False):
    """See :func:`proctor.run`."""

    input: bytes | str | None
    capture_output: bool
    timeout: float | None
    check: bool
    text: bool
