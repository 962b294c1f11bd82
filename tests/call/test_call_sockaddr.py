"""Socket addresses: every family, every length, hostile bytes."""

from __future__ import annotations

import ipaddress
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proctor.call.decode import sockaddr
from proctor.call.decode.sockaddr import (
    Inet6Address,
    InetAddress,
    NetlinkAddress,
    PacketAddress,
    RawAddress,
    UnixAddress,
    VsockAddress,
    decode,
)


def family(number: int, rest: bytes = b"") -> bytes:
    return struct.pack("<H", number) + rest


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"", RawAddress(-1, b"")),
        (b"\1", RawAddress(-1, b"\1")),
        (family(0), RawAddress(0, b"")),
        (family(1), UnixAddress("unnamed", b"")),
        (family(1, b"/run/x\0"), UnixAddress("pathname", b"/run/x")),
        (family(1, b"/run/x"), UnixAddress("pathname", b"/run/x")),
        (family(1, b"/a\0junk"), UnixAddress("pathname", b"/a")),
        (family(1, b"\xff\xfe"), UnixAddress("pathname", b"\xff\xfe")),
        (family(1, b"\0"), UnixAddress("abstract", b"")),
        (family(1, b"\0a\0b\0"), UnixAddress("abstract", b"a\0b\0")),
        (family(1, b"x" * 108), UnixAddress("pathname", b"x" * 108)),
        (family(1, b"x" * 109), RawAddress(1, b"x" * 109)),
        (family(2, b"\0\x50\x7f\0\0\1" + bytes(8)), InetAddress("127.0.0.1", 80)),
        (family(2, b"\0\x50\x7f\0\0\1" + bytes(7)), RawAddress(2, b"\0\x50\x7f\0\0\1" + bytes(7))),
        (family(10, b"\0\x50" + bytes(4) + bytes(15) + b"\1"), Inet6Address("::1", 80)),
        (
            family(10, b"\0\x50\0\0\0\7" + b"\xfe\x80" + bytes(13) + b"\1" + b"\3\0\0\0"),
            Inet6Address("fe80::1", 80, 7, 3),
        ),
        (family(16, b"\0\0" + struct.pack("<II", 9, 5)), NetlinkAddress(9, 5)),
        (family(16, b"\0\0"), RawAddress(16, b"\0\0")),
        (
            family(17, b"\x08\x06" + struct.pack("<iHBB", 2, 1, 4, 6) + b"abcdef\0\0"),
            PacketAddress(0x0806, 2, 1, 4, b"abcdef"),
        ),
        (
            family(17, b"\x08\x06" + struct.pack("<iHBB", 2, 1, 4, 255) + b"abcdefghij"),
            PacketAddress(0x0806, 2, 1, 4, b"abcdefgh"),
        ),
        (family(40, b"\0\0" + struct.pack("<IIB", 22, 3, 1) + bytes(3)), VsockAddress(3, 22, 1)),
        (family(29, b"can"), RawAddress(29, b"can")),
    ],
)
def test_decode(data: bytes, value: object) -> None:
    assert decode(data) == value
    assert type(decode(data)) is type(value)


def test_byte_order() -> None:
    assert decode(b"\0\2\0\x50\x7f\0\0\1" + bytes(8), "big") == InetAddress("127.0.0.1", 80)


@given(st.binary(min_size=16, max_size=16))
def test_ipv6_text_is_the_standard_librarys(packed: bytes) -> None:
    data = family(10, b"\0\1" + bytes(4) + packed)
    found = decode(data)
    assert isinstance(found, Inet6Address)
    assert ipaddress.IPv6Address(found.host).packed == packed
    assert found.host == socket.inet_ntop(socket.AF_INET6, packed) or "." in found.host + (
        socket.inet_ntop(socket.AF_INET6, packed)
    )


@given(st.binary(max_size=200), st.sampled_from(["little", "big"]))
def test_hostile_bytes_never_raise_and_print(data: bytes, order: str) -> None:
    found = decode(data, order)
    text = str(found)
    assert text.isprintable()
    if len(data) >= 2:
        assert found.family == int.from_bytes(data[:2], order)  # type: ignore[arg-type]


@given(st.sampled_from([1, 2, 10, 16, 17, 40]), st.binary(max_size=130))
def test_hostile_bytes_of_known_families(number: int, rest: bytes) -> None:
    found = decode(family(number, rest))
    assert found.family == number
    assert str(found).isprintable()


def test_the_longest_address() -> None:
    assert sockaddr.MAX_LENGTH == 128
