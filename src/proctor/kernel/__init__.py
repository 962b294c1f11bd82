"""The kernel mechanism: seccomp(2), one listener, launching a target, probes, errors.

Knows nothing of what system calls mean.
"""
