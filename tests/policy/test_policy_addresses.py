"""Socket-address patterns."""

from __future__ import annotations

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proctor.policy.addresses import Address, AddressError, AddressPattern, spell


def inet(host: str, port: int = 0) -> Address:
    packed = ipaddress.ip_address(host).packed
    return Address(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed, port)


UNIX = socket.AF_UNIX


@pytest.mark.parametrize(
    ("pattern", "address", "matches"),
    [
        ("inet:10.0.0.0/8:443", inet("10.1.2.3", 443), True),
        ("inet:10.0.0.0/8:443", inet("10.1.2.3", 444), False),
        ("inet:10.0.0.0/8:443", inet("11.1.2.3", 443), False),
        ("inet:10.0.0.0/8", inet("10.1.2.3", 9), True),
        ("inet:*:8000-8099", inet("1.2.3.4", 8099), True),
        ("inet:*:8000-8099", inet("1.2.3.4", 8100), False),
        ("inet:1.2.3.4:*", inet("1.2.3.4", 1), True),
        ("inet:10.0.0.0/8:443", inet("::ffff:10.1.2.3", 443), True),
        ("inet6:[::]/0", inet("::ffff:10.1.2.3", 443), True),
        ("inet6", inet("::ffff:10.1.2.3", 443), True),
        ("inet6:*:443", inet("::1", 443), True),
        ("inet6:[::1]:443", inet("::1", 443), True),
        ("inet6:[2001:db8::]/32:1-2", inet("2001:db8::7", 2), True),
        ("inet6:2001:db8::/32", inet("2001:db9::7", 2), False),
        ("inet", inet("::1"), False),
        ("inet6", inet("1.2.3.4"), False),
        ("unix", Address(UNIX), True),
        ("unix:", Address(UNIX), True),
        ("unix:", Address(UNIX, path=b"/x"), False),
        ("unix:/run/*.sock", Address(UNIX, path=b"/run/x.sock"), True),
        ("unix:/run/x", Address(UNIX, abstract=b"/run/x"), False),
        ("unix:@a/*", Address(UNIX, abstract=b"a/b/c"), True),
        ("unix:@a", Address(UNIX, path=b"a"), False),
        ("netlink", Address(socket.AF_NETLINK), True),
        ("netlink", Address(UNIX), False),
        ("unspec", Address(socket.AF_UNSPEC), True),
        ("inet", Address(socket.AF_UNSPEC), False),
    ],
)
def test_matching(pattern: str, address: Address, matches: bool) -> None:
    assert AddressPattern(pattern).matches(address) is matches


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("unx:/run/x", 'did you mean "unix"?'),
        ("inet:10.0.0.1/8", "host bits"),
        ("inet:1.2.3.4:70000", "end at 65535"),
        ("inet:1.2.3.4:https", "is not a port"),
        ("inet:1.2.3.4:", "is not a port"),
        ("inet:1.2.3.4:2-1", "backwards"),
        ("inet6:[::1", 'without "]"'),
        ("inet6:[::1]x", "after the address"),
        ("inet6:[::ffff:1.2.3.4]", "write inet:ADDRESS"),
        ("netlink:3", "no pattern"),
        ("unix:relative", "begins with /"),
    ],
)
def test_what_cannot_be_is_refused(pattern: str, says: str) -> None:
    with pytest.raises(AddressError) as caught:
        AddressPattern(pattern)
    assert says in str(caught.value)


ADDRESSES = st.one_of(
    st.builds(
        lambda host, port: Address(socket.AF_INET, host, port),
        st.binary(min_size=4, max_size=4),
        st.integers(0, 65535),
    ),
    st.builds(
        lambda host, port: Address(socket.AF_INET6, host, port),
        st.binary(min_size=16, max_size=16),
        st.integers(0, 65535),
    ),
    st.builds(
        lambda name: Address(UNIX, abstract=name),
        st.binary(max_size=20),
    ),
    st.just(Address(UNIX)),
    st.just(Address(UNIX, path=b"/run/\xffweird [x]*")),
)


@given(ADDRESSES)
def test_an_address_spelled_out_matches_itself(address: Address) -> None:
    assert AddressPattern(spell(address)).matches(address)
