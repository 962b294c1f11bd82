"""The examples of docs/testing.md; a test holds the two together."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable

import pytest

import proctor
from examples.demo.os_release import os_release
from proctor.call.decode.sockaddr import InetAddress, UnixAddress
from proctor.syscalls.flags import OpenFlag
from proctor.testing import AT_FDCWD, FakeTarget, Node

# 1. Content of our own -------------------------------------------------------------------------

memfd = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="the handler uses memfd_create")


@memfd
def test_the_release_is_ours() -> None:
    with FakeTarget({"/etc/os-release": b"ID=debian\n"}) as target:
        call = target.call("openat", AT_FDCWD, "/etc/os-release", OpenFlag.O_RDONLY)
        outcome = target.run(os_release, call)
        assert outcome.content.endswith(b"ID=proctor-demo\n")
        assert outcome.fd in target.fds


def test_everything_else_is_opened_for_the_caller() -> None:
    with FakeTarget({"/etc/hosts": b"127.0.0.1 localhost\n"}, cwd="/etc") as target:
        outcome = target.run(os_release, target.call("open", "hosts", OpenFlag.O_RDONLY))
        assert outcome.performed
        assert outcome.content == b"127.0.0.1 localhost\n"
        missing = target.run(os_release, target.call("open", "host", OpenFlag.O_RDONLY))
        assert missing.errno == errno.ENOENT


# 2. A rule on paths ----------------------------------------------------------------------------


@proctor.on("mkdir", "mkdirat")
def only_in_the_cache(call):  # type: ignore[no-untyped-def]
    """Directories may be made below /var/cache, wherever the path seems to lead."""
    if call.mode & 0o002:
        return proctor.deny(errno.EPERM, "directories that everybody can write to")
    if call.resolve().path.startswith(b"/var/cache/"):
        return proctor.let_run_unsafe("keeps honest builds tidy; stops nobody who tries")
    return proctor.deny(errno.EACCES, "outside of the cache")


TREE = {
    "/var/cache/app": None,
    "/var/cache/escape": Node.symlink("/home/user"),
    "/home/user/shortcut": Node.symlink("../../var/cache/app"),
}


def test_the_path_is_where_it_leads() -> None:
    with FakeTarget(TREE, cwd="/home/user") as target:

        def mkdir(path: str) -> int:
            return target.run(only_in_the_cache, target.call("mkdir", path, 0o755)).errno

        assert mkdir("/var/cache/app/new") == 0
        assert mkdir("shortcut/new") == 0
        assert mkdir("new") == errno.EACCES
        assert mkdir("/var/cache/escape/new") == errno.EACCES
        assert mkdir("/var/cache/app/../../new") == errno.EACCES
        assert mkdir("/nowhere/new") == errno.EPERM  # resolve() raised ENOENT: on_error


def test_a_path_is_relative_to_its_descriptor() -> None:
    with FakeTarget(TREE, cwd="/home/user") as target:
        cache = target.open("/var/cache")
        call = target.call("mkdirat", cache, "app/new", 0o755)
        assert target.run(only_in_the_cache, call).ran
        call = target.call("mkdirat", 77, "app/new", 0o755)
        outcome = target.run(only_in_the_cache, call)
        assert isinstance(outcome.error, OSError)
        assert outcome.error.errno == errno.EBADF


def test_registers_alone_are_looked_at_first() -> None:
    with FakeTarget() as target:
        outcome = target.run(only_in_the_cache, target.call("mkdir", "/var/cache/x", 0o777))
        assert outcome.errno == errno.EPERM
        assert not target.memory.reads


# 3. Slow decisions -----------------------------------------------------------------------------


def firewall(allowed):  # type: ignore[no-untyped-def]
    """A handler that asks ``allowed(address)``, which may take its time."""

    @proctor.on("connect", deadline=3.0)
    async def connect(call):  # type: ignore[no-untyped-def]
        address = call.sockaddr
        if isinstance(address, UnixAddress):
            return proctor.let_run_unsafe("local sockets are not filtered")
        if not isinstance(address, InetAddress):
            return proctor.deny(errno.EAFNOSUPPORT, f"{address} is no IPv4 address")
        if await allowed(address):
            uid = call.caller.uids.effective
            return proctor.let_run_unsafe(f"uid {uid} may; the network's own firewall stands")
        return proctor.deny(errno.ECONNREFUSED, f"{address.host}:{address.port} is not on the list")

    return connect


async def directory(address: InetAddress) -> bool:
    await asyncio.sleep(1.0)  # in a test this takes no time
    return address.host == "192.0.2.7"


def test_addresses_are_asked_for() -> None:
    with FakeTarget() as target:
        handler = firewall(directory)
        outcome = target.run(handler, target.call("connect", 3, ("192.0.2.7", 443)))
        assert outcome.ran
        assert outcome.seconds == 1.0
        outcome = target.run(handler, target.call("connect", 3, ("198.51.100.1", 443)))
        assert outcome.errno == errno.ECONNREFUSED
        assert "198.51.100.1:443" in outcome.reason
        local = UnixAddress("pathname", b"/run/log.sock")
        assert target.run(handler, target.call("connect", 3, local)).seconds == 0


def test_a_silent_directory_hangs_nobody() -> None:
    async def silent(_: InetAddress) -> bool:
        await asyncio.sleep(3600)
        return True

    with FakeTarget() as target:
        outcome = target.run(firewall(silent), target.call("connect", 3, ("192.0.2.7", 443)))
        assert outcome.decided_by == "deadline"
        assert outcome.errno == errno.EPERM
        assert outcome.seconds == 3.0


def test_a_caller_that_leaves_is_no_error() -> None:
    with FakeTarget(uid=33) as target:

        async def leaves(_: InetAddress) -> bool:
            target.die()
            return True

        outcome = target.run(firewall(leaves), target.call("connect", 3, ("192.0.2.7", 443)))
        assert not outcome.delivered
        assert isinstance(outcome.error, proctor.CallGone)  # call.caller asked after its end


# The fixture -----------------------------------------------------------------------------------


def test_the_fixture_closes_what_it_made(fake_target: Callable[..., FakeTarget]) -> None:
    target = fake_target({"/etc/motd": b"hello"}, uid=0)
    assert target.read(target.open("/etc/motd")) == b"hello"
    assert target.caps.has("CAP_SYS_ADMIN")
