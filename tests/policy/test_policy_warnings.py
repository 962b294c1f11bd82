"""What is legal and probably not meant is said, and what is sound is not."""

from __future__ import annotations

import pytest

from proctor.policy import loads, warnings
from proctor.syscalls import siblings, tables
from proctor.syscalls.architectures import native


def rule(body: str, name: str = "r") -> str:
    return f'[[rule]]\nname = "{name}"\n{body}\n'


def told(*bodies: str, top: str = "") -> list[str]:
    found = [rule(body, f"r{number}") for number, body in enumerate(bodies)]
    return warnings(loads(top + "\n" + "".join(found)))


def only(calls: str, when: str, about: str) -> str:
    """The one warning about that which such a rule draws."""
    text = f'calls = ["{calls}"]\nwhen = {when}\ndeny = 1'
    (said,) = [w for w in told(text, top='arches = ["x86_64"]') if about in w]
    return said


def words(warning: str) -> set[str]:
    return {word.strip("(),;:") for word in warning.split()}


@pytest.mark.parametrize("family", siblings.families(), ids=lambda family: family.calls[0])
def test_every_member_of_a_family_is_warned_about(family: siblings.Family) -> None:
    """Whoever refuses one is told of all others, or of names that mean them too."""
    here = [call for call in family.calls if call in tables.numbers("x86_64")]
    for call in here:
        said = set().union(*map(words, told(f'calls = ["{call}"]\ndeny = "EACCES"')))
        missing = set(here) - said - {call}
        assert not missing, (call, missing)


@pytest.mark.parametrize(
    ("call", "other"),
    [
        ("openat", "openat2"), ("fchmodat", "chmod"), ("mknodat", "mknod"), ("execveat", "execve"),
        ("setxattr", "lsetxattr"), ("stat", "newfstatat"), ("access", "faccessat"),
        ("utimensat", "utimes"), ("setuid", "setresuid"), ("reboot", "kexec_load"),
        ("mount", "move_mount"), ("clone", "fork"), ("truncate", "open"), ("prlimit64", "setrlimit"),
    ],
)  # fmt: skip
def test_siblings_are_named_with_what_they_do(call: str, other: str) -> None:
    (first,) = [w for w in told(f'calls = ["{call}"]\ndeny = 1') if other in words(w)][:1]
    assert first.startswith(f'rule "r0" refuses {call}')
    assert siblings.why(call, other) in first


def test_who_names_the_siblings_is_not_warned() -> None:
    assert told('calls = ["mknod", "mknodat"]\ndeny = 1') == []
    # whatever the other rules say of them
    assert told('calls = ["mknod"]\ndeny = 1', 'calls = ["mknodat"]\nallow = true') == []
    assert told('calls = ["chown"]\nallow = true', 'calls = ["lchown"]\nreturn = 0') == []
    # nor who has an allow-list, in which they are not
    top = 'default = "EPERM"'
    assert told('calls = ["chmod"]\ndeny = 1', 'calls = ["execve"]\nallow = true', top=top) == []


@pytest.mark.parametrize(
    ("call", "when", "rest", "others"),
    [
        ("openat", '{ path = "/etc/shadow" }', "perform = true", "creat, open, openat2"),
        ("mknod", '{ type = "block" }', "perform = true", "mknodat"),
        ("renameat2", '{ flags = { any = ["RENAME_EXCHANGE"] } }', "allow = true", "rename, renameat"),
    ],
)  # fmt: skip
def test_who_refuses_one_and_lets_all_of_them_through_is_warned(
    call: str, when: str, rest: str, others: str
) -> None:
    """A rule about all of them says nothing about what another one refuses of one of them."""
    names = [call, *others.split(", ")]
    refused = f'calls = ["{call}"]\nwhen = {when}\ndeny = "EACCES"'
    rest = f"calls = {names!r}\n{rest}"
    said = told(refused, rest)
    assert any(f"no rule refuses all of {others}, by which" in warning for warning in said), said
    # but who refuses something of the others as well has thought of them
    ways = f"calls = {names[1:]!r}\nwhen = {{ caller = {{ uid = 7 }} }}\ndeny = 1"
    said = told(refused, ways, rest)
    assert not any("no rule refuses" in warning for warning in said), said


@pytest.mark.parametrize(
    ("refused", "other", "when", "ruling"),
    [
        ("mknod", "mknodat", 'type = "block"', "deny = 1"),
        ("mknodat", "mknod", 'device = "1:3", type = "char"', "perform = true"),
        ("unlink", "unlinkat", 'flags = { any = ["AT_REMOVEDIR"] }', "deny = 1"),
        ("openat", "open", 'access = "write"', "return = 0"),
    ],
)
def test_a_sibling_of_which_a_part_is_left_to_the_default(
    refused: str, other: str, when: str, ruling: str
) -> None:
    first = f'calls = ["{refused}"]\ndeny = 1'
    part = f'calls = ["{other}"]\nwhen = {{ {when} }}\n{ruling}'

    def about_it(*bodies: str) -> list[str]:
        return [each for each in told(*bodies) if f"refuses all of {other}," in each]

    assert len(about_it(first, part)) == 1
    # somebody decided about the rest, too; or a part of the first is as free
    assert about_it(first, part, f'calls = ["{other}"]\nallow = true') == []
    assert about_it(f"{first}\nwhen = {{ caller = {{ uid = 7 }} }}", part) == []


def test_calls_that_do_the_same_with_other_arguments_may_be_refused_in_part() -> None:
    said = told(
        'calls = ["rmdir"]\ndeny = 1',
        'calls = ["unlinkat"]\nwhen = { flags = { any = ["AT_REMOVEDIR"] } }\ndeny = 1',
    )
    assert not any("of unlinkat" in each or "about unlinkat" in each for each in said), said


def test_a_sibling_is_told_once() -> None:
    said = told('calls = ["open"]\ndeny = 1', 'calls = ["creat"]\ndeny = 1')
    assert sum("openat2" in words(warning) for warning in said) == 1


def test_io_uring() -> None:
    for verdict in ('deny = "EACCES"', "kill = true"):
        assert any("io_uring" in warning for warning in told(f'calls = ["connect"]\n{verdict}'))
    ring = 'calls = ["io_uring_setup"]\ndeny = "ENOSYS"'
    assert not any("io_uring does" in w for w in told('calls = ["connect"]\ndeny = 1', ring))
    assert not any("io_uring does" in w for w in told('calls = ["ptrace"]\ndeny = 1'))
    # what is performed goes around a path rule that refuses
    both = told('calls = ["mknod", "mknodat"]\ndeny = 1', 'calls = ["open"]\nperform = true')
    assert any("io_uring does what open does" in warning for warning in both)


def test_calls_that_break_when_they_wait() -> None:
    for call in ("close", "clone", "wait4", "futex", "vfork"):
        said = told(f'calls = ["{call}"]\ndeny = 1\nreport = true')
        assert any("wait for the monitor" in w and call in words(w) for w in said), call
        said = told(f'calls = ["{call}"]\ndeny = 1')  # the filter decides alone
        assert not any("wait for the monitor" in warning for warning in said)
    said = told('calls = ["futex"]\nwhen = { caller = { uid = 3 } }\nallow = true')
    assert any("every lock" in warning for warning in said)


def test_an_allow_list_that_cannot_start_anything() -> None:
    (warning,) = told('calls = ["read"]\nallow = true', top='default = "EPERM"')
    assert "no rule is about execve" in warning
    assert told('calls = ["execve"]\nwhen = { caller = { uid = 0 } }\nallow = true', top='default = "kill"') == []  # fmt: skip


@pytest.mark.parametrize(
    ("calls", "when", "instead"),
    [
        ("mknod", '{ mode = { "==" = "S_IFIFO" } }', 'type = "…"'),
        ("mknodat", '{ mode = { "!=" = ["S_IFDIR", 3] } }', 'mode = "S_IFDIR"'),
        ("mknod", "{ mode = 0o010000 }", 'mode = "S_IFIFO"'),
        ("mknod", "{ mode = [0o60000, 0o60660] }", 'mode = "S_IFBLK"'),
        ("mknod", "{ mode = { '!=' = 8192 } }", 'mode = "S_IFCHR"'),
        ("openat", '{ flags = { "==" = "O_WRONLY" } }', "access ="),
        ("socket", '{ type = { "==" = "SOCK_RAW" } }', "mask = 0xf"),
        ("mmap", '{ flags = { "==" = "MAP_SHARED" } }', "mask = 0xf"),
        ("mq_open", '{ oflag = { "==" = "O_WRONLY" } }', "mask = 0x3"),
        ("socket", "{ type = 3 }", 'mask = 0xf, is = "SOCK_RAW"'),
        ("openat", "{ flags = [1, 577] }", "access ="),
        ("sched_setscheduler", '{ policy = { "==" = "SCHED_FIFO" } }', "mask = 0xbfffffff"),
        ("futex", '{ op = { "==" = "FUTEX_WAIT" } }', "mask = 0xfffffe7f"),
        ("mbind", "{ mode = 2 }", 'mask = 0xffff1fff, is = "MPOL_BIND"'),
        ("chmod", '{ mode = { "==" = "S_ISUID" } }', 'all = ["S_ISUID"]'),
        ("fchmod", "{ mode = 0o6000 }", 'all = ["S_ISUID", "S_ISGID"]'),
    ],
)
def test_a_part_of_an_argument_compared_with_all_of_it(calls: str, when: str, instead: str) -> None:
    assert instead in only(calls, when, "compares all")


@pytest.mark.parametrize(
    ("calls", "when", "instead"),
    [
        ("clone", '{ flags = { "==" = "CLONE_NEWUSER|CLONE_NEWNS" } }', 'all = ["CLONE_NEWUSER", "CLONE_NEWNS"]'),
        ("msgget", '{ msgflg = { "==" = "IPC_CREAT" } }', "has permissions"),
        ("shmget", '{ shmflg = { "==" = "SHM_HUGETLB" } }', "has permissions"),
        ("mmap", "{ flags = 0x20 }", "MAP_PRIVATE or MAP_SHARED"),
        ("socket", '{ type = { "==" = "SOCK_CLOEXEC" } }', "kind of socket"),
    ],
)  # fmt: skip
def test_a_part_of_an_argument_that_is_left_0(calls: str, when: str, instead: str) -> None:
    assert instead in only(calls, when, "holds for no call")


@pytest.mark.parametrize("verdict", ["deny = 1", "return = 0", "report = true\nallow = true"])
def test_what_the_vdso_does_is_no_call(verdict: str) -> None:
    said = [w for w in told(f'calls = ["clock_gettime", "getpid"]\n{verdict}') if "vDSO" in w]
    assert [w for w in said if "about clock_gettime, clock_gettime64, which" in w] == said
    assert bool(said) == ("allow" not in verdict)


@pytest.mark.parametrize(
    "mode", ['"S_IFREG"', '["S_IFIFO", "S_IFREG"]', '{ "mask" = "S_IFMT", is = "S_IFREG" }']
)
def test_a_regular_file_s_mode_may_have_no_type(mode: str) -> None:
    """mknod(2): "Zero file type is equivalent to type S_IFREG"."""
    said = [
        w
        for w in told(f'calls = ["mknod"]\nwhen = {{ mode = {mode} }}\ndeny = 1')
        if "S_IFREG" in w
    ]
    assert len(said) == 1
    assert 'type = "regular"' in said[0]
    said = told('calls = ["mknod"]\nwhen = { type = "regular" }\ndeny = 1')
    assert not any("S_IFREG" in w for w in said)


def test_exactly_these_flags_is_meant() -> None:
    for when in ('{ flags = { "==" = "O_WRONLY|O_CREAT" } }', "{ flags = 577 }", "{ flags = 0 }"):
        said = told(f'calls = ["openat"]\nwhen = {when}\ndeny = 1')
        assert not any("compares all" in warning for warning in said)


def test_unsafe_where_nothing_was_looked_at() -> None:
    said = told('calls = ["kill"]\nwhen = { sig = 9 }\nallow = "unsafe: none"')
    assert any("allow = true is enough" in warning for warning in said)
    said = told('calls = ["kill", "sethostname"]\nask = { how = "terminal", unsafe = "to see it" }')
    assert not any("is enough" in warning for warning in said)  # its memory is shown by that


def test_the_machine_s_own_architecture_left_out() -> None:
    other = "aarch64" if native() != "aarch64" else "x86_64"
    (said,) = told(top=f'arches = ["{other}"]')
    assert said.startswith(f"arches lacks {native()}, which")
    assert told(top=f'arches = ["{other}"]\nforeign_arch = "allow"') == []


@pytest.mark.parametrize("kind", ['"fifo"', '["socket", "regular"]'])
def test_the_number_of_what_is_no_device(kind: str) -> None:
    """mknod(2) ignores it then, and programs pass 0."""
    text = 'calls = ["mknod", "mknodat"]\nwhen = {{ type = {}, device = "1:3" }}\ndeny = 1'
    (said,) = (each for each in told(text.format(kind)) if "device = " in each)
    assert said.startswith(
        f'rule "r0": device = … is about the number of a device, and type = {kind} is none'
    )
    assert not [each for each in told(text.format('["fifo", "char"]')) if "device = " in each]
