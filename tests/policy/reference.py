"""Generated policies, generated calls, and what the rules mean, read plainly.

The reference shares nothing with the code under test but the numbers of the constants: it works on
decoded values (signed numbers, file types, device pairs), not on registers and masks, and takes the
rules from the structure they were generated as, not from the loaded policy.
"""

from __future__ import annotations

import errno
import json
import operator
import os
from typing import Any, NamedTuple

from hypothesis import strategies as st

from proctor.call.decode.sockaddr import Inet6Address, InetAddress, SocketAddress, UnixAddress
from proctor.testing import FakeTarget
from proctor.testing.target import FakeCall

# Values: few, so that conditions hit ------------------------------------------------------------

PATHS = [b"/etc/shadow", b"/etc/passwd", b"/srv/a/b/c", b"/srv/\xff", b"/dev/null"]
PATTERNS = {
    "/etc/shadow": lambda p: p == b"/etc/shadow",
    "/etc/*": lambda p: p.startswith(b"/etc/"),
    "/srv/**": lambda p: p.startswith(b"/srv/"),
    "/**/c": lambda p: p.endswith(b"/c"),
    "/srv/\\xff": lambda p: p == b"/srv/\xff",
}
ADDRESSES = {
    "unix:/run/x": UnixAddress("pathname", b"/run/x"),
    "unix:@x": UnixAddress("abstract", b"x"),
    "inet:10.0.0.1:80": InetAddress("10.0.0.1", 80),
    "inet6:[::1]:80": Inet6Address("::1", 80),
}
DEVICES = [(1, 3), (1, 5), (5, 0), (8, 0), (259, 300), (0, 0)]
TYPES = {
    "char": 0o020000,
    "block": 0o060000,
    "fifo": 0o010000,
    "regular": 0o100000,
    "socket": 0o140000,
}
FLAGS = {"O_CREAT": os.O_CREAT, "O_EXCL": os.O_EXCL, "O_TRUNC": os.O_TRUNC, "O_APPEND": os.O_APPEND}
ACCESS = {"read": 0, "write": 1, "read-write": 2}
OPS = {"==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}  # fmt: skip

#: Registers and, for the reference, which argument is what: name -> (register, bits, signed).
LAYOUT: dict[str, dict[str, tuple[int, int, bool]]] = {
    "mknod": {"path": (0, 64, False), "mode": (1, 16, False), "dev": (2, 32, False)},
    "mknodat": {"dirfd": (0, 32, True), "path": (1, 64, False), "mode": (2, 16, False), "dev": (3, 32, False)},
    "open": {"path": (0, 64, False), "flags": (1, 32, False), "mode": (2, 12, False)},
    "openat": {"dirfd": (0, 32, True), "path": (1, 64, False), "flags": (2, 32, False), "mode": (3, 12, False)},
    "kill": {"pid": (0, 32, True), "sig": (1, 32, True)},
    "connect": {"sockfd": (0, 32, True), "addr": (1, 64, False), "addrlen": (2, 32, True)},
    "mkdir": {"path": (0, 64, False), "mode": (1, 10, False)},
    "getpid": {},
}  # fmt: skip
PERFORMED = ("mknod", "mknodat", "open", "openat")
INTEGERS = {"kill": ("pid", "sig"), "mknodat": ("dirfd", "mode"), "mknod": ("mode",), "openat": ("dirfd", "mode"), "open": ("mode",), "connect": ("sockfd",), "mkdir": ("mode",), "getpid": ()}  # fmt: skip


def toml(value: Any) -> str:
    """A value as TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, str):  # JSON's strings are TOML's, but for one character
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return "{ " + ", ".join(f"{toml(key)} = {toml(each)}" for key, each in value.items()) + " }"


class Generated(NamedTuple):
    """One generated rule."""

    calls: list[str]
    when: dict[str, Any]
    verdict: tuple[str, Any]
    report: bool = False

    def text(self, number: int) -> str:
        lines = ["[[rule]]", f'name = "rule {number}"', f"calls = {toml(self.calls)}"]
        if self.when:
            lines.append(f"when = {toml(self.when)}")
        lines.append(f"{self.verdict[0]} = {toml(self.verdict[1])}")
        if self.report:
            lines.append("report = true")
        return "\n".join(lines) + "\n"

    def kind(self) -> tuple[str, Any]:
        """What the reference calls its verdict."""
        key, value = self.verdict
        return ("deny", errno.EPERM) if key == "deny" else (key, value if key == "return" else None)


# Reading the rules plainly ------------------------------------------------------------------------


class Case(NamedTuple):
    """One call in decoded values, and what its registers hold besides."""

    name: str
    numbers: dict[str, int]
    path: bytes
    address: SocketAddress
    uid: int
    #: What stands in the bits that the kernel does not read, by register.
    garbage: tuple[int, ...] = (0,) * 6

    def call(self, abi: str = "x86_64") -> FakeCall:
        """The call, made by a target that has what its pointers lead to."""
        target = FakeTarget(dict.fromkeys(map(os.fsdecode, (*PATHS, b"/run/x")), b""), uid=self.uid)
        named: dict[str, Any] = {}
        for key, (register, bits, _) in LAYOUT[self.name].items():
            mask = (1 << bits) - 1
            named[key] = self.garbage[register] & ~mask | self.numbers[key] & mask
        if "path" in named:
            named["path"] = self.path
        if "addr" in named:
            named["addr"] = self.address
            del named["addrlen"]
        if not named:
            return target.call(self.name, abi=abi)
        return target.call(self.name, abi=abi, **named)


def _number_holds(spec: Any, value: int) -> bool:
    if isinstance(spec, int):
        return value == spec
    if isinstance(spec, str):
        op, _, number = spec.partition(" ")
        return bool(OPS[op](value, int(number)))
    if isinstance(spec, list):
        return any(_number_holds(each, value) for each in spec)
    for key, each in spec.items():
        if key in OPS:
            if not OPS[key](value, each):
                return False
        elif key == "mask":
            if value & each != spec["is"]:
                return False
        elif key != "is":
            bits = [FLAGS[flag] for flag in each]
            some = [bool(value & bit) for bit in bits]
            if not {"all": all(some), "any": any(some), "none": not any(some)}[key]:
                return False
    return True


def condition_holds(key: str, spec: Any, case: Case) -> bool:
    """Whether one condition of a rule holds."""
    specs = spec if isinstance(spec, list) else [spec]
    if key == "type":
        kind = case.numbers["mode"] & 0o170000
        return any(kind == TYPES[each] or (each == "regular" and kind == 0) for each in specs)
    if key == "device":
        dev = case.numbers["dev"]
        major, minor = dev >> 8 & 0xFFF, (dev & 0xFF) | (dev >> 12 & 0xFFF00)
        return any(
            (a == "*" or int(a) == major) and (b == "*" or int(b) == minor)
            for a, b in (each.split(":") for each in specs)
        )
    if key == "access":
        return any(case.numbers["flags"] & 3 == ACCESS[each] for each in specs)
    if key == "path":
        return any(case.path is not None and PATTERNS[each](case.path) for each in specs)
    if key == "address":
        return any(case.address == ADDRESSES[each] for each in specs)
    if key == "caller":
        uids = spec["uid"] if isinstance(spec["uid"], list) else [spec["uid"]]
        return case.uid in uids
    return _number_holds(spec, case.numbers[key])


FURTHER = ("path", "address", "caller")


def meant(rules: list[Generated], default: tuple[str, Any], case: Case) -> tuple[str, Any]:
    """The verdict: the first rule that holds."""
    for rule in rules:
        if case.name in rule.calls and all(
            condition_holds(k, v, case) for k, v in rule.when.items()
        ):
            return rule.kind()
    return default


def needs_monitor(rules: list[Generated], case: Case) -> bool:
    """Whether the verdict needs memory, identity or an action of the monitor: it does if the first
    rule whose register conditions hold has others, or is carried out by the monitor."""
    for rule in rules:
        if case.name not in rule.calls:
            continue
        registers = {k: v for k, v in rule.when.items() if k not in FURTHER}
        if not all(condition_holds(k, v, case) for k, v in registers.items()):
            continue
        if len(registers) < len(rule.when) or rule.report:
            return True
        key, value = rule.verdict
        return key == "perform" or (key == "return" and value != 0)
    return False


# Strategies -----------------------------------------------------------------------------------------


def _some(items: Any, most: int = 3) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.sampled_from(sorted(items)), min_size=1, max_size=most, unique=True)


_SMALL = st.integers(0, 12)
_NUMBER = st.one_of(
    _SMALL,
    st.builds(lambda op, n: f"{op} {n}", st.sampled_from(sorted(OPS)), st.integers(1, 11)),
    st.lists(_SMALL, min_size=1, max_size=3),
    st.builds(lambda low, more: {">=": low, "<": low + more}, _SMALL, st.integers(1, 5)),
    st.builds(lambda n: {"mask": 0b110, "is": n & 0b110}, _SMALL),
)
_SIGNED = st.one_of(_NUMBER, st.sampled_from([-1, -100, "< 0", ">= -1", "> -100", "!= -100"]))


@st.composite
def rules(draw: st.DrawFn) -> Generated:
    """One rule about one call, or about a call and its sibling."""
    name = draw(st.sampled_from(sorted(LAYOUT)))
    calls = [name]
    for pair in (("mknod", "mknodat"), ("open", "openat")):
        if name in pair and draw(st.booleans()):
            calls = list(pair)
    shared = set.intersection(*(set(INTEGERS[call]) for call in calls))
    when: dict[str, Any] = {}
    for key in sorted(shared):
        if draw(st.integers(0, 3)) == 0:
            when[key] = draw(_NUMBER if key == "mode" else _SIGNED)
    if name in ("mknod", "mknodat") and draw(st.booleans()):
        when["type"] = draw(_some(TYPES, 2))
        if draw(st.booleans()):
            devices = draw(_some([f"{a}:{b}" for a, b in DEVICES] + ["5:*", "*:0"]))
            when["device"] = devices
    if name in ("open", "openat") and draw(st.booleans()):
        if draw(st.booleans()):
            when["access"] = draw(_some(ACCESS, 2))
        else:
            when["flags"] = {draw(st.sampled_from(["all", "any", "none"])): draw(_some(FLAGS, 2))}
    if "path" in LAYOUT[name] and draw(st.integers(0, 2)) == 0:
        when["path"] = draw(_some(PATTERNS, 2))
    if name == "connect" and draw(st.booleans()):
        when["address"] = draw(_some(ADDRESSES, 2))
    if draw(st.integers(0, 5)) == 0:
        when["caller"] = {"uid": draw(st.sampled_from([0, 1000, [0, 1000]]))}
    verdicts: list[tuple[str, Any]] = [
        ("deny", "EPERM"), ("return", 0), ("return", 7), ("kill", True), ("log", True),
        ("allow", True), ("allow", "unsafe: because"),
    ]  # fmt: skip
    if name in PERFORMED:
        verdicts += [("perform", True)] * 2
    return Generated(calls, when, draw(st.sampled_from(verdicts)), draw(st.integers(0, 5)) == 0)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A call, with garbage above the bits that the kernel reads."""
    name = draw(st.sampled_from(sorted(LAYOUT)))
    numbers: dict[str, int] = {}
    for key, (_, bits, signed) in LAYOUT[name].items():
        if key == "mode":
            value = draw(st.sampled_from([0, *TYPES.values()])) | draw(st.integers(0, 12))
            value &= (1 << bits) - 1
        elif key == "dev":
            major, minor = draw(st.sampled_from(DEVICES))
            value = (minor & 0xFF) | major << 8 | (minor & 0xFFF00) << 12
        elif key == "flags":
            value = draw(st.sampled_from([0, 1, 2, 3]))
            for flag in draw(st.lists(st.sampled_from(sorted(FLAGS)), max_size=3)):
                value |= FLAGS[flag]
        elif signed:
            value = draw(
                st.one_of(st.integers(-2, 13), st.sampled_from([-100, 2**31 - 1, -(2**31)]))
            )
        else:
            value = 0x7F00DEAD0000
        numbers[key] = value
    path = draw(st.sampled_from(PATHS))
    address = draw(st.sampled_from([*ADDRESSES.values(), InetAddress("10.0.0.2", 1)]))
    uid = draw(st.sampled_from([0, 1000, 1001]))
    garbage = tuple(draw(st.integers(0, (1 << 64) - 1)) for _ in range(6))
    return Case(name, numbers, path, address, uid, garbage)
