"""The kernel's side of seccomp and user notification, as a program that runs anywhere.

Read in this order: :mod:`~proctor.model.kernel.transitions` (the life of a notification, as a table),
:mod:`~proctor.model.kernel.notify` (the caller's side), :mod:`~proctor.model.kernel.listener` (the monitor's),
:mod:`~proctor.model.kernel.filters` and :mod:`~proctor.model.kernel.install` (the tree, its counts, seccomp(2)),
:mod:`~proctor.model.kernel.signals`, :mod:`~proctor.model.kernel.delivery`, :mod:`~proctor.model.kernel.life`,
:mod:`~proctor.model.kernel.ending`, :mod:`~proctor.model.kernel.files`, :mod:`~proctor.model.kernel.poll`,
:mod:`~proctor.model.ptrace.tracing` and :mod:`~proctor.model.ptrace.requests` (tracers), and
:mod:`~proctor.model.kernel.machine`, which is the machine around them.
What a kernel has is a set of names (:mod:`~proctor.model.kernel.features`).
:class:`~proctor.model.kernel.program.Program` is how to use it::

    from proctor.model.kernel.machine import Kernel
    from proctor.model.kernel.program import Program

    monitor = Program(Kernel("6.18"))
    listener = monitor.listen(program)      # packed sock_filter
    child = monitor.fork()
    child.call("getppid")                   # BLOCKED: it waits for an answer
    request = monitor.recv(listener)
    monitor.send(listener, request.id, 7)
    assert child.result == 7

It is held against the running kernel (``tests/model``, ``docs/model-differences.md``).
"""
