"""Rows of the table: calls by the door of 32-bit programs."""

from __future__ import annotations

from tests.call.text_table import BAD, CWD, Table, inet


def compat(t: Table) -> None:
    m, path = t.m, t.path

    def c(name: str, *args: int, ours: str = "", why: str = "") -> None:
        t(name, *args, ours=ours, why=why, abi="i386")

    c("open", path, 0o2000102, 0o600)
    c("openat", CWD, path, 0)
    c("chown", path, 0xFFFF, 5)
    c("chown32", path, 0xFFFFFFFF, 5)
    c("pread64", 3, BAD, 8, 5, 1)
    c("truncate64", path, 5, 1)
    c("_llseek", 3, 1, 5, BAD, 0)
    c("mmap2", 0, 4096, 3, 0x22, 0xFFFFFFFF, 1)
    c("mmap", m.i(0, 4096, 3, 0x22, -1, 0))
    iov = m.i(t.text, 5, t.data, 6)
    c("writev", 1, iov, 2)
    at = m.put(inet(80, b"\x7f\0\0\1"))
    c("connect", 3, at, 16)
    c("sendmsg", 3, m.i(at, 16, iov, 2, 0, 0, 0), 0x4000)
    c("sendmsg", 3, m.i(0, 0, iov, 1, m.f("Iiii", 16, 1, 1, 7), 16, 0), 0)
    c("sendmmsg", 3, m.i(at, 16, iov, 2, 0, 0, 0, 0, 0, 0, iov, 1, 0, 0, 0, 0), 2, 0)
    c("socketcall", 3, m.i(3, at, 16))
    c("socketcall", 1, m.i(2, 1, 0))
    c("nanosleep", m.i(1, 5), 0)
    c("clock_nanosleep_time64", 0, 0, m.q(1, 5), 0)
    c("clock_settime", 0, m.i(1, 5))
    c(
        "setrlimit",
        7,
        m.i(1024, 0xFFFFFFFF),
        ours="setrlimit(RLIMIT_NOFILE, {rlim_cur=1024, rlim_max=RLIM64_INFINITY})",
        why="the kernel widens it",
    )
    c("prlimit64", 0, 7, m.q(1024, 4096), 0)
    c("rt_sigaction", 2, m.i(0x401000, 0x14000000, 0x402000, 0x4002, 0), 0, 8)
    c("rt_sigprocmask", 0, m.q(0x4002), 0, 8)
    c("rt_sigprocmask", 0, m.q(0x8000000000004002), 0, 8)
    c("sigaltstack", m.i(0x1000, 0, 8192), 0)
    c("sigaction", 2, m.i(0x401000, 0x4002, 0x10000000, 0), 0)
    c("sigprocmask", 0, m.i(0x4002), 0)
    c("fcntl64", 3, 6, m.f("hhiii", 1, 0, -5, 10, 0))
    c("fcntl64", 3, 13, m.f("hhqqi", 1, 0, -5, 10, 0))
    c("fcntl", 3, 7, m.f("hhiii", 2, 0, 1, 10, 0))
    c("poll", m.f("ihh", 3, 1, 0), 1, 10)
    c("select", m.i(6, m.i(5), 0, 0, m.i(1, 2)))
    c("_newselect", 6, m.i(5), 0, 0, m.i(1, 2))
    c("pselect6", 6, m.i(5), 0, 0, m.i(1, 2), m.i(m.q(0x4000), 8))
    c("ppoll_time64", m.f("ihh", 3, 1, 0), 1, m.q(1, 2), m.q(0x4000), 8)
    c("epoll_ctl", 3, 1, 4, m.f("IQ", 1, 4))
    c("execve", path, m.i(path, t.other, 0), m.i(0))
    c("utimensat", CWD, path, m.i(1, 2, 3, 0x3FFFFFFF), 0)
    c("utimensat_time64", CWD, path, m.q(1, 2, 3, 0x3FFFFFFF), 0)
    c("utimes", path, m.i(1, 2, 3, 4))
    c("setitimer", 0, m.i(1, 2, 3, 4), 0)
    c("timer_settime", 5, 1, m.i(1, 2, 3, 4), 0)
    c("timer_settime64", 5, 1, m.q(1, 2, 3, 4), 0)
    c("timerfd_settime", 3, 1, m.i(1, 2, 3, 4), 0)
    c("timer_create", 1, m.i(7, 10, 0, 0), BAD)
    c("futex", m.i(1), 0, 7, m.i(1, 2))
    c("futex_time64", m.i(1), 0, 7, m.q(1, 2))
    c("clone", 0x1200011, 0, 0, 0x5000, 0x6000)
    c("waitpid", -1, BAD, 1)
    c("umount", path)
    c("setgroups32", 2, m.i(1, 2))
    c("setgroups", 2, m.f("HH", 1, 2))
    c("setuid", 0x1FFFF)
    c("seccomp", 1, 0, m.f("HxxI", 5, BAD))
    c("mq_open", m.s(b"q"), 0o102, 0o600, m.i(0, 10, 100, 0, 0, 0, 0, 0))
    c("keyctl", 0, -3, 1)
    c("ipc", 1, 5, 1, 0, m.f("Hhh", 0, -1, 0x800))
    c("ipc", 4, 5, 1, 0, m.f("Hhh", 0, -1, 0x800), m.i(1, 2))
    c("ipc", 2, 0, 1, 0o1600)
    c("ipc", 11, 5, 8, 0o4000, m.f("i8s", 1, b"message!"))
    c("ipc", 13, 0x1234, 0o1666)
    c("ipc", 23, 0x1234, 4096, 0o1600)
    c("ipc", 24, 5, 0, 0, 0)
    c("ipc", 22, 0, 0, 0, 0x1000)
    c("socketcall", 9, m.i(3, t.text, 5, 0x4000))
    c(
        "socketcall",
        99,
        BAD,
        ours="socketcall(0x63, 0x30000000)",
        why="as other commands without a name",
    )
    c("socketcall", 3, BAD)
    c("sigsuspend", 0, 0, 0x4002)
    c("ssetmask", 0x4002)
    c("signal", 2, 1)
    c("signal", 2, 0x401000)
    c("stime", m.i(5), ours="stime([5])", why="not taken apart by strace")
    c("openat2", CWD, path, m.q(0, 0, 8), 24)
    c("clone3", m.q(0x100, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0), 88)
    c("statx", CWD, path, 0x100, 0x7FF, BAD)
    c("sched_setaffinity", 0, 4, m.i(5))


ROWS = (compat,)
