"""A command for test_terminal: says that it has started, then repeats lines."""

import sys

print("started", flush=True)
for line in iter(sys.stdin.readline, ""):
    print("read", line, end="", flush=True)
