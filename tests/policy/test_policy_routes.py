"""Messages that say themselves by which hosts they go: their address is not where they go first."""

from __future__ import annotations

import errno
import sys

import proctor
from proctor.policy import loads

RULES = """
[[rule]]
name = "near"
calls = ["sendmsg", "sendmmsg"]
when = { address = "inet:127.0.0.1:*" }
allow = "unsafe: a test"

[[rule]]
name = "far"
calls = ["sendmsg", "sendmmsg"]
deny = "EHOSTUNREACH"
"""
PROGRAM = """if True:
    import socket, struct
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        # IP_TTL; IP_RETOPTS with a loose source route by 127.0.0.2; behind another
        options = bytes((131, 7, 4)) + socket.inet_aton("127.0.0.2") + bytes(1)
        ttl, route = (0, 2, struct.pack("=i", 9)), (0, 7, options)
        for control in ([], [ttl], [route], [ttl, route]):
            try:
                print(one.sendmsg([b"x"], control, 0, ("127.0.0.1", 9)))
            except OSError as error:
                print(-error.errno)
"""


def test_an_address_is_no_address_where_a_route_is_given() -> None:
    rules = loads(f'version = 1\ndefault = "allow"\non_error = "ENOLINK"\n{RULES}')
    done = proctor.run(
        [sys.executable, "-c", PROGRAM], rules.handlers(), filter=rules.filter(), capture_output=True,
        text=True, **rules.supervisor_options(),
    )  # fmt: skip
    assert done.stdout.split() == ["1", "1", str(-errno.ENOLINK), str(-errno.ENOLINK)], done.stderr
