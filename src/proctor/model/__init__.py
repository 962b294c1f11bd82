"""The kernel's side of seccomp and user notification, as a program that runs anywhere.

Read in this order: :mod:`~proctor.model.transitions` (the life of a notification, as a table),
:mod:`~proctor.model.notify` (the caller's side), :mod:`~proctor.model.listener` (the monitor's),
:mod:`~proctor.model.filters` and :mod:`~proctor.model.install` (the tree, its counts, seccomp(2)),
:mod:`~proctor.model.signals`, :mod:`~proctor.model.delivery`, :mod:`~proctor.model.life`,
:mod:`~proctor.model.ending`, :mod:`~proctor.model.files`, :mod:`~proctor.model.poll`,
:mod:`~proctor.model.tracing` and :mod:`~proctor.model.ptrace` (tracers), and
:mod:`~proctor.model.kernel`, which is the machine around them.
What a kernel has is a set of names (:mod:`~proctor.model.features`).
:class:`~proctor.model.program.Program` is how to use it::

    from proctor.model.kernel import Kernel
    from proctor.model.program import Program

    monitor = Program(Kernel("6.18"))
    listener = monitor.listen(program)      # packed sock_filter
    child = monitor.fork()
    child.call("getppid")                   # BLOCKED: it waits for an answer
    request = monitor.recv(listener)
    monitor.send(listener, request.id, 7)
    assert child.result == 7

It is held against the running kernel (``tests/model``, ``docs/model-differences.md``).
"""
