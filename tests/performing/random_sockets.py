"""A program that makes random calls on sockets, and prints what came of each: run natively, and performed.

argv: seed, how many, which calls ("connect", "connect once", "send", "bind"), a directory with socket files, and the ports
of servers on loopback: TCP and UDP, of IPv4 and IPv6.
"""

import ctypes
import errno
import os
import random
import socket
import struct
import sys

libc = ctypes.CDLL(None, use_errno=True)
FAMILIES = {"inet": socket.AF_INET, "inet6": socket.AF_INET6, "unix": socket.AF_UNIX}


def call(name, *args):
    ctypes.set_errno(0)
    result = getattr(libc, name)(*args)
    return result if result >= 0 else errno.errorcode.get(ctypes.get_errno(), ctypes.get_errno())


def inet(host, port):
    return (
        struct.pack("=H", socket.AF_INET)
        + struct.pack(">H", port)
        + socket.inet_aton(host)
        + bytes(8)
    )


def inet6(host, port):
    packed = socket.inet_pton(socket.AF_INET6, host)
    return (
        struct.pack("=H", socket.AF_INET6) + struct.pack(">H", port) + bytes(4) + packed + bytes(4)
    )


def unix(path):
    return struct.pack("=H", socket.AF_UNIX) + path


def addresses(top, tcp, udp, tcp6, udp6):
    top = top.encode()
    return [
        *(inet(host, port) for host in ("127.0.0.1", "127.0.0.9", "0.0.0.0") for port in (tcp, udp, 1, 0)),
        inet("255.255.255.255", 9), inet("224.0.0.1", 9), inet("240.0.0.1", 9),
        *(inet6(host, port) for host in ("::1", "::", "::ffff:127.0.0.1") for port in (tcp6, udp6, tcp, 1)),
        *(unix(each) for each in (
            top + b"/stream\0", top + b"/stream", top + b"/datagram\0", b"stream\0", b"./link\0",
            b"missing\0", b"file\0", b".\0", b"locked\0", b"shut/stream\0", b"loop\0", b"file/x\0", b"\0abstract",
            b"\0none", b"\0", b"", b"x" * 108, b"x" * 109, b"/proc/self/cwd/stream\0", b"..//" + top[1:] + b"/stream\0",
        )),
        struct.pack("=H", 0) + bytes(14), struct.pack("=H", 0), struct.pack("=H", 0) + inet("127.0.0.1", udp)[2:],
        struct.pack("=H", 99) + bytes(14), b"", b"\1", struct.pack("=HHII", 16, 0, 0, 0),
    ]  # fmt: skip


def name_of(get):
    """An address without ports that the kernel picks."""
    try:
        found = get()
    except OSError as error:
        return errno.errorcode[error.errno]
    if isinstance(found, tuple):
        return (found[0], "port" if found[1] > 1023 else "low" if found[1] else "none")
    if isinstance(found, bytes) and found[:1] == b"\0" and len(found) == 6:
        return "picked"
    return found


def state(sock):
    return (
        name_of(sock.getpeername), name_of(sock.getsockname),
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), sock.family, sock.getblocking(),
        os.get_inheritable(sock.fileno()), sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
    )  # fmt: skip


def connects(draw, sock, known, most=3):
    for _ in range(draw.randint(1, most)):
        address = draw.choice(known)
        length = draw.choice(
            [len(address)] * 6 + [0, 1, 2, 3, 15, 16, 24, 110, 111, 128, 129, -1, 1 << 30]
        )
        where = ctypes.c_void_p(1) if draw.random() < 0.03 else address.ljust(130, b"\0")
        number = draw.choice([sock.fileno()] * 20 + [-1, 999, 0])
        yield (
            address[:40],
            length,
            call("connect", number, where, ctypes.c_uint(length & 0xFFFFFFFF)),
        )


def once(draw, sock, known):
    return connects(draw, sock, known, 1)


def sends(draw, sock, known):
    if draw.random() < 0.3:
        first = draw.choice(known)
        call("connect", sock.fileno(), first, len(first))
    for _ in range(draw.randint(1, 3)):
        address, data = draw.choice(known), os.urandom(draw.choice([0, 1, 100, 3000, 70000]))
        length = draw.choice([len(address)] * 6 + [0, 1, 2, 16, 110, 128, 129, -1])
        flags = draw.choice(
            [0, 0, 0, socket.MSG_DONTWAIT, socket.MSG_NOSIGNAL, socket.MSG_OOB, 1 << 13]
        )
        to = None if draw.random() < 0.3 else address.ljust(130, b"\0")
        bad = draw.random() < 0.05
        body = ctypes.c_void_p(1) if bad else data
        number = draw.choice([sock.fileno()] * 20 + [-1, 999, 0])
        if draw.random() < 0.5:
            result = call(
                "sendto",
                number,
                body,
                ctypes.c_size_t(len(data)),
                flags,
                to,
                ctypes.c_uint(length & 0xFFFFFFFF),
            )
        else:
            body = ctypes.create_string_buffer(data, max(1, len(data)))
            half = len(data) // 2
            vector = struct.pack(
                "@PNPN",
                ctypes.addressof(body),
                half,
                1 if bad else ctypes.addressof(body) + half,
                len(data) - half,
            )
            vector = ctypes.create_string_buffer(vector, len(vector))
            target = ctypes.create_string_buffer(to or b"", 130)
            control = draw.choice(
                [
                    b"",
                    b"",
                    b"",
                    struct.pack("@NiiI", 20, 0, 1, 16) + bytes(4),
                    bytes(24),
                    struct.pack("@Nii", 999, 1, 1),
                ]
            )
            held = ctypes.create_string_buffer(control, max(1, len(control)))
            header = struct.pack(
                "@PIPNPNi",
                ctypes.addressof(target) if to else 0,
                length & 0xFFFFFFFF if to else 0,
                ctypes.addressof(vector),
                2,
                ctypes.addressof(held),
                len(control),
                0,
            )
            result = call("sendmsg", number, header, flags)
        yield address[:40], to is None, length, len(data), flags, bad, result


def binds(draw, sock, known):
    for _ in range(draw.randint(1, 2)):
        address = draw.choice([
            *known, inet("127.0.0.1", 80), inet("0.0.0.0", 7), inet6("::1", 81), unix(b"new%d\0" % draw.randrange(5)),
            unix(b"deep/new\0"), unix(b"shut/new\0"),
        ])  # fmt: skip
        length = draw.choice([len(address)] * 6 + [0, 1, 2, 3, 15, 16, 24, 110, 111, 128, 129, -1])
        if b"/var/tmp" in address:  # no file beside the directory
            length = len(address)
        where = ctypes.c_void_p(1) if draw.random() < 0.03 else address.ljust(130, b"\0")
        number = draw.choice([sock.fileno()] * 20 + [-1, 999, 0])
        yield address[:40], length, call("bind", number, where, ctypes.c_uint(length & 0xFFFFFFFF))
    yield "listen", call("listen", sock.fileno(), draw.choice([0, 5, -1]))
    if draw.random() < 0.3:
        sock.setblocking(False)
        yield (
            "accept",
            call("accept4", sock.fileno(), None, None, draw.choice([0, socket.SOCK_CLOEXEC, 1])),
        )


def main():
    seed, count, which, top, *ports = sys.argv[1:]
    draw = random.Random(seed)
    os.chdir(top)
    if os.path.exists("as-user"):
        os.setresgid(1000, 1000, 1000)
        os.setresuid(1000, 1000, 1000)
        libc.prctl(4, 1, 0, 0, 0)  # dumpable, as after an execve
    known = addresses(top, *map(int, ports))
    act = {"connect": connects, "connect once": once, "send": sends, "bind": binds}[which]
    for number in range(int(count)):
        domain = draw.choice(list(FAMILIES))
        kind = draw.choice(
            [
                socket.SOCK_STREAM,
                socket.SOCK_DGRAM,
                *([socket.SOCK_SEQPACKET] if domain == "unix" else []),
            ]
        )
        mine = (
            known
            if draw.random() < 0.15
            else [each for each in known if each[:2] == struct.pack("=H", FAMILIES[domain])]
        )
        with socket.socket(
            FAMILIES[domain], kind | draw.choice([0, socket.SOCK_CLOEXEC, socket.SOCK_NONBLOCK])
        ) as sock:
            sock.set_inheritable(draw.random() < 0.5)
            if kind == socket.SOCK_DGRAM or draw.random() < 0.5:
                sock.setblocking(False)
            if draw.random() < 0.3:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", 0, 200000))
            made = list(act(draw, sock, mine))
            print(number, domain, int(kind), made, state(sock), flush=True)


main()
