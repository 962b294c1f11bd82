/* The loop: receives, routes and answers.  The manual is _core.pyi; this is how it works, and why.
 *
 * serve() gives the GIL up once: waits and receives all it may, then takes the GIL and routes.
 * Signals are blocked in the thread except while it waits.  RECV after POLLIN does not block as long
 * as we are the only reader: what was cancelled meanwhile gives ENOENT (C044, C077).  SEND does not
 * sleep, so it keeps the GIL. */
#define PY_SSIZE_T_CLEAN
#include "loop/loop.h"
#include <errno.h>
#include <linux/audit.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <structmember.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

enum { SLOW_NS = 50000 };

/* ---- Routing ------------------------------------------------------------------------------ */

/* Send what a route returned, often the same triple as before.  Gone, or answered, is no error. */
static bool reply(int fd, uint64_t id, PyObject *wire) {
    static PyObject *last;
    static struct seccomp_notif_resp known; /* what it says */
    if (wire != last) {
        if (!PyTuple_Check(wire) || PyTuple_Size(wire) != 3)
            return PyErr_Format(PyExc_TypeError, "%R is not (value, error, flags)", wire) != NULL;
        long error = PyLong_AsLong(PyTuple_GetItem(wire, 1));
        if (error < -4095 || error > 0) /* it would succeed: C055 */
            return PyErr_Format(PyExc_ValueError, "%ld: 0 or a negative errno", error) != NULL;
        struct seccomp_notif_resp said = {.val = PyLong_AsLongLong(PyTuple_GetItem(wire, 0)),
                                          .error = (int32_t)error,
                                          .flags = (uint32_t)PyLong_AsLong(PyTuple_GetItem(wire, 2))};
        if (PyErr_Occurred() != NULL)
            return false;
        known = said;
        Py_XDECREF(last);
        last = Py_NewRef(wire);
    }
    int problem = answer(fd, id, known.val, known.error, known.flags);
    return problem == 0 || problem == ENOENT || problem == EINPROGRESS || raise_errno(problem);
}

/* Which call a thread routes, for answer_routed(). */
static _Thread_local struct {
    Loop *loop;
    unsigned long token;
    int listener;
    PyObject *notification;
    bool pressed, journaled, handed; /* others are there already; and whoever gives has it */
} routed;

int answer_routed(uint64_t id, int64_t value, int32_t error, uint32_t flags) {
    if (routed.loop == NULL || routed.loop->generation != routed.token)
        return -1;
    return answer(routed.listener, id, value, error, flags);
}

bool claim_routed(void) {
    unsigned long open = routed.token * 2;
    return routed.loop != NULL && atomic_compare_exchange_strong(&routed.loop->claim, &open, open + 1);
}

bool hand_routed(uint64_t id, int fd, bool cloexec, bool waits, struct slot *slot, Py_buffer *held) {
    if (routed.loop == NULL || !routed.pressed || (routed.journaled && slot == NULL))
        return false;
    struct gift what = {routed.listener, fd, id, cloexec, waits, slot};
    routed.handed = giver_takes(routed.loop->giver, &what, held);
    if (routed.handed)
        notification_left(routed.notification); /* at once: a signal's handler in Python may raise behind this */
    return routed.handed;
}

PyObject *core_claim_routed(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none)) {
    return PyBool_FromLong(claim_routed());
}

/* For whom a thread receives that calls what is routed. */
static _Thread_local struct {
    Loop *loop;
    unsigned long token;
} leads;

int others_wanting(void) {
    return leads.loop == NULL || leads.loop->generation != leads.token ? NOBODY : leads.loop->more ? THERE : leads.loop->epoll;
}

/* Call what is routed, where it can lose the role: whether it did. */
static bool called(Loop *self, unsigned long token, PyObject *way, PyObject *function,
                   PyObject *argument, PyObject **result) {
    self->way = way;
    self->what = argument;
    self->more = self->next < self->count;
    atomic_store(&self->claim, token * 2);
    atomic_fetch_add(&self->serial, 1);
    if (atomic_load(&self->asleep)) /* whoever stands by says so, and then looks at the serial */
        ring(self);
    __typeof__(leads) before = leads;
    leads.loop = self, leads.token = token;
    *result = PyObject_CallFunctionObjArgs(function, argument, NULL);
    leads = before;
    if (self->generation != token)
        return true;
    atomic_fetch_add(&self->serial, 1);
    self->way = self->what = NULL;
    return false;
}

enum { GOOD, RAISED, LOST };

/* Answered by a longer way, after the role went to another thread. */
static void settle(PyObject *tuple, PyObject *notification, PyObject *wire) {
    PyObject *type = NULL, *value = NULL, *trace = NULL;
    PyErr_Fetch(&type, &value, &trace);
    PyObject *said = wire != NULL ? Py_NewRef(wire) : Py_BuildValue("(iii)", 0, -EPERM, 0);
    PyObject *done = said == NULL ? NULL : PyObject_CallFunctionObjArgs(
        PyTuple_GetItem(tuple, SETTLE), notification, said, NULL);
    if (done == NULL)
        PyErr_WriteUnraisable(tuple);
    Py_XDECREF(done);
    Py_XDECREF(said);
    PyErr_Restore(type, value, trace);
}

/* Look the route of one notification up, call it and reply. */
static int route(Loop *self, unsigned long token, PyObject *served, struct entry entry) {
    struct slot *slot = entry.slot;
    struct seccomp_notif *raw = &slot->raw;
    struct source *source = entry.source;
    int listener = source->fd;
    bool journaled = slot >= source->slots && slot < source->slots + source->count;
    PyObject *fd = PyLong_FromLong(listener);
    PyObject *notification = NULL;
    PyObject *key = PyLong_FromUnsignedLongLong(
        (uint64_t)(raw->data.arch ^ AUDIT_ARCH_X86_64) << 32 | (uint32_t)raw->data.nr);
    PyObject *tuple = NULL, *handler = NULL, *wire = NULL;
    bool ready = fd != NULL && key != NULL, lost = false, handed = false;
    int problem = -1;
    uint64_t id = raw->id;
    if (ready && (tuple = PyDict_GetItemWithError(served, fd)) != NULL
        && (handler = PyDict_GetItemWithError(PyTuple_GetItem(tuple, ROUTES), key)) == NULL)
        handler = PyTuple_GetItem(tuple, FALLBACK);
    if (handler != NULL)
        problem = constant_answers(handler, listener, raw);
    if (problem < 0) {
        notification = notification_make(raw, journaled ? (int)(slot - source->slots) : -1);
        ready = ready && notification != NULL;
    }
    Py_XINCREF(tuple); /* the listener may be removed meanwhile */
    Py_XINCREF(handler);
    if (ready && handler != NULL && problem < 0) {
        __typeof__(routed) before = routed; /* a handler may serve others meanwhile */
        routed.loop = self;
        routed.token = token;
        routed.listener = listener;
        routed.notification = notification;
        routed.pressed = self->next < self->count, routed.journaled = journaled, routed.handed = false;
        giver_settle(self->giver, journaled ? source->journal.buf : NULL);
        lost = called(self, token, tuple, handler, notification, &wire);
        handed = routed.handed;
        routed = before;
        if (handed) {
            self->handed++;
            giver_knows(self->giver, id, tuple, notification);
        }
    }
    int became = wire != NULL || problem >= 0 ? GOOD : RAISED;
    if (problem >= 0) {
        atomic_store_explicit(&slot->state, FREE, memory_order_release);
    } else if (lost) { /* slot and source may be gone */
        settle(tuple, notification, handed ? Py_True : wire);
        became = LOST;
    } else if (handed) { /* whoever gives answers it, and then frees its slot */
        ;
    } else if (wire == Py_True) { /* it answered */
        atomic_store_explicit(&slot->state, FREE, memory_order_release);
    } else if (wire != Py_None) {
        bool removed = ready && tuple == NULL; /* answer as if it were closed (C093) */
        if (removed || wire == NULL || !reply(listener, id, wire)) {
            answer(listener, id, 0, removed ? -ENOSYS : -EPERM, 0);
            became = removed ? GOOD : RAISED;
        }
        atomic_store_explicit(&slot->state, FREE, memory_order_release);
    }
    Py_XDECREF(tuple);
    Py_XDECREF(handler);
    Py_XDECREF(wire);
    Py_XDECREF(key);
    Py_XDECREF(notification);
    Py_XDECREF(fd);
    return became;
}

/* Something that was waited for is readable. */
static int notice(Loop *self, unsigned long token, PyObject *served, struct source *source) {
    PyObject *fd = PyLong_FromLong(source->fd), *done = NULL;
    PyObject *tuple = fd == NULL || source->gone ? NULL : PyDict_GetItemWithError(served, fd);
    bool lost = false;
    if (tuple != NULL) {
        Py_INCREF(tuple);
        lost = called(self, token, tuple, PyTuple_GetItem(tuple, FALLBACK), NULL, &done);
        Py_DECREF(tuple);
    }
    Py_XDECREF(done);
    Py_XDECREF(fd);
    return lost ? LOST : PyErr_Occurred() != NULL ? RAISED : GOOD;
}

/* By a clock that goes on every few of them, and costs nearly nothing. */
static int64_t milliseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static PyObject *loop_serve(PyObject *me, PyObject *args) {
    Loop *self = (Loop *)me;
    struct epoll_event events[EVENTS] = {{0}};
    sigset_t all, before;
    int wait, rounds, total = 0, alone = 0, problem = 0, ready = 1, became = GOOD;
    unsigned long token;
    bool leave = false;
    struct timespec from = {0}, to = {0}; /* how long routing took, looked at when draining */
    int64_t end = 0;
    PyObject *served, *hung, *held[3] = {NULL, NULL, NULL};
    if (!PyArg_ParseTuple(args, "kO!O!ii", &token, &PyDict_Type, &served, &PyList_Type, &hung, &wait,
                          &rounds))
        return NULL;
    if (self->generation != token)
        return PyLong_FromLong(-1);
    if (wait > 0)
        end = milliseconds() + wait;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const sigset_t *mask = memcmp(&all, &before, KERNEL_SIGSET) == 0 ? NULL : &before;
    do {
        bool drain = alone < 16 || alone % 8 == 0;
        int count = self->count - self->next; /* what the last one with the role left */
        if (count == 0) {
            self->count = self->next = 0;
            giver_settle(self->giver, NULL);
            if (self->gone != NULL)
                forget(self);
            Py_BEGIN_ALLOW_THREADS
            ready = epoll_pwait(self->epoll, events, EVENTS, wait, mask);
            problem = ready < 0 ? errno : 0;
            for (int i = 0; i < ready; i++) {
                struct source *source = events[i].data.ptr;
                eventfd_t unused;
                if (source == NULL) {
                    eventfd_read(self->event, &unused);
                    leave = true;
                } else if (!source->listener) {
                    self->batch[self->count++] = (struct entry){source, NULL};
                } else if (events[i].events & EPOLLIN) {
                    receive(self, source, drain, &problem);
                } else {
                    leave = true;
                }
            }
            if (drain)
                clock_gettime(CLOCK_MONOTONIC, &from);
            Py_END_ALLOW_THREADS
            count = self->count;
        }
        while (self->next < self->count) {
            struct entry entry = self->batch[self->next++];
            became = entry.slot == NULL ? notice(self, token, served, entry.source)
                                        : route(self, token, served, entry);
            if (PyErr_Occurred() != NULL && held[0] == NULL)
                PyErr_Fetch(&held[0], &held[1], &held[2]);
            else if (PyErr_Occurred() != NULL)
                PyErr_WriteUnraisable(served);
            if (became == LOST)
                goto out;
        }
        if (drain)
            clock_gettime(CLOCK_MONOTONIC, &to);
        bool slow = (to.tv_sec - from.tv_sec) * 1000000000 + to.tv_nsec - from.tv_nsec > SLOW_NS;
        alone = count == 1 && !slow ? alone + 1 : 0;
        total += count;
        if (wait > 0 && rounds != 1) {
            int64_t left = end - milliseconds();
            wait = left > 0 ? (int)left : 0;
        }
    } while (wait != 0 && --rounds != 0 && ready > 0 && !leave && problem == 0 && held[0] == NULL
             && !self->wanted);
out:
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (held[0] != NULL)
        PyErr_Restore(held[0], held[1], held[2]);
    else if (became == LOST)
        return PyLong_FromLong(-1);
    else if (problem == EINTR)
        PyErr_CheckSignals();
    else if (problem != 0)
        raise_errno(problem);
    for (int i = 0; i < ready && leave && PyErr_Occurred() == NULL; i++) {
        struct source *source = events[i].data.ptr;
        if (source != NULL && (events[i].events & (EPOLLHUP | EPOLLIN)) == EPOLLHUP
            && source->listener) {
            PyObject *fd = PyLong_FromLong(source->fd);
            if (fd != NULL)
                PyList_Append(hung, fd);
            Py_XDECREF(fd);
        }
    }
    return PyErr_Occurred() != NULL ? NULL : PyLong_FromLong(total);
}

static PyObject *loop_attend(PyObject *me, PyObject *args) {
    Loop *self = (Loop *)me;
    unsigned long token;
    PyObject *work, *result;
    if (!PyArg_ParseTuple(args, "kO", &token, &work))
        return NULL;
    if (self->generation != token)
        return PyBool_FromLong(0);
    bool lost = called(self, token, work, work, NULL, &result);
    if (result == NULL)
        return NULL;
    Py_DECREF(result);
    return PyBool_FromLong(!lost);
}

/* ---- The object --------------------------------------------------------------------------- */

static PyObject *loop_wake(PyObject *me, PyObject *Py_UNUSED(none)) {
    eventfd_write(((Loop *)me)->event, 1); /* EAGAIN: the counter is full: it is awake enough */
    return Py_NewRef(Py_None);
}

/* In a child of fork(2), perhaps made in a route: whoever has the role there has lost it, and what it received. */
static PyObject *loop_disown(PyObject *me, PyObject *Py_UNUSED(none)) {
    Loop *self = (Loop *)me;
    self->generation++;
    self->count = self->next = 0;
    giver_disown(self->giver);
    return Py_NewRef(Py_None);
}

static PyObject *loop_let_go(PyObject *me, PyObject *args) {
    int listener;
    if (!PyArg_ParseTuple(args, "i", &listener))
        return NULL;
    giver_closes(((Loop *)me)->giver, listener);
    return Py_NewRef(Py_None);
}

static PyObject *loop_close(PyObject *me, PyObject *Py_UNUSED(none)) {
    Loop *self = (Loop *)me;
    self->closed = 1;
    ring(self);
    return loop_wake(me, NULL);
}

static PyObject *loop_shut(PyObject *me, PyObject *Py_UNUSED(none)) {
    Loop *self = (Loop *)me;
    leave_all(self);
    if (self->giver != NULL)
        giver_settle(self->giver, NULL), giver_over(self->giver);
    self->count = self->next = 0;
    if (self->epoll >= 0)
        close(self->epoll);
    if (self->event >= 0)
        close(self->event);
    self->epoll = self->event = -1;
    return loop_forget(me, NULL);
}

static PyObject *loop_new(PyTypeObject *type, PyObject *args, PyObject *named) {
    if (PyTuple_Size(args) != 0 || (named != NULL && PyDict_Size(named) != 0))
        return PyErr_Format(PyExc_TypeError, "Loop() takes no arguments");
    allocfunc make = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Loop *self = (Loop *)make(type, 0);
    if (self == NULL)
        return NULL;
    self->epoll = self->event = -1;
    self->surrendered = (unsigned long)-2; /* what the serial never is */
    struct epoll_event event = {.events = EPOLLIN};
    if ((self->giver = giver_new()) == NULL) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    if ((self->epoll = epoll_create1(EPOLL_CLOEXEC)) < 0
        || (self->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) < 0
        || epoll_ctl(self->epoll, EPOLL_CTL_ADD, self->event, &event) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void loop_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    Py_XDECREF(loop_shut(self, NULL));
    if (((Loop *)self)->giver != NULL)
        giver_forget(((Loop *)self)->giver);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyMethodDef loop_methods[] = {
    {"serve", loop_serve, METH_VARARGS, NULL},
    {"attend", loop_attend, METH_VARARGS, NULL},
    {"lead", loop_lead, METH_VARARGS, NULL},
    {"resign", loop_resign, METH_VARARGS, NULL},
    {"surrender", loop_surrender, METH_NOARGS, NULL},
    {"watch", loop_watch, METH_VARARGS, NULL},
    {"unwatch", loop_unwatch, METH_VARARGS, NULL},
    {"let_go", loop_let_go, METH_VARARGS, NULL},
    {"forget", loop_forget, METH_NOARGS, NULL},
    {"wake", loop_wake, METH_NOARGS, NULL},
    {"disown", loop_disown, METH_NOARGS, NULL},
    {"close", loop_close, METH_NOARGS, NULL},
    {"shut", loop_shut, METH_NOARGS, NULL},
    {0}};
static PyMemberDef loop_members[] = {
    {"standing", T_UINT, offsetof(Loop, standing), READONLY, NULL},
    {"wanted", T_UINT, offsetof(Loop, wanted), READONLY, NULL},
    {"handed", T_ULONG, offsetof(Loop, handed), READONLY, NULL},
    {"generation", T_ULONG, offsetof(Loop, generation), READONLY, NULL}, {0}};
static PyType_Slot loop_slots[] = {{Py_tp_new, loop_new}, {Py_tp_dealloc, loop_dealloc},
                                   {Py_tp_members, loop_members}, {Py_tp_methods, loop_methods},
                                   {0, NULL}};
PyType_Spec loop_spec = {"proctor.kernel._core.Loop", sizeof(Loop), 0,
                         Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, loop_slots};
