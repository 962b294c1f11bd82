"""The plain way in: ``run`` like :func:`subprocess.run`, ``spawn`` like :class:`subprocess.Popen`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import IO, TYPE_CHECKING, Any, Final

from proctor.kernel.launch import launch
from proctor.kernel.target import Target

if TYPE_CHECKING:
    import subprocess
    from types import TracebackType
    from typing import Unpack

    from proctor.filter.rules import Filter
    from proctor.kernel.plan import StrOrBytes
    from proctor.process.options import RunOptions, SpawnOptions
    from proctor.process.performing import LazyPerformer
    from proctor.supervisor.handlers import Handler
    from proctor.supervisor.supervisor import Supervisor

#: The same numbers as in :mod:`subprocess`.
PIPE, STDOUT, DEVNULL = -1, -2, -3


def filter_for(handlers: Iterable[Handler], base: Filter | None = None) -> Filter | None:
    """The filter under which exactly the calls that the handlers want are notified.

    ::

        handler = proctor.Handler(["mkdir"], lambda call: proctor.deny(errno.EROFS))
        made = proctor.filter_for([handler])
        assert made.rules[0].action == proctor.actions.NOTIFY

    :param base: rules to try first (an OCI profile, a policy's filter) and its default; the
        handlers' calls come after them.
    :returns: None if nothing is asked for.
    """
    from proctor.filter.actions import ALLOW, NOTIFY
    from proctor.filter.rules import Filter, Rule

    rules = [
        Rule(h.names, NOTIFY, h.conditions, label=h.label)
        for h in handlers
        if not getattr(h, "in_filter", False)  # a policy's, whose filter is the base
    ]
    if base is None:
        return Filter(rules, ALLOW) if rules else None
    if not rules:
        return base
    return Filter(
        (*base.rules, *rules), base.default, base.arches, base.foreign, base.x32, strict=base.strict
    )


class Process:
    """A supervised command; like :class:`subprocess.Popen`, with a supervisor.

    ::

        with proctor.spawn(["cat"], stdin=proctor.PIPE, stdout=proctor.PIPE) as process:
            assert isinstance(process, proctor.Process)
            assert process.communicate(b"hello") == (b"hello", None)
        assert process.returncode == 0

    Made by :func:`spawn`.  As a context manager it closes its pipes, waits for the command, and then
    closes the supervisor: a descendant that still runs gets ENOSYS for what was supervised.
    """

    def __init__(
        self,
        target: Target,
        supervisor: Supervisor | Callable[[], Supervisor],
        pipes: Sequence[IO[bytes] | None],
        args: Any,
    ) -> None:
        self.args = args
        self._supervisor = supervisor
        self.target = target
        self.stdin, self.stdout, self.stderr = pipes

    @property
    def supervisor(self) -> Supervisor:
        """Answers the calls; other listeners may be added to it.  Where nothing is supervised it is
        made when first asked for, and not started."""
        if callable(self._supervisor):
            self._supervisor = self._supervisor()
        return self._supervisor

    @property
    def supervised(self) -> bool:
        """Whether there is a supervisor."""
        return not callable(self._supervisor)

    @property
    def pid(self) -> int:
        """The command's process id."""
        return self.target.pid

    @property
    def returncode(self) -> int | None:
        """Exit status, ``-n`` for death by signal n; None while not known to have ended."""
        return self.target.returncode

    def poll(self) -> int | None:
        """The return code if the command has ended, else None."""
        return self.target.poll()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the command itself, not for its descendants.

        :raises subprocess.TimeoutExpired: after ``timeout`` seconds.
        """
        try:
            return self.target.wait(timeout)
        except TimeoutError:
            from subprocess import TimeoutExpired

            raise TimeoutExpired(self.args, timeout or 0.0) from None

    def wait_all(self, timeout: float | None = None) -> bool:
        """Wait until nothing runs under the filter any more; False if time was over first."""
        return callable(self._supervisor) or self._supervisor.wait(timeout)

    def send_signal(self, number: int) -> None:
        """Send a signal to the command, by its pidfd; nothing happens if it has ended."""
        self.target.send_signal(number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(15)

    def kill(self) -> None:
        """SIGKILL."""
        self.target.kill()

    def communicate(
        self, input: bytes | None = None, timeout: float | None = None
    ) -> tuple[bytes | None, bytes | None]:
        """Feed ``input``, read both outputs to their end, wait; as Popen's."""
        from proctor.process.pipes import communicate

        return communicate(self, input, timeout)

    def close(self) -> None:
        """Close pipes and supervisor; kills the command if it still runs.  Idempotent."""
        for pipe in (self.stdin, self.stdout, self.stderr):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass  # unread input of a command that is gone
        try:
            if self.target.poll() is None:
                self.target.kill()
                self.target.wait(None)
        finally:  # also where somebody else took its exit status
            if not callable(self._supervisor):
                self._supervisor.close()
            self.target.close()

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                for pipe in (self.stdin, self.stdout, self.stderr):
                    if pipe is not None:
                        pipe.close()
                self.wait()
        finally:
            self.close()

    def __repr__(self) -> str:
        return f"<Process pid {self.pid} {self.args!r} returncode {self.returncode}>"


def spawn(
    argv: Sequence[StrOrBytes],
    handlers: Iterable[Handler] = (),
    **options: Unpack[SpawnOptions],
) -> Process:
    """Start a command under supervision and return at once.

    ::

        command = [sys.executable, "-c", "import os; print(os.getppid())"]
        handler = proctor.Handler(["getppid"], lambda call: proctor.answer(7))
        with proctor.spawn(command, [handler], stdout=proctor.PIPE, stderr=proctor.STDOUT) as process:
            assert process.stdout.read() == b"7\\n"

    :param argv: the command and its arguments; looked up on ``PATH`` like execvp(3).
    :param handlers: see :func:`proctor.on`; the calls they name are the ones that notify.
    :param default: for calls no handler wants; ``let_run()`` by default.
    :param on_error, deadline, on_deadline, observers: see :class:`proctor.Supervisor`.
    :param performer: carries ``perform()`` out; the built-in performers by default, which start along
        with the command where a policy or a handler says that it performs
        (``@proctor.on(..., performs=True)``), else at the first call.
    :param performing: options of the built-in performers: ``nested``, ``cgroup``, ``limit``... of
        :class:`proctor.performing.Performers`.
    :param workers: most threads for slow handlers and performing, 16 by default.
    :param world: in the place of the kernel's: see :mod:`proctor.supervisor.ports`.
    :param filter: the whole filter, if you bring your own (an OCI profile, a policy's); see
        :func:`filter_for` to add the handlers' calls to one.  By default exactly the calls that
        the handlers name are notified.
    :param stdin, stdout, stderr: None (inherit), a descriptor or file, PIPE, DEVNULL, STDOUT.
    :param pass_fds: descriptors the command keeps, under the same numbers.
    :param userns: True puts the command in a new user namespace as its root, mapped to our own
        user; a list of (inside, outside, count) maps uids and gids that way.
    :param options: see :class:`~proctor.process.options.SpawnOptions`; how the command is started is in
        :class:`~proctor.kernel.plan.LaunchOptions` (env, cwd, namespaces, uid, no_new_privs...).
    :raises LaunchError: the command could not be started, or was killed before it began, by its own
        filter or by somebody; the sentence says which step and why.
    :raises NestedListener: another supervisor sits above us.
    :raises FilterError: a handler names what does not exist.
    :raises ValueError: options that exclude each other, or values that cannot be.
    """
    from proctor.process.pipes import Plumbing
    from proctor.process.starting import add, refuse_killed, start, user_namespace

    if isinstance(argv, (str, bytes, os.PathLike)):
        raise TypeError(f"{argv!r} is one word: a command is a list of them, such as [{argv!r}]")
    given: dict[str, Any] = dict(options)
    handlers = tuple(handlers)
    filter = given.pop("filter", None)
    program = None if filter is None and not handlers else _program(handlers, filter)
    made = _Supervision(handlers, {name: given.pop(name) for name in _DECIDING & given.keys()})
    streams = [given.pop(name, None) for name in ("stdin", "stdout", "stderr")]
    passed = [(fd, fd) for fd in given.pop("pass_fds", ())]
    launching = user_namespace(given.pop("userns", False), given)

    # Where nothing is supervised, none of that is loaded: a command under no policy starts fast.
    supervisor = made() if program is not None else None
    plumbing = target = None
    try:
        plumbing = Plumbing(*streams)
        if supervisor is not None:
            start(supervisor, argv)  # first: a command that runs must be supervised
        target = launch(argv, program=program, fds=[*plumbing.pairs, *passed], **launching)
        plumbing.close_theirs()
        if supervisor is not None:
            add(supervisor, target.take_listener())
            made.start_early()  # while the target execs
        target.executed()
        refuse_killed(target, argv, program is not None)
        return Process(target, supervisor or made, plumbing.take_ours(), argv)
    except BaseException:
        if plumbing is not None:
            plumbing.close()
        if target is not None:
            target.kill()
        if supervisor is not None:
            supervisor.close()
        if target is not None:
            target.wait(None)
            target.close()
        raise


#: Options that are the supervisor's, or say how it is made.
_DECIDING: Final = frozenset(
    (
        "default", "on_error", "deadline", "on_deadline", "observers", "performer", "performing",
        "workers", "world",
    )
)  # fmt: skip


class _Supervision:
    """Makes the supervisor of a command, with the built-in performers unless somebody brought his."""

    def __init__(self, handlers: tuple[Handler, ...], options: dict[str, Any]) -> None:
        self._handlers = handlers
        self._performing = options.pop("performing", None)
        self._workers = options.pop("workers", None)
        self._options = options
        self._ours: LazyPerformer | None = None
        if self._performing and options.get("performer") is not None:
            raise ValueError("performing is about the built-in performers; performer is another")
        if self._workers is not None and options.get("world") is not None:
            raise ValueError("workers cannot go with world, which brings its own")

    def __call__(self) -> Supervisor:
        from proctor.supervisor.supervisor import Supervisor

        options = self._options
        ours: LazyPerformer | None = None
        if options.get("performer") is None:
            from proctor.process.performing import LazyPerformer

            ours = LazyPerformer(self._performing or {})
            options = options | {"performer": ours}
        if self._workers is not None:
            from proctor.supervisor.world import KernelWorld

            options = options | {"world": KernelWorld(workers=self._workers)}
        made = Supervisor(self._handlers, **options)
        if ours is not None:
            self._ours = ours
            ours.on_trouble = made.trouble
            made.on_close(ours.close)
        return made

    def start_early(self) -> None:
        """Start the performers now, if calls will probably be performed."""
        if self._ours is not None and any(handler.performs for handler in self._handlers):
            self._ours.start_early()


def _program(handlers: tuple[Handler, ...], filter: Filter | None) -> bytes | None:
    """The compiled filter; None if nothing is to be filtered."""
    from proctor.supervisor.handlers import Handler

    for handler in handlers:
        if not isinstance(handler, Handler):
            raise TypeError(
                f"{handler!r} is not a handler: decorate the function with "
                '@proctor.on("openat", ...)'
            )
    source = filter if filter is not None else filter_for(handlers)
    return None if source is None else source.compile().code


def run(
    argv: Sequence[StrOrBytes],
    handlers: Iterable[Handler] = (),
    **options: Unpack[RunOptions],
) -> subprocess.CompletedProcess[Any]:
    """Run a command under supervision, wait for it, and say how it ended.

    ::

        done = proctor.run(["echo", "hello"], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, "hello\\n")

    Like :func:`subprocess.run`: ``input``, ``capture_output``, ``timeout`` (seconds; the command is
    killed and TimeoutExpired raised), ``check`` (CalledProcessError) and ``text`` mean the same;
    every other option is :func:`spawn`'s.
    """
    from subprocess import CalledProcessError, CompletedProcess

    given: dict[str, Any] = dict(options)
    input, timeout = given.pop("input", None), given.pop("timeout", None)
    check, text = given.pop("check", False), given.pop("text", False)
    if given.pop("capture_output", False):
        if "stdout" in given or "stderr" in given:
            raise ValueError("capture_output cannot go with stdout or stderr")
        given["stdout"] = given["stderr"] = PIPE
    if input is not None:
        if "stdin" in given:
            raise ValueError("input cannot go with stdin")
        given["stdin"] = PIPE
    data = input.encode() if isinstance(input, str) else input
    process = spawn(argv, handlers, **given)
    try:
        out: Any
        err: Any
        out, err = process.communicate(data, timeout)
    finally:
        process.close()
    if text:
        out, err = (
            x.decode(errors="surrogateescape") if x is not None else None for x in (out, err)
        )
    code = process.returncode
    assert code is not None  # communicate() waited
    if check and code:
        raise CalledProcessError(code, argv, out, err)
    return CompletedProcess(argv, code, out, err)
