"""Where a path leads is found out with the caller's rights: rules tell nobody what it may not see."""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import proctor
from proctor.kernel.alikes import Alikes
from proctor.performing import performers
from proctor.performing.executing.mother import Mother
from proctor.performing.paths import finding, seeking
from proctor.performing.paths.seeking import Lookout
from proctor.performing.performers import Performers
from proctor.performing.trouble import Said, Trouble
from proctor.policy import loads
from proctor.supervisor.share import Share
from tests.performing.support.callers import open_directory

pytestmark = [pytest.mark.timeout(60), pytest.mark.root]

#: Who a program becomes.
USER, NAMESPACE = "become_user()", "become_root_of_namespace()"
HEAD = """
import ctypes, errno, os, socket, sys, threading
libc = ctypes.CDLL(None)
def become_user(user=1234):
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
def become_root_of_namespace(ids="0 100000 1000"):
    ours, theirs = os.pipe()
    me, helper = os.getpid(), os.fork()
    if not helper:
        os.read(ours, 1)
        for kind in "ug":
            with open(f"/proc/{me}/{kind}id_map", "w") as file: file.write(ids)
        os._exit(0)
    assert libc.unshare(0x10000000) == 0  # CLONE_NEWUSER
    os.write(theirs, b"1")
    assert os.waitpid(helper, 0)[1] == 0
    become_user(0)
def tell(name, function, *args, **given):
    try: function(*args, **given); said = "ok"
    except OSError as error: said = errno.errorcode[error.errno]
    print(name, said)
def connect(path):
    with socket.socket(socket.AF_UNIX) as one: one.connect(path)
"""
UNSAFE = 'allow = "unsafe: a test"'
CALLS = (
    "openat", "newfstatat", "faccessat", "faccessat2", "access", "truncate", "chdir", "execve", "readlink", "unlink",
    "unlinkat", "mkdir", "mkdirat", "stat", "lstat",
)  # fmt: skip


def plant(top: Path) -> None:
    (top / "named").mkdir()
    (top / "named/file").write_text("x")
    for name in ("apart", "locked", "locked/plaindir", "locked/sub"):
        (top / name).mkdir()
    (top / "locked/plain").touch()
    (top / "locked/sub/secret").touch()
    (top / "locked/hit").symlink_to(top / "named/file")
    (top / "locked/hitdir").symlink_to(top / "named")
    (top / "link").symlink_to("named/file")
    (top / "locked").chmod(0o700)


@pytest.fixture
def tree() -> Iterator[Path]:
    """In a directory that everybody may enter: ``named``, of which rules speak, and ``locked``, root's own, from
    where links lead there."""
    with open_directory() as path:
        top = Path(os.fsdecode(path))
        top.chmod(0o755)
        plant(top)
        yield top


def run(
    rules: str,
    program: str,
    *arguments: object,
    who: str = "",
    timeout: float = 30,
    **options: Any,
) -> list[str]:
    policy = loads("version = 1\n" + rules)
    done = proctor.run(
        [sys.executable, "-S", "-c", f"{HEAD}\n{who}\n{program}", *map(str, arguments)],
        policy.handlers(),
        filter=policy.filter(),
        capture_output=True,
        timeout=timeout,
        text=True,
        **policy.supervisor_options(),
        **options,
    )
    assert done.returncode == 0, done.stderr
    return str(done.stdout).splitlines()


def rules(*each: str) -> str:
    return "\n".join(f'[[rule]]\nname = "{number}"\n{text}' for number, text in enumerate(each))


def denying(tree: Path, *last: str) -> str:
    """What is refused is told apart by its errno from what the kernel says."""
    calls = ", ".join(f'"{each}"' for each in CALLS)
    return rules(
        f'calls = [{calls}]\nwhen = {{ path = ["{tree}/named/**", "{tree}/locked/hit*"] }}\ndeny = "EXDEV"',
        f'calls = ["connect"]\nwhen = {{ address = "unix:{tree}/named/**" }}\ndeny = "EXDEV"',
        f'calls = ["rename", "renameat2"]\nwhen = {{ newpath = ["{tree}/named/**"] }}\ndeny = "EXDEV"',
        f'calls = ["link", "linkat"]\nwhen = {{ oldpath = ["{tree}/locked/hit*"] }}\ndeny = "EXDEV"',
        *(
            f'calls = [{calls}, "connect", "rename", "renameat2", "link", "linkat"]\n{each}'
            for each in last
        ),
    )


def allowing(tree: Path) -> str:
    """An allow-list: what a rule names is let run, and all else refused."""
    calls = ", ".join(f'"{each}"' for each in CALLS)
    return rules(
        f'calls = [{calls}]\nwhen = {{ path = ["{tree}/named/**", "{tree}/locked/hit*"] }}\n{UNSAFE}',
        f'calls = [{calls}]\nwhen = {{ path = "{tree}/**" }}\ndeny = "EXDEV"',
        f"calls = [{calls}]\n{UNSAFE}",
    )


EACH = """
top = sys.argv[1]
for name in ("hit", "plain", "none"):
    path, below = f"{top}/locked/{name}", f"{top}/locked/{name}dir/new"
    tell("open", os.open, path, os.O_RDONLY)
    tell("create", os.open, path, os.O_WRONLY | os.O_CREAT)
    tell("place", os.open, path, os.O_PATH)
    tell("stat", os.stat, path)
    tell("lstat", os.lstat, path)
    tell("truncate", os.truncate, path, 0)
    tell("chdir", os.chdir, path + "dir")
    tell("exec", os.execv, path, [path])
    tell("readlink", os.readlink, path)
    tell("unlink", os.unlink, path)
    tell("mkdir", os.mkdir, below)
    tell("rename", os.rename, f"{top}/nothing", below)
    tell("link", os.link, path, f"{top}/new")
    tell("connect", connect, path)
"""


@pytest.mark.parametrize("who", [USER, NAMESPACE], ids=["user", "namespace"])
@pytest.mark.parametrize(
    "written",
    [
        lambda tree: denying(tree, UNSAFE),
        lambda tree: denying(
            tree, 'when = { caller = { uid = [1234, 100000] } }\ndeny = "EUCLEAN"', UNSAFE
        ),
        allowing,
    ],
    ids=["denied before unsafe", "denied before denied", "allowed before denied"],
)
def test_what_lies_in_a_closed_directory_shows_in_no_errno(
    tree: Path, who: str, written: Callable[[Path], str]
) -> None:
    said = run(written(tree), EACH, tree, who=who)
    third = len(said) // 3
    assert said[:third] == said[third : 2 * third] == said[2 * third :]
    told = {line.split()[1] for line in said}
    assert told <= {"EACCES", "ENOENT", "EUCLEAN"}  # ENOENT: of what is renamed


def test_rules_hold_for_what_a_caller_sees(tree: Path) -> None:
    program = """
top = sys.argv[1]
os.chdir(top)
for path in ("link", "named/file", "named/new", "named/../link", "/proc/self/cwd/link"):
    tell(path, os.open, path, os.O_RDONLY)
tell("connect", connect, "link")
tell("rename", os.rename, "link", "named/link")
"""
    for who in (USER, NAMESPACE):
        said = run(denying(tree, UNSAFE), program, tree, who=who)
        assert {line.split()[1] for line in said} == {"EXDEV"}, said


def test_rights_that_are_given_up_are_gone(tree: Path) -> None:
    program = """
top = sys.argv[1]
def look(who):
    for name in ("hit", "plain", "none"):
        tell(who, os.open, f"{top}/locked/{name}", os.O_RDONLY)
def other():
    libc.setfsuid(1234)
    look("thread")
look("root")
thread = threading.Thread(target=other)
thread.start()
thread.join()
look("root")
become_user()
look("user")
"""
    said = run(denying(tree, UNSAFE), program, tree)
    root, user = ["root EXDEV", "root ok", "root ENOENT"], ["user EACCES"] * 3
    assert said == [*root, *["thread EACCES"] * 3, *root, *user]


def test_a_user_namespace_alone_makes_another_of_a_caller(tree: Path) -> None:
    """Root in one of its own, with the same ids and capabilities as before, has no rights over others' files."""
    os.chown(tree / "locked", 5555, 5555)
    program = """
top = sys.argv[1]
def look(who):
    for name in ("hit", "plain", "none"):
        tell(who, os.open, f"{top}/locked/{name}", os.O_RDONLY)
look("before")
head, caps = ctypes.create_string_buffer(b"\\x22\\x05\\x08\\x20" + bytes(4), 8), ctypes.create_string_buffer(24)
assert libc.syscall(125, head, caps) == 0  # capget
become_root_of_namespace("0 0 1")  # nothing is opened: whoever is somebody else once stays that
assert libc.syscall(126, head, caps) == 0  # capset
look("after")
"""
    said = run(denying(tree, UNSAFE), program, tree)
    assert said == [f"before {each}" for each in ("EXDEV", "ok", "ENOENT")] + ["after EACCES"] * 3


@pytest.mark.parametrize("last", [UNSAFE, "perform = true"])
def test_links_of_ones_own_process_lead_on_after_setuid(tree: Path, last: str) -> None:
    """The kernel lets every process follow its own; its directory is root's by then."""
    text = rules(
        f'calls = ["openat"]\nwhen = {{ path = "{tree}/named/**" }}\ndeny = "EXDEV"',
        f'calls = ["openat"]\n{last}',
    )
    program = """
held = os.open(sys.argv[1], os.O_RDONLY)
other = os.fork()
if not other:
    become_user()
    os.read(ours, 1)
    os._exit(0)
become_user()
os.chdir(sys.argv[1])
for path in (f"fd/{held}/link", "cwd/link", f"task/{threading.get_native_id()}/cwd/link", "root/" + sys.argv[1] + "/link"):
    tell(path[:2], os.open, f"/proc/self/{path}", os.O_RDONLY)
    tell(path[:2], os.open, f"/proc/self/{path}x", os.O_RDONLY)
for path in ("exe", f"fd/{held}", "ns/user", "environ", "fd/77"):
    tell(path[:2], os.open, f"/proc/self/{path}", os.O_RDONLY)
tell("other", os.open, f"/proc/{other}/cwd", os.O_RDONLY)
os.write(theirs, b"1")
"""
    said = run(text, program, tree, who="ours, theirs = os.pipe()")
    leads = [
        f"{name} {found}" for name in ("fd", "cw", "ta", "ro") for found in ("EXDEV", "ENOENT")
    ]
    assert said == [*leads, "ex ok", "fd ok", "ns ok", "en EACCES", "fd ENOENT", "other EACCES"]


def test_a_rule_holds_for_ones_own_links_by_number_too(tree: Path) -> None:
    """The kernel lets a process search its own ``fd``, and nobody else: a look that fails there says nothing."""
    program = """
top = sys.argv[1]
held = os.open(top, os.O_RDONLY)
become_user()
own = f"/proc/{os.getpid()}"
paths = [f"fd/{held}/link", f"task/{os.getpid()}/fd/{held}/link", f"root{top}/link", f"fd/{held}/named/new"]
for path in paths:
    tell(path, os.open, f"{own}/{path}", os.O_RDONLY | os.O_CREAT)
os.chdir(own)
for path in paths:
    tell(path, os.open, path, os.O_RDONLY | os.O_CREAT)
os.chdir("fd")
tell("inside", os.open, f"{held}/link", os.O_RDONLY)
for name in ("hit/x", "x" * 255, "x" * 300, "x/y"):
    tell("locked", os.open, f"{top}/locked/{name}", os.O_RDONLY)
"""
    said = [line.split() for line in run(denying(tree, UNSAFE), program, tree)]
    assert [what for name, what in said if "/" in name] == ["EXDEV"] * 8
    assert [what for name, what in said if "/" not in name] == ["EXDEV"] + ["EACCES"] * 4


def test_a_directory_that_may_not_be_searched_has_its_name(tree: Path) -> None:
    shut = tree / "named/shut"
    shut.mkdir()
    shut.chmod(0)
    os.chown(shut, 1234, 1234)
    calls = 'calls = ["fchownat"]'
    text = rules(f'{calls}\nwhen = {{ path = "{shut}" }}\ndeny = "EXDEV"', f"{calls}\n{UNSAFE}")
    program = """
libc = ctypes.CDLL(None, use_errno=True)
os.chdir(sys.argv[1])
become_user()
def chown(number):
    if libc.fchownat(number, b"", 1234, 1234, 0x1000) < 0:  # AT_EMPTY_PATH
        raise OSError(ctypes.get_errno(), "fchownat")
tell("cwd", chown, -100)
tell("fd", chown, os.open(sys.argv[1], os.O_PATH))
"""
    assert run(text, program, shut) == ["cwd EXDEV", "fd EXDEV"]


def test_a_link_that_dangles_is_followed_however_long_it_is(tree: Path) -> None:
    text = rules(
        f'calls = ["openat"]\nwhen = {{ path = "{tree}/named/**" }}\ndeny = "EXDEV"',
        f'calls = ["openat"]\n{UNSAFE}',
    )
    (tree / "named").chmod(0o777)
    for length in (1000, 2000):
        (tree / f"dangling{length}").symlink_to("/".join(["."] * length + ["named/new"]))
    program = """
os.chdir(sys.argv[1])
for length in (1000, 2000):
    tell(length, os.open, "./" * length + f"dangling{length}", os.O_WRONLY | os.O_CREAT)
"""
    assert run(text, program, tree, who=USER) == ["1000 EXDEV", "2000 EXDEV"]
    assert not (tree / "named/new").exists()


def test_who_looked_at_the_caller_before_tells_it_no_more(tree: Path) -> None:
    def look(call: proctor.Call) -> None:
        assert call.exe

    policy = loads("version = 1\n" + denying(tree, UNSAFE))
    program = """
for name in ("hit", "plain", "none"):
    tell("open", os.open, f"{sys.argv[1]}/locked/{name}", os.O_RDONLY)
"""
    done = proctor.run(
        [sys.executable, "-S", "-c", f"{HEAD}\n{USER}\n{program}", str(tree)],
        [proctor.Handler(["openat"], look), *policy.handlers()],
        filter=policy.filter(),
        capture_output=True,
        timeout=30,
        text=True,
    )
    assert done.stdout.splitlines() == ["open EACCES"] * 3, done.stderr


def test_null_is_no_path_for_anybody(tree: Path) -> None:
    text = rules(
        f'calls = ["acct"]\nwhen = {{ path = "{tree}/**" }}\n{UNSAFE}',
        'calls = ["acct"]\ndeny = "EXDEV"',
    )
    program = """
libc = ctypes.CDLL(None, use_errno=True)
def acct(name):
    if libc.acct(name) < 0:
        raise OSError(ctypes.get_errno(), "acct")
tell("null", acct, None)
tell("named", acct, sys.argv[1].encode() + b"/named")
"""
    assert run(text, program, tree, who=USER) == ["null EXDEV", "named EPERM"]


@pytest.mark.parametrize("last", [UNSAFE, "perform = true"])
@pytest.mark.parametrize("who", ["", NAMESPACE], ids=["root", "namespace"])
def test_a_source_that_leads_nowhere_is_none_that_a_rule_names(
    tree: Path, who: str, last: str
) -> None:
    """tmpfs does not look at it, so that the kernel says nothing of it either."""
    calls = 'calls = ["mount"]'
    text = rules(
        f'{calls}\nwhen = {{ source = "{tree}/named/**" }}\n{last}', f'{calls}\ndeny = "EXDEV"'
    )
    program = """
libc = ctypes.CDLL(None, use_errno=True)
assert libc.unshare(0x20000) == 0  # CLONE_NEWNS
def mount(source):
    if libc.mount(source, sys.argv[1].encode() + b"/named", b"tmpfs", 0, None) < 0:
        raise OSError(ctypes.get_errno(), "mount")
for source in (b"none", b"/no/where", b"a:/b"):
    tell("mount", mount, source)
"""
    said = run(text, program, tree, who=who)
    assert said == ["mount EXDEV"] * 3 or (last != UNSAFE and said == ["mount EPERM"] * 3)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_want_of_room_is_no_word_about_a_path(
    tree: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def none(*_: object) -> Any:
        raise Said(number)
        yield

    monkeypatch.setattr(seeking, "_led", none)
    monkeypatch.setattr(performers, "seek_shortly", lambda *_: None)
    program = 'tell("open", os.open, sys.argv[1] + "/link", os.O_RDONLY)'
    text = denying(tree, UNSAFE)
    assert run(text, program, tree, who=USER) == [f"open {errno.errorcode[number]}"]


@pytest.mark.parametrize("last", [UNSAFE, "perform = true"])
@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE])
def test_where_the_monitor_may_not_search_either_the_kernels_name_is_taken(
    tree: Path, monkeypatch: pytest.MonkeyPatch, last: str, number: int
) -> None:
    """A program that shuts a directory of its own is not rid of the rules on what is below."""

    def shut(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(finding, "openat2", shut)
    text = rules(
        f'calls = ["openat"]\nwhen = {{ path = "{tree}/locked/sub/**" }}\ndeny = "EXDEV"',
        f'calls = ["openat"]\n{last}',
    )
    program = 'tell("secret", os.open, "secret", os.O_RDONLY)'
    said = run(text, program, cwd=tree / "locked/sub", who=USER)
    assert said == ["secret EXDEV" if number == errno.EACCES else "secret EPERM"]


@pytest.mark.parametrize("last", [UNSAFE, "perform = true"])
def test_what_is_reached_from_below_a_closed_directory_keeps_its_name(
    tree: Path, last: str
) -> None:
    text = rules(
        f'calls = ["openat"]\nwhen = {{ path = "{tree}/locked/sub/**" }}\ndeny = "EXDEV"',
        f'calls = ["openat"]\n{last}',
    )
    program = 'tell("secret", os.open, "secret", os.O_RDONLY)'
    assert run(text, program, cwd=tree / "locked/sub", who=USER) == ["secret EXDEV"]


def test_of_two_paths_the_second_tells_nothing_either(tree: Path) -> None:
    (tree / "free").mkdir(mode=0o777)
    (tree / "free").chmod(0o777)
    (tree / "free/mine").touch()
    text = rules(
        f'calls = ["rename", "renameat2"]\nwhen = {{ newpath = "{tree}/named/**" }}\ndeny = "EXDEV"',
        'calls = ["rename", "renameat2"]\nperform = true',
    )
    program = """
top = sys.argv[1]
for name in ("hit", "plain", "none"):
    tell("rename", os.rename, f"{top}/free/mine", f"{top}/locked/{name}dir/new")
tell("named", os.rename, f"{top}/free/mine", f"{top}/named/new")
"""
    assert run(text, program, tree, who=USER) == ["rename EACCES"] * 3 + ["named EXDEV"]


def test_of_two_paths_the_kernel_says_which_is_wrong(tree: Path) -> None:
    text = rules(
        f'calls = ["rename", "renameat2", "link"]\nwhen = {{ oldpath = "{tree}/**", newpath = "{tree}/**" }}\nperform = true',
        'calls = ["rename", "renameat2", "link"]\ndeny = "EXDEV"',
    )
    program = """
top = sys.argv[1]
os.chdir(top)
for old in ("/proc/self/fd/77/x", "/proc/self/cwd/named/file/x", "none/x", "n" * 300, ""):
    for new in ("/proc/self/fd/77/x", "/proc/self/cwd/named/file/x", "link/x", "none/x", "locked/x"):
        tell("rename", os.rename, old, new)
        tell("link", os.link, old, new)
"""
    natively = run("", program, tree, who=USER)
    assert run(text, program, tree, who=USER) == natively
    assert len({*natively}) > 4


def test_where_nobody_can_look_as_the_caller_nobody_looks(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(self: object) -> None:
        raise Trouble("no process is to be had")

    monkeypatch.setattr(Mother, "bear", none)
    program = """
top = sys.argv[1]
for name in ("locked/hit", "locked/plain", "locked/none", "link", "none"):
    tell("open", os.open, f"{top}/{name}", os.O_PATH)
"""
    # its own files are not asked about
    text = rules(
        f'calls = ["openat"]\nwhen = {{ path = "{tree}/named/**", flags = {{ all = ["O_PATH"] }} }}\ndeny = "EXDEV"',
        f'calls = ["openat"]\n{UNSAFE}',
    )
    assert run(text, program, tree, who=USER) == ["open EPERM"] * 5


def test_others_find_what_the_monitor_finds(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names, of all kinds of paths, are the same whoever looks."""
    program = """
top = sys.argv[1]
os.chdir(top + "/named")
os.symlink("missing", "dangling")
os.symlink("../named/missing/", "slashed")
os.symlink(top + "/none/x", "nowhere")
os.symlink("loop", "loop")
here, apart = os.open("..", os.O_RDONLY), os.open("../apart", os.O_RDONLY)
paths = ["file", "./file", "../link", "..", ".", "/", "//", "../named/", "file/", "new", "new/", "none/new", "dangling",
    "dangling/", "slashed", "nowhere", "loop", "", "../../../../../../../../etc/passwd", "/proc/self/cwd/file",
    "/proc/self/exe", "/proc/self/status", "/proc/thread-self/comm", f"/proc/self/fd/{here}/link",     "/proc/self/task/../cwd", "/dev/stdin", "../locked/hit", "../locked/hitdir/../link", "/proc/self/root/etc/../etc"]
for path in paths:
    tell(path, os.open, path, os.O_RDONLY)
    tell(path, os.open, path, os.O_RDONLY | os.O_NOFOLLOW)
    tell(path, os.open, path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, dir_fd=apart)
    tell(path, os.stat, path)
    tell(path, os.lstat, path)
    tell(path, os.rmdir, path)
    tell(path, os.access, path, os.R_OK)
    tell(path, os.link, path, "linked")
    tell(path, os.rename, path, "/nowhere/x")
"""
    one, two = '"openat", "newfstatat", "rmdir", "access"', '"link", "linkat", "rename"'
    text = rules(
        f'calls = [{one}]\nwhen = {{ path = "/never/**" }}\ndeny = "EXDEV"',
        f'calls = [{two}]\nwhen = {{ oldpath = "/never/**" }}\ndeny = "EXDEV"',
        f'calls = [{two}]\nwhen = {{ newpath = "/never/**" }}\ndeny = "EXDEV"',
        f"calls = [{one}, {two}]\n{UNSAFE}",
    )
    found: list[list[Any]] = []
    for others in (False, True):
        seen: list[Any] = []

        @proctor.outcomes
        def saw(outcome: Any, seen: list[Any] = seen) -> None:
            looks = outcome.call.looks
            # what has no name that leads there is called otherwise
            named = {
                argument: re.sub(rb"/proc/\d+(/task/\d+)?", b"/proc/N", each.path)
                for argument, each in looks.items()
                if each.path.startswith(b"/")
            }
            seen.append((outcome.call.name, named))

        if others:
            monkeypatch.setattr(Alikes, "has", lambda self, tid: False)
            monkeypatch.setattr(
                Share, "watchful", property(lambda self: False, lambda self, watchful: None)
            )
        said = run(text, program, tree, observers=[saw])
        for each in tree.iterdir():
            shutil.rmtree(each) if each.is_dir() and not each.is_symlink() else each.unlink()
        plant(tree)
        found.append([said, seen])
    first, second = found
    assert first[0] == second[0]
    assert len(first[1]) > 100
    assert first[1] == second[1]


@pytest.mark.parametrize("dead", [False, True], ids=["alive", "dead"])
@pytest.mark.parametrize("who", [USER, NAMESPACE])
def test_the_usual_call_of_others_is_asked_about_in_the_core(
    tree: Path, monkeypatch: pytest.MonkeyPatch, who: str, dead: bool
) -> None:
    """And what is not plain, or not answered, is found out by the long way: rules say the same."""
    lent: list[int] = []
    busy: list[int] = []
    became: list[int] = []
    sought: list[bytes] = []
    seek, lend, took_back = Performers.seek, Lookout.lend, Lookout.took_back

    def lends(self: Any, tid: int, container: Any, follow: bool) -> Any:
        made = lend(self, tid, container, follow)
        if made is None:
            busy.append(tid)
        else:
            lent.append(tid)
            if dead:
                made[0][1].signal()
                made[0][1].wait_for_end(10)
        return made

    def takes(self: Any, taken: Any, what: int) -> None:
        became.append(what)
        took_back(self, taken, what)

    def seeks(self: Any, call: Any, what: Any) -> Any:
        sought.append(what.path)
        return seek(self, call, what)

    # who is met for the first time keeps others waiting, who are watched then
    monkeypatch.setattr(
        Share, "watchful", property(lambda self: False, lambda self, watchful: None)
    )
    monkeypatch.setattr(Lookout, "lend", lends)
    monkeypatch.setattr(Lookout, "took_back", takes)
    monkeypatch.setattr(Performers, "seek", seeks)
    program = """
top = sys.argv[1]
os.chdir(top)
for _ in range(10):
    for path in ("named/file", top + "/named/file", top + "/link", "./named/../link", top + "/locked/hit", "none", "named/none", top + "/named/none"):
        tell(path[-4:], os.open, path, os.O_RDONLY)
    tell("last", os.open, top + "/link", os.O_PATH | os.O_NOFOLLOW)
"""
    said = run(denying(tree, UNSAFE), program, tree, who=who)
    each = ["file EXDEV"] * 2 + ["link EXDEV"] * 2 + ["/hit EACCES", "none ENOENT"]
    each += ["none EXDEV"] * 2 + ["last ok"]
    assert said == each * 10
    assert len(lent) == len(became) > 40
    assert {*became} == {2} if dead else 1 in became
    plain = [path for path in sought if path.endswith((b"file", b"link", b"none"))]
    # one that has no processor for a while is late
    assert len(plain) >= 40 if dead else len(plain) < 20 + became.count(2) + len(busy)
