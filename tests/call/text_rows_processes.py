"""Rows of the table: processes, signals, time, and the rest of the kernel."""

from __future__ import annotations

from tests.call.text_table import BAD, M64, Table


def processes(t: Table) -> None:
    m, path = t.m, t.path
    words = [m.s(b"tar"), m.s(b"-xpf"), m.s(b"a b\n")]
    environment = m.q(m.s(b"HOME=/root"), m.s(b"LANG=C"), 0)
    t("execve", path, m.q(*words, 0), environment)
    t("execve", path, 0, 0)
    t("execve", path, m.q(0), m.q(0))
    t("execve", path, m.q(words[0], BAD, 0), environment)
    t("execve", path, BAD, environment)
    t(
        "execve",
        path,
        m.q(*[words[1]] * 40, 0),
        m.q(0),
        ours='execve("/tmp/a file", ["-xpf", "-xpf", "-xpf", "-xpf", "-xpf", "-xpf", "-xpf", "-xpf", "-xpf", "-xpf", "-xpf", "-xpf", "-xpf", "-xpf", "-xpf", "-xpf", "-xpf", "-xpf", "-xpf", "-xpf", "-xpf", "-xpf", "-xpf", "-xpf", "-xpf", "-xpf", "-xpf", "-xpf", "-xpf", "-xpf", "-xpf", "-xpf", ...], @ /* 0 vars */)',
        why="a line for a log has an end",
    )
    t(
        "execve",
        path,
        m.q(m.s(b"x" * 50), 0),
        m.q(0),
        ours='execve("/tmp/a file", ["xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"], @ /* 0 vars */)',
        why="words of a command are worth more than 32 bytes",
    )
    t("execveat", 3, t.empty, m.q(*words, 0), environment, 0x1000)
    t("clone", 0x11, 0, 0, 0, 0)
    t("clone", 0x3D0F00, 0x7F0000001000, 0x7F0000002000, 0x7F0000003000, 0x7F0000004000)
    t("clone", 0x10000000 | 0x20000 | 17, 0, 0, 0, 0)
    t("clone", 0x1200011, 0, 0, 0x7F0000003000, 0)
    args = (0x11200, 5, 6, 7, 17, 0x1000, 4096, 0x2000, 0, 0, 0)
    t("clone3", m.q(*args), 88)
    t("clone3", m.q(0x200000000 | 0x100, 0, 0, 0, 17, 0, 0, 0, 0, 0, 9), 88)
    t("clone3", m.q(0x10000, 0, 0, 0, 0, 0, 0, 0), 64)
    t("clone3", BAD, 88)
    t("unshare", 0x7E020000)
    t("unshare", 0x80)
    t("setns", 3, 0x40000000)
    t("setns", 3, 0)
    t("wait4", -1, BAD, 3, 0)
    t("wait4", 5, 0, 0x40000000, BAD)
    t("waitid", 0, 0, BAD, 4, 0)
    t("waitid", 3, 7, BAD, 0x1000005, BAD)
    t("kill", -1, 9)
    t("kill", 0, 0)
    t("kill", 5, 40)
    t("kill", 5, 99)
    t("tgkill", 5, 6, 15)
    t("tkill", 5, 11)
    info = m.f("3i4xiiQ", 10, 0, -1, 5, 1000, 0x1234)
    t.m.put(bytes(128))
    t("rt_sigqueueinfo", 5, 10, info)
    t("rt_tgsigqueueinfo", 5, 6, 10, BAD)
    t("pidfd_send_signal", 3, 15, 0, 0)
    t("pidfd_open", 5, 0o4000)
    t("pidfd_getfd", 3, 5, 0)
    t("setuid", 0)
    t("setresuid", -1, 0, 1000)
    t("setresgid", -1, -1, 5)
    t("setgroups", 3, m.i(1, 2, 65534))
    t("setgroups", 0, 0)
    t("setgroups", 3, BAD)
    t("getgroups", 5, BAD)
    t("setpgid", 0, 5)
    t("capget", m.f("Ii", 0x20080522, 0), BAD)
    t("capset", m.f("Ii", 0x20080522, 0), m.i(0x200001, 0xFFFFFFFF, 0, 0, 0x1FF, 0))
    t("capset", m.f("Ii", 0x19980330, 5), m.i(3, 3, 3))
    t("setrlimit", 7, m.q(1024, M64))
    t("setrlimit", 4, m.q(0, 8192 * 1024))
    t("prlimit64", 0, 7, m.q(1024, 4096), BAD)
    t("prlimit64", 5, 3, 0, BAD)
    t("prlimit64", 0, 77, m.q(1, M64), 0)
    t("getrlimit", 7, BAD)
    t("getrusage", -1, BAD)
    t("setpriority", 0, 5, -20)
    t("getpriority", 2, 0)
    t("ioprio_set", 1, 0, 0x4005)
    t("sched_setscheduler", 0, 1, m.i(50))
    t(
        "sched_setscheduler", 0, 0x40000000, m.i(0),
        ours="sched_setscheduler(0, SCHED_OTHER|SCHED_RESET_ON_FORK, [0])", why="strace has no name for SCHED_OTHER here",
    )  # fmt: skip
    t("sched_setparam", 5, m.i(3))
    t("sched_setattr", 0, m.f("IIQiIQQQII", 56, 6, 1, 0, 0, 10, 20, 30, 0, 0), 0)
    t("sched_getattr", 0, BAD, 56, 0)
    t("sched_setaffinity", 0, 8, m.q(0b1011))
    t("sched_setaffinity", 0, 8, BAD)
    t("sched_getaffinity", 0, 128, BAD)
    t("personality", 0x0040000)
    t("personality", 0xFFFFFFFF)
    t("set_robust_list", BAD, 24)
    t("set_tid_address", BAD)
    t(
        "rseq",
        BAD,
        32,
        0,
        0x53053053,
        ours="rseq(0x30000000, 32, 0, 0x53053053)",
        why="sizes are decimal",
    )
    t("kcmp", 1, 2, 0, 3, 4)
    t("process_mrelease", 3, 0)
    t("arch_prctl", 0x1002, BAD)
    t("arch_prctl", 0x1003, BAD)
    t("arch_prctl", 0x1012, 0)


def prctls(t: Table) -> None:
    m = t.m
    t("prctl", 1, 9)
    t("prctl", 15, m.s(b"worker"))
    t("prctl", 15, m.s(b"a-name-that-is-too-long"))
    t("prctl", 15, BAD)
    t("prctl", 3)
    t("prctl", 4, 1)
    t("prctl", 38, 1, 0, 0, 0)
    t("prctl", 39, 0, 0, 0, 0)
    t("prctl", 23, 21)
    t("prctl", 24, 63)
    t("prctl", 28, 0x2F)
    t("prctl", 22, 1)
    t("prctl", 22, 2, m.f("H6xQ", 5, BAD))
    t("prctl", 47, 2, 12, 0, 0)
    t("prctl", 36, 1)
    t("prctl", 37, BAD)
    t("prctl", 29, 50000)
    t("prctl", 35, 8, 0x1000, 0, 0)
    t("prctl", 0x53564D41, 0, 0x7F0000000000, 4096, m.s(b"heap"))
    t("prctl", 0x59616D61, -1)
    t("prctl", 0x59616D61, 5)
    t("prctl", 53, 0, 4, 0, 0)
    t("prctl", 41, 1, 0, 0, 0)
    t("prctl", 62, 1, 5, 0, BAD)
    t("prctl", 4711, 1, 2, 3, 4)


def signals(t: Table) -> None:
    m = t.m
    t("rt_sigaction", 2, m.q(0x401000, 0x14000000, 0x402000, 0x4002), BAD, 8)
    t("rt_sigaction", 17, m.q(1, 0x4000003, 0x402000, 0), 0, 8)
    t(
        "rt_sigaction",
        40,
        m.q(0, 0x84000800, 0x402000, M64),
        0,
        8,
        ours="rt_sigaction(SIGRT_8, {sa_handler=SIG_DFL, sa_mask=~[], sa_flags=SA_EXPOSE_TAGBITS|SA_RESTORER|SA_RESETHAND, sa_restorer=0x402000}, NULL, 8)",
        why="newer than that strace",
    )
    t("rt_sigaction", 2, 0, BAD, 8)
    t("rt_sigaction", 2, BAD, 0, 8)
    t("rt_sigprocmask", 0, m.q(0x4002), 0, 8)
    t("rt_sigprocmask", 2, m.q(0), BAD, 8)
    t("rt_sigprocmask", 1, m.q(M64), 0, 8)
    t("rt_sigprocmask", 1, m.q(1 << 31 | 1 << 33 | 1 << 63), 0, 8)
    t("rt_sigprocmask", 2, m.q(M64 & ~0x10000), 0, 8)
    t("rt_sigprocmask", 7, BAD, 0, 8)
    t("rt_sigsuspend", m.q(0x4000), 8)
    t("rt_sigtimedwait", m.q(0x10000), 0, m.q(5, 0), 8)
    t("rt_sigpending", BAD, 8)
    t("sigaltstack", m.f("QiiQ", 0x7F0000000000, 0, 0, 8192), 0)
    t("sigaltstack", m.f("QIiQ", 0, 0x80000002, 0, 0), 0)
    t("sigaltstack", 0, BAD)
    t("signalfd4", -1, m.q(0x4002), 8, 0o2004000)


def times(t: Table) -> None:
    m = t.m
    t("nanosleep", m.q(1, 500000000), BAD)
    t("nanosleep", m.q(-1, 1 << 40), 0)
    t("nanosleep", BAD, 0)
    t("clock_nanosleep", 1, 1, m.q(5, 0), 0)
    t("clock_nanosleep", -6, 0, m.q(5, 0), BAD)
    t("clock_settime", 0, m.q(1700000000, 1))
    t("clock_gettime", 7, BAD)
    t(
        "clock_adjtime",
        0,
        m.f("I4x4qi4x3q2q96x", 0x2100, 0, 0, 0, 0, 0x41, 0, 0, 0, -1, 5),
        ours="clock_adjtime(CLOCK_REALTIME, {modes=ADJ_SETOFFSET|ADJ_NANO, offset=0, freq=0, maxerror=0, esterror=0, status=STA_PLL|STA_UNSYNC, constant=0, precision=0, tolerance=0, time={tv_sec=-1, tv_usec=5}, tick=0, ppsfreq=0, jitter=0, shift=0, stabil=0, jitcnt=0, calcnt=0, errcnt=0, stbcnt=0, tai=0})",
        why="what is asked for, not what comes back",
    )
    t("settimeofday", m.q(5, 6), m.i(60, 1))
    t("settimeofday", 0, 0)
    t("setitimer", 0, m.q(1, 2, 3, 4), 0)
    t("setitimer", 1, 0, BAD)
    t("alarm", 5)
    t("timer_create", 1, m.f("QiiQQ", 7, 10, 0, 0, 0), BAD)
    t("timer_create", 0, m.f("Qiii", 0x1234, 12, 4, 77), BAD)
    t("timer_create", 0, m.f("QiiQQ", 5, 0, 1, 0, 0), BAD)
    t("timer_create", 0, 0, BAD)
    t("timer_settime", 5, 1, m.q(1, 2, 3, 4), 0)
    t("timerfd_create", 1, 0o2004000)
    t("timerfd_settime", 3, 3, m.q(1, 2, 3, 4), BAD)
    fds = m.f("ihhihhihh", 3, 1, 0, 4, 0x2015, 0, -1, 0, 0)
    t("poll", fds, 3, 1000)
    t("poll", fds, 0, -1)
    t("poll", BAD, 2, 0)
    t("ppoll", fds, 2, m.q(5, 6), m.q(0x4000), 8)
    t("ppoll", fds, 1, 0, 0, 8)
    read, write = m.q(0b101001, 0), m.q(0, 1)
    t("select", 6, read, 0, 0, m.q(5, 6))
    t("select", 65, read, write, 0, 0)
    t("pselect6", 6, read, write, BAD, m.q(1, 2), m.q(m.q(0x4000), 8))
    t("pselect6", 6, 0, 0, 0, 0, 0)
    t("epoll_create1", 0o2000000)
    t("epoll_ctl", 3, 1, 4, m.f("IQ", 0x80000019, 0x1234))
    t("epoll_ctl", 3, 2, 4, m.f("IQ", 1, 4))
    t("epoll_ctl", 3, 3, 4, BAD)
    t("epoll_ctl", 3, 9, 4, 0)
    t("epoll_wait", 3, BAD, 10, -1)
    t(
        "epoll_pwait",
        3,
        BAD,
        10,
        5,
        m.q(0x4000),
        8,
        ours="epoll_pwait(3, 0x30000000, 10, 5, [TERM], 8)",
        why="what is asked for, whatever became of it",
    )
    t(
        "epoll_pwait2",
        3,
        BAD,
        10,
        m.q(1, 2),
        0,
        8,
        ours="epoll_pwait2(3, 0x30000000, 10, {tv_sec=1, tv_nsec=2}, NULL, 8)",
        why="what is asked for, whatever became of it",
    )
    t("eventfd2", 5, 0o2004001)
    word = m.i(7)
    t("futex", word, 0, 7, 0)
    t("futex", word, 128, 7, m.q(1, 2))
    t("futex", word, 129, 2147483647)
    t("futex", word, 1, 1)
    t("futex", word, 0x189, 7, m.q(1, 2), 0, 0xFFFFFFFF)
    t("futex", word, 4 | 128, 1, 2, word, 7)
    t("futex", word, 3, 1, 2, word)
    t("futex", word, 5, 1, 2, word, 0x4001001)
    t("futex", word, 6, 0, m.q(1, 2))
    t("futex", word, 7)
    t("futex", word, 11 | 128, 7, m.q(1, 2), word)
    t("futex", word, 12, 1, 2, word, 7)
    t("futex", word, 77, 1, 2, word, 7)
    t("futex_waitv", m.f("QQII", 7, 0x1000, 2, 0), 1, 0, m.q(1, 2), 1)


def rest(t: Table) -> None:
    m, path = t.m, t.path
    t("getrandom", BAD, 16, 3)
    t("seccomp", 1, 9, m.f("H6xQ", 5, BAD))
    t("seccomp", 1, 0x80, BAD)
    t("seccomp", 0, 0, 0)
    t("seccomp", 2, 0, m.i(0x7FFF0000))
    t("seccomp", 3, 0, BAD)
    create = m.f("IIIIIII16sI", 1, 4, 8, 10, 1, 0, 0, b"map", 0)
    t("bpf", 0, create, 48)
    t("bpf", 0, m.f("4I", 2, 4, 8, 10), 16)
    t("bpf", 1, m.f("I4xQQQ", 3, 0x1000, 0x2000, 0), 32)
    t("bpf", 2, m.f("I4xQQQ", 3, 0x1000, 0x2000, 1), 32)
    t("bpf", 5, m.f("IIQQIIQII16sII", 1, 2, 0x1000, m.s(b"GPL"), 0, 0, 0, 0, 0, b"p", 0, 0), 72)
    t("bpf", 6, m.f("QII", m.s(b"/sys/fs/bpf/x"), 3, 0), 16)
    t("bpf", 7, m.f("QII", path, 0, 8), 16)
    t("bpf", 8, m.f("IIII", 3, 4, 6, 2), 16)
    t("bpf", 11, m.i(5, 0, 0), 12)
    t("bpf", 14, m.i(5, 0, 0), 12)
    t("bpf", 22, m.i(5), 4)
    t(
        "bpf",
        28,
        m.i(3, 4, 6, 0),
        16,
        ours="bpf(BPF_LINK_CREATE, {prog_fd=3, target_fd=4, attach_type=BPF_CGROUP_DEVICE, flags=0}, 16)",
        why="no name of a union",
    )
    t("bpf", 99, create, 48)
    t("bpf", 0, BAD, 48)
    t(
        "landlock_create_ruleset",
        m.q(3, 3),
        16,
        0,
        ours="landlock_create_ruleset({handled_access_fs=LANDLOCK_ACCESS_FS_EXECUTE|LANDLOCK_ACCESS_FS_WRITE_FILE, handled_access_net=LANDLOCK_ACCESS_NET_BIND_TCP|LANDLOCK_ACCESS_NET_CONNECT_TCP}, 16, 0)",
        why="newer than that strace",
    )
    t("landlock_create_ruleset", m.q(0x1FFF), 8, 0)
    t("landlock_create_ruleset", 0, 0, 1)
    t("landlock_add_rule", 3, 1, m.f("Qi", 0xC, 5), 0)
    t("landlock_restrict_self", 3, 0)
    t("keyctl", 0, -3, 1)
    t("keyctl", 8, 5, -4)
    t("keyctl", 1, m.s(b"session"))
    t("keyctl", 2, 70000, BAD, 10)
    t("keyctl", 5, 5, 0x3F3F0000)
    t("keyctl", 10, -2, m.s(b"user"), m.s(b"desc"), -3)
    t("keyctl", 11, -3, BAD, 100)
    t("keyctl", 18)
    t("keyctl", 77, 1, 0, 3, 4)
    t(
        "sethostname",
        m.s(b"host"),
        -1,
        ours="sethostname(@, -1)",
        why="the kernel's length is signed",
    )
    t(
        "add_key",
        m.s(b"user"),
        m.s(b"desc"),
        m.s(b"secret"),
        6,
        -3,
        ours='add_key("user", "desc", @, 6, KEY_SPEC_SESSION_KEYRING)',
        why="what a key is made of is no matter for logs",
    )
    t("request_key", m.s(b"user"), m.s(b"desc"), 0, -2)
    t(
        "perf_event_open",
        m.f("IIQQQQQ72x", 1, 112, 1, 4000, 7, 0, 0x61),
        0,
        -1,
        -1,
        8,
        ours="perf_event_open({type=PERF_TYPE_SOFTWARE, size=112, config=0x1, sample_period=4000, sample_type=PERF_SAMPLE_IP|PERF_SAMPLE_TID|PERF_SAMPLE_TIME, read_format=0, disabled=1, exclude_kernel=1, exclude_hv=1}, 0, -1, -1, PERF_FLAG_FD_CLOEXEC)",
        why="bits that are not set are not told",
    )
    t("io_uring_setup", 8, m.f("IIIIIII3I80x", 0, 0, 2, 1, 100, 0, 0, 0, 0, 0))
    t("io_uring_enter", 3, 1, 1, 1, 0, 0)
    t(
        "io_uring_register",
        3,
        0,
        m.q(0x1000, 10),
        1,
        ours="io_uring_register(3, IORING_REGISTER_BUFFERS, @, 1)",
        why="not taken apart",
    )
    t("ioctl", 0, 0x5401, BAD)
    t("ioctl", 0, 0x5413, BAD)
    t("ioctl", 0, 0x5414, m.f("4H", 24, 80, 0, 0))
    t("ioctl", 0, 0x5421, m.i(1))
    t("ioctl", 0, 0x5451)
    t("ioctl", 0, 0x5412, m.s(b"x"))
    t("ioctl", 3, 0xC0102101, BAD)
    t("ioctl", 3, 0x40049409, 7, ours="ioctl(3, FICLONE, 7)", why="one name for a number")
    t("ioctl", 3, 0x12345678, 0x99)
    t("ioctl", 3, 0x8912, BAD)
    t("ioctl", 3, 0x8913, m.put(b"eth0".ljust(40, b"\0")))
    t("ioctl", 3, 0x8914, m.put(b"eth0".ljust(16, b"\0") + b"\x43\x10" + bytes(22)))
    t(
        "ioctl",
        3,
        0x400454CA,
        m.put(b"tun0".ljust(16, b"\0") + b"\1\x10" + bytes(22)),
        ours='ioctl(3, TUNSETIFF, {ifr_name="tun0", ifr_flags=IFF_TUN|IFF_NO_PI})',
        why="not taken apart by strace",
    )
    t("semget", 0, 2, 0o1600)
    t("semop", 5, m.f("HhhHhh", 0, -1, 0x1000, 1, 1, 0), 2)
    t("semtimedop", 5, m.f("Hhh", 0, -1, 0x800), 1, m.q(1, 2))
    t("semctl", 5, 0, 16, 7)
    t("semctl", 5, 0, 0)
    t("shmget", 0x1234, 4096, 0o3700)
    t("shmat", 5, 0, 0o10000)
    t("shmctl", 5, 0, 0)
    t("msgget", 0x1234, 0o1666)
    t("msgsnd", 5, m.f("q8s", 1, b"message!"), 8, 0o4000)
    t("msgrcv", 5, BAD, 8, -1, 0o10000)
    t("msgctl", 5, 2, BAD)
    t("mq_open", m.s(b"queue"), 0o102, 0o600, m.q(0, 10, 100, 0, 0, 0, 0, 0))
    t("mq_open", m.s(b"queue"), 0)
    t("mq_timedsend", 3, t.text, 10, 5, m.q(1, 2))
    t("mq_notify", 3, m.f("QiiQQ", 7, 10, 0, 0, 0))
    t("reboot", 0xFEE1DEAD, 672274793, 0x01234567)
    t("reboot", 0xFEE1DEAD, 5, 0xA1B2C3D4, m.s(b"recovery"))
    t("kexec_file_load", 3, 4, 5, m.s(b"quiet"), 5)
    t("init_module", BAD, 100, m.s(b"debug=1"))
    t("finit_module", 3, t.empty, 3)
    t("delete_module", m.s(b"loop"), 0o4000)
    t("kcmp", 1, 2, 2, 3, 4)
    t("poll", m.f("ihh", 3, -1, 0), 1, 0)
    t("mkdir", path, 0o011064)
    t("fchdir", -100)
    t("semget", 5, 1, 0)
    t("shmat", 5, 0x1000, 0o150000)
    t("sendmmsg", 3, BAD, 2, 0)
    t("select", -1, t.some, 0, 0, 0)
    t("rt_sigqueueinfo", 5, 10, m.f("3i4xiiQ96x", 10, 3, 0x40, 5, 1000, 0x1234))
    t("rt_sigaction", 2, m.q(0x401000, 0, 0x402000, 0), BAD, 8)
    t("mq_getsetattr", 3, m.q(-1, 0, 0, 0, 0, 0, 0, 0), 0)
    t("sethostname", m.s(b"host"), 4)
    t(
        "syslog",
        3,
        BAD,
        100,
        ours="syslog(SYSLOG_ACTION_READ_ALL, 0x30000000, 100)",
        why="a name, where strace has it in a comment",
    )
    t("ptrace", 0, 0, 0, 0)
    t("ptrace", 16, 5, 0, 0)
    t("ptrace", 0x4206, 5, 0, 0x50)
    t("ptrace", 24, 5, 0, 9)
    t("ptrace", 4, 5, 0x1000, 0x2000)
    t("modify_ldt", 0, BAD, 16)
    t("iopl", 3)
    t("ioperm", 0x80, 1, 1, ours="ioperm(128, 1, 1)", why="small numbers are decimal")
    t("getcpu", BAD, 0, 0)
    t("sysinfo", BAD)
    t("uname", BAD)
    t("membarrier", 0, 0, 0)
    t("membarrier", 8, 1, 5)
    t("vhangup")
    t("getpid")
    t("sync")


ROWS = (
    processes,
    prctls,
    signals,
    times,
    rest,
)
