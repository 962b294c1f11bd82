/* The native core of proctor.  The manual of all that Python sees is ../_core.pyi.  This file speaks to a listener, and is
 * where the module begins; the way of a notification through the others:
 *
 *   launch.c       starts the target, whose listener it hands over; memory.c reads and writes a caller's memory.
 *   loop/          loop.c waits, has sources.c receive, and routes; role.c says which thread does that; constant.c answers
 *                  calls that all come to the same before anybody is asked; what was opened is given by giving.c.
 *                  A route of our own (route.h) is one of those below; anything else is a Python callable, asked with a
 *                  Notification.
 *   callers/       who called: standing.c takes and compares that, callers.c is for logs; path.c and where.c: where a path
 *                  leads for a caller, kind.c: on what kind of file system that is; acting.h is what of this others share.
 *   usual/         the usual call, which differs from others by nothing but a path: sheets.c knows the others, deciding.c
 *                  reads the path and matches it (match.c), where others see it differently by asking them (seeking.c);
 *                  ruling.c has it performed; telling.c and lines.c say so to a log.
 *   acting/        calls that are performed in one go: short.c opens (ahead.c by an executor), connecting.c connects, doing.c
 *                  changes names and attributes by one plan (deed.c), seen.c says what is known of the thread, performed.c
 *                  is for those of which nobody is told.  What we do ourselves: opening.c, making.c, ourselves.c.
 *   asking/        executors: books.c says who is free, posing.c makes a question and asking.c asks it, lending.c has a
 *                  right lent for it, staying.c is about processors.
 *
 * Whatever is not plain on this way is left to Python, with what was read. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "core.h"
#include "loop/loop.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <structmember.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define IOCTL_SEND 0xC0182101UL
#define IOCTL_ID_VALID 0x40082102UL
#define IOCTL_ADDFD 0x40182103UL
#ifndef SECCOMP_ADDFD_FLAG_SEND
#define SECCOMP_ADDFD_FLAG_SEND 2U /* Linux 5.14 */
#endif

struct addfd {
    uint64_t id;
    uint32_t flags, srcfd, newfd, newfd_flags;
};
_Static_assert(sizeof(struct seccomp_notif) == 80 && sizeof(struct seccomp_notif_resp) == 24
                   && sizeof(struct addfd) == 24, "structures as the ioctl numbers have them");

static PyTypeObject *notification_type;

bool thread_begins(void *(*does)(void *), void *given, size_t stack) {
    pthread_attr_t how;
    pthread_t thread;
    sigset_t all, before;
    if (pthread_attr_init(&how) != 0)
        return false;
    pthread_attr_setstacksize(&how, stack);
    pthread_attr_setdetachstate(&how, PTHREAD_CREATE_DETACHED);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    bool made = pthread_create(&thread, &how, does, given) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&how);
    return made;
}

bool interned(PyObject **names, const char *const *texts, int many) {
    for (int i = 0; i < many; i++)
        if ((names[i] = PyUnicode_InternFromString(texts[i])) == NULL)
            return false;
    return true;
}

PyObject *raise_errno(int number) {
    errno = number;
    return PyErr_SetFromErrno(PyExc_OSError);
}

/* What a system call returned, or its errno raised. */
static PyObject *outcome(long result) {
    return result < 0 ? PyErr_SetFromErrno(PyExc_OSError) : PyLong_FromLong(result);
}

/* ---- Notification ------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    struct seccomp_notif raw;
    int slot;
    char given;     /* whether whoever routed it gave the answer, and lost the role over that */
    PyObject *args; /* once they were asked for */
} Notification;

PyObject *notification_make(const struct seccomp_notif *raw, int slot) {
    Notification *self = PyObject_New(Notification, notification_type);
    if (self != NULL)
        self->raw = *raw, self->slot = slot, self->given = 0, self->args = NULL;
    return (PyObject *)self;
}

void notification_given(PyObject *notification) {
    if (Py_TYPE(notification) == notification_type)
        ((Notification *)notification)->given = 1;
}

void notification_left(PyObject *notification) {
    if (Py_TYPE(notification) == notification_type)
        ((Notification *)notification)->slot = -1;
}

const struct seccomp_notif *notification_of(PyObject *given) {
    return Py_TYPE(given) == notification_type ? &((Notification *)given)->raw : NULL;
}

int notification_slot(PyObject *given) {
    return Py_TYPE(given) == notification_type ? ((Notification *)given)->slot : -1;
}

static void notification_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    Py_XDECREF(((Notification *)self)->args);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyObject *notification_args(PyObject *self, void *Py_UNUSED(closure)) {
    Notification *me = (Notification *)self;
    const __u64 *a = me->raw.data.args;
    if (me->args == NULL)
        me->args = Py_BuildValue("(KKKKKK)", a[0], a[1], a[2], a[3], a[4], a[5]);
    return Py_XNewRef(me->args);
}

#define FIELD(name, type, member) {name, type, offsetof(Notification, raw.member), READONLY, NULL}
static PyMemberDef notification_members[] = {
    FIELD("id", T_ULONGLONG, id),     FIELD("pid", T_UINT, pid),
    FIELD("flags", T_UINT, flags),    FIELD("nr", T_INT, data.nr),
    FIELD("arch", T_UINT, data.arch), FIELD("ip", T_ULONGLONG, data.instruction_pointer),
    {"slot", T_INT, offsetof(Notification, slot), READONLY, NULL},
    {"given", T_BOOL, offsetof(Notification, given), READONLY, NULL}, {0}};
static PyGetSetDef notification_getset[] = {{.name = "args", .get = notification_args}, {0}};
static PyType_Slot notification_slots[] = {
    {Py_tp_dealloc, notification_dealloc}, {Py_tp_members, notification_members},
    {Py_tp_getset, notification_getset}, {0, NULL}};
static PyType_Spec notification_spec = {
    "proctor.kernel._core.Notification", sizeof(Notification), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    notification_slots};

/* ---- seccomp(2) and the listener ---------------------------------------------------------- */

/* Any system call: an int is its value, a buffer its address, None is NULL.  The GIL is given up, but
 * for seccomp(2): taking it again may need a futex(2) that the new filter notifies. */
static PyObject *core_syscall(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count) {
    enum { MOST = 7 };
    long words[MOST] = {0}, result;
    Py_buffer buffers[MOST] = {{0}};
    if (count < 1 || count > MOST)
        return PyErr_Format(PyExc_TypeError, "syscall() takes 1 to 7 arguments, not %zd", count);
    for (Py_ssize_t i = 0; i < count && PyErr_Occurred() == NULL; i++)
        if (PyLong_Check(args[i]))
            words[i] = (long)PyLong_AsUnsignedLongMask(args[i]);
        else if (args[i] != Py_None && PyObject_GetBuffer(args[i], &buffers[i], PyBUF_SIMPLE) == 0)
            words[i] = (long)(uintptr_t)buffers[i].buf;
    PyObject *value = NULL;
    if (PyErr_Occurred() == NULL) {
        PyThreadState *state = words[0] != SYS_seccomp ? PyEval_SaveThread() : NULL;
        result = syscall(words[0], words[1], words[2], words[3], words[4], words[5], words[6]);
        if (state != NULL)
            PyEval_RestoreThread(state); /* leaves errno alone */
        value = outcome(result);
    }
    for (int i = 0; i < MOST; i++)
        PyBuffer_Release(&buffers[i]);
    return value;
}

static PyObject *core_recv(PyObject *Py_UNUSED(module), PyObject *args) {
    struct seccomp_notif here, *raw = &here;
    Py_buffer place = {0};
    int fd, result, slot = -1;
    if (!PyArg_ParseTuple(args, "i|w*i", &fd, &place, &slot))
        return NULL;
    if (place.obj != NULL && place.len != sizeof here) {
        PyBuffer_Release(&place);
        return PyErr_Format(PyExc_ValueError, "a notification has %zu bytes", sizeof here);
    }
    if (place.obj != NULL)
        raw = place.buf;
    memset(raw, 0, sizeof here); /* anything else gives EINVAL */
    Py_BEGIN_ALLOW_THREADS
    result = ioctl(fd, IOCTL_RECV, raw);
    Py_END_ALLOW_THREADS
    PyObject *received = result < 0 ? outcome(result) : notification_make(raw, slot);
    PyBuffer_Release(&place);
    return received;
}

/* SEND: 0 or the errno.  EINTR: the listener's lock was busy, nothing happened yet. */
int answer(int fd, uint64_t id, int64_t value, int32_t error, uint32_t flags) {
    struct seccomp_notif_resp response = {.id = id, .val = value, .error = error, .flags = flags};
    while (ioctl(fd, IOCTL_SEND, &response) < 0)
        if (errno != EINTR)
            return errno;
    return 0;
}

static PyObject *core_send(PyObject *Py_UNUSED(module), PyObject *args) {
    int fd, error;
    unsigned long long id;
    long long value;
    unsigned int flags;
    if (!PyArg_ParseTuple(args, "iKLiI", &fd, &id, &value, &error, &flags))
        return NULL;
    int problem = answer(fd, id, value, error, flags);
    return problem != 0 ? raise_errno(problem) : Py_NewRef(Py_None);
}

static PyObject *fd_name;

bool is_open(PyObject *listener, int number) {
    PyObject *own = PyObject_GetAttr(listener, fd_name); /* asking a Listener by its method takes six times as long */
    PyErr_Clear();
    bool same = (own != NULL ? PyLong_AsLong(own) : PyObject_AsFileDescriptor(listener)) == number;
    PyErr_Clear();
    Py_XDECREF(own);
    return same;
}

int id_valid(int fd, uint64_t id) {
    while (ioctl(fd, IOCTL_ID_VALID, &id) < 0)
        if (errno != EINTR)
            return errno;
    return 0;
}

static PyObject *core_id_valid(PyObject *Py_UNUSED(module), PyObject *args) {
    int fd;
    unsigned long long id;
    if (!PyArg_ParseTuple(args, "iK", &fd, &id))
        return NULL;
    int problem = id_valid(fd, id);
    return problem != 0 && problem != ENOENT ? raise_errno(problem) : PyBool_FromLong(problem == 0);
}

/* A descriptor, without a signal in between: see C074. */
static int add(int listener, struct addfd *request) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int number = ioctl(listener, IOCTL_ADDFD, request);
    pthread_sigmask(SIG_SETMASK, &before, NULL); /* leaves errno alone */
    return number;
}

/* Who waits for the answer whatever signals come (WAIT_KILLABLE_RECV) is given it in two steps, and ours is closed in
 * between: the kernel's own hold on it ends with the first one.  Anybody else would keep it when a signal comes in
 * between. */
int give(int listener, uint64_t id, int fd, bool cloexec, bool waits, const uint32_t *at, struct slot *slot) {
    struct addfd request = {.id = id, .srcfd = (uint32_t)fd, .newfd = at != NULL ? *at : 0,
                            .flags = (waits ? 0 : SECCOMP_ADDFD_FLAG_SEND) | (at != NULL ? SECCOMP_ADDFD_FLAG_SETFD : 0),
                            .newfd_flags = cloexec ? O_CLOEXEC : 0};
    int number = add(listener, &request), problem = number < 0 ? errno : 0;
    if (problem != 0)
        return problem;
    if (waits && slot != NULL) { /* whoever comes after us answers with that, and gives nothing again */
        slot->given = (uint32_t)number;
        atomic_store_explicit(&slot->state, GIVEN, memory_order_release);
    }
    close(fd);
    return waits && answer(listener, id, number, 0, 0) != 0 ? -1 : 0;
}

struct slot *slot_in(PyObject *journal, int slot, Py_buffer *held) {
    if (slot < 0 || journal == Py_None || PyObject_GetBuffer(journal, held, PyBUF_WRITABLE) != 0)
        return NULL;
    size_t end = sizeof(struct header) + ((size_t)slot + 1) * sizeof(struct slot);
    if ((size_t)held->len >= end)
        return (struct slot *)(void *)((char *)held->buf + end) - 1;
    PyBuffer_Release(held);
    PyErr_SetString(PyExc_ValueError, "the journal has no such slot");
    return NULL;
}

/* True; False if nobody waits any more; None if it could not be given and is kept. */
static PyObject *core_give(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count) {
    if (count != 8)
        return PyErr_Format(PyExc_TypeError, "give() takes 8 arguments, not %zd", count);
    int listener = (int)PyLong_AsLong(args[0]), fd = (int)PyLong_AsLong(args[2]), problem;
    uint64_t id = PyLong_AsUnsignedLongLongMask(args[1]);
    bool cloexec = PyObject_IsTrue(args[3]) == 1, waits = PyObject_IsTrue(args[5]) == 1;
    uint32_t at = args[4] != Py_None ? (uint32_t)PyLong_AsUnsignedLongMask(args[4]) : 0;
    Py_buffer held;
    struct slot *slot = slot_in(args[6], (int)PyLong_AsLong(args[7]), &held);
    if (PyErr_Occurred() != NULL) {
        if (slot != NULL)
            PyBuffer_Release(&held);
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    problem = give(listener, id, fd, cloexec, waits, args[4] != Py_None ? &at : NULL, slot);
    Py_END_ALLOW_THREADS
    if (slot != NULL)
        PyBuffer_Release(&held);
    return problem > 0 ? Py_NewRef(Py_None) : PyBool_FromLong(problem == 0);
}

static PyObject *core_addfd(PyObject *Py_UNUSED(module), PyObject *args) {
    int fd, result;
    unsigned long long id;
    struct addfd request;
    if (!PyArg_ParseTuple(args, "iKIIII", &fd, &id, &request.srcfd, &request.flags, &request.newfd,
                          &request.newfd_flags))
        return NULL;
    request.id = id;
    Py_BEGIN_ALLOW_THREADS
    result = add(fd, &request);
    Py_END_ALLOW_THREADS
    return outcome(result);
}

/* ---- The module --------------------------------------------------------------------------- */

#define NUMBER(name) {"SYS_" #name, SYS_##name}
static const struct {
    const char *name;
    int number;
} numbers[] = {NUMBER(seccomp), NUMBER(kcmp), NUMBER(prctl), NUMBER(ptrace), NUMBER(pidfd_getfd),
               NUMBER(process_vm_readv), NUMBER(getrandom), NUMBER(fstatfs), NUMBER(statx), NUMBER(sched_getaffinity),
               {"SYS_openat2", 437}};

static PyMethodDef core_methods[] = {
    {"syscall", (PyCFunction)(void (*)(void))core_syscall, METH_FASTCALL, NULL},
    {"recv", core_recv, METH_VARARGS, NULL},
    {"send", core_send, METH_VARARGS, NULL},
    {"id_valid", core_id_valid, METH_VARARGS, NULL},
    {"addfd", core_addfd, METH_VARARGS, NULL},
    {"give", (PyCFunction)(void (*)(void))core_give, METH_FASTCALL, NULL},
    {"write", (PyCFunction)(void (*)(void))core_write, METH_FASTCALL, NULL},
    {"read", (PyCFunction)(void (*)(void))core_read, METH_FASTCALL, NULL},
    {"read_all", (PyCFunction)(void (*)(void))core_read_all, METH_FASTCALL, NULL},
    {"find", core_find, METH_VARARGS, NULL},
    {"where", (PyCFunction)(void (*)(void))core_where, METH_FASTCALL, NULL},
    {"matches", core_matches, METH_VARARGS, NULL},
    {"kind_of", (PyCFunction)(void (*)(void))core_kind_of, METH_FASTCALL, NULL},
    {"whereabouts", (PyCFunction)(void (*)(void))core_whereabouts, METH_FASTCALL, NULL},
    {"standing", (PyCFunction)(void (*)(void))core_standing, METH_FASTCALL, NULL},
    {"ask_for", (PyCFunction)(void (*)(void))core_ask_for, METH_FASTCALL, NULL},
    {"act_for", (PyCFunction)(void (*)(void))core_act_for, METH_FASTCALL, NULL},
    {"act_on", (PyCFunction)(void (*)(void))core_act_on, METH_FASTCALL, NULL},
    {"hear_closed", core_hear_closed, METH_VARARGS, NULL},
    {"lend_for", core_lend_for, METH_VARARGS, NULL},
    {"claim_routed", core_claim_routed, METH_NOARGS, NULL},
    {"open_for", (PyCFunction)(void (*)(void))core_open_for, METH_FASTCALL, NULL},
    {"maker", core_maker, METH_NOARGS, NULL},
    {"reopen", (PyCFunction)(void (*)(void))core_reopen, METH_FASTCALL, NULL},
    {"launch", core_launch, METH_VARARGS, NULL},
    {0}};
static struct PyModuleDef core = {PyModuleDef_HEAD_INIT, .m_name = "proctor.kernel._core",
                                  .m_doc = "The native core; its manual is _core.pyi.",
                                  .m_size = -1, .m_methods = core_methods};

PyMODINIT_FUNC PyInit__core(void) {
    PyType_Spec *specs[] = {&notification_spec, &constant_spec, &loop_spec, &usual_spec, &callers_spec,
                            &gathered_spec, &short_spec, &connect_spec, &performed_spec, &books_spec, &seen_spec, &doing_spec};
    path_ready();
    bool ready = (fd_name = PyUnicode_InternFromString("_fd")) != NULL && route_ready() && seen_ready() && usual_ready() && short_ready()
                 && connect_ready() && books_ready() && doing_ready();
    PyObject *module = ready ? PyModule_Create(&core) : NULL;
    if (module != NULL && (!known_ready(module) || !request_ready(module) || !forms_ready(module)))
        Py_CLEAR(module);
    for (size_t i = 0; module != NULL && i < sizeof specs / sizeof *specs; i++) {
        PyTypeObject *type = (PyTypeObject *)PyType_FromSpec(specs[i]);
        if (type == NULL || PyModule_AddType(module, type) < 0)
            Py_CLEAR(module);
        if (i == 0)
            notification_type = type; /* kept */
        else if (i == 1)
            constant_type = type;
        else
            Py_XDECREF((PyObject *)type);
    }
    for (size_t i = 0; module != NULL && i < sizeof numbers / sizeof *numbers; i++)
        if (PyModule_AddIntConstant(module, numbers[i].name, numbers[i].number) < 0)
            Py_CLEAR(module);
    return module;
}
