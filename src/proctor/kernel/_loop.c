/* The loop: who receives, routes and answers.  The manual is _core.pyi; this is how it works, and why.
 *
 * serve() gives the GIL up once: waits and receives all it may, then takes the GIL and routes.
 * Signals are blocked in the thread except while it waits.  RECV after POLLIN does not block as long
 * as we are the only reader: what was cancelled meanwhile gives ENOENT (C044, C077).  SEND does not
 * sleep, so it keeps the GIL.
 *
 * The journal.  A notification is received straight into a slot, which lies in the listener's journal
 * (memory shared with whoever is to know it after our death) or else in memory of our own.  The slot
 * says RECEIVING before the kernel fills it, and is zero until then: whenever we are killed, either
 * nothing was received, or the slot has it.  It is cleared after the answer, never before.
 *
 * The role.  One thread at a time receives: the one whose token is the generation.  It routes what it
 * received, one call after another, and its batch belongs to the role.  Another thread stands by and
 * looks at the serial every TICK: odd means that something is being routed.  The same odd number twice
 * is a stall, and so is one look after surrender(): then the other one takes the GIL, and if the number
 * still is the same, the generation goes on by one, the role and the rest of the batch are the other one's, and the stalled thread, when
 * it comes back, finds its token outdated and answers by a longer way.  All that changes hands does so
 * under the GIL, so that between the return of a route and its answer nobody loses the role.  Where
 * nothing happens nobody looks: the one that stands by sleeps until something is routed. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "_core.h"
#include <errno.h>
#include <linux/audit.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <structmember.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS = 16, PER_LISTENER = 32, BATCH = EVENTS * PER_LISTENER };
enum { SLOW_NS = 50000, TICK_NS = 2000000, IDLE_TICKS = 50 };
enum { ROUTES, FALLBACK, SETTLE }; /* the first items of a source's tuple */
enum { FREE, RECEIVING, RECEIVED };

struct slot { /* docs/journal.md; 128 bytes */
    _Atomic uint32_t state;
    uint32_t unused;
    uint64_t time; /* CLOCK_MONOTONIC, ns */
    struct seccomp_notif raw;
    uint64_t spare[4];
};
struct header {
    char magic[8];
    uint32_t version, slot_size, slots;
    _Atomic uint32_t lost; /* received when no slot was free */
    char spare[104];
};
_Static_assert(sizeof(struct slot) == 128 && sizeof(struct header) == 128, "as documented");

struct source { /* something that epoll watches, whose data this is */
    struct source *next;
    int fd;
    bool listener, gone;
    struct slot *slots; /* its journal's; NULL without one */
    uint32_t count, at;
    Py_buffer journal;
};

struct entry {
    struct source *source;
    struct slot *slot; /* NULL: it is no listener, and readable */
};

typedef struct {
    PyObject_HEAD
    int epoll, event;
    struct source *sources;
    PyObject *way, *what; /* what is being routed; whoever does that holds them */
    int count, next;      /* of the batch */
    int gone;             /* sources that are watched no more */
    struct entry batch[BATCH];
    struct slot own[BATCH];
    _Atomic unsigned long generation, serial, surrendered;
    atomic_uint led, standing, wanted, closed, asleep, bell;
} Loop;

static void futex_wait(atomic_uint *word, unsigned int value, long nanoseconds) {
    struct timespec limit = {0, nanoseconds};
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, nanoseconds > 0 ? &limit : NULL, NULL, 0);
}

static void ring(Loop *self) {
    atomic_fetch_add(&self->bell, 1);
    syscall(SYS_futex, &self->bell, FUTEX_WAKE_PRIVATE, 1 << 30, NULL, NULL, 0);
}

/* ---- Receiving ---------------------------------------------------------------------------- */

/* Where the next notification goes. */
static struct slot *place(Loop *self, struct source *source) {
    for (uint32_t tried = 0; tried < source->count; tried++) {
        struct slot *slot = &source->slots[source->at];
        if (atomic_load_explicit(&slot->state, memory_order_relaxed) == FREE)
            return slot;
        source->at = (source->at + 1) % source->count;
    }
    return &self->own[self->count];
}

/* Without the GIL: receive what a listener has into the batch.  Not to drain saves time: after many
 * rounds without a second notification, if all is fast. */
static void receive(Loop *self, struct source *source, bool drain, int *problem) {
    struct pollfd more = {.fd = source->fd, .events = POLLIN, .revents = POLLIN};
    for (int i = 0; i < PER_LISTENER && (more.revents & POLLIN); i++) {
        struct slot *slot = place(self, source);
        memset(&slot->raw, 0, sizeof slot->raw);
        atomic_store_explicit(&slot->state, RECEIVING, memory_order_release);
        if (ioctl(source->fd, IOCTL_RECV, &slot->raw) == 0) {
            if (source->slots != NULL) {
                struct timespec now;
                clock_gettime(CLOCK_MONOTONIC, &now);
                slot->time = (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
                if (slot == &self->own[self->count])
                    ((struct header *)source->journal.buf)->lost++;
            }
            atomic_store_explicit(&slot->state, RECEIVED, memory_order_release);
            self->batch[self->count++] = (struct entry){source, slot};
        } else {
            int number = errno;
            atomic_store_explicit(&slot->state, FREE, memory_order_release);
            if (number != ENOENT) {
                *problem = number;
                break;
            }
        }
        more.revents = 0;
        if (drain)
            poll(&more, 1, 0);
    }
}

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
} routed;

int answer_routed(uint64_t id, int64_t value, int32_t error, uint32_t flags) {
    if (routed.loop == NULL || routed.loop->generation != routed.token)
        return -1;
    return answer(routed.listener, id, value, error, flags);
}

/* Call what is routed, where it can lose the role: whether it did. */
static bool called(Loop *self, unsigned long token, PyObject *way, PyObject *function,
                   PyObject *argument, PyObject **result) {
    self->way = way;
    self->what = argument;
    atomic_fetch_add(&self->serial, 1);
    if (atomic_load(&self->asleep)) /* whoever stands by says so, and then looks at the serial */
        ring(self);
    *result = PyObject_CallFunctionObjArgs(function, argument, NULL);
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
    PyObject *notification = notification_make(raw, journaled ? (int)(slot - source->slots) : -1);
    PyObject *key = PyLong_FromUnsignedLongLong(
        (uint64_t)(raw->data.arch ^ AUDIT_ARCH_X86_64) << 32 | (uint32_t)raw->data.nr);
    PyObject *tuple = NULL, *handler = NULL, *wire = NULL;
    bool ready = fd != NULL && key != NULL && notification != NULL, lost = false;
    uint64_t id = raw->id;
    if (ready && (tuple = PyDict_GetItemWithError(served, fd)) != NULL
        && (handler = PyDict_GetItemWithError(PyTuple_GetItem(tuple, ROUTES), key)) == NULL)
        handler = PyTuple_GetItem(tuple, FALLBACK);
    Py_XINCREF(tuple); /* the listener may be removed meanwhile */
    Py_XINCREF(handler);
    if (handler != NULL) {
        __typeof__(routed) before = routed; /* a handler may serve others meanwhile */
        routed.loop = self;
        routed.token = token;
        routed.listener = listener;
        lost = called(self, token, tuple, handler, notification, &wire);
        routed = before;
    }
    int became = wire != NULL ? GOOD : RAISED;
    if (lost) { /* slot and source may be gone */
        settle(tuple, notification, wire);
        became = LOST;
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

/* Free what is watched no more, and which no entry of the batch is about. */
static void forget(Loop *self) {
    self->gone = 0;
    for (struct source **at = &self->sources; *at != NULL;) {
        struct source *source = *at;
        if (!source->gone) {
            at = &source->next;
            continue;
        }
        *at = source->next;
        PyBuffer_Release(&source->journal);
        PyMem_Free(source);
    }
}

static PyObject *loop_serve(PyObject *me, PyObject *args) {
    Loop *self = (Loop *)me;
    struct epoll_event events[EVENTS] = {{0}};
    sigset_t all, before;
    int wait, rounds, total = 0, alone = 0, problem = 0, ready = 1, became = GOOD;
    unsigned long token;
    bool leave = false;
    struct timespec from = {0}, to = {0}; /* how long routing took, looked at when draining */
    PyObject *served, *hung, *held[3] = {NULL, NULL, NULL};
    if (!PyArg_ParseTuple(args, "kO!O!ii", &token, &PyDict_Type, &served, &PyList_Type, &hung, &wait,
                          &rounds))
        return NULL;
    if (self->generation != token)
        return PyLong_FromLong(-1);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const sigset_t *mask = memcmp(&all, &before, KERNEL_SIGSET) == 0 ? NULL : &before;
    do {
        bool drain = alone < 16 || alone % 8 == 0;
        int count = self->count - self->next; /* what the last one with the role left */
        if (count == 0) {
            self->count = self->next = 0;
            if (self->gone != 0)
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
    } while (--rounds != 0 && ready > 0 && !leave && problem == 0 && held[0] == NULL
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

/* ---- The role ----------------------------------------------------------------------------- */

enum { HELP, SERVE, INSIST };

/* Take the role if nobody has it: the token, or 0. */
static unsigned long take(Loop *self, int how) {
    unsigned int vacant = 0;
    if (how == HELP || (how == SERVE && self->wanted) || self->closed
        || !atomic_compare_exchange_strong(&self->led, &vacant, 1))
        return 0;
    return ++self->generation;
}

/* Without the GIL: until whoever has the role stalls, or, unless one only helps, nobody has it. */
static int stand_by(Loop *self, int how, unsigned long *seen) {
    int idle = 0;
    *seen = self->serial;
    for (;;) {
        unsigned int bell = self->bell; /* before all that is looked at: a later ring ends the wait */
        if (self->closed || !(self->led || how == HELP || (how == SERVE && self->wanted)))
            return 0;
        bool sleeps = idle >= IDLE_TICKS && how != INSIST;
        if (how != INSIST)
            self->asleep = sleeps;
        if ((!sleeps || self->serial == *seen) && self->surrendered != self->serial)
            futex_wait(&self->bell, bell, sleeps ? 0 : TICK_NS);
        if (how != INSIST)
            self->asleep = 0;
        unsigned long now = self->serial;
        if (now % 2 != 0 && (now == *seen || now == self->surrendered)) {
            *seen = now;
            return EBUSY;
        }
        idle = now == *seen && !sleeps ? idle + 1 : 0;
        *seen = now;
        if (how == INSIST)
            return EAGAIN;
    }
}

static PyObject *loop_lead(PyObject *me, PyObject *args) {
    Loop *self = (Loop *)me;
    int how, looks, state;
    unsigned long token, seen;
    unsigned int nobody = 0;
    bool standing = false;
    PyObject *taken;
    if (!PyArg_ParseTuple(args, "iOi", &how, &taken, &looks))
        return NULL;
    if (how == INSIST)
        self->wanted++;
    token = take(self, how);
    if (token == 0 && how != INSIST) {
        standing = atomic_compare_exchange_strong(&self->standing, &nobody, 1);
        if (!standing)
            return PyLong_FromLong(0);
    }
    while (token == 0 && !self->closed && PyErr_CheckSignals() == 0 && looks-- != 0) {
        if (how == INSIST)
            eventfd_write(self->event, 1);
        Py_BEGIN_ALLOW_THREADS
        state = stand_by(self, how, &seen);
        Py_END_ALLOW_THREADS
        if (state == EBUSY && self->serial == seen) { /* it still is where it was: the role is ours */
            PyObject *way = Py_NewRef(self->way), *what = Py_XNewRef(self->what);
            token = ++self->generation;
            self->serial++;
            self->way = self->what = NULL;
            if (standing)
                self->standing = 0;
            if (how == INSIST)
                self->wanted--;
            PyObject *done = PyObject_CallFunctionObjArgs(taken, way, what != NULL ? what : Py_None,
                                                          NULL);
            if (done == NULL)
                PyErr_WriteUnraisable(taken);
            Py_XDECREF(done);
            Py_XDECREF(what);
            Py_DECREF(way);
            return PyLong_FromUnsignedLong(token);
        }
        if (state == 0)
            token = take(self, how);
    }
    if (standing)
        self->standing = 0;
    if (how == INSIST)
        self->wanted--;
    return PyErr_Occurred() != NULL ? NULL : PyLong_FromUnsignedLong(token);
}

static PyObject *loop_surrender(PyObject *me, PyObject *Py_UNUSED(none)) {
    Loop *self = (Loop *)me;
    if (self->serial % 2 != 0) {
        self->surrendered = self->serial;
        ring(self);
    }
    return Py_NewRef(Py_None);
}

static PyObject *loop_resign(PyObject *me, PyObject *args) {
    Loop *self = (Loop *)me;
    unsigned long token;
    if (!PyArg_ParseTuple(args, "k", &token))
        return NULL;
    if (self->generation == token) {
        self->led = 0;
        ring(self);
    }
    return Py_NewRef(Py_None);
}

/* ---- What is watched ---------------------------------------------------------------------- */

static PyObject *loop_watch(PyObject *me, PyObject *args) {
    Loop *self = (Loop *)me;
    int fd, listener;
    PyObject *journal;
    if (!PyArg_ParseTuple(args, "ipO", &fd, &listener, &journal))
        return NULL;
    struct source *source = PyMem_Calloc(1, sizeof *source);
    if (source == NULL)
        return PyErr_NoMemory();
    *source = (struct source){.next = self->sources, .fd = fd, .listener = listener};
    if (journal != Py_None) {
        if (PyObject_GetBuffer(journal, &source->journal, PyBUF_WRITABLE) < 0) {
            PyMem_Free(source);
            return NULL;
        }
        Py_ssize_t size = source->journal.len - (Py_ssize_t)sizeof(struct header);
        source->count = size > 0 ? (uint32_t)((size_t)size / sizeof(struct slot)) : 0;
        source->slots = (struct slot *)((char *)source->journal.buf + sizeof(struct header));
    }
    struct epoll_event event = {.events = EPOLLIN | (listener ? 0 : EPOLLONESHOT),
                                .data.ptr = source};
    if (epoll_ctl(self->epoll, EPOLL_CTL_ADD, fd, &event) < 0) {
        PyBuffer_Release(&source->journal);
        PyMem_Free(source);
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    self->sources = source;
    return Py_NewRef(Py_None);
}

static PyObject *loop_unwatch(PyObject *me, PyObject *args) {
    Loop *self = (Loop *)me;
    int fd;
    if (!PyArg_ParseTuple(args, "i", &fd))
        return NULL;
    for (struct source *source = self->sources; source != NULL; source = source->next)
        if (source->fd == fd && !source->gone) {
            source->gone = true;
            self->gone++;
            epoll_ctl(self->epoll, EPOLL_CTL_DEL, fd, NULL);
        }
    return Py_NewRef(Py_None);
}

static PyObject *loop_forget(PyObject *me, PyObject *Py_UNUSED(none)) {
    Loop *self = (Loop *)me;
    if (self->next == self->count)
        forget(self);
    return Py_NewRef(Py_None);
}

static PyObject *loop_wake(PyObject *me, PyObject *Py_UNUSED(none)) {
    eventfd_write(((Loop *)me)->event, 1); /* EAGAIN: the counter is full: it is awake enough */
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
    for (struct source *source = self->sources; source != NULL; source = source->next)
        source->gone = true;
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
    self->event = -1;
    self->surrendered = (unsigned long)-2; /* what the serial never is */
    struct epoll_event event = {.events = EPOLLIN};
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
    {"forget", loop_forget, METH_NOARGS, NULL},
    {"wake", loop_wake, METH_NOARGS, NULL},
    {"close", loop_close, METH_NOARGS, NULL},
    {"shut", loop_shut, METH_NOARGS, NULL},
    {0}};
static PyMemberDef loop_members[] = {
    {"standing", T_UINT, offsetof(Loop, standing), READONLY, NULL},
    {"wanted", T_UINT, offsetof(Loop, wanted), READONLY, NULL},
    {"generation", T_ULONG, offsetof(Loop, generation), READONLY, NULL}, {0}};
static PyType_Slot loop_slots[] = {{Py_tp_new, loop_new}, {Py_tp_dealloc, loop_dealloc},
                                   {Py_tp_members, loop_members}, {Py_tp_methods, loop_methods},
                                   {0, NULL}};
PyType_Spec loop_spec = {"proctor.kernel._core.Loop", sizeof(Loop), 0,
                         Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, loop_slots};
