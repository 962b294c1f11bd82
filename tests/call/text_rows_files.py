"""Rows of the table: files, memory, mounts."""

from __future__ import annotations

from tests.call.text_table import BAD, CWD, EDGE_END, Table, inet


def files(t: Table) -> None:
    m, path, other, odd = t.m, t.path, t.other, t.odd
    t("open", path, 0)
    t("open", path, 0o2000102, 0o640)
    t("open", path, 0o20200002, 0o1777)
    t("open", odd, 3 | 0o4010000)
    t("openat", CWD, path, 0o2000000)
    t("openat", 7, odd, 0x40000000 | 0o101, 0)
    t("openat", CWD, 0, 0o4000)
    t("openat", CWD, BAD, 0o10000000)
    t("openat", 0xDEADBEEF_FFFFFF9C, path, 0xFFFFFFFF)
    t("creat", path, 0o4755)
    t("openat2", CWD, path, m.q(0o2000102, 0o600, 0x18), 24)
    t("openat2", 5, path, m.q(1 << 40, 0, 1 << 20), 24)
    t("openat2", CWD, path, BAD, 24)
    t("close", -1)
    end = EDGE_END - 8
    t("open", end, 0)
    t("write", 1, end, 8)
    t("write", 1, end, 9, ours='write(1, "xxxxxxxx"..., 9)', why="some of it can be read")
    t("setxattr", path, end, t.text, 5, 0)
    t("nanosleep", end, 0)
    t(
        "writev",
        1,
        m.q(end, 8, end, 9),
        2,
        ours='writev(1, [{iov_base="xxxxxxxx", iov_len=8}, {iov_base="xxxxxxxx"..., iov_len=9}], 2)',
        why="some of it can be read",
    )
    t(
        "writev",
        1,
        EDGE_END - 16,
        2,
        ours="writev(1, 0x20000ff0 (EFAULT), 2)",
        why="the kernel refuses it as a whole",
    )
    t("execve", path, EDGE_END - 16, end)
    t("connect", 3, end, 16)
    t("poll", end, 2, 0)
    t("setgroups", 4, end)
    t(
        "mount",
        path,
        path,
        path,
        0,
        end,
        ours='mount("/tmp/a file", "/tmp/a file", "/tmp/a file", 0, "xxxxxxxx"...)',
        why="the kernel takes what there is",
    )
    t("read", 0, BAD, 4096)
    t("write", 1, t.text, 24)
    t("write", 1, t.text, 80)
    t("write", 2, t.data, 33)
    t("write", 2, BAD, 5)
    t("write", 2, 0, 0)
    t("pwrite64", 3, t.data, 8, -1)
    t("pread64", 3, BAD, 8, 1 << 40)
    iov = m.q(t.text, 5, t.data, 40, BAD, 3, 0, 0)
    t("writev", 1, iov, 2)
    t("writev", 1, iov, 4)
    t("writev", 1, BAD, 2)
    t(
        "writev",
        1,
        iov,
        2000,
        ours="writev(1, @ (EINVAL), 2000)",
        why="the kernel refuses it before it looks further",
    )
    t("readv", 0, iov, 2)
    t("preadv", 3, iov, 1, 5, 0)
    t(
        "pwritev2",
        3,
        iov,
        1,
        7,
        0,
        0x22,
        ours='pwritev2(3, [{iov_base="Hello", iov_len=5}], 1, 7, RWF_DSYNC|RWF_NOAPPEND)',
        why="newer than that strace",
    )
    t("lseek", 3, -5, 2)
    t("lseek", 3, 1 << 40, 9)
    t("stat", path, BAD)
    t("newfstatat", CWD, path, BAD, 0x100)
    t("newfstatat", 4, t.empty, BAD, 0x1000 | 0x4000000)
    t("statx", CWD, path, 0x2100, 0xFFF, BAD)
    t("statx", 3, t.empty, 0x1000, 0x80000001, 0)
    t("access", path, 0)
    t("faccessat", CWD, path, 5)
    t("faccessat2", CWD, path, 2, 0x200)
    t("access", path, 0x18)
    t("mkdir", path, 0o755)
    t("mkdirat", 3, path, 0)
    t("mknod", path, 0o020666, 0x103)
    t("mknodat", CWD, path, 0o060600, 0x12345678)
    t("mknod", path, 0o010644, 0)
    t("mknod", path, 0o600, 0)
    t("mknod", path, 0o030600, 5)
    t("rmdir", odd)
    t("unlinkat", CWD, path, 0x200)
    t("rename", path, other)
    t("renameat2", CWD, path, 3, other, 5)
    t("renameat2", CWD, path, 3, other, 0x10)
    t("link", path, 0)
    t("linkat", CWD, path, CWD, other, 0x1400)
    t("symlink", odd, path)
    t("symlinkat", path, CWD, other)
    t("readlink", path, BAD, 100)
    t("chmod", path, 0o7777)
    t("fchmod", 3, 0o2755)
    t("fchmodat", CWD, path, 0)
    t(
        "fchmodat2",
        CWD,
        path,
        0o644,
        0x100,
        ours='fchmodat2(AT_FDCWD, "/tmp/a file", 0644, AT_SYMLINK_NOFOLLOW)',
        why="newer than that strace",
    )
    t("chown", path, -1, 0)
    t("fchownat", CWD, path, 1000, 0xFFFFFFFE, 0x1100)
    t("truncate", path, -1, ours='truncate("/tmp/a file", -1)', why="the kernel's length is signed")
    t("ftruncate", 3, 1 << 33)
    t("fallocate", 3, 0x3, 0, 4096)
    t("fallocate", 3, 0x100, -1, 4096)
    t("chroot", path)
    t("chdir", path)
    t("fchdir", 3)
    t("umask", 0o22)
    t("umask", 0o12345)
    t("dup3", 3, 4, 0o2000000)
    t("pipe2", BAD, 0o2004000)
    t("close_range", 3, 0xFFFFFFFF, 4)
    t("utimensat", CWD, path, m.q(1700000000, 5, 0, 0x3FFFFFFF), 0x100)
    t("utimensat", CWD, path, m.q(0, 0x3FFFFFFE, -1, 999999999), 0)
    t("utimensat", 3, 0, 0, 0)
    t("utime", path, m.q(1, 1700000000))
    t("utimes", path, m.q(1, 2, 3, 999999))
    t("futimesat", CWD, path, m.q(1, 2, 3, 4))
    t("getxattr", path, m.s(b"user.x"), BAD, 10)
    t("setxattr", path, m.s(b"security.capability"), t.data, 20, 1)
    t("fsetxattr", 3, m.s(b"user.x"), t.text, 40, 3)
    t("lremovexattr", path, m.s(b"user.\xff"))
    t("listxattr", path, BAD, 10)
    t("flock", 3, 6)
    t("flock", 3, 8)
    t("sendfile", 1, 3, m.q(5), 10)
    t("copy_file_range", 3, m.q(5), 4, 0, 10, 0)
    t("splice", 3, 0, 4, m.q(7), 10, 0xF)
    t("tee", 3, 4, 10, 2)
    t("vmsplice", 3, iov, 1, 8)
    t("sync_file_range", 3, 1, 2, 7)
    t("fadvise64", 3, 0, 10, 4)
    t("readahead", 3, -1, 10)
    t("name_to_handle_at", CWD, path, m.i(128, 0), BAD, 0x1000)
    t("open_by_handle_at", 3, m.f("Ii8s", 8, 1, b"abcdefgh"), 0o2)
    t("inotify_init1", 0o2004000)
    t("inotify_add_watch", 3, path, 0x3000FFF)
    t("fanotify_init", 0x9, 0o2000000)
    t("fanotify_mark", 3, 0x11, 0x40000008, CWD, path)
    t("quotactl", 0x80000700, path, 1000, BAD)
    t("acct", 0)
    t("swapon", path, 0x18005)
    t("memfd_create", m.s(b"name"), 0x3)
    t("memfd_create", m.s(b"name"), 0x54000004)
    t("userfaultfd", 0o2000001)
    t("getcwd", BAD, 100)
    t("getdents64", 3, BAD, 100)
    t("statfs", path, BAD)
    t("fcntl", 3, 0, 10)
    t("fcntl", 3, 1)
    t("fcntl", 3, 2, 1)
    t("fcntl", 3, 2, 6)
    t("fcntl", 3, 3)
    t("fcntl", 3, 4, 0o4002)
    t("fcntl", 3, 6, m.f("hh4xqqi4x", 1, 0, -5, 10, 0))
    t("fcntl", 3, 37, m.f("hh4xqqi4x", 2, 1, 0, 0, 0))
    t("fcntl", 3, 7, BAD)
    t(
        "fcntl",
        3,
        5,
        m.f("hh4xqqi4x", 0, 2, 0, 0, 9),
        ours="fcntl(3, F_GETLK, {l_type=F_RDLCK, l_whence=SEEK_END, l_start=0, l_len=0, l_pid=9})",
        why="what is asked for, not what comes back",
    )
    t("fcntl", 3, 8, -5)
    t("fcntl", 3, 10, 10)
    t("fcntl", 3, 15, m.f("Ii", 2, 77))
    t("fcntl", 3, 1024, 1)
    t("fcntl", 3, 1026, 0x80000007)
    t("fcntl", 3, 1030, 5)
    t("fcntl", 3, 1031, 65536)
    t("fcntl", 3, 1033, 0x1F)
    t("fcntl", 3, 1036, m.q(3), ours="fcntl(3, F_SET_RW_HINT, @)", why="newer than that strace")
    t("fcntl", 3, 4711, 5)


def memory(t: Table) -> None:
    t("mmap", 0, 4096, 3, 0x22, -1, 0)
    t("mmap", 0x7F0000000000, 8192, 0, 0x32 | 0x4000, 5, 0x1000)
    t("mmap", 0, 1 << 21, 1, 0x40022 | 21 << 26, -1, 0)
    t("mmap", 0, 4096, 0x18, 0x3 | 0x80000, 3, 0)
    t("mprotect", 0x7F0000000000, 4096, 5)
    t("mprotect", 0x7F0000000000, 4096, 0x1000000 | 0x40)
    t("munmap", 0x7F0000000000, 4096)
    t("mremap", 0x7F0000000000, 4096, 8192, 1, 0x1234)
    t("mremap", 0x7F0000000000, 4096, 8192, 3, 0x7F1000000000)
    t("madvise", 0x7F0000000000, 4096, 4)
    t("madvise", 0x7F0000000000, 4096, 77)
    t("msync", 0x7F0000000000, 4096, 6)
    t("mlock2", 0x7F0000000000, 4096, 1)
    t("mlockall", 7)
    t("brk", 0)
    t("brk", 0x55550000)
    t("mincore", 0x7F0000000000, 4096, BAD)
    t("mbind", 0x7F0000000000, 4096, 2, t.m.q(5), 64, 3)
    t("set_mempolicy", 3, t.m.q(1), 8)
    t("get_mempolicy", BAD, 0, 0, 0x1000, 3)
    t(
        "remap_file_pages",
        0x7F0000000000,
        4096,
        0,
        1,
        0,
        ours="remap_file_pages(0x7f0000000000, 4096, PROT_NONE, 1, 0)",
        why="MAP_FILE is no flag",
    )
    t("pkey_alloc", 0, 1)
    t("pkey_mprotect", 0x7F0000000000, 4096, 3, 2)
    t("process_madvise", 3, t.m.q(BAD, 4096), 1, 20, 0)
    t("process_vm_readv", 1, t.m.q(BAD, 10), 1, t.m.q(0x1000, 10), 1, 0)
    t("process_vm_writev", 1, t.m.q(t.text, 10), 1, t.m.q(0x1000, 10), 1, 0)


def mounts(t: Table) -> None:
    m, path, other = t.m, t.path, t.other
    t("mount", m.s(b"none"), path, m.s(b"tmpfs"), 0xE, m.s(b"size=1m,mode=700"))
    t("mount", path, other, 0, 0x5000, 0)
    t("mount", 0, path, 0, 0x1021, t.odd)
    t("mount", 0, path, 0, 0x44000, BAD)
    t(
        "mount",
        m.s(b"x"),
        path,
        m.s(b"ext4"),
        0xC0ED0001 | 1 << 40,
        0,
        ours='mount("x", "/tmp/a file", "ext4", MS_RDONLY|MS_MGC_VAL|0x10000000000, NULL)',
        why="the flags are a long",
    )
    t("umount2", path, 10)
    t("umount2", path, 0x30)
    t("pivot_root", path, other)
    t("fsopen", m.s(b"ext4"), 1)
    t("fsconfig", 3, 1, m.s(b"source"), m.s(b"/dev/sda1"), 0)
    t("fsconfig", 3, 0, m.s(b"ro"), 0, 0)
    t("fsconfig", 3, 5, m.s(b"fd"), 0, 7)
    t(
        "fsconfig",
        3,
        2,
        m.s(b"bin"),
        t.data,
        9,
        ours='fsconfig(3, FSCONFIG_SET_BINARY, "bin", "\\0\\1\\2\\3\\4\\5\\6\\7\\10", 9)',
        why="one way to write bytes",
    )
    t("fsconfig", 3, 3, m.s(b"path"), path, CWD)
    t("fsconfig", 3, 6, 0, 0, 0)
    t("fsmount", 3, 1, 0xF)
    t("fspick", CWD, path, 3)
    t("open_tree", CWD, path, 0o2000001 | 0x8000)
    t("move_mount", 3, t.empty, CWD, path, 4)
    t("mount_setattr", CWD, path, 0x8000, m.q(0x100002, 1, 0x40000, 5), 32)
    t("mount_setattr", CWD, path, 0, m.q(0x20, 0x70, 0, 0), 32)
    t("mount_setattr", CWD, path, 0, BAD, 32)


def sockets(t: Table) -> None:
    m = t.m
    t("socket", 1, 0o2000001, 0)
    t("socket", 2, 2, 17)
    t("socket", 10, 3, 58)
    t("socket", 16, 3, 9)
    t("socket", 17, 0o4003, 0x300)
    t("socket", 29, 3, 1)
    t(
        "socket",
        99,
        0x7F,
        300,
        ours="socket(0x63, 0xf|0x70, 300)",
        why="the type is its lowest four bits",
    )
    t("socketpair", 1, 1, 0, BAD)
    addresses = {
        "path": b"\1\0/run/x.sock\0",
        "abstract": b"\1\0\0name\0\xff",
        "unnamed": b"\1\0",
        "odd": b'\1\0/a"\n',
        "inet": inet(80, b"\x7f\0\0\1"),
        "inet6": b"\x0a\0" + b"\x01\xbb" + b"\0\0\0\7" + bytes(15) + b"\1" + b"\3\0\0\0",
        "inet6-mapped": b"\x0a\0\0\x50\0\0\0\0" + bytes(10) + b"\xff\xff\x0a\0\0\1" + bytes(4),
        "netlink": b"\x10\0\0\0" + (1234).to_bytes(4, "little") + b"\5\0\0\0",
        "vsock": b"\x28\0\0\0\x16\0\0\0\3\0\0\0\1\0\0\0",
        "unspec": b"\0\0" + bytes(14),
        "alg": b"\x26\0" + b"x" * 20,
        "short": b"\1",
        "inet-short": b"\2\0\0\x50\x7f",
        "unknown": b"\xf0\0abc",
    }
    for each in addresses.values():
        t("connect", 3, m.put(each), len(each))
    t(
        "connect",
        3,
        m.put(b"\x11\0\x08\x06\2\0\0\0\1\0\4\6abcdef\0\0"),
        20,
        ours="connect(3, {sa_family=AF_PACKET, sll_protocol=htons(ETH_P_ARP), sll_ifindex=2, "
        "sll_hatype=1, sll_pkttype=PACKET_OUTGOING, sll_halen=6, "
        "sll_addr=[0x61, 0x62, 0x63, 0x64, 0x65, 0x66]}, 20)",
        why="an interface has its name in the caller's network namespace, not in ours",
    )
    at = m.put(addresses["inet"])
    t("bind", 3, at, 16)
    t("bind", 3, at, 0)
    t("bind", 3, BAD, 16)
    t("bind", 3, 0, 16)
    t(
        "bind",
        3,
        at,
        200,
        ours="bind(3, @ (EINVAL), 200)",
        why="the kernel refuses it before it looks further",
    )
    t("connect", 3, at, -1)
    t("sendto", 3, t.text, 10, 0x4000, at, 16)
    t("sendto", 3, t.text, 50, 0x4040, 0, 0)
    t("recvfrom", 3, BAD, 10, 0x42, BAD, m.i(16))
    t("recvfrom", 3, BAD, 10, 0, 0, 0)
    t("accept", 3, BAD, m.i(16))
    t("accept4", 3, 0, 0, 0o2004000)
    t("getsockname", 3, BAD, m.i(128))
    t("listen", 3, 128)
    t("shutdown", 3, 1)
    t("shutdown", 3, 9)
    iov = m.q(t.text, 5, t.data, 6)
    rights = m.f("Qii3i4x", 28, 1, 1, 3, 4, 5)
    cred = m.f("Qii3I4x", 28, 1, 2, 10, 1000, 1000)
    t("sendmsg", 3, m.f("Qi4xQQQQI4x", at, 16, iov, 2, 0, 0, 0), 0x4000)
    t("sendmsg", 3, m.f("Qi4xQQQQI4x", 0, 0, iov, 1, rights, 28, 0), 0)
    t("sendmsg", 3, m.f("Qi4xQQQQI4x", 0, 0, 0, 0, cred, 28, 0), 0)
    t(
        "sendmsg",
        3,
        m.f("Qi4xQQQQI4x", 0, 0, BAD, 1, BAD, 28, 0x40),
        0,
        ours="sendmsg(3, @ (EFAULT), 0)",
        why="the kernel refuses it before it looks further",
    )
    t("sendmsg", 3, BAD, 0)
    t(
        "recvmsg",
        3,
        m.f("Qi4xQQQQI4x", at, 16, iov, 2, 0, 0, 0),
        0x40000000,
        ours="recvmsg(3, @, MSG_CMSG_CLOEXEC)",
        why="the header is mostly what comes back",
    )
    many = m.f("Qi4xQQQQI4xI4x" * 2, at, 16, iov, 2, 0, 0, 0, 0, 0, 0, iov, 1, 0, 0, 0, 0)
    t("sendmmsg", 3, many, 2, 0x40)
    t("sendmmsg", 3, many, 1, 0)
    t("recvmmsg", 3, many, 2, 0x10000, m.q(1, 2))
    one = m.i(1)
    t("setsockopt", 3, 1, 2, one, 4)
    t("setsockopt", 3, 1, 13, m.i(1, 5), 8)
    t(
        "setsockopt",
        3,
        1,
        20,
        m.q(5, 0),
        16,
        ours="setsockopt(3, SOL_SOCKET, SO_RCVTIMEO_OLD, {tv_sec=5, tv_usec=0}, 16)",
        why="what it is",
    )
    t("setsockopt", 3, 6, 1, one, 4)
    t("setsockopt", 3, 0, 1, m.i(0x10), 4)
    t("setsockopt", 3, 41, 26, one, 4)
    t("setsockopt", 3, 1, 25, m.s(b"eth0"), 5)
    t("setsockopt", 3, 1, 26, m.f("H6xQ", 5, BAD), 16)
    t("setsockopt", 3, 1, 7, BAD, 4)
    t("setsockopt", 3, 77, 99, t.data, 6)
    t("getsockopt", 3, 1, 4, BAD, m.i(4))
    t("getsockopt", 3, 1, 17, BAD, BAD)


ROWS = (
    files,
    memory,
    mounts,
    sockets,
)
