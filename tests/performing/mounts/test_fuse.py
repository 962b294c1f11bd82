"""mount(2) of images that a FUSE server serves: who that server is, what it can reach, when it ends."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import proctor
from proctor.call.verdict import Deny
from proctor.performing.executing import programs
from proctor.performing.families import fsmount
from proctor.performing.families.mount import Options
from tests.performing.families.test_open_differential import MAP
from tests.performing.mounts.test_mount import asked
from tests.performing.support.callers import Performers, caller
from tests.performing.support.containers import container, inside, told
from tests.performing.support.images import MOUNTS, image, loop_device, no_loop_device_is_left, top
from tests.support.processes import eventually

__all__ = ["image", "no_loop_device_is_left", "top"]
pytestmark = [
    MOUNTS,
    pytest.mark.usefixtures("no_loop_device_is_left"),
    pytest.mark.skipif(
        not (
            os.path.exists("/dev/fuse") and shutil.which("fuse2fs") and shutil.which("squashfuse")
        ),
        reason="no FUSE here, or no fuse2fs, squashfuse",
    ),
]
EXT4 = {"ext4": "fuse2fs"}

#: A process by its program, and waiting for its end, in a container that sees the host's processes.
PROCESSES = """
import select, signal, time
def running(name):
    found = []
    for each in os.listdir("/proc"):
        try:
            if each.isdigit() and open(f"/proc/{each}/comm").read().strip().endswith(name):
                found.append(int(each))
        except OSError:
            pass
    return found
def ends(pidfd):
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(20000))
os.chdir(sys.argv[1])
"""


@pytest.fixture
def squashed(top: bytes) -> bytes:
    """A squashfs image of the container's."""
    made = os.fsdecode(top)
    os.mkdir(made + "/tree")
    Path(made, "tree/hello").write_text("squashed")
    subprocess.run(
        ["mksquashfs", made + "/tree", made + "/squashed", "-quiet", "-no-progress"],
        check=True, capture_output=True,
    )  # fmt: skip
    os.chown(made + "/squashed", 100000, 100000)
    return os.fsencode(made + "/squashed")


def program(tmp_path: Path, name: str, text: str) -> str:
    """A server in C: its path."""
    source, made = tmp_path / "server.c", str(tmp_path / name)
    source.write_text(text)
    subprocess.run(["gcc", "-o", made, source], check=True)
    return made


def test_an_image_lives_and_its_server_ends_with_the_mount(top: bytes, image: bytes) -> None:
    text = (
        PROCESSES
        + """
tried(mount, b"image", b"m", b"ext4")
line = [line for line in open("/proc/self/mountinfo") if sys.argv[1] + "/m " in line][0].split()
results.append([line[5], line[line.index("-") + 1], line[-1]])
tried(lambda: open("m/hello").read())
tried(lambda: os.stat("m/hello").st_uid)
tried(lambda: open("m/new", "w").write("from inside"))
tried(os.open, "m/null", os.O_RDWR)
server = running("fuse2fs")
results.append(len(server))
pidfd = os.pidfd_open(server[0])
tried(umount, b"m")
results.append(ends(pidfd))
tried(mount, b"image", b"m", b"ext4", 1)  # MS_RDONLY
tried(lambda: open("m/new").read())
tried(lambda: open("m/late", "w"))
"""
    )
    handlers = [proctor.families.mount(fuse=EXT4, images=True)]
    assert told(text, top.decode(), handlers=handlers) == [
        None, ["rw,nodev,relatime", "fuse.ext4", "rw,user_id=0,group_id=0,default_permissions,allow_other"],
        "from outside", 0, 11, "EACCES", 1, None, True, None, "from inside", "EROFS",
    ]  # fmt: skip


def test_what_is_on_it_is_looked_at_by_who_may(top: bytes, image: bytes) -> None:
    """Not by the monitor, which no FUSE server of a user namespace answers."""
    text = (
        PROCESSES
        + """
tried(mount, b"image", b"m", b"ext4")
for path in ("m/hello", "m"):
    file = os.open(path, os.O_RDONLY)
    tried(os.fsync, file)
    os.close(file)
tried(umount, b"m")
"""
    )
    handlers = [proctor.families.mount(fuse=EXT4, images=True), proctor.families.quiet()]
    assert told(text, top.decode(), handlers=handlers) == [None] * 4


def test_a_server_ends_with_the_container(top: bytes, image: bytes, tmp_path: Path) -> None:
    text = 'os.chdir(sys.argv[1]); tried(mount, b"image", b"m", b"ext4")'
    mine = f"{os.getpid()}fs"
    shutil.copy(shutil.which("fuse2fs") or "", tmp_path / mine)
    handlers = [proctor.families.mount(fuse={"ext4": str(tmp_path / mine)}, images=True)]
    assert told(text, top.decode(), handlers=handlers) == [None]
    eventually("a server's end", lambda: mine not in running())


def running() -> str:
    """Names of the processes of this machine that are not dead."""
    names = []
    for each in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = each.read_text().rpartition(")")
        except OSError:
            continue
        names += [name] if rest.split()[0] != "Z" else []
    return " ".join(names)


def test_nobody_in_the_container_gets_hold_of_a_server(top: bytes, squashed: bytes) -> None:
    text = (
        PROCESSES
        + """
tried(mount, b"squashed", b"m", b"squashfs")
tried(lambda: open("m/hello").read())
(server,) = running("squashfuse"[:9])
status = open(f"/proc/{server}/status").read()
results.append([line.split()[1] for line in status.splitlines() if line.startswith(("Uid", "CapEff", "NoNewPrivs", "Seccomp:"))])
for name in ("fd", "root/", "cwd/", "map_files"):
    tried(os.listdir, f"/proc/{server}/{name}")
for name in ("mem", "maps", "environ", "auxv"):
    tried(open, f"/proc/{server}/{name}", "rb")
def attach():
    if libc.ptrace(16, server, 0, 0):
        raise OSError(ctypes.get_errno(), "")
tried(attach)
def taken():
    if libc.syscall(438, os.pidfd_open(server), 3, 0) < 0:
        raise OSError(ctypes.get_errno(), "")
tried(taken)
def entered():
    if libc.setns(os.pidfd_open(server), 0x20000):
        raise OSError(ctypes.get_errno(), "")
tried(entered)
"""
    )
    handlers = [proctor.families.mount(fuse={"squashfs": "squashfuse"}, images=True)]
    assert told(text, top.decode(), handlers=handlers) == [
        None, "squashed", ["0", "0000000000200006", "1", "2"], *["EACCES"] * 8, "EPERM", "EPERM", "EPERM",
    ]  # fmt: skip


REACHES = r"""
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#define TELL(what) do { errno = 0; long got = (long)(what); \
    fprintf(stderr, "%s ", got == -1 ? strerrorname_np(errno) : "yes"); } while (0)
int main(int count, char **words)
{
    for (int i = 1; i < count; i++)
        fprintf(stderr, "%s ", words[i]);
    TELL(socket(AF_INET, SOCK_STREAM, 0));
    TELL(socket(AF_UNIX, SOCK_STREAM, 0));
    TELL(unshare(CLONE_NEWUSER));
    TELL(syscall(SYS_clone, CLONE_NEWUSER | 17, 0, 0, 0, 0));
    TELL(ptrace(PTRACE_ATTACH, 1, 0, 0));
    TELL(syscall(SYS_bpf, 0, 0, 0));
    TELL(syscall(SYS_io_uring_setup, 1, 0));
    TELL(syscall(SYS_keyctl, 0, -3, 1));
    TELL(syscall(SYS_setns, 0, 0));
    TELL(chroot("/lib"));
    TELL(open("/etc/passwd", O_RDONLY));
    TELL(open("/proc/self/exe", O_RDONLY));
    TELL(open("/new", O_CREAT | O_RDWR, 0600));
    TELL(open("/lib/libc.so.6", O_RDWR));
    TELL(mknod("/mnt/null", S_IFCHR | 0666, 0x103));
    TELL(umount("/image"));
    TELL(mount("none", "/lib", NULL, MS_REMOUNT | MS_BIND, NULL));
    DIR *root = opendir("/");
    char seen[256] = "";
    for (int bit = 0; bit < 1; bit++)
        for (struct dirent *one; (one = readdir(root)) != NULL;)
            if (one->d_name[0] != '.' && strncmp(one->d_name, "lib", 3) != 0)
                strcat(seen, one->d_name), strcat(seen, "+");
    fprintf(stderr, "%zu ", strlen(seen));
    for (int fd = 3; fd < 64; fd++)
        if (fcntl(fd, F_GETFD) >= 0 && fd != dirfd(root))
            fprintf(stderr, "open:%d ", fd);
    TELL(open("/image", O_RDWR));
    return 1;
}
"""


def test_what_a_server_can_reach(
    performers: Performers, top: bytes, image: bytes, tmp_path: Path
) -> None:
    """The image, its libraries, and nothing else, whoever took it over."""
    options = Options(fuse={"ext4": program(tmp_path, "reaches", REACHES)}, images=True)
    with caller(container(top), MAP) as one:
        verdict = asked(performers, one, b"image", b"m", b"ext4", 1, 0, options=options)
        assert one.natively("umount2", b"m", 0)[0] == "errno"
    assert isinstance(verdict, Deny) and verdict.errno == errno.EINVAL
    told_ = verdict.reason.partition(": ")[2].split()
    named = "allow_other,default_permissions,fsname=" + os.fsdecode(image) + ",ro"
    assert told_[:4] == ["-o", named, "/image", "/mnt"]
    assert told_[4:14] == ["EPERM"] * 10, told_
    assert told_[14:] == [
        "ENOENT", "ENOENT", "EACCES", "EACCES", "EACCES", "EINVAL", "EINVAL", str(len("mnt+dev+image+")), "yes",
    ]  # fmt: skip


def test_a_server_of_many_libraries_is_asked_for_them_once(
    performers: Performers,
    top: bytes,
    image: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Their names are 16 KiB; those of a server that was replaced are asked for again."""
    names = [f"{'l' * 80}{number}" for number in range(10, 90)]
    first = f"{tmp_path}/lib{names[0]}.so"
    command = ["gcc", "-shared", "-xc", f"-Wl,-soname,lib{names[0]}.so", "-o", first, "-"]
    subprocess.run(command, input=b"int thing;", check=True)
    for name in names[1:]:
        other = Path(first).read_bytes().replace(names[0].encode(), name.encode())
        Path(tmp_path, f"lib{name}.so").write_bytes(other)
    source = tmp_path / "many.c"
    asked_for: list[str] = []
    run = programs.run

    def counted(task: Any, words: Any, *args: Any, **more: Any) -> Any:
        asked_for.append(words[-1])
        return run(task, words, *args, **more)

    monkeypatch.setattr(programs, "run", counted)
    options = Options(fuse={"ext4": str(tmp_path / "many")}, images=True)
    for says in "once", "again":
        source.write_text(
            f'#include <stdio.h>\nint main(void) {{ return fputs("{says}", stderr); }}\n'
        )
        subprocess.run(
            [
                "gcc", "-o", tmp_path / "many", source, f"-L{tmp_path}", f"-Wl,-rpath,{tmp_path}",
                "-Wl,--no-as-needed", *(f"-l{name}" for name in names),
            ],
            check=True,
        )  # fmt: skip
        with caller(container(top), MAP) as one:
            for _ in range(2):
                verdict = asked(performers, one, b"image", b"m", b"ext4", 0, 0, options=options)
                assert isinstance(verdict, Deny) and verdict.reason.endswith(f"many: {says}")
    assert asked_for == [str(tmp_path / "many")] * 2


def test_a_call_that_is_killed_takes_its_server_with_it(
    top: bytes, image: bytes, tmp_path: Path
) -> None:
    hangs = program(
        tmp_path, "hangs", "#include <unistd.h>\nint main(void) { for (;;) pause(); }\n"
    )
    text = (
        PROCESSES
        + """
child = os.fork()
if not child:
    mount(b"image", b"m", b"ext4")
    os._exit(1)
while not running("hangs"):
    time.sleep(0.01)
pidfd = os.pidfd_open(running("hangs")[0])
os.kill(child, signal.SIGKILL)
results.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
results.append(ends(pidfd))
"""
    )
    handlers = [proctor.families.mount(fuse={"ext4": hangs}, images=True)]
    assert told(text, top.decode(), handlers=handlers) == [-9, True]


def test_what_a_caller_says_is_no_word_to_a_server(
    performers: Performers, top: bytes, image: bytes
) -> None:
    options = Options(fuse=EXT4, images=True, options=["norecovery", "offset", "-x"])
    for name in (b"--help", b"-o,fd=3", b"a,dev,suid", b"#image"):
        os.link(image, top + b"/" + name)
    with caller(container(top), MAP) as one:
        for data, words in (
            (b"fd=3", "option fd"), (b"allow_root", "option allow_root"), (b"ro,dev", "option ro"),
            (b"norecovery,modules=subdir", "option modules"), (b"fsname=x", "option fsname"),
            (b"offset=1\\,dev", "option offset"), (b"offset=/etc", "on the host"), (b"-f", "option -f"),
            (b"\\,dev", "option \\"), (b"norecovery\n,dev", "option norecovery\n"), (b"-o=x", "option -o"),
            (b"norecovery=\xff", ""),
        ):  # fmt: skip
            verdict = asked(performers, one, b"image", b"m", b"ext4", 0, data, options=options)
            assert isinstance(verdict, Deny) and words in verdict.reason, (data, verdict)
            assert verdict.errno == (errno.EPERM if words else errno.EINVAL), (data, verdict)
        for name in (b"--help", b"-o,fd=3", b"a,dev,suid", b"#image"):
            verdict = asked(performers, one, name, b"m", b"ext4", 0, b"norecovery", options=options)
            assert verdict == proctor.Answer(0), (name, verdict)
            shown = Path(f"/proc/{one.pid}/mountinfo").read_text().splitlines()[-1]
            assert "nodev" in shown and "suid" not in shown.split(" - ")[0], shown
            assert one.natively("umount2", b"m", 0) == ("value", 0)


def test_reasons(performers: Performers, top: bytes, image: bytes) -> None:
    options = Options(fuse=EXT4, images=True)
    Path(os.fsdecode(top), "broken").write_bytes(bytes(1 << 16))
    Path(os.fsdecode(top), "closed").write_bytes(bytes(1 << 16))
    os.chmod(top + b"/closed", 0o600)
    os.chown(top + b"/broken", 100000, 100000)
    with caller(container(top), MAP) as one:

        def refused(*args: Any, **more: Any) -> tuple[int, str]:
            verdict = asked(performers, one, *args, **{"options": options, **more})
            return verdict.errno, verdict.reason

        number, reason = refused(b"broken", b"m", b"ext4", 0, 0)
        assert number == errno.EINVAL and "fuse2fs: " in reason and "super-block" in reason
        assert refused(b"closed", b"m", b"ext4", 0, 0)[0] == errno.EACCES
        assert refused(b"image", b"nowhere", b"ext4", 0, 0)[0] == errno.ENOENT
        assert refused(b"image", b"image", b"ext4", 0, 0)[0] == errno.ENOTDIR
        assert refused(b"m", b"m", b"ext4", 0, 0)[0] == errno.ENOTBLK
        no_images = Options(fuse=EXT4)
        assert refused(b"image", b"m", b"ext4", 0, 0, options=no_images)[0] == errno.ENOTBLK


def test_a_server_that_is_not_there_is_trouble(top: bytes, image: bytes) -> None:
    troubles: list[str] = []
    options = Options(fuse={"ext4": "no-such-server"}, images=True)
    with Performers(on_trouble=troubles.append) as performers, caller(container(top), MAP) as one:
        verdict = asked(performers, one, b"image", b"m", b"ext4", 0, 0, options=options)
    assert "there is no no-such-server on the host" in verdict.reason
    assert len(troubles) == 1


def test_so_many_servers_and_no_more(
    performers: Performers, top: bytes, image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    from proctor.performing.mounts import fuse

    monkeypatch.setattr(fuse, "MOST", 1)
    options = Options(fuse=EXT4, images=True)
    os.mkdir(top + b"/second")
    args = (b"ext4", 1, 0)
    with caller(container(top), MAP) as one:
        assert asked(performers, one, b"image", b"m", *args, options=options) == proctor.Answer(0)
        refused = asked(performers, one, b"image", b"second", *args, options=options)
        assert refused.errno == errno.ENOSPC


def test_a_block_device(top: bytes, image: bytes) -> None:
    with loop_device(image) as (device, number):
        os.mknod(top + b"/disk", stat.S_IFBLK | 0o600, number)
        os.chown(top + b"/disk", 100000, 100000)
        script = f"cd {top.decode()} && mount -i -t ext4 disk m && cat m/hello && umount m"
        done = inside(["sh", "-ec", script], [proctor.families.mount(fuse=EXT4, devices=[device])])
    assert (done.returncode, done.stdout) == (0, "from outside"), done.stderr


def test_options_that_are_none() -> None:
    for given in (
        {"fuse": {"tmpfs": "x"}}, {"fuse": {"ext4": ""}}, {"fuse": "fuse2fs"}, {"fuse": {"ext4": 1}},
        {"fuse": EXT4, "filesystems": ["ext4"]}, {"options": "ro"},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"fuse|ext4 is|options"):
            Options(**given)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ENOSYS"):
        fsmount.Options(fuse=EXT4)


@pytest.mark.skipif(not shutil.which("losetup"), reason="no util-linux")
def test_the_program_mount_with_a_loop_device(top: bytes, squashed: bytes) -> None:
    """mount(8) binds the image to a loop device of the container's, which is served then."""
    handlers = [
        proctor.families.open(when={"path": "/dev/loop*"}, loops=True),
        proctor.families.open(),
        proctor.families.loop(),
        proctor.families.mount(fuse={"squashfs": "squashfuse"}, images=True),
        proctor.on("fsopen")(lambda call: proctor.deny("ENOSYS")),
    ]
    script = f"cd {top.decode()} && mount squashed m && stat -c %s m/hello && findmnt -no FSTYPE m && umount m"
    done = inside(["sh", "-ec", script], handlers)
    assert (done.returncode, done.stdout) == (0, "8\nfuse\n"), done.stderr


@pytest.mark.parametrize("mode", [0o600, 0o444])
def test_a_device_that_is_served_is_nobodys_to_open(
    performers: Performers, top: bytes, image: bytes, tmp_path: Path, mode: int
) -> None:
    """Root of the container, should it come into the server's mount namespace, which is one of its user namespace's: it would
    have the device for writing where it may read it, and when it is somebody else's."""
    mine = f"{os.getpid()}dev"
    shutil.copy(shutil.which("fuse2fs") or "", tmp_path / mine)
    with loop_device(image) as (device, number):
        os.mknod(top + b"/disk", stat.S_IFBLK, number)
        os.chmod(top + b"/disk", mode)
        if mode & 0o200:
            os.chown(top + b"/disk", 100000, 100000)
        options = Options(fuse={"ext4": str(tmp_path / mine)}, devices=[device])
        with caller(container(top), MAP) as one:
            reads_only = int(not mode & 0o200)
            verdict = asked(performers, one, b"disk", b"m", b"ext4", reads_only, 0, options=options)
            assert verdict == proctor.Answer(0)
            (server,) = [pid for pid, name in running_now() if mine in name]
            for flags in (os.O_RDWR, os.O_RDONLY):
                assert errno.errorcode[opened_by_root_of(server, flags)] == "EACCES"
            assert one.natively("umount2", b"m", 0)[0] == "value"
        eventually("a server's end", lambda: mine not in running())


def running_now() -> list[tuple[int, str]]:
    """Numbers and names of processes."""
    found = []
    for each in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            found.append((int(each), Path(f"/proc/{each}/comm").read_text().strip()))
    return found


def opened_by_root_of(pid: int, flags: int) -> int:
    """The errno with which the device of a server is opened by root of its user namespace in its mount namespace; 0 for none."""
    user, mounts = (os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY) for kind in ("user", "mnt"))
    child = os.fork()
    if not child:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            assert libc.setns(user, 0x10000000) == 0
            os.setgid(0)
            os.setuid(0)
            assert libc.setns(mounts, 0x20000) == 0
            os.close(os.open("/image", flags))
            os._exit(0)
        except OSError as error:
            os._exit(error.errno or 255)
        finally:
            os._exit(255)
    os.close(user)
    os.close(mounts)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
