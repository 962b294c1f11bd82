"""Tracers and tracees, on the model and on the real kernel side by side.

The actors of :mod:`tests.model.real` make calls of their own between two orders, which a tracer would see.
Here an actor is a program of which every system call is known (``actor.c``), and the model plays
the very same calls, so that each stop, its number, its arguments and its result can be compared.

* :mod:`tests.model.stage.real`: the real actors; * :mod:`model.stage.playing`: one thread in both worlds,
  and a step; * :mod:`tests.model.stage.orders`: what can be ordered; * :mod:`model.stage.drawing`: random
  steps and the command ``python -m tests.model.stage.drawing``.
"""
