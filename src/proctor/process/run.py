"""The plain way in: ``run`` like :func:`subprocess.run`, ``spawn`` like :class:`subprocess.Popen`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from proctor.errors import LaunchError
from proctor.given import one, refuse_unknown
from proctor.kernel.plan import refuse_word
from proctor.process.child import Process, spawn_served
from proctor.process.options import RunOptions, SpawnOptions

if TYPE_CHECKING:
    import subprocess
    from typing import Unpack

    from proctor.filter.rules import Filter, Rule
    from proctor.kernel.plan import StrOrBytes
    from proctor.kernel.target import Target
    from proctor.process.outer import Outer
    from proctor.process.performing import LazyPerformer
    from proctor.supervisor.container import Container
    from proctor.supervisor.deciding import Performer
    from proctor.supervisor.handlers import Handler
    from proctor.supervisor.supervisor import Supervisor

#: The same numbers as in :mod:`subprocess`.
PIPE, STDOUT, DEVNULL = -1, -2, -3


def filter_for(handlers: Iterable[Handler], base: Filter | None = None) -> Filter | None:
    """The filter under which exactly the calls that the handlers want are notified.  Where they perform
    (:mod:`proctor.families`, ``performs=True``), what would not hold for what is performed is refused as by a policy, unless
    rules or handlers are about it: Landlock (:mod:`proctor.performing.untaken`).

    ::

        handler = proctor.Handler(["mkdir"], lambda call: proctor.deny(errno.EROFS))
        made = proctor.filter_for([handler])
        assert made.rules[0].action == proctor.actions.NOTIFY

    :param base: rules to try first (an OCI profile, a policy's filter) and its default; the
        handlers' calls come after them.
    :returns: None if nothing is asked for.
    :raises ValueError: some are a policy's, which decides most calls in its filter, and that is not there.
    """
    from proctor.filter.actions import ALLOW, NOTIFY
    from proctor.filter.rules import Filter, Rule
    from proctor.supervisor.handlers import handlers_of

    handlers, base = handlers_of(handlers), checked_filter(base)
    # the others are a policy's, whose filter is the base
    own = [h for h in handlers if not getattr(h, "in_filter", False)]
    rules = [Rule(h.names, NOTIFY, h.conditions, label=h.label) for h in own]
    if any(h.performs for h in own):
        rules += _untaken(handlers, base)
    if base is None:
        if len(own) < len(handlers):
            raise ValueError(
                "these handlers are a policy's, whose filter says which calls they get: "
                "give that, too (policy.filter())"
            )
        return Filter(rules, ALLOW) if rules else None
    if not rules:
        return base
    return Filter(
        (*base.rules, *rules), base.default, base.arches, base.foreign, base.x32, strict=base.strict
    )


def _untaken(handlers: Iterable[Handler], base: Filter | None) -> list[Rule]:
    """What is refused since whoever performs cannot take it on."""
    from proctor.filter.actions import errno
    from proctor.filter.rules import Rule
    from proctor.performing.untaken import UNTAKEN

    found = []
    named = set() if base is None else {name for rule in base.rules for name in rule.names}
    for each in UNTAKEN:
        names = tuple(
            [
                name
                for name in each.calls
                if name not in named and not any(handler.wants(name) for handler in handlers)
            ]
        )
        if names:
            found.append(Rule(names, errno(each.errno), label=f"{each.what} would not hold"))
    return found


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
    :param quotas: what the command may take of the supervisor (:class:`proctor.Quotas`).
    :param logging: how much of its calls logs have; None: all.
    :param world: in the place of the kernel's: see :mod:`proctor.supervisor.ports`.
    :param filter: the whole filter, if you bring your own (an OCI profile, a policy's); see
        :func:`filter_for` to add the handlers' calls to one.  By default exactly the calls that
        the handlers name are notified.
    :param stdin, stdout, stderr: None (inherit), a descriptor or file, PIPE, DEVNULL, STDOUT.
    :param delegate: have the command inherit the way by which supervisors below register, since the
        kernel has no listener for them: ``proctor run`` does (see docs/delegation.md).
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
    refuse_word(argv)
    refuse_unknown(options, SpawnOptions.__annotations__)
    given: dict[str, Any] = dict(options)
    handlers = checked_handlers(handlers)
    filter = checked_filter(given.pop("filter", None))
    delegate = given.pop("delegate", False)
    whole = filter_for(handlers) if filter is None else filter
    program = None if whole is None else whole.compile().code
    made = Supervision(handlers, {name: given.pop(name) for name in DECIDING & given.keys()})
    # Where nothing is supervised, none of that is loaded: a command under no policy starts fast.
    if whole is not None:
        if delegate:
            from proctor.process.outer import Outer

            made.outer = Outer(whole, given)
        made.supervisor = made()
    try:
        return spawn_served(argv, program, made, given)
    except LaunchError as error:
        more = _asked_about_execve(handlers, error)
        if not more:
            raise
        raise LaunchError(error.step, error.errno or 0, error.detail, more) from None


def _asked_about_execve(handlers: Iterable[Handler], error: LaunchError) -> str:
    """Who may have refused the command's own execve, for which nobody looks there; of a policy others say it."""
    from errno import ENOENT

    own = (each for each in handlers if not getattr(each, "in_filter", False))
    asked = [each.where for each in own if each.wants("execve")]
    if error.step != "execve" or error.errno == ENOENT or not asked:
        return ""
    return f" ({' and '.join(asked)} decides about execve, the command's own as well)"


#: Options that are the supervisor's, or say how it is made.
DECIDING: Final = frozenset(
    (
        "default", "on_error", "deadline", "on_deadline", "observers", "performer", "performing",
        "workers", "world", "quotas", "logging",
    )
)  # fmt: skip


class Supervision:
    """Makes the supervisor of a command, with the built-in performers unless somebody brought his."""

    def __init__(self, handlers: tuple[Handler, ...], options: dict[str, Any]) -> None:
        self._handlers = handlers
        self._performing = options.pop("performing", None)
        self._workers = options.pop("workers", None)
        self._quotas, self._logging = options.pop("quotas", None), options.pop("logging", None)
        self._options = options
        self._ours: LazyPerformer | None = None
        #: None: nothing is supervised.
        self.supervisor: Supervisor | None = None
        self._whole: Container | None = None
        #: Has supervisors below asked, if there may be any.
        self.outer: Outer | None = None
        if self._performing and options.get("performer") is not None:
            raise ValueError("performing is about the built-in performers; performer is another")
        if self._workers is not None and options.get("world") is not None:
            raise ValueError("workers cannot go with world, which brings its own")

    def __call__(self) -> Supervisor:
        from proctor.process.performing import LazyPerformer
        from proctor.supervisor.container import Container
        from proctor.supervisor.supervisor import Supervisor

        # Here, since what cannot be is said before anything starts
        self._whole = Container(quotas=self._quotas, logging=self._logging)
        ours = LazyPerformer({} if self._performing is None else self._performing, self._performed)
        options = self._options | {"seeker": ours}
        if options.get("performer") is None:
            self._ours = ours
            options |= {"performer": self.performer(ours)}
        if self._workers is not None:
            from proctor.supervisor.world import KernelWorld

            options = options | {"world": KernelWorld(workers=self._workers)}
        made = Supervisor(self._handlers, **options)
        ours.on_trouble = made.trouble
        made.on_close(ours.close)
        if self.outer is not None:
            self.outer.attach(made)
        return made

    def _performed(self, call: str) -> bool:
        return any(handler.performs and handler.wants(call) for handler in self._handlers)

    def performer(self, ours: LazyPerformer) -> Performer:
        """What performs."""
        return ours

    def begin(self, argv: Sequence[StrOrBytes]) -> None:
        """As :class:`Serving`, also below."""
        if self.supervisor is not None:
            from proctor.process.starting import start

            start(self.supervisor, argv)

    def take(self, target: Target) -> None:
        """Serve it, and start the performers now, if calls will probably be performed."""
        if self.supervisor is None:
            return
        from proctor.process.starting import add

        container = self._whole
        assert container is not None  # it came with the supervisor
        if self.outer is not None:
            self.outer.launched(container)
        add(self.supervisor, target, container)
        if self._ours is not None and any(handler.performs for handler in self._handlers):
            self._ours.start_early()  # while the target execs

    @property
    def serves(self) -> bool:
        """See there."""
        return self.supervisor is not None

    def supervising(self) -> Supervisor:
        """See there; made when first asked for, and not started, where nothing is supervised."""
        if self.supervisor is None:
            self.supervisor = self()
        return self.supervisor

    def wait(self, timeout: float | None) -> bool:
        """See there."""
        return self.supervisor is None or self.supervisor.wait(timeout)

    def close(self) -> None:
        """See there."""
        if self.supervisor is not None:
            self.supervisor.close()

    def let_go(self) -> None:
        """See there.  Whoever lets go may be a thread of the supervisor's, which cannot close it."""
        supervisor = self.supervisor
        if supervisor is not None:
            from proctor.kernel.threads import quiet_thread

            try:
                quiet_thread(lambda: _end(supervisor), "proctor-end")
            except RuntimeError:  # no more threads for us: what waits goes on being served
                pass


def _end(supervisor: Supervisor) -> None:
    supervisor.wait()
    supervisor.close()


def checked_handlers(given: Iterable[Handler]) -> tuple[Handler, ...]:
    """:raises TypeError: one is a plain function."""
    if given == ():
        return ()
    from proctor.supervisor.handlers import handlers_of

    return handlers_of(given)


def checked_filter(given: Filter | None) -> Filter | None:
    """:raises TypeError: it is something else."""
    if given is not None:
        from proctor.filter.rules import Filter

        one("filter", given, Filter, "a proctor.Filter")
    return given


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
    every other option is :func:`spawn`'s.  Text is UTF-8, and bytes that are none come out as surrogates, of which
    ``input`` makes these bytes again.

    :returns: the status, negative for a signal, and what was captured: bytes, or str with ``text``.
    :raises LaunchError: it cannot be started; ``errno`` says why.
    :raises NestedListener, Unsupported, ValueError: as :func:`spawn`.
    """
    asked = Asked(argv, options)
    process = spawn(argv, handlers, **asked.options)
    try:
        said = process.communicate(asked.data, asked.timeout)
    finally:
        process.close()
    return asked.completed(process.returncode, said)


class Asked:
    """What a command is run for: what :func:`run` takes beside the options of :func:`spawn`.

    :raises TypeError, ValueError: as :func:`run`."""

    def __init__(self, argv: Sequence[StrOrBytes], options: RunOptions) -> None:
        refuse_word(argv)
        refuse_unknown(options, RunOptions.__annotations__)
        given: dict[str, Any] = dict(options)
        input, self.timeout = given.pop("input", None), given.pop("timeout", None)
        self._check, self._text = given.pop("check", False), given.pop("text", False)
        if given.pop("capture_output", False):
            if given.get("stdout") is not None or given.get("stderr") is not None:
                raise ValueError("capture_output cannot go with stdout or stderr")
            given["stdout"] = given["stderr"] = PIPE
        if input is not None:
            if given.get("stdin") is not None:
                raise ValueError("input cannot go with stdin")
            given["stdin"] = PIPE
            one("input", input, (bytes, bytearray, memoryview, str), "bytes or a text")
        if self.timeout is not None:
            one("timeout", self.timeout, (int, float), "seconds or None")
        self._argv = argv
        self.data = input.encode(errors=_AS_THEY_ARE) if isinstance(input, str) else input
        #: Those of :func:`spawn`.
        self.options = given

    def completed(
        self, code: int | None, said: tuple[bytes | None, bytes | None]
    ) -> subprocess.CompletedProcess[Any]:
        """How it ended, and what it said.

        :raises subprocess.CalledProcessError: badly, and that is checked."""
        from subprocess import CalledProcessError, CompletedProcess

        out: Any
        err: Any
        out, err = said
        if self._text:
            out, err = (_lines(each) if each is not None else None for each in (out, err))
        assert code is not None  # communicate() waited
        if self._check and code:
            raise CalledProcessError(code, self._argv, out, err)
        return CompletedProcess(self._argv, code, out, err)


#: Bytes that are no UTF-8, both ways.
_AS_THEY_ARE: Final = "surrogateescape"


def _lines(data: bytes) -> str:
    text = data.decode(errors=_AS_THEY_ARE)
    return text.replace("\r\n", "\n").replace("\r", "\n")
