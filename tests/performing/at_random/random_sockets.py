"""A program that makes random calls on sockets, and prints what came of each: run natively, and performed.

argv: seed, how many, which calls ("connect", "connect once", "send", "bind", "messages", "accepts", "options"), how
(64, 32 for calls of i386, 102 for those of its socketcall), a directory with socket files, and the ports of servers
on loopback: TCP and UDP, of IPv4 and IPv6.
"""

import ctypes
import errno
import fcntl
import hashlib
import mmap
import os
import random
import select
import socket
import stat
import struct
import sys
import termios

libc = ctypes.CDLL(None, use_errno=True)
FAMILIES = {"inet": socket.AF_INET, "inet6": socket.AF_INET6, "unix": socket.AF_UNIX}
#: Calls of i386: their numbers there, and what socketcall(2) knows them as.
NARROW = {
    "socket": (359, 1), "bind": (361, 2), "connect": (362, 3), "listen": (363, 4), "accept": (None, 5),
    "accept4": (364, 18), "sendto": (369, 11), "setsockopt": (366, 14), "sendmsg": (370, 16), "sendmmsg": (345, 20),
    "ioctl": (54, None),
}  # fmt: skip
#: rax = int $0x80 with the number rdi and the six arguments at rsi.
GATE = bytes.fromhex(
    "53 55 4889f8 4989f2 418b1a 418b4a08 418b5210 418b7218 418b7a20 418b6a28 cd80 4898 5d 5b c3"
)


class Machine:
    """Makes calls as a program of this width does; what they point to is where 32 bits reach."""

    def __init__(self, width):
        self.width = width
        self.word = 8 if width == 64 else 4
        self.held = mmap.mmap(-1, 1 << 22, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40)
        self.start = ctypes.addressof(ctypes.c_char.from_buffer(self.held))
        self.used = 64
        libc.mprotect(ctypes.c_void_p(self.start + len(self.held) - 4096), 4096, 0)
        if width != 64:
            self.code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
            self.code.write(GATE)
            at = ctypes.addressof(ctypes.c_char.from_buffer(self.code))
            self.gate = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_long, ctypes.c_void_p)(at)

    def put(self, data, room=0):
        """Where it is until the next call is over."""
        at = self.used
        self.used += max(len(data), room) + 15 & ~15
        self.held[at : at + max(len(data), room)] = data.ljust(room, b"\0")
        return self.start + at

    def edge(self, data):
        """Where nothing can be read behind it."""
        end = len(self.held) - 4096
        self.held[end - len(data) : end] = data
        return self.start + end - len(data)

    def read(self, where, size):
        return self.held[where - self.start : where - self.start + size]

    def words(self, text, *values):
        """Numbers, cut to their size: W in the text is a word."""
        form = text.replace("W", "Q" if self.word == 8 else "I")
        sizes = [8 if each == "Q" else 4 for each in form if each != "x"]
        cut = [each & (1 << 8 * size) - 1 for each, size in zip(values, sizes, strict=True)]
        return struct.pack("=" + form, *cut)

    def call(self, name, *args):
        if self.width == 64:
            ctypes.set_errno(0)
            result = getattr(libc, name)(*map(ctypes.c_long, args))
            number = ctypes.get_errno()
        else:
            args = [each & 0xFFFFFFFF for each in args]
            number, member = NARROW[name]
            if self.width == 102 or number is None:
                number, args = 102, [member, self.put(struct.pack(f"={len(args)}I", *args))]
            values = struct.pack("=6q", *args, *[0] * (6 - len(args)))
            held = ctypes.create_string_buffer(values, 48)
            result = self.gate(number, ctypes.addressof(held))
            number = -result
        return result if result >= 0 else errno.errorcode.get(number, number)

    def forget(self):
        self.used = 64


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


def length_of(draw, address):
    return draw.choice(
        [len(address)] * 6 + [0, 1, 2, 3, 15, 16, 24, 110, 111, 128, 129, -1, 1 << 30]
    )


def number_of(draw, sock):
    return draw.choice([sock.fileno()] * 20 + [-1, 999, 0])


def connects(machine, draw, sock, known, most=3):
    for _ in range(draw.randint(1, most)):
        address = draw.choice(known)
        length = length_of(draw, address)
        where = 1 if draw.random() < 0.03 else machine.put(address, 130)
        result = machine.call("connect", number_of(draw, sock), where, length & 0xFFFFFFFF)
        yield address[:40], length, result


def once(machine, draw, sock, known):
    return connects(machine, draw, sock, known, 1)


def vector(machine, draw, data):
    """Several pieces of some bytes, one of them perhaps nowhere: where it is, how many, whether one is bad."""
    cuts = sorted(draw.choices(range(len(data) + 1), k=draw.choice([0, 1, 1, 2, 3])))
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    entries = [(machine.put(piece), len(piece)) for piece in pieces]
    bad = draw.random() < 0.1
    if bad:
        at = draw.randrange(len(entries))
        torn = machine.edge(pieces[at]), len(pieces[at]) + draw.choice([1, 9, 5000])
        entries[at] = draw.choice(
            [torn, torn, (1, entries[at][1]), (0, 5), (entries[at][0], -1), (1, 0)]
        )
    made = b"".join(machine.words("WW", *entry) for entry in entries)
    count = len(entries) if draw.random() < 0.97 else draw.choice([0, 1025, -1])
    return machine.put(made), count, bad


def control_data(machine, draw, held):
    """Messages of its own, well or badly made: descriptors, credentials, hops, marks, times; and what they say, with "self"
    for the own number where it is one: elsewhere those bytes may be something else."""
    made, said = b"", b""
    own = struct.pack("=i", os.getpid())
    many = draw.choice([0, 0, 1, 1, 1, 2, 3])
    pids = [0, 1, 1 << 30, *[os.getpid()] * 3]
    for _ in range(many):
        numbers = [
            draw.choice([*held, 0, *([-1, 999] if draw.random() < 0.1 else [])])
            # 250 to 253 the kernel takes, and an executor does not (docs/families/connect.md)
            for _ in range(draw.choice([0, 1, 2, 4, 4, 4, 80, 255]))
        ]
        level, kind, data = draw.choice([
            (1, 1, struct.pack(f"={len(numbers)}i", *numbers)),
            (1, 1, struct.pack(f"={len(numbers)}i", *numbers)),
            (1, 2, struct.pack("=iii", draw.choice(pids), draw.choice([0, 1000, 5]), draw.choice([0, 1000]))),
            (0, 2, struct.pack("=i", draw.choice([1, 64, 255, 300]))), (0, 1, bytes([draw.choice([0, 8, 255])])),
            (0, 1, struct.pack("=i", 4)), (0, 8, struct.pack("=i4s4s", 0, socket.inet_aton("127.0.0.1"), bytes(4))),
            (41, 52, struct.pack("=i", draw.choice([1, 64, -1, 300]))), (41, 67, struct.pack("=i", 9)),
            (41, 50, bytes(20)), (41, 50, socket.inet_pton(10, "::1") + struct.pack("=i", draw.choice([0, 1, 99]))),
            (1, 36, struct.pack("=I", 3)), (1, 37, struct.pack("=I", draw.choice([1, 2, 1 << 30]))),
            (1, 61, struct.pack("=Q", draw.getrandbits(40))), (17, 103, struct.pack("=H", draw.choice([100, 9000, 0]))),
            (1, 44, b""), (99, 99, b"none"), (6, 1, b"tcp"),
        ])  # fmt: skip
        if draw.random() < 0.1:
            data = draw.choice([data[:-1], data + b"\1", b"", data * 2])
        head = machine.words("W", 0)
        length = len(head) + 8 + len(data)
        if draw.random() < 0.05:
            length = draw.choice([0, 1, 8, length + 1, 999, -1, 1 << 31])
        made += machine.words("WII", length, level, kind)
        said = said.ljust(len(made) - len(head) - 8, b"\0") + made[-len(head) - 8 :] + data
        for at in (0, 12) if (level, kind) == (1, 2) else ():  # one struct ucred, or two
            if data[at : at + 4] == own:
                said = said[: len(made) + at] + b"self" + said[len(made) + at + 4 :]
        made += data
        made += bytes(-len(made) % machine.word)
    said = said.ljust(len(made), b"\0")
    if draw.random() < 0.1:
        ways = [
            lambda it: it[:-1],
            lambda it: it + b"\0",
            lambda it: it + bytes(24),
            lambda it: it[:9],
        ]
        way = draw.choice(ways)
        made, said = way(made), way(said)
    return made, said


def header(machine, draw, name, data, held):
    """A struct msghdr, and what it says."""
    to, length = (
        (0, draw.choice([0, 0, 5]))
        if name is None
        else (machine.put(name, 130), length_of(draw, name))
    )
    at, count, bad = vector(machine, draw, data)
    control, said = control_data(machine, draw, held)
    where = machine.put(control, 8) if control and draw.random() < 0.98 else 0
    size = len(control) if draw.random() < 0.97 else draw.choice([1, 7, 999, -1])
    flags = draw.choice([0, 0, -1])
    made = (
        machine.words("WIxxxxWWWWIxxxx", to, length, at, count, where, size, flags)
        if machine.word == 8
        else machine.words("WIWWWWI", to, length, at, count, where, size, flags)
    )
    return made, (
        name is None or name[:40],
        length,
        count,
        bad,
        said.hex(),
        size,
        bool(where),
    )


PART = "some of it"


def certain(sock, result, torn, parts):
    """What came of it; where TCP sent a part, how much of it was there depends on where in a page the sender's last data
    ended (``sk_page_frag`` of include/net/sock.h), on any socket."""
    if sock.family == socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
        return result
    part = any(isinstance(sent, int) and sent < size for sent, size in parts)
    if isinstance(result, int):
        return PART if torn or part else result
    return PART if torn and result == "EFAULT" else result


def send(machine, draw, sock, name, data, held):
    """One call that sends: what it was and what came of it."""
    flags = draw.choice(
        [0, 0, 0, socket.MSG_DONTWAIT, socket.MSG_NOSIGNAL, socket.MSG_OOB, 1 << 13, 1 << 31]
    )
    number, how = number_of(draw, sock), draw.choice(["sendto", "sendmsg", "sendmsg", "sendmmsg"])
    if how == "sendto":
        torn = draw.random() < 0.1
        where = draw.choice([1, machine.edge(data[1:])]) if torn else machine.put(data)
        to, length = (0, 0) if name is None else (machine.put(name, 130), length_of(draw, name))
        result = machine.call("sendto", number, where, len(data), flags, to, length & 0xFFFFFFFF)
        result = certain(sock, result, torn, [(result, len(data))])
        return how, name and name[:40], length, len(data), where == 1, flags, result
    if how == "sendmsg":
        made, said = header(machine, draw, name, data, held)
        result = machine.call("sendmsg", number, machine.put(made), flags)
        return how, said, flags, certain(sock, result, said[3], [(result, len(data))])
    cuts, several = [], []
    for _ in range(draw.randint(1, 3)):
        cuts.append(data[: draw.choice([1, 50, 70000])])
        several.append(header(machine, draw, name, cuts[-1], held))
    tail = bytes.fromhex("aaaaaaaa") + bytes(4 if machine.word == 8 else 0)
    array = b"".join(made + tail for made, _ in several)
    where = machine.put(array)
    count = len(several) if draw.random() < 0.95 else draw.choice([0, len(several) + 1])
    result = machine.call("sendmmsg", number, where, count, flags)
    size = len(several[0][0]) + len(tail)
    sizes = [
        machine.read(where + each * size, size)[-len(tail) :].hex() for each in range(len(several))
    ]
    made = [int.from_bytes(bytes.fromhex(each)[:4], sys.byteorder) for each in sizes]
    parts = zip(made, map(len, cuts), strict=True)
    said = certain(sock, result, any(said[3] for _, said in several), parts)
    return how, [said for _, said in several], count, flags, said, [] if said == PART else sizes


def sends(machine, draw, sock, known):
    if draw.random() < 0.3:
        first = draw.choice(known)
        libc.connect(sock.fileno(), first, len(first))
    for _ in range(draw.randint(1, 3)):
        data = draw.randbytes(draw.choice([0, 1, 100, 3000, 70000]))
        yield send(
            machine,
            draw,
            sock,
            None if draw.random() < 0.3 else draw.choice(known),
            data,
            [sock.fileno()],
        )
        machine.forget()


def binds(machine, draw, sock, known):
    for _ in range(draw.randint(1, 2)):
        address = draw.choice([
            *known, inet("127.0.0.1", 80), inet("0.0.0.0", 7), inet6("::1", 81), unix(b"new%d\0" % draw.randrange(5)),
            unix(b"deep/new\0"), unix(b"shut/new\0"),
        ])  # fmt: skip
        length = length_of(draw, address)
        if b"/var/tmp" in address:  # no file beside the directory
            length = len(address)
        where = 1 if draw.random() < 0.03 else machine.put(address, 130)
        result = machine.call("bind", number_of(draw, sock), where, length & 0xFFFFFFFF)
        yield address[:40], length, result
    yield "listen", machine.call("listen", sock.fileno(), draw.choice([0, 5, -1]))
    if draw.random() < 0.3:
        sock.setblocking(False)
        flags = draw.choice([0, socket.SOCK_CLOEXEC, 1])
        yield "accept", machine.call("accept4", sock.fileno(), 0, 0, flags)


# What arrives, and what is written back ------------------------------------------------------------


def pair(draw):
    """Two ends that reach each other, and an address by which the first one reaches the second one, if it needs one."""
    kind = draw.choice(["stream", "datagram", "seqpacket", "udp", "udp6", "tcp", "names"])
    if kind in ("stream", "datagram", "seqpacket"):
        number = {
            "stream": socket.SOCK_STREAM,
            "datagram": socket.SOCK_DGRAM,
            "seqpacket": socket.SOCK_SEQPACKET,
        }[kind]
        return kind, *socket.socketpair(socket.AF_UNIX, number), []
    if kind == "names":
        one, other = (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM),
        )
        other.bind(b"\0other")
        if draw.random() < 0.5:
            one.bind(b"\0one")
        return kind, one, other, [unix(b"\0other")]
    if kind == "tcp":
        one = socket.socket()
        with socket.create_server(("127.0.0.1", 0)) as server:
            one.connect(server.getsockname())
            return kind, one, server.accept()[0], [inet("127.0.0.1", 1)]
    domain, host = (socket.AF_INET, "127.0.0.1") if kind == "udp" else (socket.AF_INET6, "::1")
    one, other = socket.socket(domain, socket.SOCK_DGRAM), socket.socket(domain, socket.SOCK_DGRAM)
    other.bind((host, 7007))
    for level, number in (
        ((0, 8), (0, 12), (0, 13)) if kind == "udp" else ((41, 49), (41, 51), (41, 66))
    ):
        other.setsockopt(level, number, 1)
    return kind, one, other, [(inet if kind == "udp" else inet6)(host, 7007)]


def arrived(transport, one, other, sent):
    """All that is there, waited for where softirqs may be behind; of a stream of TCP as one."""
    other.setblocking(False)
    whole = b""
    while transport == "tcp":
        try:
            data = other.recv(1 << 19)
            whole += data
            said = None
        except OSError as error:
            data, said = b"", errno.errorcode[error.errno]
        under_way = struct.unpack("=i", fcntl.ioctl(one, termios.TIOCOUTQ, bytes(4)))[0]
        if not data and (said != "EAGAIN" or not under_way):
            return len(whole), hashlib.sha256(whole).hexdigest()[:12], said
    if transport.startswith("udp") and isinstance(sent, int):
        select.select([other], [], [], 1)
    found, parts = [], [b""]
    while True:
        try:
            data, control, flags, name = other.recvmsg(1 << 19, 4096, socket.MSG_CMSG_CLOEXEC)
        except OSError as error:
            return [*found, errno.errorcode[error.errno]]
        told = []
        for level, kind, raw in control:
            value = raw
            if (level, kind) == (1, 1):
                numbers = struct.unpack(f"={len(raw) // 4}i", raw)
                value = [stat.S_IFMT(os.fstat(number).st_mode) for number in numbers]
                for number in numbers:
                    os.close(number)
            elif (level, kind) == (1, 2):  # the process is known to be another one
                value = raw[4:]
            told.append((level, kind, value))
        port = (name[0], "port") if isinstance(name, tuple) else name
        # on a stream what comes from one process is received as one: what does not say who sends it comes from an executor
        follows = transport == "stream" and data and found and found[-1][2:] == (told, flags, port)
        parts.append((parts[-1] if follows else b"") + data)
        digest = hashlib.sha256(parts[-1]).hexdigest()[:12]
        found[-1:] = [*([] if follows else found[-1:]), (len(parts[-1]), digest, told, flags, port)]
        if not data and other.type == socket.SOCK_STREAM:
            return found


def message(machine, draw):
    kind, one, other, to = pair(draw)
    with one, other:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", 0, 200000))
        one.setblocking(draw.random() < 0.5)
        if kind not in ("udp", "udp6", "tcp") and draw.random() < 0.3:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        made = []
        for _ in range(draw.randint(1, 3)):
            name = draw.choice(to) if to and draw.random() < 0.8 else None
            data = draw.randbytes(
                draw.choice([0, 1, 100, 3000, 30000, 30000, 140000, 200000, 330000])
            )
            made.append(send(machine, draw, one, name, data, [one.fileno(), 2]))
            machine.forget()
            sent = made[-1][-2 if made[-1][0] == "sendmmsg" else -1]
            came = arrived(kind, one, other, sent)
            made.append(PART if sent == PART else came)
        return kind, made


def accepted(machine, draw):
    """Connections that wait, taken with buffers that fit and such that do not."""
    kind = draw.choice(["tcp", "tcp6", "stream", "seqpacket", "datagram"])
    if kind.startswith("tcp"):
        domain, host = (socket.AF_INET, "127.0.0.1") if kind == "tcp" else (socket.AF_INET6, "::1")
        server = socket.create_server((host, 0), family=domain)
    else:
        number = {
            "stream": socket.SOCK_STREAM,
            "datagram": socket.SOCK_DGRAM,
            "seqpacket": socket.SOCK_SEQPACKET,
        }[kind]
        server = socket.socket(socket.AF_UNIX, number)
        server.bind("")  # a name that the kernel picks
        if kind != "datagram":
            server.listen(5)
    made, clients = [], []
    with server:
        server.setblocking(False)
        for _ in range(draw.randint(0, 3)):
            if kind == "datagram":
                break
            client = socket.socket(server.family, server.type)
            if not kind.startswith("tcp") and draw.random() < 0.5:
                client.bind(b"\0client%d" % len(clients))
            client.connect(server.getsockname())
            clients.append(client)
        for _ in range(draw.randint(1, 4)):
            size = draw.choice([0, 1, 2, 3, 8, 16, 28, 110, 128, 129, 300, -1, 1 << 31])
            room = machine.put(b"\xaa" * 300)
            length = machine.put(struct.pack("=I", size & 0xFFFFFFFF))
            name, given = draw.choice([room] * 6 + [0, 1]), draw.choice([length] * 8 + [0, 1])
            flags = draw.choice(
                [0, 0, socket.SOCK_CLOEXEC, socket.SOCK_NONBLOCK, 0x80800, 1, 1 << 31]
            )
            number, call = number_of(draw, server), draw.choice(["accept", "accept4"])
            more = [flags] if call == "accept4" else []
            result = machine.call(call, number, name, given, *more)
            (after,) = struct.unpack("=I", machine.read(length, 4))
            seen = bytearray(machine.read(room, 300))
            if kind.startswith("tcp"):
                seen[2:4] = bytes(2)  # a port that the kernel picks
            more_ = None
            if isinstance(result, int):
                with socket.socket(fileno=result) as new:
                    more_ = (
                        new.getblocking(),
                        os.get_inheritable(result),
                        int(new.type),
                        result - server.fileno(),
                    )
            made.append(
                (
                    call,
                    size,
                    name > 1,
                    given > 1,
                    flags,
                    isinstance(result, int) or result,
                    more_,
                    after,
                    seen.hex(),
                )
            )
            machine.forget()
        for client in clients:
            client.close()
    return kind, made


#: Options, among them all that take a right.
OPTIONS = [
    *((1, number) for number in (1, 2, 8, 9, 12, 13, 20, 21, 25, 32, 33, 36, 46, 61, 69)),
    *((0, number) for number in (1, 2, 19)), (41, 75), (41, 16), (6, 13), (6, 1),
]  # fmt: skip


def option(machine, draw):
    domain, kind = (
        draw.choice([socket.AF_INET, socket.AF_INET6, socket.AF_UNIX]),
        draw.choice([socket.SOCK_STREAM, socket.SOCK_DGRAM]),
    )
    made = []
    with socket.socket(domain, kind) as sock:
        for _ in range(draw.randint(1, 4)):
            level, number = draw.choice(OPTIONS)
            value = draw.choice([
                struct.pack("=i", draw.choice([0, 1, 6, 7, 100, -1, 1 << 20])), struct.pack("=iI", 1, draw.choice([0, 1, 9])),
                b"lo\0", b"lo", b"none\0", b"cubic", b"reno\0", b"", draw.randbytes(draw.choice([1, 3, 16, 64, 65])),
            ])  # fmt: skip
            length = len(value) if draw.random() < 0.8 else draw.choice([0, 1, 2, 4, 64, 65, -1])
            where = 1 if draw.random() < 0.05 else machine.put(value, 130)
            result = machine.call("setsockopt", number_of(draw, sock), level, number, where, length)
            try:
                after = sock.getsockopt(level, number, 64).hex()
            except OSError as error:
                after = errno.errorcode[error.errno]
            made.append((level, number, value, length, where == 1, result, after))
            machine.forget()
    return int(domain), int(kind), made


def main():
    seed, count, which, width, top, *ports = sys.argv[1:]
    draw, machine = random.Random(seed), Machine(int(width))
    os.chdir(top)
    if os.path.exists("as-user"):
        os.setresgid(1000, 1000, 1000)
        os.setresuid(1000, 1000, 1000)
        libc.prctl(4, 1, 0, 0, 0)  # dumpable, as after an execve
    whole = {"messages": message, "accepts": accepted, "options": option}.get(which)
    for number in range(int(count) if whole else 0):
        print(number, *whole(machine, draw), flush=True)
    if whole:
        return
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
            made = list(act(machine, draw, sock, mine))
            machine.forget()
            print(number, domain, int(kind), made, state(sock), flush=True)


if __name__ == "__main__":
    main()
