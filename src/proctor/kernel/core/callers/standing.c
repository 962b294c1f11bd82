/* Who a caller is, in one look.  The manual is _core.pyi; why it is so is in standing.py. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "core.h"
#include "callers/acting.h"
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

struct pidfd_info { /* include/uapi/linux/pidfd.h, as of its first version */
    uint64_t mask, cgroup;
    uint32_t pid, tgid, ppid, ids[8], coredump_or_exit;
};
_Static_assert(sizeof(struct pidfd_info) == 64, "as the ioctl's number has it");
enum { PIDFD_INFO_PID = 1, PIDFD_INFO_CREDS = 2, PIDFD_INFO_CGROUPID = 4 };

/* The same as root_of, of what getattr tells somebody else than us: FUSE file systems of other user namespaces tell
 * their own users alone (fuse_allow_current_process of fs/fuse/dir.c), but nobody keeps the VFS from saying it. */
static int hidden_root_of(int at, const char *name, uint64_t root[3]) {
    unsigned char status[256];
    char text[512], path[40];
    int fd = name[0] == 0 ? fcntl(at, F_DUPFD_CLOEXEC, 3) : openat(at, name, O_PATH | O_CLOEXEC), problem = fd < 0 ? errno : 0;
    if (fd < 0)
        return problem;
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
    if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC, 0, status) != 0)
        problem = errno;
    int info = problem != 0 ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = info < 0 ? -1 : read(info, text, sizeof text - 1);
    text[length < 0 ? 0 : length] = 0;
    const char *number = strstr(text, "\nino:\t"); /* Linux 5.14 */
    if (problem == 0 && number == NULL)
        problem = EACCES;
    if (problem == 0) {
        memcpy(&root[0], status + STATX_DEVICE, 8);
        root[1] = strtoull(number + 6, NULL, 10);
        memcpy(&root[2], status + STATX_MOUNT, 8);
    }
    if (info >= 0)
        close(info);
    close(fd);
    return problem;
}

int root_of(int at, const char *name, uint64_t root[3]) {
    unsigned char status[256];
    int flags = AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC | (name[0] == 0 ? AT_EMPTY_PATH : 0);
    if (syscall(SYS_statx, at, name, flags, STATX_INO | STATX_MNT_ID_UNIQUE, status) != 0)
        return errno == EACCES ? hidden_root_of(at, name, root) : errno;
    memcpy(&root[0], status + STATX_DEVICE, 8);
    memcpy(&root[1], status + STATX_INODE, 8);
    memcpy(&root[2], status + STATX_MOUNT, 8);
    return 0;
}

/* Ids and cgroup as the kernel has them: 0 or an errno.  Before Linux 6.13 (PIDFD_GET_INFO), and without a pidfd, ids are in its
 * status, and its cgroup is left 0: see stays_there. */
static int ids_of(int pidfd, int status, struct standing *is) {
    struct pidfd_info info = {.mask = PIDFD_INFO_PID | PIDFD_INFO_CREDS | PIDFD_INFO_CGROUPID};
    char text[1024]; /* which they are in, behind a name of 64 bytes at most (proc_task_name of fs/proc/array.c) */
    uint32_t *u = is->uids, *g = is->gids;
    int told = ioctl(pidfd, PIDFD_GET_INFO, &info), problem = told != 0 ? errno : 0;
    if (problem == ESRCH)
        return ESRCH;
    if (problem == 0 && (info.mask & (PIDFD_INFO_PID | PIDFD_INFO_CREDS)) == (PIDFD_INFO_PID | PIDFD_INFO_CREDS)) {
        /* there: real uid and gid, effective ones, saved ones, those of the file system */
        for (int i = 0; i < 4; i++)
            u[i] = info.ids[2 * i], g[i] = info.ids[2 * i + 1];
        is->cgroup = info.mask & PIDFD_INFO_CGROUPID ? info.cgroup : 0;
        return 0;
    }
    ssize_t length = pread(status, text, sizeof text - 1, 0);
    if (length < 0)
        return errno;
    text[length] = 0;
    const char *at = strstr(text, "\nUid:\t");
    return at != NULL && sscanf(at, "\nUid: %u %u %u %u Gid: %u %u %u %u", u, u + 1, u + 2, u + 3, g, g + 1, g + 2, g + 3) == 8 ? 0 : EPROTO;
}

/* Another thread, by its number and four descriptors of it (without the second its root directory, without the third its user
 * namespace is not looked at): 0 or an errno.  That it lives is asked last, so the number was its own before. */
static int look_at(pid_t tid, int pidfd, int proc, int user, int status, struct standing *is) {
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, tid};
    int problem = proc < 0 ? 0 : root_of(proc, "root", is->root);
    if (problem == 0 && syscall(SYS_capget, &head, is->caps) != 0)
        problem = errno;
    if (problem == 0 && user >= 0 && readlinkat(user, "", is->user, sizeof is->user) < 0)
        problem = errno;
    return problem != 0 ? problem : ids_of(pidfd, status, is);
}

static int look_at_us(struct standing *is, bool root) {
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    if (getresuid(&is->uids[0], &is->uids[1], &is->uids[2]) != 0
        || getresgid(&is->gids[0], &is->gids[1], &is->gids[2]) != 0
        || syscall(SYS_capget, &head, is->caps) != 0)
        return errno;
    is->uids[3] = (uint32_t)setfsuid((uid_t)-1); /* no such id: nothing is changed */
    is->gids[3] = (uint32_t)setfsgid((gid_t)-1);
    return root ? root_of(AT_FDCWD, "/", is->root) : 0;
}

bool same_as(const struct standing *ours, bool root) {
    struct standing we = {0};
    if (!root)
        memcpy(we.root, ours->root, sizeof we.root);
    return look_at_us(&we, root) == 0 && memcmp(&we, ours, sizeof we) == 0;
}

/* A text of a thread's namespaces but those of a struct standing, and of its cgroups: its length,
 * or minus an errno. */
static ssize_t whereabouts(int proc, int cgroup, char *into, size_t size) {
    static const char *const names[] = {"ns/mnt", "ns/net", "ns/ipc", "ns/uts", "ns/cgroup"};
    size_t at = 0;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        ssize_t length = readlinkat(proc, names[i], into + at, size - at);
        if (length < 0)
            return -errno;
        at += (size_t)length;
    }
    ssize_t length = pread(cgroup, into + at, size - at, 0);
    return length < 0 ? -errno : (ssize_t)at + length;
}

PyObject *core_whereabouts(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count) {
    char text[8192];
    if (count != 2)
        return PyErr_Format(PyExc_TypeError, "whereabouts() takes 2 arguments, not %zd", count);
    int proc = (int)PyLong_AsLong(args[0]), cgroup = (int)PyLong_AsLong(args[1]);
    ssize_t length;
    if (PyErr_Occurred() != NULL)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    length = whereabouts(proc, cgroup, text, sizeof text);
    Py_END_ALLOW_THREADS
    return length < 0 ? raise_errno((int)-length) : PyBytes_FromStringAndSize(text, length);
}

PyObject *core_standing(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count) {
    struct standing is = {0};
    if (count != 5)
        return PyErr_Format(PyExc_TypeError, "standing() takes 5 arguments, not %zd", count);
    int tid = (int)PyLong_AsLong(args[0]), pidfd = (int)PyLong_AsLong(args[1]);
    int proc = (int)PyLong_AsLong(args[2]), user = (int)PyLong_AsLong(args[3]), status = (int)PyLong_AsLong(args[4]), problem;
    if (PyErr_Occurred() != NULL)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    problem = tid != 0 ? look_at(tid, pidfd, proc, user, status, &is) : look_at_us(&is, true);
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

/* Whether a thread's descriptor is of this text. */
static bool reads(int fd, PyObject *expected) {
    char text[4096];
    Py_ssize_t size = PyBytes_Size(expected);
    return pread(fd, text, sizeof text, 0) == size && memcmp(text, PyBytes_AsString(expected), (size_t)size) == 0;
}

static bool has_mounts(const Known *self) {
    char text[64];
    Py_ssize_t size = PyBytes_Size(self->mounts);
    return readlinkat(self->proc, "ns/mnt", text, sizeof text) == size && memcmp(text, PyBytes_AsString(self->mounts), (size_t)size) == 0;
}

/* Whether it is in the cgroups and mounts that it was in, as far as that is not seen otherwise: older kernels tell no id of its
 * cgroup, and number mounts anew, so that the id of its root's may be another one's by now (before Linux 6.8). */
static bool stays_there(const Known *self) {
    return self->rights.cgroup != 0 || ((self->cgroup < 0 || reads(self->cgroup, self->cgroups)) && has_mounts(self));
}

bool looks_same(const Known *self) {
    struct standing is = {0};
    return self->tid != 0 && stays_there(self) && look_at(self->tid, self->pidfd, self->proc, -1, self->status, &is) == 0
           && memcmp(&is, &self->rights, offsetof(struct standing, user)) == 0;
}

bool acts_the_same(const Known *self) {
    struct standing is = {0};
    char *text;
    ssize_t length;
    memcpy(is.root, self->rights.root, sizeof is.root);
    return is_same(self, false, NULL, 0, &text, &length) && self->tid != 0 && stays_there(self)
           && look_at(self->tid, self->pidfd, -1, -1, self->status, &is) == 0
           && memcmp(&is, &self->rights, offsetof(struct standing, user)) == 0;
}

bool is_same(const Known *self, bool groups, char *here, size_t size, char **text, ssize_t *length) {
    char user[sizeof self->rights.user] = {0};
    *text = here, *length = 0;
    if (groups && !self->settled
        && ((*length = text_of(self->status, here, size, text)) <= 0
            || !is_identity(*text, (size_t)*length, PyBytes_AsString(self->identity),
                            (size_t)PyBytes_Size(self->identity))))
        return false;
    if (self->label >= 0 && !reads(self->label, self->labelled))
        return false;
    return self->tid != 0 && readlinkat(self->user, "", user, sizeof user) >= 0
           && memcmp(user, self->rights.user, sizeof user) == 0;
}

bool in_its_cgroups(const Known *self) { return self->tid != 0 && reads(self->cgroup, self->cgroups); }

bool in_its_mounts(const Known *self) {
    enum { BOTH = 1 << CAP_SYS_CHROOT | 1 << CAP_SYS_ADMIN }; /* it may have had them in effect for a moment */
    return (self->rights.caps[0].permitted & BOTH) != BOTH || (self->tid != 0 && has_mounts(self));
}

bool unchanged(const Known *self, bool groups, const struct standing *ours, char *here, size_t size,
               char **text, ssize_t *length) {
    /* that it lives is asked last */
    return is_same(self, groups, here, size, text, length) && looks_same(self)
           && (ours == NULL || same_as(ours, true));
}

/* A number at the beginning of a text, with spaces before it; UINT64_MAX for what is none ("unlimited"). */
static uint64_t number_at(const char *at, const char *end) {
    uint64_t number = 0;
    while (at < end && (*at == ' ' || *at == '\t'))
        at++;
    if (at == end || *at < '0' || *at > '9')
        return UINT64_MAX;
    for (; at < end && *at >= '0' && *at <= '9'; at++)
        number = number * 10 + (uint64_t)(*at - '0');
    return number;
}

/* How many descriptors it may have, by RLIMIT_NOFILE, which it takes a right over others to ask for, or by the
 * text of its limits; 0 if neither tells. */
static uint64_t most_descriptors(const Known *caller) {
    static const char mark[] = "\nMax open files";
    struct rlimit limit;
    char text[2048];
    if (prlimit(caller->tid, RLIMIT_NOFILE, NULL, &limit) == 0)
        return limit.rlim_cur;
    int fd = openat(caller->proc, "limits", O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? -1 : read(fd, text, sizeof text);
    if (fd >= 0)
        close(fd);
    const char *at = length <= 0 ? NULL : memmem(text, (size_t)length, mark, sizeof mark - 1);
    return at == NULL ? 0 : number_at(at + sizeof mark - 1, text + length);
}

/* Whether the size of its table says so, as its status has it: numbers from there on are free. */
static bool has_room_beyond(const char *text, size_t length, uint64_t most) {
    static const char mark[] = "\nFDSize:\t";
    const char *at = memmem(text, length, mark, sizeof mark - 1);
    return at != NULL && number_at(at + sizeof mark - 1, text + length) < most;
}

bool has_room(const Known *caller) { return has_room_by(caller, NULL, 0); }

bool has_room_by(const Known *caller, const char *text, size_t length) {
    unsigned char status[256];
    char here[4096];
    uint64_t many, most = most_descriptors(caller);
    if (length > 0 && has_room_beyond(text, length, most))
        return true;
    if (syscall(SYS_statx, caller->proc, "fd", AT_STATX_DONT_SYNC, STATX_SIZE, status) != 0)
        return false;
    memcpy(&many, status + STATX_SIZE_AT, sizeof many); /* 0 before Linux 6.2 */
    ssize_t got = many > 0 || length > 0 ? 0 : pread(caller->status, here, sizeof here, 0);
    return many > 0 ? many < most : got > 0 && has_room_beyond(here, (size_t)got, most);
}

int mask_of(const Known *caller, const char *text, size_t length) {
    static const char mark[] = "\nUmask:\t"; /* Linux 4.7 */
    char here[4096], *read = NULL;
    int mask = -1;
    if (length == 0) {
        ssize_t got = text_of(caller->status, here, sizeof here, &read);
        text = read, length = got < 0 ? 0 : (size_t)got;
    }
    const char *at = length > 0 ? memmem(text, length, mark, sizeof mark - 1) : NULL;
    if (at != NULL)
        for (at += sizeof mark - 1; at < text + length && *at >= '0' && *at < '8' && mask <= 0777; at++)
            mask = (mask < 0 ? 0 : mask * 8) + *at - '0';
    if (read != here)
        free(read);
    return mask > 0777 ? -1 : mask;
}

int place_of(const Known *caller, int dirfd) {
    char name[16] = "cwd";
    if (dirfd != AT_FDCWD)
        snprintf(name, sizeof name, "fd/%d", dirfd);
    return dirfd < 0 && dirfd != AT_FDCWD ? -1 : openat(caller->proc, name, O_PATH | O_CLOEXEC);
}

bool standing_in(PyObject *bytes, const struct standing **made) {
    char *data;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(bytes, &data, &size) < 0)
        return false;
    *made = size > 0 ? (const void *)data : NULL; /* bytes objects are aligned */
    if (size != 0 && size != sizeof **made)
        PyErr_SetString(PyExc_ValueError, "this is no struct standing");
    return PyErr_Occurred() == NULL;
}

static PyTypeObject *known_type;

Known *known_from(PyObject *object) {
    if (Py_TYPE(object) == known_type)
        return (Known *)object;
    PyErr_SetString(PyExc_TypeError, "a Known is wanted");
    return NULL;
}

static PyObject *known_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(named)) {
    Known *self = (Known *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    PyObject *rights = NULL, *identity = NULL, *labelled = NULL, *cgroups = NULL, *mounts = NULL;
    const struct standing *is = NULL;
    if (self == NULL)
        return NULL;
    int settled;
    if (!PyArg_ParseTuple(args, "iiiiiipSSSiSS", &self->tid, &self->pidfd, &self->proc, &self->user,
                          &self->status, &self->label, &settled, &rights, &identity, &labelled, &self->cgroup, &cgroups, &mounts)
        || !standing_in(rights, &is) || is == NULL) {
        if (PyErr_Occurred() == NULL)
            PyErr_SetString(PyExc_ValueError, "nothing is known");
        Py_DECREF((PyObject *)self);
        return NULL;
    }
    self->rights = *is;
    self->settled = settled != 0;
    self->identity = Py_NewRef(identity);
    self->labelled = Py_NewRef(labelled);
    self->cgroups = Py_NewRef(cgroups);
    self->mounts = Py_NewRef(mounts);
    return (PyObject *)self;
}

static void known_dealloc(PyObject *object) {
    Known *self = (Known *)object;
    PyTypeObject *type = Py_TYPE(object);
    Py_XDECREF(self->identity), Py_XDECREF(self->labelled), Py_XDECREF(self->cgroups), Py_XDECREF(self->mounts);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

static PyObject *known_same(PyObject *object, PyObject *args) {
    Known *self = (Known *)object;
    int groups;
    PyObject *ours;
    const struct standing *we;
    char here[4096], *text = here;
    ssize_t length = 0;
    bool same;
    if (!PyArg_ParseTuple(args, "pS", &groups, &ours) || !standing_in(ours, &we))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    same = unchanged(self, groups != 0, we, here, sizeof here, &text, &length);
    Py_END_ALLOW_THREADS
    PyObject *result = same ? PyBytes_FromStringAndSize(text, length) : Py_NewRef(Py_None);
    if (text != here)
        free(text);
    return result;
}

static PyObject *known_close(PyObject *object, PyObject *Py_UNUSED(none)) {
    ((Known *)object)->tid = 0;
    return Py_NewRef(Py_None);
}

static PyObject *known_in_its_mounts(PyObject *object, PyObject *Py_UNUSED(none)) { return PyBool_FromLong(in_its_mounts((Known *)object)); }

static PyMethodDef known_methods[] = {{"in_its_mounts", known_in_its_mounts, METH_NOARGS, NULL},
                                      {"same", known_same, METH_VARARGS, NULL},
                                      {"close", known_close, METH_NOARGS, NULL}, {0}};
static PyType_Slot known_slots[] = {{Py_tp_new, known_new}, {Py_tp_dealloc, known_dealloc},
                                    {Py_tp_methods, known_methods}, {0, NULL}};
static PyType_Spec known_spec = {"proctor.kernel._core.Known", sizeof(Known), 0,
                                 Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, known_slots};

bool known_ready(PyObject *module) {
    known_type = (PyTypeObject *)PyType_FromSpec(&known_spec);
    return known_type != NULL && PyModule_AddType(module, known_type) == 0;
}
