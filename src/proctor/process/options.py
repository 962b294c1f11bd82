"""What :func:`proctor.run`, :func:`proctor.spawn` and their asyncio twins take, said once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any, Literal, TypedDict, Union

if TYPE_CHECKING:
    from proctor.call.verdict import Deny, Verdict
    from proctor.filter.rules import Filter
    from proctor.observe.events import Observer
    from proctor.supervisor.deciding import Performer
    from proctor.supervisor.ports import World

Argument = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]
Stdio = Union[int, IO[Any], None]
#: (first id inside, first id outside, how many).
IdRange = tuple[int, int, int]


class Performing(TypedDict, total=False):
    """How calls are performed; see :class:`proctor.emulate.Performers`."""

    nested: Literal["deny", "allow"]
    owner_userns: Iterable[int]
    o_path: Literal["deny", "run"]
    cgroup: Literal["join", "ignore"]
    limit: int
    idle: float
    deadline: float | None
    python: str | None


class LaunchOptions(TypedDict, total=False):
    """How the command is started; see :class:`proctor.kernel.plan.LaunchOptions`."""

    executable: Argument | None
    env: Mapping[str, str] | Mapping[bytes, bytes] | None
    cwd: Argument | None
    namespaces: Iterable[str]
    uid_map: Sequence[IdRange] | None
    gid_map: Sequence[IdRange] | None
    allow_setgroups: bool | None
    uid: int | None
    gid: int | None
    groups: Sequence[int] | None
    umask: int | None
    process_group: int | None
    new_session: bool
    foreground_tty: int | None
    die_with_monitor: bool
    ignored_signals: Iterable[int] | None
    no_new_privs: bool | None
    wait_killable: bool
    log: bool


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
    world: World | None
    filter: Filter | None
    stdin: Stdio
    stdout: Stdio
    stderr: Stdio
    pass_fds: Iterable[int]
    userns: bool | Sequence[IdRange]


class RunOptions(SpawnOptions, total=False):
    """See :func:`proctor.run`."""

    input: bytes | str | None
    capture_output: bool
    timeout: float | None
    check: bool
    text: bool
