/* The native core of proctor.  The manual is _core.pyi; this is how it works.
 *
 * Launching.  The hard part is the hand-over: the filter may notify *every* system call, so from
 * the moment seccomp(2) returns the target can do nothing at all (not sendmsg, not close, not
 * execve) until somebody answers, and nobody can before he has the listener.  Hence three
 * processes and a page of shared memory (struct board):
 *
 *   monitor   maps the board, blocks all signals, makes a socket pair and clones the helper with
 *             CLONE_VFORK: when clone returns the helper is gone, and what it said waits in the
 *             socket.  The clone is fork-like (no CLONE_VM) and raw (no atfork handlers): the two
 *             children run async-signal-safe C only, on a copy of our memory.  Exit signal 0, so
 *             that no SIGCHLD handler of the program we live in learns about the helper.
 *   helper    clones the target with CLONE_PARENT (it becomes the *monitor's* child),
 *             CLONE_PIDFD and CLONE_FILES, the namespaces wished for included; sends its pidfd and
 *             the reading end of a pipe to the monitor; writes the ID maps, which must come from
 *             outside; says go; and, itself unfiltered, watches the board.
 *   target    sets itself up step by step, calls seccomp(2), stores the listener's number on the
 *             board, which is a store and no call, and calls execve.  Since the helper shares the
 *             descriptor table, it can send the listener to the monitor, and exits.
 *
 * When the helper exits the table is the target's alone, and execve drops the listener from it
 * (CLOEXEC): no copy stays behind, which would make the target hang if the monitor died.  The
 * pipe's writing end, also CLOEXEC, goes at the same moment: the reading end shows end-of-file
 * once the target execed or died.  The pipe is made in the helper, so that no other thread of the
 * monitor can fork a copy of the writing end into a process that keeps it.
 *
 * Every failure of helper or target is a (step, errno) on the board; the step is a pointer to one
 * of our string constants, which lie at the same address in all three.  A target that failed must
 * never run on: it exits, and if a filter denies even that, it executes an illegal instruction.
 *
 * The engine.  run_once() gives the GIL up once: waits in epoll_pwait(2) and receives all it may
 * receive, then takes the GIL and routes.  Signals are blocked in the thread but while it waits.
 * RECV after POLLIN does not block as long as we are the only reader: the kernel counts what was
 * queued, and a notification cancelled meanwhile gives ENOENT (C044, C077), not silence.
 * SEND does not sleep, so it keeps the GIL; ADDFD waits for the target and gives it up.
 * The engine works on its own duplicate of each listener: closing and reusing the caller's number
 * can never make it talk to another file.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef CLOSE_RANGE_CLOEXEC
#define CLOSE_RANGE_CLOEXEC (1U << 2) /* 5.11 */
#endif
/* Numbers younger than the oldest headers we build with; the layouts are ABI. */
#define IOCTL_RECV 0xC0502100UL
#define IOCTL_SEND 0xC0182101UL
#define IOCTL_ID_VALID 0x40082102UL
#define IOCTL_ID_VALID_FIRST 0x80082102UL /* the wrong direction; the only one before 5.9 */
#define IOCTL_ADDFD 0x40182103UL
#define IOCTL_SET_FLAGS 0x40082104UL
#define SIGNAL_SET_SIZE 8 /* the kernel's sigset_t, for raw calls */

struct addfd {
    uint64_t id;
    uint32_t flags, srcfd, newfd, newfd_flags;
};
_Static_assert(sizeof(struct seccomp_notif) == 80, "struct seccomp_notif");
_Static_assert(sizeof(struct seccomp_notif_resp) == 24, "struct seccomp_notif_resp");
_Static_assert(sizeof(struct addfd) == 24, "struct seccomp_notif_addfd");

typedef struct {
    PyTypeObject *notification, *launch, *engine;
} State;

static PyObject *raise_errno(int number)
{
    errno = number;
    return PyErr_SetFromErrno(PyExc_OSError);
}

/* ---- Notification ------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    struct seccomp_notif raw;
} Notification;

static PyObject *notification_make(PyTypeObject *type, const struct seccomp_notif *raw)
{
    Notification *self = PyObject_New(Notification, type);
    if (self != NULL)
        self->raw = *raw;
    return (PyObject *)self;
}

static PyObject *notification_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"id", "pid", "nr", "arch", "args", "ip", "flags", NULL};
    struct seccomp_notif raw = {0};
    unsigned long long id, ip = 0, a[6] = {0};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "KIiI|(KKKKKK)KI", names, &id, &raw.pid,
                                     &raw.data.nr, &raw.data.arch, &a[0], &a[1], &a[2], &a[3],
                                     &a[4], &a[5], &ip, &raw.flags))
        return NULL;
    raw.id = id;
    raw.data.instruction_pointer = ip;
    for (int i = 0; i < 6; i++)
        raw.data.args[i] = a[i];
    return notification_make(type, &raw);
}

static void notification_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyObject *notification_args(PyObject *self, void *unused)
{
    (void)unused;
    const __u64 *a = ((Notification *)self)->raw.data.args;
    return Py_BuildValue("(KKKKKK)", a[0], a[1], a[2], a[3], a[4], a[5]);
}

static PyObject *notification_repr(PyObject *self)
{
    const struct seccomp_notif *raw = &((Notification *)self)->raw;
    return PyUnicode_FromFormat("<Notification id=%llu pid=%u nr=%d arch=0x%x>", raw->id, raw->pid,
                                raw->data.nr, raw->data.arch);
}

#define FIELD(name, type, member) {name, type, offsetof(Notification, raw.member), READONLY, NULL}
static PyMemberDef notification_members[] = {
    FIELD("id", T_ULONGLONG, id),     FIELD("pid", T_UINT, pid),
    FIELD("flags", T_UINT, flags),    FIELD("nr", T_INT, data.nr),
    FIELD("arch", T_UINT, data.arch), FIELD("ip", T_ULONGLONG, data.instruction_pointer),
    {NULL, 0, 0, 0, NULL},
};
static PyGetSetDef notification_getset[] = {
    {"args", notification_args, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyType_Slot notification_slots[] = {
    {Py_tp_new, notification_new},
    {Py_tp_dealloc, notification_dealloc},
    {Py_tp_repr, notification_repr},
    {Py_tp_members, notification_members},
    {Py_tp_getset, notification_getset},
    {0, NULL},
};
static PyType_Spec notification_spec = {
    "proctor.kernel._core.Notification", sizeof(Notification), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, notification_slots,
};

/* ---- seccomp(2) --------------------------------------------------------------------------- */

static PyObject *core_seccomp(PyObject *module, PyObject *args)
{
    (void)module;
    unsigned int operation, flags;
    PyObject *argument = Py_None;
    Py_buffer buffer = {0};
    void *address = NULL;
    if (!PyArg_ParseTuple(args, "II|O", &operation, &flags, &argument))
        return NULL;
    if (PyLong_Check(argument)) {
        address = (void *)(uintptr_t)PyLong_AsUnsignedLongLongMask(argument);
    } else if (argument != Py_None) {
        int want = PyBytes_Check(argument) ? PyBUF_SIMPLE : PyBUF_WRITABLE;
        if (PyObject_GetBuffer(argument, &buffer, want) < 0)
            return NULL;
        address = buffer.buf;
    }
    long result = syscall(SYS_seccomp, operation, flags, address);
    int number = errno;
    if (buffer.obj != NULL)
        PyBuffer_Release(&buffer);
    return result < 0 ? raise_errno(number) : PyLong_FromLong(result);
}

/* Packed sock_filter bytes as a sock_fprog, which points into them; false: exception set. */
static bool as_program(const char *code, Py_ssize_t size, struct sock_fprog *program)
{
    if (size % (Py_ssize_t)sizeof(struct sock_filter) != 0 || size / 8 > USHRT_MAX) {
        raise_errno(EINVAL); /* what the kernel says to a length it does not like */
        return false;
    }
    program->len = (unsigned short)(size / (Py_ssize_t)sizeof(struct sock_filter));
    program->filter = (struct sock_filter *)(uintptr_t)code;
    return true;
}

static PyObject *core_install(PyObject *module, PyObject *args)
{
    (void)module;
    const char *code;
    Py_ssize_t size;
    unsigned int flags;
    struct sock_fprog program;
    if (!PyArg_ParseTuple(args, "y#I", &code, &size, &flags) || !as_program(code, size, &program))
        return NULL;
    long result = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
    return result < 0 ? PyErr_SetFromErrno(PyExc_OSError) : PyLong_FromLong(result);
}

/* ---- The listener ------------------------------------------------------------------------- */

static PyObject *core_recv(PyObject *module, PyObject *args)
{
    struct seccomp_notif raw = {0};
    int fd, result;
    if (!PyArg_ParseTuple(args, "i", &fd))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    result = ioctl(fd, IOCTL_RECV, &raw);
    Py_END_ALLOW_THREADS
    if (result < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    return notification_make(((State *)PyModule_GetState(module))->notification, &raw);
}

/* SEND; 0 or the errno.  EINTR means the listener's lock was busy: nothing happened yet. */
static int answer(int fd, uint64_t id, int64_t value, int32_t error, uint32_t flags)
{
    struct seccomp_notif_resp response = {.id = id, .val = value, .error = error, .flags = flags};
    while (ioctl(fd, IOCTL_SEND, &response) < 0)
        if (errno != EINTR)
            return errno;
    return 0;
}

static PyObject *core_send(PyObject *module, PyObject *args)
{
    (void)module;
    int fd, error;
    unsigned long long id;
    long long value;
    unsigned int flags;
    if (!PyArg_ParseTuple(args, "iKLiI", &fd, &id, &value, &error, &flags))
        return NULL;
    int number = answer(fd, id, value, error, flags);
    if (number != 0)
        return raise_errno(number);
    Py_RETURN_NONE;
}

/* ID_VALID; 0, or the errno (ENOENT: not received, answered, or gone). */
static int id_valid(int fd, uint64_t id)
{
    int result;
    do
        result = ioctl(fd, IOCTL_ID_VALID, &id);
    while (result < 0 && errno == EINTR);
    if (result < 0 && errno == EINVAL)
        result = ioctl(fd, IOCTL_ID_VALID_FIRST, &id);
    return result < 0 ? errno : 0;
}

static PyObject *core_id_valid(PyObject *module, PyObject *args)
{
    (void)module;
    int fd;
    unsigned long long id;
    if (!PyArg_ParseTuple(args, "iK", &fd, &id))
        return NULL;
    int number = id_valid(fd, id);
    if (number != 0 && number != ENOENT)
        return raise_errno(number);
    return PyBool_FromLong(number == 0);
}

static PyObject *core_addfd(PyObject *module, PyObject *args)
{
    (void)module;
    int fd, result, number;
    unsigned long long id;
    struct addfd request;
    sigset_t all, before;
    if (!PyArg_ParseTuple(args, "iKIIII", &fd, &id, &request.srcfd, &request.flags, &request.newfd,
                          &request.newfd_flags))
        return NULL;
    request.id = id;
    Py_BEGIN_ALLOW_THREADS
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    result = ioctl(fd, IOCTL_ADDFD, &request);
    number = errno;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    Py_END_ALLOW_THREADS
    return result < 0 ? raise_errno(number) : PyLong_FromLong(result);
}

static PyObject *core_set_flags(PyObject *module, PyObject *args)
{
    (void)module;
    int fd;
    unsigned long flags;
    if (!PyArg_ParseTuple(args, "ik", &fd, &flags))
        return NULL;
    if (ioctl(fd, IOCTL_SET_FLAGS, flags) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

static PyObject *core_pidfd_open(PyObject *module, PyObject *args)
{
    (void)module;
    int pid;
    unsigned int flags;
    if (!PyArg_ParseTuple(args, "iI", &pid, &flags))
        return NULL;
    long fd = syscall(SYS_pidfd_open, pid, flags);
    return fd < 0 ? PyErr_SetFromErrno(PyExc_OSError) : PyLong_FromLong(fd);
}

static PyObject *core_pidfd_getfd(PyObject *module, PyObject *args)
{
    (void)module;
    int pidfd, fd;
    if (!PyArg_ParseTuple(args, "ii", &pidfd, &fd))
        return NULL;
    long copy = syscall(SYS_pidfd_getfd, pidfd, fd, 0);
    return copy < 0 ? PyErr_SetFromErrno(PyExc_OSError) : PyLong_FromLong(copy);
}

/* ---- A caller's memory -------------------------------------------------------------------- */
/* Without the GIL throughout: a hostile target can back its memory with something that answers
 * late or never (userfaultfd, FUSE), and then only the reading thread may wait. */

static long page_size;

/* Up to size bytes; the count, or a negative errno. */
static ssize_t peek(pid_t pid, uint64_t address, void *into, size_t size)
{
    struct iovec here = {into, size}, there = {(void *)(uintptr_t)address, size};
    if (size == 0)
        return 0;
    ssize_t got = process_vm_readv(pid, &here, 1, &there, 1, 0);
    if (got >= 0 || (errno != EPERM && errno != ENOSYS))
        return got >= 0 ? got : -errno;
    char path[40]; /* another permission check applies here, and no Yama */
    snprintf(path, sizeof path, "/proc/%d/mem", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? -ESRCH : -errno;
    got = address > INT64_MAX ? -EFAULT : pread(fd, into, size, (off_t)address);
    if (got < 0 && got != -EFAULT)
        got = errno == EIO ? -EFAULT : -errno;
    close(fd);
    return got == 0 ? -ESRCH : got; /* nothing to read at all: the address space is gone */
}

/* A buffer that grows as far as memory is really there, not as far as a target claims. */
struct bytes {
    char *start;
    size_t used, room;
    char first[4096];
};

static bool reserve(struct bytes *b, size_t more)
{
    if (b->used + more <= b->room)
        return true;
    size_t room = b->room;
    while (room < b->used + more)
        room *= 2;
    char *grown = realloc(b->start == b->first ? NULL : b->start, room);
    if (grown == NULL)
        return false;
    if (b->start == b->first)
        memcpy(grown, b->first, b->used);
    b->start = grown;
    b->room = room;
    return true;
}

static void bytes_init(struct bytes *b)
{
    b->start = b->first;
    b->used = 0;
    b->room = sizeof b->first;
}

static void bytes_free(struct bytes *b)
{
    if (b->start != b->first)
        free(b->start);
}

/* Everything from address up to size bytes or to the end of mapped memory: 0 or an errno. */
static int gather(pid_t pid, uint64_t address, size_t size, struct bytes *b)
{
    while (b->used < size) {
        size_t step = b->used == 0 ? sizeof b->first : b->used; /* double at each round */
        if (step > size - b->used)
            step = size - b->used;
        if (!reserve(b, step))
            return ENOMEM;
        ssize_t got = peek(pid, address + b->used, b->start + b->used, step);
        if (got < 0)
            return b->used > 0 && got == -EFAULT ? 0 : (int)-got;
        b->used += (size_t)got;
        if ((size_t)got < step)
            break;
    }
    return 0;
}

static bool is_zero(const char *element, size_t width)
{
    static const char zeros[8];
    return memcmp(element, zeros, width) == 0;
}

/* Elements of width bytes up to a zero one, which is left out: 0, EFAULT or E2BIG (no zero within
 * limit bytes).  Page by page: what lies on the page after the zero is not touched. */
static int gather_until_zero(pid_t pid, uint64_t address, size_t limit, size_t width,
                             struct bytes *b)
{
    for (size_t seen = 0; b->used < limit;) {
        size_t step = (size_t)page_size - (size_t)((address + b->used) & (uint64_t)(page_size - 1));
        if (step > limit - b->used)
            step = limit - b->used;
        if (!reserve(b, step))
            return ENOMEM;
        ssize_t got = peek(pid, address + b->used, b->start + b->used, step);
        if (got <= 0)
            return got < 0 ? (int)-got : EFAULT;
        b->used += (size_t)got;
        if (width == 1) {
            char *zero = memchr(b->start + seen, 0, b->used - seen);
            seen = zero != NULL ? (size_t)(zero - b->start) : b->used;
        } else {
            while (seen + width <= b->used && !is_zero(b->start + seen, width))
                seen += width;
        }
        if (seen + width <= b->used) {
            b->used = seen;
            return 0;
        }
    }
    return E2BIG;
}

static int read_either(pid_t pid, uint64_t address, Py_ssize_t limit, bool string, struct bytes *b)
{
    if (limit < 0)
        return EINVAL;
    if (!string)
        return gather(pid, address, (size_t)limit, b);
    int number = gather_until_zero(pid, address, (size_t)limit, 1, b);
    return number == E2BIG ? ENAMETOOLONG : number;
}

static PyObject *bytes_result(struct bytes *b, int number)
{
    PyObject *result = number != 0
        ? raise_errno(number)
        : PyBytes_FromStringAndSize(b->start, (Py_ssize_t)b->used);
    bytes_free(b);
    return result;
}

static PyObject *read_into_bytes(PyObject *args, bool string)
{
    int pid, number;
    unsigned long long address;
    Py_ssize_t limit;
    struct bytes b;
    if (!PyArg_ParseTuple(args, "iKn", &pid, &address, &limit))
        return NULL;
    bytes_init(&b);
    Py_BEGIN_ALLOW_THREADS
    number = read_either(pid, address, limit, string, &b);
    Py_END_ALLOW_THREADS
    return bytes_result(&b, number);
}

static PyObject *core_read_memory(PyObject *module, PyObject *args)
{
    (void)module;
    return read_into_bytes(args, false);
}

static PyObject *core_read_string(PyObject *module, PyObject *args)
{
    (void)module;
    return read_into_bytes(args, true);
}

static PyObject *core_read_checked(PyObject *module, PyObject *args)
{
    (void)module;
    int listener, pid, string, number, valid;
    unsigned long long id, address;
    Py_ssize_t limit;
    struct bytes b;
    if (!PyArg_ParseTuple(args, "iKiKnp", &listener, &id, &pid, &address, &limit, &string))
        return NULL;
    bytes_init(&b);
    Py_BEGIN_ALLOW_THREADS
    number = read_either(pid, address, limit, string != 0, &b);
    valid = id_valid(listener, id);
    Py_END_ALLOW_THREADS
    return bytes_result(&b, valid != 0 ? valid : number);
}

static uint64_t word_at(const char *at, int width)
{
    uint32_t narrow;
    uint64_t wide;
    if (width == 8) {
        memcpy(&wide, at, sizeof wide);
        return wide;
    }
    memcpy(&narrow, at, sizeof narrow);
    return narrow;
}

static bool check_array(Py_ssize_t count, int width)
{
    if (count >= 0 && count <= INT_MAX && (width == 4 || width == 8))
        return true;
    raise_errno(EINVAL);
    return false;
}

static PyObject *core_read_pointers(PyObject *module, PyObject *args)
{
    (void)module;
    int pid, width, number;
    unsigned long long address;
    Py_ssize_t limit;
    struct bytes b;
    if (!PyArg_ParseTuple(args, "iKni", &pid, &address, &limit, &width)
        || !check_array(limit, width))
        return NULL;
    bytes_init(&b);
    Py_BEGIN_ALLOW_THREADS
    number = gather_until_zero(pid, address, (size_t)limit * (size_t)width, (size_t)width, &b);
    Py_END_ALLOW_THREADS
    PyObject *list = number != 0 ? raise_errno(number) : PyList_New(0);
    for (size_t at = 0; list != NULL && at < b.used; at += (size_t)width) {
        PyObject *word = PyLong_FromUnsignedLongLong(word_at(b.start + at, width));
        if (word == NULL || PyList_Append(list, word) < 0)
            Py_CLEAR(list);
        Py_XDECREF(word);
    }
    bytes_free(&b);
    return list;
}

static PyObject *core_read_strings(PyObject *module, PyObject *args)
{
    (void)module;
    int pid, width, number;
    unsigned long long address;
    Py_ssize_t limit, total;
    struct bytes pointers;
    if (!PyArg_ParseTuple(args, "iKnni", &pid, &address, &limit, &total, &width)
        || !check_array(limit, width) || !check_array(total, width))
        return NULL;
    bytes_init(&pointers);
    Py_BEGIN_ALLOW_THREADS
    number = gather_until_zero(pid, address, (size_t)limit * (size_t)width, (size_t)width,
                               &pointers);
    Py_END_ALLOW_THREADS
    PyObject *list = number != 0 ? raise_errno(number) : PyList_New(0);
    for (size_t at = 0; list != NULL && at < pointers.used; at += (size_t)width) {
        struct bytes b;
        bytes_init(&b);
        Py_BEGIN_ALLOW_THREADS
        number = gather_until_zero(pid, word_at(pointers.start + at, width), (size_t)total, 1, &b);
        Py_END_ALLOW_THREADS
        total -= (Py_ssize_t)b.used;
        PyObject *string = bytes_result(&b, number);
        if (string == NULL || PyList_Append(list, string) < 0)
            Py_CLEAR(list);
        Py_XDECREF(string);
    }
    bytes_free(&pointers);
    return list;
}

static PyObject *core_read_iovec(PyObject *module, PyObject *args)
{
    (void)module;
    int pid, width, number;
    unsigned long long address;
    Py_ssize_t count;
    struct bytes b;
    if (!PyArg_ParseTuple(args, "iKni", &pid, &address, &count, &width)
        || !check_array(count <= 1024 ? count : -1, width))
        return NULL;
    bytes_init(&b);
    size_t size = (size_t)count * 2 * (size_t)width;
    Py_BEGIN_ALLOW_THREADS
    number = gather(pid, address, size, &b);
    Py_END_ALLOW_THREADS
    if (number == 0 && b.used < size)
        number = EFAULT;
    PyObject *list = number != 0 ? raise_errno(number) : PyList_New(0);
    for (size_t at = 0; list != NULL && at < size; at += 2 * (size_t)width) {
        PyObject *pair = Py_BuildValue("(KK)", word_at(b.start + at, width),
                                       word_at(b.start + at + width, width));
        if (pair == NULL || PyList_Append(list, pair) < 0)
            Py_CLEAR(list);
        Py_XDECREF(pair);
    }
    bytes_free(&b);
    return list;
}

/* ---- Launching: helper and target --------------------------------------------------------- */

enum { NOT_YET = -2, NO_LISTENER = -1 };

struct board { /* shared by monitor, helper and target; the target loses it by execve */
    atomic_int go;       /* set by the helper, which also wakes: the ID maps are written */
    atomic_int listener; /* set by the target: NOT_YET, NO_LISTENER or a number in its table */
    atomic_int error;    /* set with step by whoever failed */
    const char *_Atomic step;
};

struct pair {
    int ours, theirs, staged;
};

struct plan { /* all that helper and target need, laid out before the clone */
    struct board *board;
    int channel;
    pid_t monitor;
    char **argv, **candidates, **env;
    const char *cwd, *uid_map, *gid_map;
    struct pair *fds;
    size_t fd_count;
    struct sock_fprog program;
    bool filtered, deny_setgroups, new_session;
    unsigned int filter_flags;
    int no_new_privs; /* 1, 0, or -1: only if the kernel asks for it */
    int namespaces, foreground_tty, process_group, parent_death_signal, group_count;
    long long uid, gid, umask;
    unsigned long long ignored_signals;
    unsigned int *groups;
};

/* Neither redzones nor runtime calls in the children: sanitizers may make system calls there. */
#define IN_CHILD static __attribute__((no_sanitize("address", "undefined")))

IN_CHILD void record(struct board *board, const char *step, int number)
{
    board->step = step;
    atomic_store(&board->error, number);
}

IN_CHILD _Noreturn void fail(struct board *board, const char *step, int number)
{
    record(board, step, number);
    for (;;) { /* a filter may make exit_group fail, or "succeed" without doing anything */
        syscall(SYS_exit_group, 127);
        __builtin_trap();
    }
}

#define TRY(step, call)                       \
    do {                                      \
        if ((call) < 0)                       \
            fail(p->board, step, errno);      \
    } while (0)

/* A CLOEXEC duplicate of fd at a number that is not a target's, so that dup3 cannot hit it. */
IN_CHILD int stage(const struct plan *p, int fd)
{
    long copy = syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 3);
    for (size_t i = 0; copy >= 0 && i < p->fd_count; i++) {
        if (p->fds[i].theirs != copy)
            continue;
        long next = syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, copy + 1);
        int number = errno;
        syscall(SYS_close, copy);
        errno = number;
        copy = next;
        i = (size_t)-1; /* look through all of them again */
    }
    return (int)copy;
}

IN_CHILD void place_descriptors(struct plan *p)
{
    for (size_t i = 0; i < p->fd_count; i++)
        TRY("dup2", p->fds[i].staged = stage(p, p->fds[i].ours));
    if (syscall(SYS_close_range, 0, ~0U, CLOSE_RANGE_CLOEXEC) < 0) { /* before 5.11 */
        struct rlimit limit;
        TRY("close_range", syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, NULL, &limit));
        for (rlim_t n = 0; n < limit.rlim_cur; n++)
            syscall(SYS_fcntl, n, F_SETFD, FD_CLOEXEC);
    }
    for (size_t i = 0; i < p->fd_count; i++)
        TRY("dup2", syscall(SYS_dup3, p->fds[i].staged, p->fds[i].theirs, 0));
}

IN_CHILD void reset_signals(const struct plan *p)
{
    for (int number = 1; number <= 64; number++) {
        /* The kernel's struct sigaction; the handler comes first on all our architectures. */
        unsigned long action[8] = {(p->ignored_signals >> (number - 1)) & 1 ? 1 : 0};
        syscall(SYS_rt_sigaction, number, action, NULL, SIGNAL_SET_SIZE); /* KILL, STOP: EINVAL */
    }
}

IN_CHILD _Noreturn void target(struct plan *p)
{
    struct board *board = p->board;
    struct timespec patience = {30, 0}; /* only a helper killed from outside never says go */
    while (atomic_load(&board->go) == 0)
        if (syscall(SYS_futex, &board->go, FUTEX_WAIT, 0, &patience, NULL, 0) < 0
            && errno == ETIMEDOUT)
            fail(board, "helper", ETIMEDOUT);

    if (p->new_session)
        TRY("setsid", syscall(SYS_setsid));
    else if (p->process_group >= 0)
        TRY("setpgid", syscall(SYS_setpgid, 0, p->process_group));
    if (p->foreground_tty >= 0) { /* every signal is blocked, SIGTTOU too */
        if (p->new_session)
            TRY("tiocsctty", syscall(SYS_ioctl, p->foreground_tty, TIOCSCTTY, 0));
        int group = (int)syscall(SYS_getpgid, 0);
        TRY("tcsetpgrp", syscall(SYS_ioctl, p->foreground_tty, TIOCSPGRP, &group));
    }
    if (p->namespaces & CLONE_NEWNS) /* as unshare(1): what we mount must not come out */
        TRY("mount", syscall(SYS_mount, "none", "/", NULL, MS_REC | MS_PRIVATE, NULL));
    place_descriptors(p);
    if (p->group_count >= 0)
        TRY("setgroups", syscall(SYS_setgroups, p->group_count, p->groups));
    if (p->gid >= 0)
        TRY("setgid", syscall(SYS_setresgid, p->gid, p->gid, p->gid));
    if (p->uid >= 0)
        TRY("setuid", syscall(SYS_setresuid, p->uid, p->uid, p->uid));
    if (p->umask >= 0)
        syscall(SYS_umask, p->umask);
    if (p->cwd != NULL)
        TRY("chdir", syscall(SYS_chdir, p->cwd));
    reset_signals(p);
    if (p->parent_death_signal != 0) { /* after setuid, which clears it */
        TRY("pdeathsig", syscall(SYS_prctl, PR_SET_PDEATHSIG, p->parent_death_signal, 0, 0, 0));
        if (!(p->namespaces & CLONE_NEWPID) && syscall(SYS_getppid) != p->monitor)
            fail(board, "pdeathsig", ESRCH);
    }
    if (p->no_new_privs == 1)
        TRY("no_new_privs", syscall(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    unsigned long no_signals = 0;
    TRY("sigprocmask",
        syscall(SYS_rt_sigprocmask, SIG_SETMASK, &no_signals, NULL, SIGNAL_SET_SIZE));

    long listener = NO_LISTENER;
    if (p->filtered) {
        long set = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, p->filter_flags, &p->program);
        if (set < 0 && errno == EACCES && p->no_new_privs < 0) {
            TRY("no_new_privs", syscall(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
            set = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, p->filter_flags, &p->program);
        }
        TRY("seccomp", set);
        if (p->filter_flags & SECCOMP_FILTER_FLAG_NEW_LISTENER)
            listener = set;
    }
    /* From here on every system call may be notified: none but execve, as execvp(3) does it. */
    atomic_store(&board->listener, (int)listener);
    int number = ENOENT;
    bool denied = false;
    for (char **path = p->candidates; *path != NULL; path++) {
        syscall(SYS_execve, *path, p->argv, p->env);
        number = errno;
        denied = denied || number == EACCES;
        if (number != EACCES && number != ENOENT && number != ENOTDIR && number != ENODEV
            && number != ESTALE && number != ETIMEDOUT)
            fail(board, "execve", number);
    }
    fail(board, "execve", denied ? EACCES : number);
}

IN_CHILD long clone_raw(unsigned long flags, int *pidfd)
{
    /* The order of the last two arguments varies; both are unused. */
#if defined(__s390__)
    return syscall(SYS_clone, NULL, flags, pidfd, NULL, NULL);
#else
    return syscall(SYS_clone, flags, NULL, pidfd, NULL, NULL);
#endif
}

IN_CHILD long send_descriptors(int channel, pid_t pid, const int *fds, size_t count)
{
    union {
        char room[CMSG_SPACE(2 * sizeof(int))];
        struct cmsghdr aligned;
    } control = {{0}};
    struct iovec data = {&pid, sizeof pid};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control,
                             .msg_controllen = CMSG_SPACE(count * sizeof(int))};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(count * sizeof(int));
    for (size_t i = 0; i < count; i++)
        ((int *)CMSG_DATA(header))[i] = fds[i];
    return syscall(SYS_sendmsg, channel, &message, MSG_NOSIGNAL);
}

/* Write one of /proc/PID/{setgroups,uid_map,gid_map} in one write, as the kernel demands. */
IN_CHILD bool write_map(struct plan *p, pid_t pid, const char *name, const char *text)
{
    char path[48] = "/proc/", digits[12], *at = path + 6;
    int count = 0;
    size_t size = 0;
    for (; pid > 0; pid /= 10)
        digits[count++] = (char)('0' + pid % 10);
    while (count > 0)
        *at++ = digits[--count];
    *at++ = '/';
    for (const char *c = name; *c != 0; c++)
        *at++ = *c;
    while (text[size] != 0)
        size++;
    long fd = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CLOEXEC);
    if (fd >= 0 && syscall(SYS_write, fd, text, size) == (long)size) {
        syscall(SYS_close, fd);
        return true;
    }
    record(p->board, name, errno);
    return false;
}

IN_CHILD _Noreturn void helper(struct plan *p)
{
    int status[2] = {-1, -1}, pidfd = -1, channel;
    TRY("dup2", channel = stage(p, p->channel));
    TRY("pipe2", syscall(SYS_pipe2, status, O_CLOEXEC));
    TRY("dup2", status[0] = stage(p, status[0]));
    TRY("dup2", stage(p, status[1])); /* stays in the target's table until it execs */
    long pid = clone_raw(CLONE_FILES | CLONE_PARENT | CLONE_PIDFD | (unsigned long)p->namespaces,
                         &pidfd);
    TRY("clone", pid);
    if (pid == 0)
        target(p);
    /* It waits for us to say go; whatever fails now must end it. */
    int fds[2] = {stage(p, pidfd), status[0]};
    bool good = fds[0] >= 0 && send_descriptors(channel, (pid_t)pid, fds, 2) >= 0;
    if (!good)
        record(p->board, "sendmsg", errno);
    good = good && (!p->deny_setgroups || write_map(p, (pid_t)pid, "setgroups", "deny"))
        && (p->uid_map == NULL || write_map(p, (pid_t)pid, "uid_map", p->uid_map))
        && (p->gid_map == NULL || write_map(p, (pid_t)pid, "gid_map", p->gid_map));
    if (!good) {
        syscall(SYS_kill, pid, SIGKILL); /* the number is its own: nobody reaped it yet */
        syscall(SYS_exit_group, 1);
    }
    syscall(SYS_close, status[0]);
    atomic_store(&p->board->go, 1);
    syscall(SYS_futex, &p->board->go, FUTEX_WAKE, 1, NULL, NULL, 0);

    /* Setting up takes well under a millisecond; a stuck file system may make it long. */
    struct pollfd watched = {.fd = fds[0], .events = POLLIN};
    struct timespec pause = {0, 20000};
    while (p->board->listener == NOT_YET && p->board->error == 0) {
        struct timespec left = pause; /* ppoll(2) writes to it */
        bool dead = syscall(SYS_ppoll, &watched, 1, &left, NULL, 0) > 0;
        if (dead && p->board->listener == NOT_YET && p->board->error == 0)
            fail(p->board, "setup", ESRCH); /* killed on the way */
        if (pause.tv_nsec < 5000000)
            pause.tv_nsec += pause.tv_nsec / 4;
    }
    int listener = p->board->listener;
    if (listener >= 0 && send_descriptors(channel, (pid_t)pid, &listener, 1) < 0)
        record(p->board, "sendmsg", errno);
    syscall(SYS_exit_group, 0);
    __builtin_unreachable();
}

/* ---- Launching: the monitor --------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    struct board *board;
    int pid, pidfd, listener, status_fd;
} Launch;

static PyMemberDef launch_members[] = {
    {"pid", T_INT, offsetof(Launch, pid), READONLY, NULL},
    {"pidfd", T_INT, offsetof(Launch, pidfd), READONLY, NULL},
    {"listener", T_INT, offsetof(Launch, listener), READONLY, NULL},
    {"status_fd", T_INT, offsetof(Launch, status_fd), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyObject *launch_failure(PyObject *self, PyObject *unused)
{
    (void)unused;
    struct board *board = ((Launch *)self)->board;
    int number = atomic_load(&board->error);
    if (number == 0)
        Py_RETURN_NONE;
    return Py_BuildValue("(si)", board->step, number);
}

static void launch_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    munmap(((Launch *)self)->board, sizeof(struct board));
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyMethodDef launch_methods[] = {
    {"failure", launch_failure, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot launch_slots[] = {
    {Py_tp_dealloc, launch_dealloc},
    {Py_tp_members, launch_members},
    {Py_tp_methods, launch_methods},
    {0, NULL},
};
static PyType_Spec launch_spec = {
    "proctor.kernel._core.Launch", sizeof(Launch), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    launch_slots,
};

/* What waits in the channel; 0 or an errno (EAGAIN: nothing).  fds are -1 where none came. */
static int receive_descriptors(int channel, int *pid, int *fds, size_t count)
{
    union {
        char room[CMSG_SPACE(2 * sizeof(int))];
        struct cmsghdr aligned;
    } control;
    struct iovec data = {pid, sizeof *pid};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control,
                             .msg_controllen = sizeof control};
    ssize_t got = recvmsg(channel, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (got <= 0)
        return got < 0 ? errno : ECONNRESET;
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    size_t came = header != NULL ? (header->cmsg_len - CMSG_LEN(0)) / sizeof(int) : 0;
    for (size_t i = 0; i < count && i < came; i++)
        fds[i] = ((int *)CMSG_DATA(header))[i];
    return came < count ? EMFILE : 0; /* our own table is full */
}

/* Run the plan, without the GIL.  0, or an errno with *step; then nothing is left over. */
static int carry_out(struct plan *p, Launch *launch, const char **step)
{
    int channel[2], number, fds[2] = {-1, -1};
    sigset_t all, before;
    *step = "socketpair";
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, channel) < 0)
        return errno;
    p->channel = channel[1];
    p->monitor = getpid();
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    long pid = clone_raw(CLONE_VFORK, NULL);
    if (pid == 0)
        helper(p);
    number = errno;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    close(channel[1]);
    *step = "clone";
    if (pid < 0) {
        close(channel[0]);
        return number;
    }
    waitpid((pid_t)pid, NULL, __WALL); /* gone already; ECHILD if somebody was faster */

    *step = "recvmsg";
    number = receive_descriptors(channel[0], &launch->pid, fds, 2);
    launch->pidfd = fds[0];
    launch->status_fd = fds[1];
    if (number == 0 && p->board->listener >= 0)
        number = receive_descriptors(channel[0], &launch->pid, &launch->listener, 1);
    else if (number == 0 && p->board->listener == NOT_YET && p->board->error == 0)
        number = ECANCELED; /* somebody killed the helper */
    if (p->board->listener == NOT_YET && p->board->error != 0) {
        number = p->board->error; /* later failures are the Launch's to tell */
        *step = p->board->step;
    }
    close(channel[0]); /* and with it what came and was not taken */
    if (number == 0)
        return 0;
    if (launch->pid > 0) {
        kill(launch->pid, SIGKILL);
        while (waitpid(launch->pid, NULL, __WALL) < 0 && errno == EINTR)
            ;
    }
    for (int *fd = &launch->pidfd; fd <= &launch->status_fd; fd++)
        if (*fd >= 0)
            close(*fd);
    return number;
}

/* Room that lives as long as keep, a list. */
static void *scratch(PyObject *keep, size_t size)
{
    PyObject *room = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size + 1);
    void *start = room != NULL && PyList_Append(keep, room) == 0 ? PyBytes_AsString(room) : NULL;
    Py_XDECREF(room);
    return start;
}

/* A tuple of the items, kept; its length in *count. */
static PyObject *items_of(PyObject *keep, PyObject *sequence, size_t *count)
{
    PyObject *items = PySequence_Tuple(sequence);
    if (items == NULL || PyList_Append(keep, items) < 0) {
        Py_XDECREF(items);
        return NULL;
    }
    Py_DECREF(items);
    *count = (size_t)PyTuple_Size(items);
    return items;
}

/* The bytes without an inner NUL; None leaves *text as it is. */
static bool text_of(PyObject *object, const char **text)
{
    return object == Py_None || PyBytes_AsStringAndSize(object, (char **)text, NULL) == 0;
}

static char **strings_of(PyObject *keep, PyObject *sequence)
{
    size_t count;
    PyObject *items = items_of(keep, sequence, &count);
    char **strings = items != NULL ? scratch(keep, (count + 1) * sizeof(char *)) : NULL;
    for (size_t i = 0; strings != NULL && i < count; i++)
        if (PyBytes_AsStringAndSize(PyTuple_GetItem(items, (Py_ssize_t)i), &strings[i], NULL) < 0)
            return NULL;
    if (strings != NULL)
        strings[count] = NULL;
    return strings;
}

static bool fds_of(PyObject *keep, PyObject *sequence, struct plan *p)
{
    PyObject *items = items_of(keep, sequence, &p->fd_count);
    if (items == NULL || (p->fds = scratch(keep, p->fd_count * sizeof(struct pair))) == NULL)
        return false;
    for (size_t i = 0; i < p->fd_count; i++) {
        PyObject *item = PyTuple_GetItem(items, (Py_ssize_t)i);
        if (!PyTuple_Check(item)) {
            PyErr_SetString(PyExc_TypeError, "fds must be a sequence of (ours, target's) tuples");
            return false;
        }
        if (!PyArg_ParseTuple(item, "ii", &p->fds[i].ours, &p->fds[i].theirs))
            return false;
        /* Now, since the numbers of closed ones are about to be taken by descriptors of ours. */
        if (fcntl(p->fds[i].ours, F_GETFD) < 0) {
            PyErr_SetFromErrnoWithFilename(PyExc_OSError, "dup2");
            return false;
        }
    }
    return true;
}

static bool groups_of(PyObject *keep, PyObject *sequence, struct plan *p)
{
    size_t count;
    p->group_count = -1;
    if (sequence == Py_None)
        return true;
    PyObject *items = items_of(keep, sequence, &count);
    if (items == NULL || (p->groups = scratch(keep, count * sizeof(unsigned int))) == NULL)
        return false;
    p->group_count = (int)count;
    for (size_t i = 0; i < count; i++)
        p->groups[i] = (unsigned int)PyLong_AsUnsignedLong(PyTuple_GetItem(items, (Py_ssize_t)i));
    return PyErr_Occurred() == NULL;
}

static PyObject *launch_with(PyObject *module, PyObject *keep, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {
        "argv", "candidates", "env", "cwd", "fds", "program", "filter_flags", "no_new_privs",
        "namespaces", "uid_map", "gid_map", "deny_setgroups", "uid", "gid", "groups", "umask",
        "process_group", "new_session", "foreground_tty", "parent_death_signal",
        "ignored_signals", NULL};
    extern char **environ;
    PyObject *argv, *candidates = NULL, *env = Py_None, *cwd = Py_None, *fds = NULL;
    PyObject *program = Py_None, *no_new_privs = Py_None, *uid_map = Py_None, *gid_map = Py_None;
    PyObject *groups = Py_None;
    int deny_setgroups = 0, new_session = 0, number;
    struct pair standard[3] = {{0, 0, -1}, {1, 1, -1}, {2, 2, -1}};
    struct plan p = {.uid = -1, .gid = -1, .umask = -1, .process_group = -1, .foreground_tty = -1,
                     .fds = standard, .fd_count = 3};
    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "O|$OOOOOIOiOOpLLOLipiiK", names, &argv, &candidates, &env, &cwd, &fds,
            &program, &p.filter_flags, &no_new_privs, &p.namespaces, &uid_map, &gid_map,
            &deny_setgroups, &p.uid, &p.gid, &groups, &p.umask, &p.process_group, &new_session,
            &p.foreground_tty, &p.parent_death_signal, &p.ignored_signals))
        return NULL;
    p.deny_setgroups = deny_setgroups;
    p.new_session = new_session;
    p.no_new_privs = no_new_privs == Py_None ? -1 : PyObject_IsTrue(no_new_privs);
    p.filtered = program != Py_None;
    p.env = environ;
    if (candidates == NULL) {
        PyErr_SetString(PyExc_TypeError, "launch() needs candidates");
        return NULL;
    }
    if ((p.argv = strings_of(keep, argv)) == NULL
        || (p.candidates = strings_of(keep, candidates)) == NULL
        || (env != Py_None && (p.env = strings_of(keep, env)) == NULL)
        || !text_of(cwd, &p.cwd) || !text_of(uid_map, &p.uid_map) || !text_of(gid_map, &p.gid_map)
        || (fds != NULL && !fds_of(keep, fds, &p)) || !groups_of(keep, groups, &p))
        return NULL;
    if (p.filtered) {
        char *code;
        Py_ssize_t size;
        if (PyBytes_AsStringAndSize(program, &code, &size) < 0
            || !as_program(code, size, &p.program))
            return NULL;
    }

    Launch *launch = PyObject_New(Launch, ((State *)PyModule_GetState(module))->launch);
    if (launch == NULL)
        return NULL;
    launch->pid = launch->pidfd = launch->listener = launch->status_fd = -1;
    launch->board = mmap(NULL, sizeof(struct board), PROT_READ | PROT_WRITE,
                         MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    const char *step = "mmap";
    if (launch->board == MAP_FAILED) {
        number = errno;
    } else {
        p.board = launch->board;
        p.board->listener = NOT_YET;
        Py_BEGIN_ALLOW_THREADS
        number = carry_out(&p, launch, &step);
        Py_END_ALLOW_THREADS
    }
    if (number != 0) {
        errno = number;
        PyErr_SetFromErrnoWithFilename(PyExc_OSError, step);
        Py_CLEAR(launch);
    }
    return (PyObject *)launch;
}

static PyObject *core_launch(PyObject *module, PyObject *args, PyObject *kwargs)
{
    PyObject *keep = PyList_New(0); /* everything the plan points into */
    PyObject *launch = keep != NULL ? launch_with(module, keep, args, kwargs) : NULL;
    Py_XDECREF(keep);
    return launch;
}

/* ---- The engine --------------------------------------------------------------------------- */

enum { EVENTS = 32, PER_LISTENER = 32 };

struct served { /* one listener in the engine's care */
    struct served *next;
    int fd, number; /* our duplicate; the caller's number for it */
    atomic_bool removed;
    PyObject *routes, *fallback, *ended;
};

typedef struct {
    PyObject_HEAD
    PyTypeObject *notification;
    int epoll, event;
    bool running, closed;
    struct served *served, *removed; /* removed: kept as long as run_once may hold pointers */
    struct slot {
        struct served *from;
        struct seccomp_notif raw;
    } *batch;
} Engine;

static void served_free(struct served *s)
{
    close(s->fd);
    Py_XDECREF(s->routes);
    Py_XDECREF(s->fallback);
    Py_XDECREF(s->ended);
    PyMem_Free(s);
}

/* Free what was removed.  Freeing runs other people's code: keep the lists whole meanwhile. */
static void engine_bury(Engine *self)
{
    while (self->removed != NULL) {
        struct served *s = self->removed;
        self->removed = s->next;
        served_free(s);
    }
}

/* Out of epoll and the list of the served; the memory stays until engine_bury. */
static void engine_unlink(Engine *self, struct served *s)
{
    struct served **link = &self->served;
    while (*link != s)
        link = &(*link)->next;
    *link = s->next;
    epoll_ctl(self->epoll, EPOLL_CTL_DEL, s->fd, NULL);
    atomic_store(&s->removed, true);
    s->next = self->removed;
    self->removed = s;
}

static void engine_tear_down(Engine *self)
{
    while (self->served != NULL)
        engine_unlink(self, self->served);
    engine_bury(self);
    if (self->epoll >= 0)
        close(self->epoll);
    if (self->event >= 0)
        close(self->event);
    self->epoll = self->event = -1;
}

static PyObject *engine_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "", names))
        return NULL;
    Engine *self = (Engine *)PyType_GenericAlloc(type, 0);
    if (self == NULL)
        return NULL;
    self->notification = ((State *)PyType_GetModuleState(type))->notification;
    self->event = -1;
    self->batch = PyMem_Malloc(sizeof(struct slot) * EVENTS * PER_LISTENER);
    self->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (self->epoll >= 0)
        self->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event in = {.events = EPOLLIN, .data.ptr = NULL};
    if (self->batch == NULL)
        PyErr_NoMemory();
    else if (self->event < 0 || epoll_ctl(self->epoll, EPOLL_CTL_ADD, self->event, &in) < 0)
        PyErr_SetFromErrno(PyExc_OSError);
    else
        return (PyObject *)self;
    Py_DECREF(self);
    return NULL;
}

static int engine_traverse(PyObject *object, visitproc visit, void *arg)
{
    Engine *self = (Engine *)object;
    Py_VISIT(Py_TYPE(object));
    for (int i = 0; i < 2; i++)
        for (struct served *s = i == 0 ? self->served : self->removed; s != NULL; s = s->next) {
            Py_VISIT(s->routes);
            Py_VISIT(s->fallback);
            Py_VISIT(s->ended);
        }
    return 0;
}

static int engine_clear(PyObject *self)
{
    engine_tear_down((Engine *)self);
    return 0;
}

static void engine_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    engine_clear(self);
    PyMem_Free(((Engine *)self)->batch);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

static void engine_poke(Engine *self)
{
    eventfd_write(self->event, 1); /* full: it is awake enough; closed: nobody waits */
}

static bool engine_open(Engine *self)
{
    if (self->closed)
        PyErr_SetString(PyExc_ValueError, "this engine is closed");
    return !self->closed;
}

static struct served *engine_find(Engine *self, int number)
{
    struct served *s = self->served;
    while (s != NULL && s->number != number)
        s = s->next;
    return s;
}

static PyObject *engine_add(PyObject *object, PyObject *args)
{
    Engine *self = (Engine *)object;
    int number;
    PyObject *routes, *fallback, *ended;
    if (!PyArg_ParseTuple(args, "iOOO", &number, &routes, &fallback, &ended))
        return NULL;
    PyObject *copy = PyDict_New();
    if (copy == NULL || PyDict_Update(copy, routes) < 0 || !engine_open(self)) {
        Py_XDECREF(copy);
        return NULL;
    }
    struct served *s = PyMem_Calloc(1, sizeof *s);
    if (s == NULL) {
        Py_DECREF(copy);
        return PyErr_NoMemory();
    }
    s->number = number;
    s->routes = copy;
    s->fallback = Py_NewRef(fallback);
    s->ended = Py_NewRef(ended);
    s->fd = fcntl(number, F_DUPFD_CLOEXEC, 3);
    struct epoll_event in = {.events = EPOLLIN, .data.ptr = s};
    int problem = s->fd < 0 ? errno : engine_find(self, number) != NULL ? EEXIST : 0;
    if (problem == 0 && epoll_ctl(self->epoll, EPOLL_CTL_ADD, s->fd, &in) < 0)
        problem = errno;
    if (problem != 0) {
        served_free(s);
        return raise_errno(problem);
    }
    s->next = self->served;
    self->served = s;
    Py_RETURN_NONE;
}

static PyObject *engine_remove(PyObject *object, PyObject *args)
{
    Engine *self = (Engine *)object;
    int number;
    if (!PyArg_ParseTuple(args, "i", &number))
        return NULL;
    struct served *s = engine_find(self, number);
    if (s != NULL)
        engine_unlink(self, s);
    if (self->running)
        engine_poke(self); /* run_once frees it: it may be reading from it right now */
    else
        engine_bury(self);
    Py_RETURN_NONE;
}

/* Without the GIL: receive what one listener has, appending to the batch; the new count. */
static int engine_receive(Engine *self, struct served *from, int count, int *problem)
{
    for (int i = 0; i < PER_LISTENER && !atomic_load(&from->removed); i++) {
        struct pollfd more = {.fd = from->fd, .events = POLLIN};
        if (i > 0 && (poll(&more, 1, 0) <= 0 || !(more.revents & POLLIN)))
            break;
        struct slot *slot = &self->batch[count];
        memset(slot, 0, sizeof *slot);
        slot->from = from;
        if (ioctl(from->fd, IOCTL_RECV, &slot->raw) == 0) {
            count++;
        } else if (errno != ENOENT) {
            *problem = errno;
            break;
        }
    }
    return count;
}

/* Keep the current exception, the first of a round; the others go to sys.unraisablehook. */
static void engine_hold(PyObject *source, PyObject **held)
{
    if (held[0] == NULL)
        PyErr_Fetch(&held[0], &held[1], &held[2]);
    else
        PyErr_WriteUnraisable(source);
}

/* Send what a route returned.  Gone or answered already is an ordinary event. */
static bool engine_send(int fd, uint64_t id, PyObject *wire)
{
    long long value;
    int error;
    unsigned int flags;
    if (!PyTuple_Check(wire)) {
        PyErr_Format(PyExc_TypeError, "a route returns None or (value, error, flags), not %R", wire);
        return false;
    }
    if (!PyArg_ParseTuple(wire, "LiI;a route returns None or (value, error, flags)", &value, &error,
                          &flags))
        return false;
    int problem = answer(fd, id, value, error, flags);
    if (problem == 0 || problem == ENOENT || problem == EINPROGRESS)
        return true;
    raise_errno(problem);
    return false;
}

static void engine_route(Engine *self, const struct slot *slot, PyObject **held)
{
    struct served *s = slot->from;
    const struct seccomp_notif *raw = &slot->raw;
    if (atomic_load(&s->removed)) { /* as if its listener had been closed (C093) */
        answer(s->fd, raw->id, 0, -ENOSYS, 0);
        return;
    }
    PyObject *notification = notification_make(self->notification, raw), *wire = NULL;
    PyObject *key = PyLong_FromUnsignedLongLong((uint64_t)raw->data.arch << 32
                                                | (uint32_t)raw->data.nr);
    PyObject *route = key != NULL ? PyDict_GetItemWithError(s->routes, key) : NULL;
    if (route == NULL && PyErr_Occurred() == NULL)
        route = s->fallback;
    if (notification != NULL && route != NULL) {
        Py_INCREF(route);
        wire = PyObject_CallFunctionObjArgs(route, notification, NULL);
        Py_DECREF(route);
    }
    if (wire == NULL || (wire != Py_None && !engine_send(s->fd, raw->id, wire))) {
        engine_hold((PyObject *)self, held);
        answer(s->fd, raw->id, 0, -EPERM, 0);
    }
    Py_XDECREF(wire);
    Py_XDECREF(key);
    Py_XDECREF(notification);
}

/* Seconds, or None for ever, as the milliseconds of epoll; -2: exception set. */
static int milliseconds(PyObject *timeout)
{
    if (timeout == Py_None)
        return -1;
    double exact = PyFloat_AsDouble(timeout) * 1000;
    if (PyErr_Occurred() != NULL)
        return -2;
    if (!(exact > 0))
        return 0;
    if (exact >= INT_MAX)
        return INT_MAX;
    return (int)exact + ((int)exact < exact); /* never early */
}

static PyObject *engine_run_once(PyObject *object, PyObject *timeout)
{
    Engine *self = (Engine *)object;
    struct epoll_event events[EVENTS];
    sigset_t all, before;
    int count = 0, problem = 0, ready, wait = milliseconds(timeout);
    PyObject *held[3] = {NULL, NULL, NULL};
    if (wait == -2 || !engine_open(self))
        return NULL;
    if (self->running) {
        PyErr_SetString(PyExc_RuntimeError, "run_once() is running already");
        return NULL;
    }
    self->running = true;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    Py_BEGIN_ALLOW_THREADS
    ready = epoll_pwait(self->epoll, events, EVENTS, wait, &before);
    if (ready < 0)
        problem = errno;
    for (int i = 0; i < ready; i++) {
        struct served *s = events[i].data.ptr;
        eventfd_t unused;
        if (s == NULL)
            eventfd_read(self->event, &unused);
        else if (events[i].events & EPOLLIN)
            count = engine_receive(self, s, count, &problem);
    }
    Py_END_ALLOW_THREADS
    for (int i = 0; i < count; i++)
        engine_route(self, &self->batch[i], held);
    for (int i = 0; i < ready; i++) {
        struct served *s = events[i].data.ptr;
        if (s == NULL || (events[i].events & EPOLLIN) || !(events[i].events & EPOLLHUP)
            || atomic_load(&s->removed))
            continue;
        PyObject *ended = Py_NewRef(s->ended);
        engine_unlink(self, s);
        PyObject *result = PyObject_CallFunctionObjArgs(ended, NULL);
        if (result == NULL)
            engine_hold(object, held);
        Py_XDECREF(result);
        Py_DECREF(ended);
    }
    self->running = false;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (self->closed)
        engine_tear_down(self);
    else
        engine_bury(self);
    if (held[0] != NULL) {
        PyErr_Restore(held[0], held[1], held[2]);
        return NULL;
    }
    if (problem != 0 && problem != EINTR)
        return raise_errno(problem);
    if (problem == EINTR && PyErr_CheckSignals() < 0)
        return NULL;
    return PyLong_FromLong(count);
}

static PyObject *engine_wake(PyObject *self, PyObject *unused)
{
    (void)unused;
    engine_poke((Engine *)self);
    Py_RETURN_NONE;
}

static PyObject *engine_close(PyObject *object, PyObject *unused)
{
    Engine *self = (Engine *)object;
    (void)unused;
    self->closed = true;
    if (self->running)
        engine_poke(self); /* run_once does the rest */
    else
        engine_tear_down(self);
    Py_RETURN_NONE;
}

static PyMethodDef engine_methods[] = {
    {"add", engine_add, METH_VARARGS, NULL},
    {"remove", engine_remove, METH_VARARGS, NULL},
    {"run_once", engine_run_once, METH_O, NULL},
    {"wake", engine_wake, METH_NOARGS, NULL},
    {"close", engine_close, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot engine_slots[] = {
    {Py_tp_new, engine_new},
    {Py_tp_dealloc, engine_dealloc},
    {Py_tp_traverse, engine_traverse},
    {Py_tp_clear, engine_clear},
    {Py_tp_methods, engine_methods},
    {0, NULL},
};
static PyType_Spec engine_spec = {
    "proctor.kernel._core.Engine", sizeof(Engine), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE, engine_slots,
};

/* ---- The module --------------------------------------------------------------------------- */

static PyMethodDef core_methods[] = {
    {"seccomp", core_seccomp, METH_VARARGS, NULL},
    {"install", core_install, METH_VARARGS, NULL},
    {"recv", core_recv, METH_VARARGS, NULL},
    {"send", core_send, METH_VARARGS, NULL},
    {"id_valid", core_id_valid, METH_VARARGS, NULL},
    {"addfd", core_addfd, METH_VARARGS, NULL},
    {"set_flags", core_set_flags, METH_VARARGS, NULL},
    {"pidfd_open", core_pidfd_open, METH_VARARGS, NULL},
    {"pidfd_getfd", core_pidfd_getfd, METH_VARARGS, NULL},
    {"read_memory", core_read_memory, METH_VARARGS, NULL},
    {"read_string", core_read_string, METH_VARARGS, NULL},
    {"read_checked", core_read_checked, METH_VARARGS, NULL},
    {"read_pointers", core_read_pointers, METH_VARARGS, NULL},
    {"read_strings", core_read_strings, METH_VARARGS, NULL},
    {"read_iovec", core_read_iovec, METH_VARARGS, NULL},
    {"launch", (PyCFunction)(void (*)(void))core_launch, METH_VARARGS | METH_KEYWORDS, NULL},
    {NULL, NULL, 0, NULL},
};

static int add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **type)
{
    *type = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    return *type != NULL ? PyModule_AddType(module, *type) : -1;
}

static int module_exec(PyObject *module)
{
    State *state = PyModule_GetState(module);
    page_size = sysconf(_SC_PAGESIZE);
    if (add_type(module, &notification_spec, &state->notification) < 0
        || add_type(module, &launch_spec, &state->launch) < 0)
        return -1;
    return add_type(module, &engine_spec, &state->engine);
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
    State *state = PyModule_GetState(module);
    Py_VISIT(state->notification);
    Py_VISIT(state->launch);
    Py_VISIT(state->engine);
    return 0;
}

static int module_clear(PyObject *module)
{
    State *state = PyModule_GetState(module);
    Py_CLEAR(state->notification);
    Py_CLEAR(state->launch);
    Py_CLEAR(state->engine);
    return 0;
}

static void module_free(void *module)
{
    module_clear(module);
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};
static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT, "proctor.kernel._core", "The native core; its manual is _core.pyi.",
    sizeof(State), core_methods, module_slots, module_traverse, module_clear, module_free,
};

PyMODINIT_FUNC PyInit__core(void)
{
    return PyModuleDef_Init(&module_definition);
}
