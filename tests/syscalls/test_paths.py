"""What path arguments mean, by the calls' registers."""

from __future__ import annotations

import pytest

from proctor.syscalls import tables
from proctor.syscalls.architectures import ARCHITECTURES
from proctor.syscalls.flags import members
from proctor.syscalls.paths import Meaning, meaning
from proctor.syscalls.signatures import signature

FOLLOWED = Meaning(follows=True, entry=False, empty=False)
ITSELF = Meaning(follows=False, entry=False, empty=False)
ENTRY = Meaning(follows=False, entry=True, empty=False)


def of(
    call: str, argument: str, abi: str = "x86_64", how: int | None = None, **values: int
) -> Meaning:
    known = signature(call, abi)
    assert known is not None
    registers = [1] * 6
    for arg in known.args:
        if arg.role == "flags":
            registers[arg.reg] = 0
    for name, value in values.items():
        arg = known.arg(name)
        assert arg is not None
        registers[arg.reg] = value
    path = known.arg(argument)
    assert path is not None
    return meaning(known, path, registers, how)


@pytest.mark.parametrize(
    ("call", "argument", "flags", "expected"),
    [
        ("stat", "path", {}, FOLLOWED),
        ("lstat", "path", {}, ITSELF),
        ("lsetxattr", "path", {}, ITSELF),
        ("setxattr", "path", {}, FOLLOWED),
        ("execve", "path", {}, FOLLOWED),
        ("unlinkat", "path", {"flags": 0x200}, ENTRY),
        ("mkdir", "path", {}, ENTRY),
        ("mknodat", "path", {}, ENTRY),
        ("rename", "oldpath", {}, ENTRY),
        ("symlinkat", "linkpath", {}, ENTRY),
        ("link", "oldpath", {}, ITSELF),
        ("link", "newpath", {}, ENTRY),
        ("linkat", "oldpath", {}, ITSELF),
        ("linkat", "oldpath", {"flags": 0x400}, FOLLOWED),
        ("linkat", "oldpath", {"flags": 0x1000}, ITSELF._replace(empty=True)),
        ("linkat", "newpath", {"flags": 0x1400}, ENTRY),
        ("newfstatat", "path", {}, FOLLOWED),
        ("newfstatat", "path", {"flags": 0x1100}, ITSELF._replace(empty=True)),
        ("statx", "path", {"flags": 0x1000}, FOLLOWED._replace(empty=True)),
        ("execveat", "path", {"flags": 0x100}, ITSELF),
        ("setxattrat", "path", {"at_flags": 0x100}, ITSELF),
        ("name_to_handle_at", "path", {}, ITSELF),
        ("name_to_handle_at", "path", {"flags": 0x400}, FOLLOWED),
        ("move_mount", "from_path", {"flags": 0x11}, FOLLOWED),
        ("move_mount", "from_path", {"flags": 0x14}, ITSELF._replace(empty=True)),
        ("move_mount", "to_path", {"flags": 0x41}, ITSELF._replace(empty=True)),
        ("move_mount", "to_path", {"flags": 0x10}, FOLLOWED),
        ("umount2", "target", {"flags": 8}, ITSELF),
        ("umount2", "target", {"flags": 2}, FOLLOWED),
        ("fspick", "path", {"flags": 10}, ITSELF._replace(empty=True)),
        ("inotify_add_watch", "path", {"mask": 0x2000000}, ITSELF),
        ("fanotify_mark", "path", {"flags": 4}, ITSELF),
        ("fanotify_mark", "path", {"path": 0}, FOLLOWED._replace(empty=True)),
        ("utimensat", "path", {"path": 0}, FOLLOWED._replace(empty=True)),
        ("readlinkat", "path", {}, ITSELF._replace(empty=True)),
        ("readlinkat", "path", {"path": 0}, ITSELF),
        ("creat", "path", {}, FOLLOWED),
        ("mount", "source", {"flags": 0x1000}, FOLLOWED),
    ],
)
def test_meanings(call: str, argument: str, flags: dict[str, int], expected: Meaning) -> None:
    assert of(call, argument, **flags) == expected


@pytest.mark.parametrize("abi", ARCHITECTURES)
def test_open_flags_are_those_of_the_architecture(abi: str) -> None:
    bits = members("OpenFlag", abi)
    new = bits["O_CREAT"] | bits["O_EXCL"]
    assert of("openat", "path", abi) == FOLLOWED
    assert of("openat", "path", abi, flags=bits["O_NOFOLLOW"]) == ITSELF
    assert of("openat", "path", abi, flags=bits["O_DIRECTORY"] | bits["O_TRUNC"]) == FOLLOWED
    assert of("openat", "path", abi, flags=new) == ITSELF
    assert of("openat", "path", abi, flags=new | bits["O_PATH"]) == FOLLOWED
    assert of("openat2", "path", abi, how=new) == ITSELF
    assert of("openat2", "path", abi, how=0) == FOLLOWED


def test_every_path_argument_means_something() -> None:
    """No call is forgotten whose name says that it is about a link itself, or makes a name."""
    for call in sorted(tables.all_names()):
        for abi in ARCHITECTURES:
            known = signature(call, abi)
            for arg in known.with_role("path") if known is not None else ():
                assert known is not None
                means = meaning(known, arg, (1, 1, 1, 0, 0, 0))
                if call[0] == "l" and call[1:] in tables.all_names():
                    assert not means.follows, call
                if call.startswith(("mk", "unlink", "rename", "rmdir")):
                    assert means.entry, call
