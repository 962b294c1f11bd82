/* For those who act on a caller's behalf: who it is, in one look; one thing opened without waiting for
 * anybody; a question to an executor and its answer.  The manual is _core.pyi. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "_core.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Younger than the oldest headers we build with; numbers and layouts are ABI. */
#define PIDFD_GET_INFO _IOC(_IOC_READ | _IOC_WRITE, 0xFF, 11, 64) /* Linux 6.13 */
#define STATX_MNT_ID_UNIQUE 0x4000U                     /* Linux 6.8 */
#define SYS_openat2_ 437
#define RESOLVE_NO_XDEV 0x01
#define RESOLVE_NO_MAGICLINKS 0x02
#define RESOLVE_NO_SYMLINKS 0x04
#define RESOLVE_CACHED 0x20                             /* Linux 5.12 */
#define PROC_SUPER_MAGIC 0x9fa0
#define STATX_OF_PIN 0x17ffU /* STATX_BASIC_STATS | STATX_MNT_ID */

enum { INODE = 32, DEVICE = 136, MOUNT = 144 }; /* in struct statx */

/* ---- Who somebody is ---------------------------------------------------------------------- */

struct pidfd_info { /* include/uapi/linux/pidfd.h, as of its first version */
    uint64_t mask, cgroup;
    uint32_t pid, tgid, ppid, ids[8], coredump_or_exit;
};
_Static_assert(sizeof(struct pidfd_info) == 64, "as the ioctl's number has it");
enum { PIDFD_INFO_PID = 1, PIDFD_INFO_CREDS = 2, PIDFD_INFO_CGROUPID = 4 };

struct standing { /* its other side is proctor.kernel.standing */
    uint32_t uids[4], gids[4];              /* real, effective, saved, of the file system */
    struct __user_cap_data_struct caps[2];
    uint64_t root[3];                       /* device, inode, mount */
    uint64_t cgroup;                        /* of version 2 */
    char user[24];                          /* as user:[4026531837] */
};

/* The root directory that a name leads to: 0 or an errno. */
static int root_of(int at, const char *name, uint64_t root[3]) {
    unsigned char status[256];
    int flags = AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC;
    if (syscall(SYS_statx, at, name, flags, STATX_INO | STATX_MNT_ID_UNIQUE, status) != 0)
        return errno;
    memcpy(&root[0], status + DEVICE, 8);
    memcpy(&root[1], status + INODE, 8);
    memcpy(&root[2], status + MOUNT, 8);
    return 0;
}

/* Another thread, by its number and three descriptors of it: 0 or an errno.  That it lives is asked last,
 * so the number was its own before. */
static int look_at(pid_t tid, int pidfd, int proc, int user, struct standing *is) {
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, tid};
    struct pidfd_info info = {.mask = PIDFD_INFO_PID | PIDFD_INFO_CREDS | PIDFD_INFO_CGROUPID};
    int problem = root_of(proc, "root", is->root);
    if (problem == 0 && syscall(SYS_capget, &head, is->caps) != 0)
        problem = errno;
    if (problem == 0 && readlinkat(user, "", is->user, sizeof is->user) < 0)
        problem = errno;
    if (problem == 0 && ioctl(pidfd, PIDFD_GET_INFO, &info) != 0)
        problem = errno;
    if (problem != 0)
        return problem;
    if ((info.mask & (PIDFD_INFO_PID | PIDFD_INFO_CREDS)) != (PIDFD_INFO_PID | PIDFD_INFO_CREDS))
        return EOPNOTSUPP;
    /* there: real uid and gid, effective ones, saved ones, those of the file system */
    for (int i = 0; i < 4; i++)
        is->uids[i] = info.ids[2 * i], is->gids[i] = info.ids[2 * i + 1];
    is->cgroup = info.mask & PIDFD_INFO_CGROUPID ? info.cgroup : 0;
    return 0;
}

static int look_at_us(struct standing *is) {
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    if (getresuid(&is->uids[0], &is->uids[1], &is->uids[2]) != 0
        || getresgid(&is->gids[0], &is->gids[1], &is->gids[2]) != 0
        || syscall(SYS_capget, &head, is->caps) != 0)
        return errno;
    is->uids[3] = (uint32_t)setfsuid((uid_t)-1); /* no such id: nothing is changed */
    is->gids[3] = (uint32_t)setfsgid((gid_t)-1);
    return root_of(AT_FDCWD, "/", is->root);
}

PyObject *core_standing(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count) {
    struct standing is = {0};
    if (count != 4)
        return PyErr_Format(PyExc_TypeError, "standing() takes 4 arguments, not %zd", count);
    int tid = (int)PyLong_AsLong(args[0]), pidfd = (int)PyLong_AsLong(args[1]);
    int proc = (int)PyLong_AsLong(args[2]), user = (int)PyLong_AsLong(args[3]), problem;
    if (PyErr_Occurred() != NULL)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    problem = tid != 0 ? look_at(tid, pidfd, proc, user, &is) : look_at_us(&is);
    Py_END_ALLOW_THREADS
    return problem != 0 ? raise_errno(problem)
                        : PyBytes_FromStringAndSize((const char *)&is, sizeof is);
}

/* Read a file of /proc from its beginning: its length, or minus an errno.  *text is here, or malloced. */
static ssize_t text_of(int fd, char *here, size_t size, char **text) {
    *text = here;
    ssize_t length = pread(fd, here, size, 0);
    if (length == (ssize_t)size) { /* thousands of groups; given whole to whoever has room */
        if ((*text = malloc(size = 1 << 20)) == NULL)
            return -ENOMEM;
        length = pread(fd, *text, size, 0);
    }
    return length < 0 ? -errno : length;
}

/* Whether these pieces of status, from a mark to the next one, are one after the other in identity. */
static bool is_identity(const char *text, size_t length, const char *identity, size_t size) {
    static const char *const marks[] = {"\nUid:", "\nFDSize:", "\nGroups:", "\nNStgid:", "\nCapInh:",
                                        "\nSeccomp:"};
    const char *at = text, *end = text + length;
    for (size_t i = 0; i < sizeof marks / sizeof *marks; i += 2) {
        const char *from = memmem(at, (size_t)(end - at), marks[i], strlen(marks[i]));
        at = from != NULL ? memmem(from, (size_t)(end - from), marks[i + 1], strlen(marks[i + 1])) : NULL;
        if (at == NULL || (size_t)(at - from) > size || memcmp(from, identity, (size_t)(at - from)) != 0)
            return false;
        identity += at - from, size -= (size_t)(at - from);
    }
    return size == 0;
}

PyObject *core_same(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count) {
    if (count != 8)
        return PyErr_Format(PyExc_TypeError, "same() takes 8 arguments, not %zd", count);
    int tid = (int)PyLong_AsLong(args[0]), pidfd = (int)PyLong_AsLong(args[1]);
    int proc = (int)PyLong_AsLong(args[2]), user = (int)PyLong_AsLong(args[3]);
    int status = (int)PyLong_AsLong(args[5]);
    char *rights, *identity, *ours, here[4096], *text = here;
    Py_ssize_t right, one, our;
    struct standing is = {0}, we = {0};
    if (PyErr_Occurred() != NULL || PyBytes_AsStringAndSize(args[4], &rights, &right) < 0
        || PyBytes_AsStringAndSize(args[6], &identity, &one) < 0
        || PyBytes_AsStringAndSize(args[7], &ours, &our) < 0)
        return NULL;
    ssize_t length = 0;
    bool same;
    Py_BEGIN_ALLOW_THREADS
    same = status < 0
           || ((length = text_of(status, here, sizeof here, &text)) > 0
               && is_identity(text, (size_t)length, identity, (size_t)one));
    /* that it lives is asked last of all */
    same = same && look_at(tid, pidfd, proc, user, &is) == 0 && right == sizeof is
           && memcmp(&is, rights, sizeof is) == 0;
    same = same && (our == 0 || (look_at_us(&we) == 0 && our == sizeof we && memcmp(&we, ours, sizeof we) == 0));
    Py_END_ALLOW_THREADS
    PyObject *result = same ? PyBytes_FromStringAndSize(text, length) : Py_NewRef(Py_None);
    if (text != here)
        free(text);
    return result;
}

/* ---- A question to an executor ------------------------------------------------------------- */

enum { MOST_SENT = 16, MOST_GIVEN = 8 };

/* Send a packet with descriptors: 0 or an errno. */
static int tell(int sock, void *packet, size_t size, const int *fds, size_t count) {
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(MOST_SENT * sizeof(int))];
    } control;
    struct iovec part = {packet, size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (count > 0) {
        memset(&control, 0, sizeof control);
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(count * sizeof(int));
        control.head.cmsg_level = SOL_SOCKET;
        control.head.cmsg_type = SCM_RIGHTS;
        control.head.cmsg_len = CMSG_LEN(count * sizeof(int));
        memcpy(CMSG_DATA(&control.head), fds, count * sizeof(int));
    }
    while (sendmsg(sock, &message, MSG_NOSIGNAL) < 0)
        if (errno != EINTR)
            return errno;
    return 0;
}

/* Receive one: its length, or minus an errno.  Descriptors that came with a part of it are closed.
 * Whoever waits does so for a moment: what takes longer is waited for by the loop. */
static ssize_t hear(int sock, void *into, size_t size, long patience, int *fds, int *given) {
    struct pollfd readable = {.fd = sock, .events = POLLIN};
    const struct timespec time = {0, patience * 1000};
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(MOST_GIVEN * sizeof(int))];
    } control;
    struct iovec part = {into, size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control,
                             .msg_controllen = sizeof control};
    ssize_t length;
    *given = 0;
    if (patience > 0)
        ppoll(&readable, 1, &time, NULL);
    while ((length = recvmsg(sock, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT)) < 0)
        if (errno != EINTR)
            return -errno;
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    if (head != NULL && head->cmsg_level == SOL_SOCKET && head->cmsg_type == SCM_RIGHTS) {
        *given = (int)((head->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(fds, CMSG_DATA(head), (size_t)*given * sizeof(int));
    }
    if ((message.msg_flags & (MSG_CTRUNC | MSG_TRUNC)) == 0)
        return length;
    while (*given > 0)
        close(fds[--*given]);
    return message.msg_flags & MSG_TRUNC ? -EMSGSIZE : -EMFILE;
}

/* A request: what is sent, where values are put into it, and what its answer looks like. */
typedef struct {
    PyObject_HEAD
    PyObject *packet, *holes, *ranges, *given; /* bytes */
    Py_ssize_t steps, values, longest;
} Request;

struct hole { /* of the value with this index, in order */
    uint32_t index, offset, size; /* size 8: a number, or so many bytes */
    uint32_t number;
};
struct range {
    uint32_t length, step; /* no longer than the result of that step, NO_STEP: exactly this */
};
struct reply { /* executor.c */
    uint16_t state, given;
    int32_t error;
};
enum { NO_STEP = -1, DONE = 0 };

static PyObject *request_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(named)) {
    Request *self = (Request *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (self == NULL || !PyArg_ParseTuple(args, "nnSSSSn", &self->steps, &self->values, &self->packet,
                                          &self->holes, &self->ranges, &self->given, &self->longest)) {
        if (self != NULL)
            self->packet = self->holes = self->ranges = self->given = NULL;
        Py_XDECREF((PyObject *)self);
        return NULL;
    }
    Py_INCREF(self->packet), Py_INCREF(self->holes), Py_INCREF(self->ranges), Py_INCREF(self->given);
    return (PyObject *)self;
}

static void request_dealloc(PyObject *object) {
    Request *self = (Request *)object;
    PyTypeObject *type = Py_TYPE(object);
    Py_XDECREF(self->packet), Py_XDECREF(self->holes), Py_XDECREF(self->ranges), Py_XDECREF(self->given);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

static const void *content(PyObject *bytes, Py_ssize_t size, Py_ssize_t *count) {
    *count = PyBytes_Size(bytes) / size;
    return PyBytes_AsString(bytes);
}

static PyObject *request_fill(PyObject *object, PyObject *values) {
    Request *self = (Request *)object;
    Py_ssize_t size = PyBytes_Size(self->packet), holes;
    const struct hole *hole = content(self->holes, sizeof *hole, &holes);
    if (PyTuple_Size(values) != self->values)
        return PyErr_Format(PyExc_ValueError, "%zd values where %zd are wanted", PyTuple_Size(values),
                            self->values);
    PyObject *packet = PyBytes_FromStringAndSize(PyBytes_AsString(self->packet), size);
    char *into = packet != NULL ? PyBytes_AsString(packet) : NULL; /* nobody else has it yet */
    for (Py_ssize_t i = 0; packet != NULL && i < holes; i++) {
        PyObject *value = PyTuple_GetItem(values, (Py_ssize_t)hole[i].index);
        if (hole[i].number) {
            uint64_t number = PyLong_AsUnsignedLongLongMask(value);
            memcpy(into + hole[i].offset, &number, sizeof number);
        } else {
            Py_ssize_t length = PyBytes_Size(value);
            if (length > (Py_ssize_t)hole[i].size)
                PyErr_Format(PyExc_ValueError, "%zd bytes where there is room for %u", length, hole[i].size);
            else if (length > 0)
                memcpy(into + hole[i].offset, PyBytes_AsString(value), (size_t)length);
        }
        if (PyErr_Occurred() != NULL)
            Py_CLEAR(packet);
    }
    return packet;
}

static bool is_error(int64_t result) {
    return result == INT64_MIN || (result < 0 && result >= -4095);
}

/* (results, parts, {step: descriptor}); NULL without an exception for what is no answer to this. */
static PyObject *answer_of(Request *self, const char *data, Py_ssize_t length, const int *fds, int count) {
    Py_ssize_t parts, givens, at = (Py_ssize_t)(sizeof(struct reply) + 8 * (size_t)self->steps), made = 0;
    const struct range *range = content(self->ranges, sizeof *range, &parts);
    const uint32_t *given = content(self->given, sizeof *given, &givens);
    struct reply head;
    if (length < at)
        return NULL;
    memcpy(&head, data, sizeof head);
    const char *results = data + sizeof head;
    int64_t result;
#define RESULT(step) (memcpy(&result, results + 8 * (size_t)(step), 8), result)
    for (Py_ssize_t i = 0; i < givens; i++)
        made += !is_error(RESULT(given[i]));
    if (head.state != DONE || head.given != count || made != count)
        return NULL;
    PyObject *numbers = PyTuple_New(self->steps), *bytes = PyTuple_New(parts), *descriptors = PyDict_New();
    bool good = numbers != NULL && bytes != NULL && descriptors != NULL, fits = true;
    for (Py_ssize_t i = 0; good && i < self->steps; i++)
        good = PyTuple_SetItem(numbers, i, PyLong_FromLongLong(RESULT(i))) == 0 && PyErr_Occurred() == NULL;
    for (Py_ssize_t i = 0; good && fits && i < parts; i++) {
        Py_ssize_t size = (Py_ssize_t)range[i].length;
        if (range[i].step != (uint32_t)NO_STEP) {
            result = RESULT(range[i].step);
            size = result < 0 ? 0 : result < size ? (Py_ssize_t)result : size;
        }
        fits = size <= length - at;
        PyObject *part = fits ? PyBytes_FromStringAndSize(data + at, size) : NULL;
        good = !fits || (part != NULL && PyTuple_SetItem(bytes, i, part) == 0);
        at += size;
    }
    for (Py_ssize_t i = 0, fd = 0; good && i < givens; i++)
        if (!is_error(RESULT(given[i]))) {
            PyObject *step = PyLong_FromLong((long)given[i]), *number = PyLong_FromLong(fds[fd++]);
            good = step != NULL && number != NULL && PyDict_SetItem(descriptors, step, number) == 0;
            Py_XDECREF(step), Py_XDECREF(number);
        }
#undef RESULT
    PyObject *made_of = good && fits && at == length ? PyTuple_Pack(3, numbers, bytes, descriptors) : NULL;
    Py_XDECREF(numbers), Py_XDECREF(bytes), Py_XDECREF(descriptors);
    return made_of;
}

static PyObject *request_ask(PyObject *object, PyObject *const *args, Py_ssize_t count) {
    Request *self = (Request *)object;
    int sent[MOST_SENT], fds[MOST_GIVEN], given = 0, problem = 0;
    if (count != 4)
        return PyErr_Format(PyExc_TypeError, "ask() takes 4 arguments, not %zd", count);
    int sock = (int)PyLong_AsLong(args[0]);
    long patience = PyLong_AsLong(args[3]);
    Py_ssize_t along = PyTuple_Size(args[2]);
    if (along > MOST_SENT)
        return PyErr_Format(PyExc_ValueError, "%zd descriptors", along);
    for (Py_ssize_t i = 0; i < along; i++)
        sent[i] = (int)PyLong_AsLong(PyTuple_GetItem(args[2], i));
    char *packet = NULL;
    Py_ssize_t size = 0;
    if (PyErr_Occurred() != NULL
        || (args[1] != Py_None && PyBytes_AsStringAndSize(args[1], &packet, &size) < 0))
        return NULL;
    char here[8192], *into = (size_t)self->longest <= sizeof here ? here : malloc((size_t)self->longest);
    if (into == NULL)
        return PyErr_NoMemory();
    ssize_t length = 0;
    Py_BEGIN_ALLOW_THREADS
    if (packet != NULL)
        problem = tell(sock, packet, (size_t)size, sent, (size_t)along);
    if (problem == 0)
        length = hear(sock, into, (size_t)self->longest, patience, fds, &given);
    Py_END_ALLOW_THREADS
    PyObject *result = NULL;
    if (problem != 0) {
        raise_errno(problem);
    } else if (length < 0) {
        result = Py_BuildValue("(iy)", (int)-length, "");
    } else if ((result = answer_of(self, into, length, fds, given)) == NULL) {
        while (given > 0)
            close(fds[--given]);
        if (PyErr_Occurred() == NULL)
            result = Py_BuildValue("(iN)", 0, PyBytes_FromStringAndSize(into, length));
    }
    if (into != here)
        free(into);
    return result;
}

static PyMethodDef request_methods[] = {
    {"fill", request_fill, METH_VARARGS, NULL},
    {"ask", (PyCFunction)(void (*)(void))request_ask, METH_FASTCALL, NULL},
    {0}};
static PyType_Slot request_slots[] = {{Py_tp_new, request_new}, {Py_tp_dealloc, request_dealloc},
                                      {Py_tp_methods, request_methods}, {0, NULL}};
PyType_Spec request_spec = {"proctor.kernel._core.Request", sizeof(Request), 0,
                            Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, request_slots};

/* ---- One thing, opened without waiting for anybody ------------------------------------------- */

struct how {
    uint64_t flags, mode, resolve;
};

static int openat2(int at, const char *path, uint64_t flags, uint64_t resolve) {
    struct how how = {flags | O_CLOEXEC, 0, resolve};
    int fd = (int)syscall(SYS_openat2_, at, path, &how, sizeof how);
    return fd < 0 ? -errno : fd;
}

static bool on(int fd, uint32_t kind) {
    struct statfs system;
    return fstatfs(fd, &system) == 0 && (uint32_t)system.f_type == kind;
}

/* Whether no link of procfs was on a way that failed: then the errno is what anybody is told. */
static bool stands(int at, const char *path, uint64_t flags, uint64_t resolve, int failed) {
    int plain = openat2(at, path, flags, resolve | RESOLVE_NO_SYMLINKS), near, start;
    if (plain >= 0)
        close(plain);
    if (plain >= 0 || (plain == failed && failed != -ELOOP))
        return true; /* it met no link; or, by now, there is something, and there was nothing */
    near = openat2(at, path, flags, resolve | RESOLVE_NO_XDEV);
    if (near >= 0)
        close(near);
    if (near != failed || failed == -EXDEV)
        return false;
    if ((start = openat2(at, path[0] == '/' ? "/" : ".", O_PATH, 0)) < 0)
        return false;
    bool proc = on(start, PROC_SUPER_MAGIC);
    close(start);
    return !proc;
}

enum { LEFT = INT32_MIN };

/* Pin what a path leads to, as far as nobody has to be waited for: a descriptor, minus the errno that it
 * ends with, or LEFT. */
static int pin(int at, const char *path, uint64_t flags, uint64_t resolve, const uint32_t *kinds,
               size_t count, struct stat *status) {
    flags = O_PATH | (flags & (O_DIRECTORY | O_NOFOLLOW));
    resolve |= RESOLVE_NO_MAGICLINKS | RESOLVE_CACHED;
    int fd = openat2(at, path, flags, resolve);
    if (fd < 0)
        return (fd == -ENOENT || fd == -ENOTDIR || fd == -EACCES || fd == -ENAMETOOLONG || fd == -ELOOP)
                       && stands(at, path, flags, resolve, fd) ? fd : LEFT;
    struct statfs system;
    bool local = false, known = fstat(fd, status) == 0;
    bool link = known && S_ISLNK(status->st_mode); /* with O_NOFOLLOW */
    if (known && (link || S_ISREG(status->st_mode) || S_ISDIR(status->st_mode)) && fstatfs(fd, &system) == 0)
        for (size_t i = 0; i < count; i++)
            local = local || kinds[i] == (uint32_t)system.f_type;
    if (local && !link)
        return fd;
    close(fd);
    return local ? -ELOOP : LEFT;
}

/* Open what is pinned, by its link in table (/proc/self/fd).  What would wait (for a lease) is LEFT.
 * O_NOFOLLOW, which F_GETFL shows afterwards, is nothing that can be said of such a link: a directory is
 * opened by itself, whoever may search it, and all else is LEFT. */
static int reopen(int table, int pinned, uint64_t flags) {
    char name[16];
    snprintf(name, sizeof name, "%d", pinned);
    bool itself = (flags & O_NOFOLLOW) != 0;
    int fd = openat2(itself ? pinned : table, itself ? "." : name, flags | O_NONBLOCK, 0);
    if (itself && (fd == -EACCES || fd == -ENOTDIR))
        return LEFT;
    if (fd >= 0 && !(flags & O_NONBLOCK) && fcntl(fd, F_SETFL, (int)flags) != 0) {
        close(fd);
        return LEFT;
    }
    bool wait = fd == -EAGAIN && !(flags & O_NONBLOCK);
    bool ours = fd == -EMFILE || fd == -ENFILE || fd == -ENOMEM || (fd == -ENOENT && !itself);
    return wait || ours ? LEFT : fd;
}

/* What a pin is called, where that is a path which leads back to it: its length, or -1. */
static ssize_t name_of(int table, int pinned, const char *path, const unsigned char *status, char *text,
                       size_t size) {
    char name[16];
    unsigned char again[256];
    snprintf(name, sizeof name, "%d", pinned);
    ssize_t length = readlinkat(table, name, text, size - 1);
    if (length <= 0 || text[0] != '/')
        return -1;
    text[length] = 0;
    if (strcmp(text, path) == 0) /* which it was found by */
        return length;
    int fd = openat2(AT_FDCWD, text, O_PATH | O_NOFOLLOW, RESOLVE_NO_SYMLINKS | RESOLVE_CACHED);
    if (fd < 0)
        return -1;
    bool same = syscall(SYS_statx, fd, "", AT_EMPTY_PATH | AT_NO_AUTOMOUNT, STATX_OF_PIN, again) == 0
                && memcmp(again + INODE, status + INODE, 8) == 0
                && memcmp(again + DEVICE, status + DEVICE, 8) == 0
                && memcmp(again + MOUNT, status + MOUNT, 8) == 0;
    close(fd);
    return same ? length : -1;
}

/* The arguments of open_at() and pin_at(): at, path, flags, resolve, kinds, table. */
struct asked {
    int at, table;
    uint64_t flags, resolve;
    char path[4096];
    const uint32_t *kinds;
    size_t count;
};

static bool parse(PyObject *const *args, Py_ssize_t count, struct asked *asked) {
    char *path, *kinds;
    Py_ssize_t length, size;
    if (count != 6) {
        PyErr_Format(PyExc_TypeError, "6 arguments are taken, not %zd", count);
        return false;
    }
    asked->at = (int)PyLong_AsLong(args[0]);
    asked->flags = PyLong_AsUnsignedLongLongMask(args[2]);
    asked->resolve = PyLong_AsUnsignedLongLongMask(args[3]);
    asked->table = (int)PyLong_AsLong(args[5]);
    if (PyErr_Occurred() != NULL || PyBytes_AsStringAndSize(args[1], &path, &length) < 0
        || PyBytes_AsStringAndSize(args[4], &kinds, &size) < 0)
        return false;
    if ((size_t)length >= sizeof asked->path || memchr(path, 0, (size_t)length) != NULL) {
        PyErr_SetString(PyExc_ValueError, "this is no path");
        return false;
    }
    memcpy(asked->path, path, (size_t)length + 1);
    asked->kinds = (const uint32_t *)(uintptr_t)kinds; /* bytes objects are aligned, and outlive the call */
    asked->count = (size_t)size / sizeof *asked->kinds;
    return true;
}

static PyObject *descriptor(int fd) {
    return fd == LEFT ? Py_NewRef(Py_None) : PyLong_FromLong(fd);
}

PyObject *core_open_at(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count) {
    struct asked asked;
    struct stat status;
    int fd;
    if (!parse(args, count, &asked))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    int pinned = fd = pin(asked.at, asked.path, asked.flags, asked.resolve, asked.kinds, asked.count,
                          &status);
    if (pinned >= 0) {
        fd = reopen(asked.table, pinned, asked.flags);
        close(pinned);
    }
    Py_END_ALLOW_THREADS
    return descriptor(fd);
}

PyObject *core_pin_at(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count) {
    struct asked asked;
    struct stat status;
    unsigned char extended[256] = {0};
    char text[4200];
    ssize_t length = 0;
    int fd;
    if (!parse(args, count, &asked))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    fd = pin(asked.at, asked.path, asked.flags, asked.resolve, asked.kinds, asked.count, &status);
    if (fd >= 0
        && (syscall(SYS_statx, fd, "", AT_EMPTY_PATH | AT_NO_AUTOMOUNT, STATX_OF_PIN, extended) != 0
            || (length = name_of(asked.table, fd, asked.path, extended, text, sizeof text)) < 0)) {
        close(fd);
        fd = LEFT;
    }
    Py_END_ALLOW_THREADS
    return fd < 0 ? descriptor(fd)
                  : Py_BuildValue("(iNN)", fd,
                                  PyBytes_FromStringAndSize((char *)extended, sizeof extended),
                                  PyBytes_FromStringAndSize(text, length));
}

PyObject *core_reopen(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count) {
    if (count != 3)
        return PyErr_Format(PyExc_TypeError, "reopen() takes 3 arguments, not %zd", count);
    int table = (int)PyLong_AsLong(args[0]), pinned = (int)PyLong_AsLong(args[1]), fd;
    uint64_t flags = PyLong_AsUnsignedLongLongMask(args[2]);
    if (PyErr_Occurred() != NULL)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    fd = reopen(table, pinned, flags);
    Py_END_ALLOW_THREADS
    return descriptor(fd);
}
