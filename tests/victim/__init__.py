"""A program that does what it is told, and the drivers on both of its sides.

:mod:`victim.harness` starts victims and tells them what to do; :mod:`victim.kernel` is the
monitor's side, as raw ioctls and as proctor's native core; :mod:`victim.bpf` writes the filters;
:mod:`victim.processes` looks at and ends process trees.
"""
