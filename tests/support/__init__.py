"""A program that does what it is told, and the drivers on both of its sides.

:mod:`victim.harness` tells victims what to do (:mod:`victim.pipes` starts them and carries the
words); :mod:`victim.kernel` is the monitor's side, as raw ioctls and as proctor's native core;
:mod:`victim.bpf` writes the filters; :mod:`victim.processes` looks at and ends process trees;
:mod:`tests.support.lab` holds all that one test owns.  Put ``tests/`` on ``sys.path`` to import it.
"""
