/* Calls that are answered by what is read of their thread alone.  The manual is _core.pyi.
 *
 * fsync(2) and the like, said to be done: what the descriptor is of decides, of the caller's thread and no other.  Said is 0 of what
 * is stored, EBADF of what is none.  A duplicate is taken, which alone tells what the number means at one moment; closing it waits
 * for nobody where the file system is of these kinds, and is somebody else's where it is not.
 *
 * sysinfo(2): what was said to the same thread is said again for as long as that is good, if its cgroups are the same.
 *
 * All else goes the longer way, and nothing has happened. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "acting/short.h"
#include "usual/usual.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { RECALLED, CGROUP, NAMES };
static PyObject *names[NAMES];

typedef struct {
    HOLDS(12, PERFORMING, *port, *done, *failed, /* the last two count */
          *standings, *give_back, *close, *kinds); /* NULL until somebody performs */
    int listener, recalls; /* what was said before */
} Seen;

/* What is said to that descriptor of a thread: 0, -EBADF, or LEFT; *left is what was taken, if closing it may wait. */
static int said_of(const Known *caller, int number, const uint32_t *kinds, size_t count, int *left) {
    uint16_t mode = 0;
    if (number < 0 || caller->pidfd < 0)
        return number < 0 ? -EBADF : LEFT;
    int said = LEFT, fd = (int)syscall(SYS_pidfd_getfd, caller->pidfd, number, 0);
    if (fd < 0)
        return errno == EBADF ? -EBADF : LEFT;
    int flags = fcntl(fd, F_GETFL);
    bool local = false;
    if (flags >= 0 && flags & O_PATH) {
        said = -EBADF, local = true;
    } else if (flags >= 0) {
        uint32_t kind = kind_and_mode(fd, true, &mode);
        for (size_t i = 0; !local && i < count; i++)
            local = kinds[i] == kind;
        if (local && (S_ISREG(mode) || S_ISDIR(mode) || S_ISBLK(mode)))
            said = 0;
    }
    if (local)
        close(fd);
    else
        *left = fd;
    return said;
}

struct recalled { /* of a thread: what it was told, for how long that is good, and what its cgroups were */
    uint64_t number;
    const char *cgroups, *data;
    Py_ssize_t length, size;
    double until;
    int cgroup;
};

/* Say it again: 0, or -EFAULT, when it is answered; LEFT. */
static int said_again(const Seen *self, const Known *caller, const struct seccomp_notif *raw, const struct recalled *was) {
    char text[4096];
    uint64_t number = (uint64_t)raw->data.arch << 32 | (uint32_t)raw->data.nr;
    int said = LEFT, mem = -1;
    if (was->number == number && seconds(CLOCK_MONOTONIC) < was->until && pread(was->cgroup, text, sizeof text, 0) == was->length
        && memcmp(text, was->cgroups, (size_t)was->length) == 0)
        mem = fillable(caller->proc, caller->tid, raw->data.args[0], (size_t)was->size, self->listener, raw->id);
    if (mem >= 0 && claim_routed()) {
        said = pwrite(mem, was->data, (size_t)was->size, (off_t)raw->data.args[0]) == was->size ? 0 : -EFAULT;
        answer(self->listener, raw->id, 0, said, 0);
    }
    if (mem >= 0)
        close(mem);
    return said;
}

/* What somebody was told, who has it; false if that is nothing. */
static bool recall(PyObject *standing, PyObject **held, struct recalled *was) {
    PyObject *cgroup = PyObject_GetAttr(standing, names[CGROUP]), *cgroups, *data;
    bool good = cgroup != NULL && (*held = PyObject_GetAttr(standing, names[RECALLED])) != NULL && *held != Py_None
                && PyArg_ParseTuple(*held, "KSSd", &was->number, &cgroups, &data, &was->until);
    if (good) {
        was->cgroups = PyBytes_AsString(cgroups), was->length = PyBytes_Size(cgroups);
        was->data = PyBytes_AsString(data), was->size = PyBytes_Size(data);
    }
    was->cgroup = good ? (int)PyLong_AsLong(cgroup) : -1;
    Py_XDECREF(cgroup);
    return good;
}

/* Whether there is anybody who performs such calls. */
static bool is_found(Seen *self) {
    PyObject *native = self->standings == NULL ? native_of(self->find) : NULL, *standings, *give_back, *closes, *kinds;
    if (native != NULL && PyArg_ParseTuple(native, "O!OOS", &PyDict_Type, &standings, &give_back, &closes, &kinds)) {
        self->standings = Py_NewRef(standings), self->give_back = Py_NewRef(give_back);
        self->close = Py_NewRef(closes), self->kinds = Py_NewRef(kinds);
    }
    Py_XDECREF(native);
    return self->standings != NULL;
}

static int seen_answers(void *me, PyObject *Py_UNUSED(notification), const struct seccomp_notif *raw) {
    Seen *self = me;
    PyObject *tid = is_found(self) ? PyLong_FromUnsignedLong(raw->pid) : NULL, *held = NULL;
    struct caller caller = {0};
    struct recalled was;
    int said = LEFT, left = -1;
    if (tid != NULL && take_known(self->standings, self->container, tid, &caller)) {
        const uint32_t *kinds = (const void *)PyBytes_AsString(self->kinds); /* bytes objects are aligned */
        size_t count = (size_t)PyBytes_Size(self->kinds) / sizeof *kinds;
        bool goes = !self->recalls || (is_open(self->port, self->listener) && recall(caller.standing, &held, &was));
        Py_BEGIN_ALLOW_THREADS
        if (goes)
            said = self->recalls ? said_again(self, caller.known, raw, &was)
                                 : said_of(caller.known, (int)raw->data.args[0], kinds, count, &left);
        Py_END_ALLOW_THREADS
        give_back_caller(self->standings, self->give_back, tid, &caller);
        Py_XDECREF(held);
        if (said != LEFT && !self->recalls && answer_routed(raw->id, 0, said, 0) < 0) /* gone is no error */
            said = LEFT;
    }
    if (left >= 0) {
        PyObject *closed = PyObject_CallFunction(self->close, "Oi", self->container, left);
        Py_XDECREF(closed);
    }
    if (said != LEFT)
        count(said == 0 ? self->done : self->failed);
    Py_XDECREF(tid);
    return said != LEFT ? REPLIED : NOTHING;
}

static PyObject *seen_call(PyObject *me, PyObject *args, PyObject *Py_UNUSED(named)) { return routed(me, args, seen_answers); }

static PyObject *seen_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(named)) {
    Seen *self = holder_new(type);
    if (self == NULL)
        return NULL;
    bool good = PyArg_ParseTuple(args, "OO!OOOOpOO", &self->share, &PyDict_Type, &self->busy, &self->fallback, &self->find,
                                 &self->container, &self->port, &self->recalls, &self->done, &self->failed)
                && (self->listener = PyObject_AsFileDescriptor(self->port)) >= 0;
    return holder_made(self, MANY(self), good);
}

static PyType_Slot seen_slots[] = {{Py_tp_new, seen_new}, {Py_tp_call, seen_call}, HOLDER_SLOTS, {0, NULL}};
PyType_Spec seen_spec = HOLDER_SPEC("Seen", Seen, Py_TPFLAGS_IMMUTABLETYPE, seen_slots);

bool seen_ready(void) {
    static const char *const texts[NAMES] = {"recalled", "_cgroup"};
    return interned(names, texts, NAMES);
}
