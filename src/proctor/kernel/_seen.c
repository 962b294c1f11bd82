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
#include "_short.h"
#include "_usual.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { HELD = 11 };
enum { NATIVE, RECALLED, CGROUP, NAMES };
static PyObject *names[NAMES];

typedef struct {
    PyObject_HEAD
    union {
        PyObject *held[HELD];
        struct {
            PyObject *share, *busy, *fallback, *find, *container, *port, *done, *failed; /* the last two count */
            PyObject *standings, *give_back, *close; /* NULL until somebody performs */
        };
    };
    PyObject *kinds;
    int listener;
    bool recalls; /* what was said before */
} Seen;

/* What is said to that descriptor of a thread: 0, -EBADF, or LEFT; *left is what was taken, if closing it may wait. */
static int said_of(const Known *caller, int number, const uint32_t *kinds, size_t count, int *left) {
    uint16_t mode = 0;
    if (number < 0)
        return -EBADF;
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

/* Who performs such calls, once there is anybody. */
static bool is_found(Seen *self) {
    if (self->standings != NULL)
        return true;
    PyObject *way = PyObject_CallFunctionObjArgs(self->find, NULL), *native = NULL, *standings, *give_back, *closes, *kinds;
    bool good = way != NULL && way != Py_None && (native = PyObject_GetAttr(way, names[NATIVE])) != NULL
                && PyArg_ParseTuple(native, "O!OOS", &PyDict_Type, &standings, &give_back, &closes, &kinds);
    if (good) {
        self->standings = Py_NewRef(standings), self->give_back = Py_NewRef(give_back);
        self->close = Py_NewRef(closes), self->kinds = Py_NewRef(kinds);
    }
    if (way != NULL)
        PyErr_Clear(); /* somebody else performs here, and has nothing of this */
    Py_XDECREF(native), Py_XDECREF(way);
    return good;
}

/* Whether it is answered. */
static bool answered(Seen *self, const struct seccomp_notif *raw) {
    PyObject *tid = PyLong_FromUnsignedLong(raw->pid), *held = NULL;
    struct caller caller = {0};
    struct recalled was;
    int said = LEFT, left = -1;
    if (take_known(self->standings, self->container, tid, &caller)) {
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
    return said != LEFT;
}

static PyObject *seen_call(PyObject *me, PyObject *args, PyObject *Py_UNUSED(named)) {
    Seen *self = (Seen *)me;
    PyObject *notification = PyTuple_Size(args) == 1 ? PyTuple_GetItem(args, 0) : NULL;
    if (notification == NULL)
        return PyErr_Format(PyExc_TypeError, "a notification is wanted");
    const struct seccomp_notif *raw = notification_of(notification);
    bool good = raw != NULL && raw->pid != 0 && !may_wait(self->share, self->busy, raw) && is_found(self) && answered(self, raw);
    if (PyErr_Occurred() != NULL) {
        if (good)
            PyErr_WriteUnraisable(me); /* it is answered all the same */
        else
            return NULL;
    }
    return good ? Py_NewRef(Py_True) : PyObject_CallFunctionObjArgs(self->fallback, notification, NULL);
}

static PyObject *seen_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(named)) {
    Seen *self = (Seen *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (self == NULL)
        return NULL;
    int recalls = 0;
    bool good = PyArg_ParseTuple(args, "OO!OOOOpOO", &self->share, &PyDict_Type, &self->busy, &self->fallback, &self->find,
                                 &self->container, &self->port, &recalls, &self->done, &self->failed);
    for (int i = 0; i < HELD; i++) /* were borrowed */
        Py_XINCREF(self->held[i]);
    if (!good || (self->listener = PyObject_AsFileDescriptor(self->port)) < 0)
        Py_CLEAR(self);
    else
        self->recalls = recalls != 0;
    return (PyObject *)self;
}

static int seen_traverse(PyObject *me, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(me));
    for (int i = 0; i < HELD; i++)
        Py_VISIT(((Seen *)me)->held[i]);
    return 0;
}

static int seen_clear(PyObject *me) {
    for (int i = 0; i < HELD; i++)
        Py_CLEAR(((Seen *)me)->held[i]);
    Py_CLEAR(((Seen *)me)->kinds);
    return 0;
}

static void seen_dealloc(PyObject *me) {
    PyTypeObject *type = Py_TYPE(me);
    PyObject_GC_UnTrack(me);
    seen_clear(me);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(me);
    Py_DECREF(type);
}

static PyType_Slot seen_slots[] = {{Py_tp_new, seen_new}, {Py_tp_dealloc, seen_dealloc},
                                       {Py_tp_traverse, seen_traverse}, {Py_tp_clear, seen_clear},
                                       {Py_tp_call, seen_call}, {0, NULL}};
static PyType_Spec seen_spec = {"proctor.kernel._core.Seen", sizeof(Seen), 0,
                                    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_HAVE_GC, seen_slots};

bool seen_ready(PyObject *module) {
    static const char *const texts[NAMES] = {"native", "recalled", "_cgroup"};
    PyTypeObject *type = (PyTypeObject *)PyType_FromSpec(&seen_spec);
    bool good = type != NULL && PyModule_AddType(module, type) == 0;
    for (int i = 0; good && i < NAMES; i++)
        good = (names[i] = PyUnicode_InternFromString(texts[i])) != NULL;
    return good;
}
