"""A program that does what it is told, and the drivers on both of its sides.

:mod:`.harness` tells victims what to do (:mod:`.pipes` starts them and carries the words);
:mod:`.kernel` is the monitor's side, as raw ioctls and as proctor's native core; :mod:`.bpf` writes the
filters; :mod:`.processes` looks at and ends process trees; :mod:`.lab` holds all that one test owns.
"""
