"""Names for sets of system calls: strace's classes (``%file``) and sets in systemd's manner (``@mount``).

>>> "mknodat" in members("%file"), "%file" in names()
(True, True)

``%`` classes answer "what is it about" (strace(1), ``-e trace=%class``): a path, a descriptor,
memory...  ``@`` sets answer "what is it for" and follow the headings of systemd.exec(5),
``SystemCallFilter=``, with members of our own choosing: where systemd's set nests another
(``@mount`` in ``@system-service``...), ours are flat.

A group holds the calls of every architecture; a rule uses those its architecture has.  Lists are
written by hand; the tests hold every member to the number tables, and ``%file`` and ``%desc`` to
the argument roles of :mod:`proctor.syscalls.signatures`.
"""

from __future__ import annotations

from typing import Final

from proctor.errors import FilterError
from proctor.words import did_you_mean, quoted

__all__ = ["members", "names"]

_GROUPS: Final[dict[str, str]] = {
    # A path among the arguments.
    "%file": """
        access acct chdir chmod chown chown32 chroot creat execve execveat faccessat faccessat2
        fanotify_mark fchmodat fchmodat2 fchownat file_getattr file_setattr fspick fstatat64
        futimesat getcwd getxattr getxattrat inotify_add_watch lchown lchown32 lgetxattr link
        linkat listxattr listxattrat llistxattr lremovexattr lsetxattr lstat lstat64 mkdir mkdirat
        mknod mknodat mount mount_setattr move_mount name_to_handle_at newfstatat oldlstat oldstat
        open open_tree open_tree_attr openat openat2 pivot_root quotactl readlink readlinkat
        removexattr removexattrat rename renameat renameat2 rmdir setxattr setxattrat spu_create
        stat stat64 statfs statfs64 statx swapoff swapon symlink symlinkat truncate truncate64
        umount umount2 unlink unlinkat utime utimensat utimensat_time64 utimes
    """,
    # A descriptor among the arguments, or as the result.
    "%desc": """
        _llseek _newselect accept accept4 arm_fadvise64_64 bind bpf cachestat close close_range
        connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl
        epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execveat
        faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_init fanotify_mark fchdir
        fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr
        file_getattr file_setattr finit_module flistxattr flock fremovexattr fsconfig fsetxattr
        fsmount fsopen fspick fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate
        ftruncate64 futimesat getdents getdents64 getpeername getsockname getsockopt getxattrat
        inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_uring_enter
        io_uring_register io_uring_setup ioctl kexec_file_load landlock_add_rule
        landlock_create_ruleset landlock_restrict_self linkat listen listxattrat lseek
        memfd_create memfd_secret mkdirat mknodat mmap mmap2 mount_setattr move_mount
        mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend
        mq_timedsend_time64 name_to_handle_at newfstatat oldfstat open open_by_handle_at
        open_tree open_tree_attr openat openat2 perf_event_open pidfd_getfd pidfd_open
        pidfd_send_signal pipe pipe2 poll ppoll ppoll_time64 pread64 preadv preadv2
        process_madvise process_mrelease pselect6 pselect6_time64 pwrite64 pwritev pwritev2
        quotactl_fd read readahead readdir readlinkat readv recv recvfrom recvmmsg
        recvmmsg_time64 recvmsg removexattrat renameat renameat2 select send sendfile sendfile64
        sendmmsg sendmsg sendto setns setsockopt setxattrat shutdown signalfd signalfd4 socket
        socketpair splice spu_create spu_run statx symlinkat sync_file_range sync_file_range2
        syncfs tee timerfd timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime
        timerfd_settime64 unlinkat userfaultfd utimensat utimensat_time64 vmsplice write writev
    """,
    # Process life.
    "%process": """
        clone clone3 execve execveat exit exit_group fork kill pidfd_open pidfd_send_signal
        process_mrelease rt_sigqueueinfo rt_tgsigqueueinfo tgkill tkill unshare vfork wait4
        waitid waitpid
    """,
    "%network": """
        accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom
        recvmmsg recvmmsg_time64 recvmsg send sendfile sendfile64 sendmmsg sendmsg sendto
        setsockopt shutdown socket socketcall socketpair
    """,
    "%memory": """
        brk get_mempolicy madvise map_shadow_stack mbind migrate_pages mincore mlock mlock2
        mlockall mmap mmap2 move_pages mprotect mremap mseal msync munlock munlockall munmap
        pkey_alloc pkey_free pkey_mprotect process_madvise remap_file_pages set_mempolicy
        set_mempolicy_home_node shmat shmdt subpage_prot
    """,
    "%signal": """
        kill pause pidfd_send_signal rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo
        rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo
        sgetmask sigaction sigaltstack signal signalfd signalfd4 sigpending sigprocmask sigreturn
        sigsuspend ssetmask tgkill tkill
    """,
    # System V.
    "%ipc": """
        ipc msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 shmat
        shmctl shmdt shmget
    """,
    "%creds": """
        capget capset getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32
        getresgid getresgid32 getresuid getresuid32 getuid getuid32 prctl setfsgid setfsgid32
        setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setregid setregid32 setresgid
        setresgid32 setresuid setresuid32 setreuid setreuid32 setuid setuid32
    """,
    # Reading or setting a system clock.
    "%clock": """
        adjtimex clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime
        clock_gettime64 clock_settime clock_settime64 gettimeofday settimeofday stime time
    """,
    "%stat": "stat stat64 oldstat",
    "%lstat": "lstat lstat64 oldlstat",
    "%fstat": "fstat fstat64 fstatat64 newfstatat oldfstat",
    "%statfs": "statfs statfs64",
    "%fstatfs": "fstatfs fstatfs64",
    "%%stat": """
        fstat fstat64 fstatat64 lstat lstat64 newfstatat oldfstat oldlstat oldstat stat stat64
        statx
    """,
    "%%statfs": "fstatfs fstatfs64 statfs statfs64 ustat",
    # No arguments, cannot fail.
    "%pure": """
        getegid getegid32 geteuid geteuid32 getgid getgid32 getpgrp getpid getppid
        get_thread_area get_tls gettid getuid getuid32
    """,
    "@aio": """
        io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit
        io_uring_enter io_uring_register io_uring_setup
    """,
    "@basic-io": """
        _llseek close close_range dup dup2 dup3 lseek pread64 preadv preadv2 pwrite64 pwritev
        pwritev2 read readv write writev
    """,
    "@chown": "chown chown32 fchown fchown32 fchownat lchown lchown32",
    # Setting the clocks.
    "@clock": """
        adjtimex clock_adjtime clock_adjtime64 clock_settime clock_settime64 settimeofday stime
    """,
    "@cpu-emulation": "modify_ldt subpage_prot switch_endian vm86 vm86old",
    "@debug": """
        lookup_dcookie perf_event_open pidfd_getfd ptrace rtas s390_runtime_instr
        sys_debug_setcontext
    """,
    "@file-system": """
        access chdir chmod close creat faccessat faccessat2 fallocate fchdir fchmod fchmodat
        fchmodat2 fcntl fcntl64 fgetxattr file_getattr file_setattr flistxattr fremovexattr
        fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 ftruncate ftruncate64 futimesat getcwd
        getdents getdents64 getxattr getxattrat inotify_add_watch inotify_init inotify_init1
        inotify_rm_watch lgetxattr link linkat listmount listxattr listxattrat llistxattr
        lremovexattr lsetxattr lstat lstat64 mkdir mkdirat mknod mknodat newfstatat oldfstat
        oldlstat oldstat open openat openat2 readdir readlink readlinkat removexattr removexattrat
        rename renameat renameat2 rmdir setxattr setxattrat stat stat64 statfs statfs64 statmount
        statx symlink symlinkat truncate truncate64 unlink unlinkat utime utimensat
        utimensat_time64 utimes
    """,
    "@io-event": """
        _newselect epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2
        epoll_wait epoll_wait_old eventfd eventfd2 poll ppoll ppoll_time64 pselect6
        pselect6_time64 select
    """,
    "@ipc": """
        ipc memfd_create mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64
        mq_timedsend mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd pipe pipe2
        process_madvise process_vm_readv process_vm_writev semctl semget semop semtimedop
        semtimedop_time64 shmat shmctl shmdt shmget
    """,
    "@keyring": "add_key keyctl request_key",
    "@memlock": "mlock mlock2 mlockall munlock munlockall",
    "@module": "delete_module finit_module init_module",
    "@mount": """
        chroot fsconfig fsmount fsopen fspick mount mount_setattr move_mount open_tree
        open_tree_attr pivot_root umount umount2
    """,
    "@network-io": """
        accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom
        recvmmsg recvmmsg_time64 recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socket
        socketcall socketpair
    """,
    "@obsolete": """
        nice oldfstat oldlstat oldolduname oldstat olduname remap_file_pages sgetmask ssetmask
        stime sysfs ugetrlimit ustat
    """,
    "@pkey": "pkey_alloc pkey_free pkey_mprotect",
    "@process": """
        capget clone clone3 execve execveat fork getrusage kill pidfd_open pidfd_send_signal
        prctl rt_sigqueueinfo rt_tgsigqueueinfo setns swapcontext tgkill times tkill unshare
        vfork wait4 waitid waitpid
    """,
    "@raw-io": """
        ioperm iopl pciconfig_iobase pciconfig_read pciconfig_write s390_pci_mmio_read
        s390_pci_mmio_write
    """,
    "@reboot": "kexec_file_load kexec_load reboot",
    "@resources": """
        ioprio_set mbind migrate_pages move_pages nice sched_setaffinity sched_setattr
        sched_setparam sched_setscheduler set_mempolicy set_mempolicy_home_node setpriority
        setrlimit prlimit64
    """,
    "@sandbox": "landlock_add_rule landlock_create_ruleset landlock_restrict_self seccomp",
    "@setuid": """
        setgid setgid32 setgroups setgroups32 setregid setregid32 setresgid setresgid32 setresuid
        setresuid32 setreuid setreuid32 setuid setuid32
    """,
    "@signal": """
        rt_sigaction rt_sigpending rt_sigprocmask rt_sigsuspend rt_sigtimedwait
        rt_sigtimedwait_time64 sigaction sigaltstack signal signalfd signalfd4 sigpending
        sigprocmask sigsuspend
    """,
    "@swap": "swapoff swapon",
    "@sync": "fdatasync fsync msync sync sync_file_range sync_file_range2 syncfs",
    "@timer": """
        alarm getitimer setitimer timer_create timer_delete timer_getoverrun timer_gettime
        timer_gettime64 timer_settime timer_settime64 timerfd timerfd_create timerfd_gettime
        timerfd_gettime64 timerfd_settime timerfd_settime64 times
    """,
    "@xattr": """
        fgetxattr flistxattr fremovexattr fsetxattr getxattr getxattrat lgetxattr listxattr
        listxattrat llistxattr lremovexattr lsetxattr removexattr removexattrat setxattr
        setxattrat
    """,
}

#: strace's short forms.
_ALIASES: Final = {"%net": "%network"}


def members(name: str) -> frozenset[str]:
    """The calls of a group.

    :raises FilterError: no such group, with the nearest one.
    """
    text = _GROUPS.get(_ALIASES.get(name, name))
    if text is None:
        raise FilterError(
            f"there is no group of system calls {quoted(name)}{did_you_mean(name, names())}"
        )
    return frozenset(text.split())


def names() -> tuple[str, ...]:
    """Every group's name."""
    return (*_GROUPS, *_ALIASES)
