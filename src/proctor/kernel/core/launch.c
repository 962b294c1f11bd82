/* Launching a target: from a command to a process under a filter whose listener we hold.
 *
 * The hard part is the hand-over: the filter may notify *every* system call, so from
 * the moment seccomp(2) returns the target can do nothing (not sendmsg, not close, not execve)
 * until somebody answers, and nobody can before he has the listener.  Hence three processes and a
 * shared page (struct board, which Python mapped):
 *
 *   monitor  blocks all signals, makes a socket pair and clones the helper with CLONE_VFORK: when
 *            clone returns the helper is gone, and what it said waits in the socket.  The clone is
 *            fork-like (no CLONE_VM) and raw (no atfork handlers): the children run
 *            async-signal-safe C only, on a copy of our memory.  Its exit signal is 0, so that no
 *            SIGCHLD handler of the program we live in learns about the helper.
 *   helper   clones the target with CLONE_PARENT (it becomes the *monitor's* child), CLONE_PIDFD,
 *            CLONE_FILES and the namespaces; sends its pidfd and the reading end of a pipe to the
 *            monitor; writes the ID maps, which must come from outside; says go; and, itself
 *            unfiltered, watches the board.
 *   target   sets itself up step by step, calls seccomp(2), stores the listener's number on the
 *            board (a store is no system call) and calls execve.  Since the helper shares the
 *            descriptor table, it can send the listener to the monitor, close it, and exit.
 *
 * So the target, waiting in its execve, has no copy of the listener: with one, it would hang if
 * the monitor died.  The pipe's writing end, CLOEXEC, goes with its exec: the reading end shows
 * end-of-file once the target execed or died.  The pipe is made in the helper, so that no other
 * thread of the monitor can fork a copy.  Every failure is a step and an errno on the board. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "core.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ---- Launching: helper and target --------------------------------------------------------- */

enum { NOT_YET = -2, NO_LISTENER = -1 };

struct board { /* shared by monitor, helper and target; the target loses it by execve */
    atomic_int go;       /* set by the helper, which also wakes: the ID maps are written */
    atomic_int target;   /* set by the helper: its process id */
    atomic_int listener; /* set by the target: NOT_YET, NO_LISTENER or a number in its table */
    atomic_int error;    /* set, after step, by whoever failed */
    char step[20];
};

struct pair {
    int ours, theirs, staged;
};

struct plan { /* all that helper and target need, laid out before the clone */
    struct board *board;
    int channel; /* socket to the monitor */
    pid_t monitor;
    char **argv, **candidates, **env;
    const char *cwd, *uid_map, *gid_map;
    struct pair *fds;
    unsigned int *groups;
    size_t fd_count, group_count;
    struct sock_fprog program;
    unsigned int filter_flags;
    int marks; /* so many filters that let everything run come before it */
    int deny_setgroups, new_session, namespaces, foreground_tty, process_group, death_signal;
    int no_new_privs; /* 1, 0, or -1: only if the kernel asks for it */
    long long uid, gid, umask;
    unsigned long long ignored_signals, blocked_signals;
};

/* In the children: raw calls, and no sanitizer, whose runtime may make system calls of its own. */
#define IN_CHILD static __attribute__((no_sanitize("address", "undefined")))

IN_CHILD void record(struct board *board, const char *step, int number) {
    for (size_t i = 0; (board->step[i] = step[i]) != 0; i++)
        ;
    board->error = number;
}

IN_CHILD _Noreturn void fail(struct board *board, const char *step, int number) {
    record(board, step, number);
    for (;;) { /* it must never run on, but a filter may make even exit_group fail */
        syscall(SYS_exit_group, 127);
        __builtin_trap();
    }
}

#define TRY(step, call) do { if ((call) < 0) fail(p->board, step, errno); } while (0)

/* A CLOEXEC duplicate of fd at a number that is none of the target's, so that dup3 cannot hit it.
 * The first one stays open: it may be another pair's source, and goes by itself at exec. */
IN_CHILD int stage(const struct plan *p, int fd) {
    int copy = (int)syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 3);
    for (size_t i = 0; copy >= 0 && i < p->fd_count; i++)
        if (p->fds[i].theirs == copy) {
            copy = (int)syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, copy + 1);
            i = (size_t)-1; /* look through all of them again */
        }
    return copy;
}

IN_CHILD void place_descriptors(struct plan *p) {
    for (size_t i = 0; i < p->fd_count; i++)
        if (p->fds[i].ours != p->fds[i].theirs) /* else it is where it belongs, and nothing comes there */
            TRY("dup2", p->fds[i].staged = stage(p, p->fds[i].ours));
    if (syscall(SYS_close_range, 0, ~0U, 4 /* as CLOEXEC */) < 0) { /* before 5.11 */
        struct rlimit limit;
        TRY("close_range", syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, NULL, &limit));
        for (rlim_t fd = 0; fd < limit.rlim_cur; fd++)
            syscall(SYS_fcntl, fd, F_SETFD, FD_CLOEXEC);
    }
    for (size_t i = 0; i < p->fd_count; i++)
        if (p->fds[i].ours == p->fds[i].theirs)
            TRY("dup2", syscall(SYS_fcntl, p->fds[i].ours, F_SETFD, 0));
        else
            TRY("dup2", syscall(SYS_dup3, p->fds[i].staged, p->fds[i].theirs, 0));
}

/* What execve(2) would say of a file, as far as it can be told without running it: 0 or an errno. */
IN_CHILD int look(const char *path) {
    struct statx found;
    if (syscall(SYS_statx, AT_FDCWD, path, 0, STATX_TYPE, &found) < 0)
        return errno;
    if (!S_ISREG(found.stx_mode))
        return EACCES;
    return syscall(SYS_faccessat2, AT_FDCWD, path, X_OK, AT_EACCESS) < 0 ? errno : 0;
}

/* Whether execvp(3) goes on after this errno. */
IN_CHILD bool goes_on(int number) {
    return number == EACCES || number == ENOENT || number == ENOTDIR || number == ENODEV
        || number == ESTALE || number == ETIMEDOUT;
}

/* Install a filter; what seccomp(2) says. */
IN_CHILD long install(struct plan *p, unsigned int flags, const struct sock_fprog *program) {
    long set = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, program);
    if (set < 0 && errno == EACCES && p->no_new_privs < 0) {
        TRY("no_new_privs", syscall(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
        set = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, program);
    }
    TRY("seccomp", set);
    return set;
}

IN_CHILD _Noreturn void target(struct plan *p) {
    struct timespec patience = {30, 0}; /* only a helper killed from outside never says go */
    while (p->board->go == 0)
        if (syscall(SYS_futex, &p->board->go, FUTEX_WAIT, 0, &patience, NULL, 0) < 0
            && errno == ETIMEDOUT)
            fail(p->board, "helper", ETIMEDOUT);
    if (p->new_session)
        TRY("setsid", syscall(SYS_setsid));
    else if (p->process_group >= 0)
        TRY("setpgid", syscall(SYS_setpgid, 0, p->process_group));
    if (p->foreground_tty >= 0) { /* all signals are blocked, SIGTTOU too */
        if (p->new_session)
            TRY("tiocsctty", syscall(SYS_ioctl, p->foreground_tty, TIOCSCTTY, 0));
        int group = (int)syscall(SYS_getpgid, 0);
        TRY("tcsetpgrp", syscall(SYS_ioctl, p->foreground_tty, TIOCSPGRP, &group));
    }
    if (p->namespaces & CLONE_NEWNS) /* as unshare(1): what is mounted there must not come out */
        TRY("mount", syscall(SYS_mount, "none", "/", NULL, MS_REC | MS_PRIVATE, NULL));
    place_descriptors(p);
    if (p->groups != NULL)
        TRY("setgroups", syscall(SYS_setgroups, p->group_count, p->groups));
    if (p->gid >= 0)
        TRY("setgid", syscall(SYS_setresgid, p->gid, p->gid, p->gid));
    if (p->uid >= 0)
        TRY("setuid", syscall(SYS_setresuid, p->uid, p->uid, p->uid));
    if (p->umask >= 0)
        syscall(SYS_umask, p->umask);
    if (p->cwd != NULL)
        TRY("chdir", syscall(SYS_chdir, p->cwd));
    for (int number = 1; number <= 64; number++) { /* KILL and STOP are refused, and need not */
        unsigned long action[8] = {0}; /* the kernel's struct sigaction starts with the handler */
        action[0] = p->ignored_signals >> (number - 1) & 1; /* SIG_DFL is 0, SIG_IGN is 1 */
        syscall(SYS_rt_sigaction, number, action, NULL, KERNEL_SIGSET);
    }
    if (p->death_signal != 0) { /* after setresuid, which clears it */
        TRY("pdeathsig", syscall(SYS_prctl, PR_SET_PDEATHSIG, p->death_signal, 0, 0, 0));
        if (!(p->namespaces & CLONE_NEWPID) && syscall(SYS_getppid) != p->monitor)
            fail(p->board, "pdeathsig", ESRCH);
    }
    if (p->no_new_privs == 1)
        TRY("no_new_privs", syscall(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    uint64_t blocked = p->blocked_signals;
    TRY("sigprocmask", syscall(SYS_rt_sigprocmask, SIG_SETMASK, &blocked, NULL, KERNEL_SIGSET));

    /* The search on PATH is ours, not the command's: it is made before a filter can tell of it. */
    int number = ENOENT;
    bool denied = false, search = p->candidates[0] != NULL && p->candidates[1] != NULL;
    char **path = p->candidates;
    for (; search && *path != NULL && goes_on(number = look(*path)); path++)
        denied = denied || number == EACCES;
    if (*path == NULL)
        fail(p->board, "execve", denied ? EACCES : number);

    long listener = NO_LISTENER;
    struct sock_filter run = {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW};
    struct sock_fprog mark = {1, &run};
    for (int left = p->marks; left > 0; left--)
        install(p, 0, &mark);
    if (p->program.filter != NULL) {
        long set = install(p, p->filter_flags, &p->program);
        if (p->filter_flags & SECCOMP_FILTER_FLAG_NEW_LISTENER)
            listener = set;
    }
    /* From here on every system call may be notified: none but execve, as execvp(3) does it. */
    p->board->listener = (int)listener;
    for (; *path != NULL; path++) {
        syscall(SYS_execve, *path, p->argv, p->env);
        number = errno;
        denied = denied || number == EACCES;
        if (!goes_on(number))
            fail(p->board, "execve", number);
    }
    fail(p->board, "execve", denied ? EACCES : number);
}

IN_CHILD long clone_raw(unsigned long flags, int *pidfd) {
#if defined(__s390__)
    return syscall(SYS_clone, NULL, flags, pidfd, NULL, NULL);
#else /* the order of the two unused ones varies */
    return syscall(SYS_clone, flags, NULL, pidfd, NULL, NULL);
#endif
}

IN_CHILD long send_descriptors(int channel, const int *fds, size_t count) {
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(2 * sizeof(int))] = {0};
    struct iovec data = {control, 1}; /* one byte, since there must be something */
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control,
                             .msg_controllen = CMSG_SPACE(count * sizeof(int))};
    *(struct cmsghdr *)control = (struct cmsghdr){
        .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(count * sizeof(int))};
    memcpy(CMSG_DATA((struct cmsghdr *)control), fds, count * sizeof(int));
    return syscall(SYS_sendmsg, channel, &message, MSG_NOSIGNAL);
}

/* Write a file of /proc/PID in one write, as the kernel demands for ID maps. */
IN_CHILD bool write_file(struct plan *p, long pid, const char *name, const char *text) {
    char path[48], *at = path + 24;
    memcpy(at, name, strlen(name) + 1);
    for (; pid > 0; pid /= 10)
        *--at = (char)('0' + pid % 10);
    at = memcpy(at - 6, "/proc/", 6);
    long size = (long)strlen(text), fd = syscall(SYS_openat, AT_FDCWD, at, O_WRONLY | O_CLOEXEC);
    bool good = fd >= 0 && syscall(SYS_write, fd, text, size) == size;
    if (!good)
        record(p->board, name + 1, errno);
    syscall(SYS_close, fd);
    return good;
}

/* Close all but the target's descriptors and the one its exec shall close: while its execve waits
 * for an answer, copies of the monitor's other listeners would keep those alive (C094).  A program
 * named by a descriptor is left alone.  Before 5.9 there is no close_range: exec closes them. */
IN_CHILD void close_others(const struct plan *p, unsigned int status) {
    for (char **path = p->candidates; *path != NULL; path++)
        if (strncmp(*path, "/proc/", 6) == 0 || strncmp(*path, "/dev/fd/", 8) == 0)
            return;
    for (unsigned int from = 0, next;; from = next + 1) {
        next = status >= from ? status : ~0U;
        for (size_t i = 0; i < p->fd_count; i++)
            if ((unsigned int)p->fds[i].theirs >= from && (unsigned int)p->fds[i].theirs < next)
                next = (unsigned int)p->fds[i].theirs;
        if (next > from)
            syscall(SYS_close_range, from, next == ~0U ? next : next - 1, 0);
        if (next == ~0U)
            return;
    }
}

IN_CHILD _Noreturn void helper(struct plan *p) {
    int status[2] = {-1, -1}, pidfd = -1, channel, mark;
    TRY("dup2", channel = stage(p, p->channel));
    TRY("pipe2", syscall(SYS_pipe2, status, O_CLOEXEC));
    TRY("dup2", status[0] = stage(p, status[0]));
    TRY("dup2", mark = stage(p, status[1])); /* stays in the target's table until it execs */
    long pid = clone_raw(CLONE_FILES | CLONE_PARENT | CLONE_PIDFD | (unsigned long)p->namespaces,
                         &pidfd);
    TRY("clone", pid);
    if (pid == 0)
        target(p);
    p->board->target = (int)pid; /* it waits for us to say go; whatever fails before must end it */
    int fds[2] = {stage(p, pidfd), status[0]};
    bool good = fds[0] >= 0 && send_descriptors(channel, fds, 2) >= 0;
    record(p->board, "sendmsg", good ? 0 : errno);
    good = good && (!p->deny_setgroups || write_file(p, pid, "/setgroups", "deny"))
        && (p->uid_map == NULL || write_file(p, pid, "/uid_map", p->uid_map))
        && (p->gid_map == NULL || write_file(p, pid, "/gid_map", p->gid_map));
    if (!good) {
        syscall(SYS_kill, pid, SIGKILL); /* the number is its own: nobody reaped it yet */
        syscall(SYS_exit_group, 1);
    }
    p->board->go = 1;
    syscall(SYS_futex, &p->board->go, FUTEX_WAKE, 1, NULL, NULL, 0);
    /* Setting up takes well under a millisecond; a stuck file system may make it long. */
    struct pollfd life = {.fd = fds[0], .events = POLLIN};
    for (long pause = 20000; p->board->listener == NOT_YET && p->board->error == 0;) {
        struct timespec left = {0, pause}; /* ppoll(2) writes to it */
        bool dead = syscall(SYS_ppoll, &life, 1, &left, NULL, 0) > 0;
        if (dead && p->board->listener == NOT_YET && p->board->error == 0)
            fail(p->board, "setup", ESRCH); /* killed on the way */
        pause = pause < 5000000 ? pause + pause / 4 : pause;
    }
    int listener = p->board->listener;
    if (listener >= 0 && send_descriptors(channel, &listener, 1) < 0)
        record(p->board, "sendmsg", errno);
    syscall(SYS_close, listener); /* in the target's table too */
    close_others(p, (unsigned int)mark);
    syscall(SYS_exit_group, 0);
    __builtin_unreachable();
}

/* ---- Launching: the monitor --------------------------------------------------------------- */

/* What waits in the channel: 0 or an errno (EAGAIN: nothing). */
static int receive_descriptors(int channel, int *fds, size_t count) {
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(2 * sizeof(int))], byte;
    struct iovec data = {&byte, 1};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control,
                             .msg_controllen = sizeof control};
    ssize_t got = recvmsg(channel, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (got <= 0)
        return got < 0 ? errno : ECONNRESET;
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    size_t came = header != NULL ? (header->cmsg_len - CMSG_LEN(0)) / sizeof(int) : 0;
    if (header != NULL)
        memcpy(fds, CMSG_DATA(header), came * sizeof(int));
    return came < count ? EMFILE : 0; /* our own table is full */
}

enum { PIDFD, STATUS, LISTENER }; /* what a launch yields */

/* Run the plan, without the GIL: 0, or an errno with *step, and then nothing is left over. */
static int carry_out(struct plan *p, int *fds, const char **step) {
    int channel[2], problem;
    sigset_t all, before;
    *step = "socketpair";
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, channel) < 0)
        return errno;
    p->channel = channel[1];
    p->monitor = getpid();
    p->board->listener = NOT_YET;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    long pid = clone_raw(CLONE_VFORK, NULL);
    if (pid == 0)
        helper(p);
    problem = errno;
    *step = "clone";
    if (pid > 0) {
        waitpid((pid_t)pid, NULL, __WALL); /* gone already; ECHILD if somebody was faster */
        *step = "recvmsg";
        problem = receive_descriptors(channel[0], fds, 2);
        if (problem == 0 && p->board->listener >= 0)
            problem = receive_descriptors(channel[0], &fds[LISTENER], 1);
        if (p->board->listener == NOT_YET) { /* what fails later is read from the board */
            problem = p->board->error != 0 ? p->board->error : ECANCELED; /* or it was killed */
            *step = p->board->error != 0 ? p->board->step : "helper";
        }
    }
    close(channel[0]); /* and with it what came and was not taken */
    close(channel[1]);
    if (problem != 0 && p->board->target > 0) {
        kill(p->board->target, SIGKILL);
        waitpid(p->board->target, NULL, __WALL);
    }
    for (int i = 0; i < 3; i++)
        if (problem != 0 && fds[i] >= 0)
            close(fds[i]);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return problem;
}

/* The strings of a blob, each of which ends in NUL, as a NULL-terminated array. */
static char **split(const char *blob, Py_ssize_t size) {
    char **strings = PyMem_Calloc((size_t)size + 1, sizeof(char *)), **next = strings;
    for (const char *at = blob; strings != NULL && at < blob + size; at += strlen(at) + 1)
        *next++ = (char *)(uintptr_t)at;
    return strings;
}

PyObject *core_launch(PyObject *Py_UNUSED(module), PyObject *args) {
    struct plan p = {0};
    int problem, pid, fds[3] = {-1, -1, -1};
    enum { BOARD, ARGV, CANDIDATES, ENV, CWD, FDS, PROGRAM, UID_MAP, GID_MAP, GROUPS, ALL };
    Py_buffer b[ALL] = {{0}}; /* no '#': what 3.13 builds would then not run on 3.11 */
    const char *step;
    if (!PyArg_ParseTuple(
            args, "w*y*y*y*z*y*z*Iiiz*z*pLLz*LipiiKKi", &b[BOARD], &b[ARGV], &b[CANDIDATES], &b[ENV],
            &b[CWD], &b[FDS], &b[PROGRAM], &p.filter_flags, &p.no_new_privs, &p.namespaces,
            &b[UID_MAP], &b[GID_MAP], &p.deny_setgroups, &p.uid, &p.gid, &b[GROUPS], &p.umask,
            &p.process_group, &p.new_session, &p.foreground_tty, &p.death_signal, &p.ignored_signals,
            &p.blocked_signals, &p.marks))
        return NULL;
    p.board = b[BOARD].buf, p.cwd = b[CWD].buf, p.fds = b[FDS].buf, p.groups = b[GROUPS].buf;
    p.uid_map = b[UID_MAP].buf, p.gid_map = b[GID_MAP].buf, p.program.filter = b[PROGRAM].buf;
    p.program.len = (unsigned short)(b[PROGRAM].len / 8);
    p.fd_count = (size_t)b[FDS].len / sizeof(struct pair);
    p.group_count = (size_t)b[GROUPS].len / sizeof(unsigned int);
    p.argv = split(b[ARGV].buf, b[ARGV].len);
    p.candidates = split(b[CANDIDATES].buf, b[CANDIDATES].len);
    p.env = split(b[ENV].buf, b[ENV].len);
    if (p.argv == NULL || p.candidates == NULL || p.env == NULL) {
        PyErr_NoMemory();
    } else {
        Py_BEGIN_ALLOW_THREADS
        problem = carry_out(&p, fds, &step);
        Py_END_ALLOW_THREADS
        errno = problem;
        if (problem != 0)
            PyErr_SetFromErrnoWithFilename(PyExc_OSError, step);
    }
    PyMem_Free(p.argv), PyMem_Free(p.candidates), PyMem_Free(p.env);
    pid = p.board->target;
    for (int i = 0; i < ALL; i++)
        PyBuffer_Release(&b[i]);
    return PyErr_Occurred() != NULL
        ? NULL : Py_BuildValue("(iiii)", pid, fds[PIDFD], fds[LISTENER], fds[STATUS]);
}
