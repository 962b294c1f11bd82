/* The role: who receives.  One thread at a time receives: the one whose token is the generation.  It routes what it
 * received, one call after another, and its batch belongs to the role.  Another thread stands by and
 * looks at the serial every TICK: odd means that something is being routed.  The same odd number twice
 * is a stall, and so is one look after surrender().  As long as nobody needs the role it stays where it is, for
 * PATIENCE: nothing is left of the batch, nothing is to be received, and nothing is due.  Then the other one takes the GIL, and if the
 * number still is the same, the generation goes on by one, the role and the rest of the batch are the other one's, and the stalled
 * thread, when it comes back, finds its token outdated and answers by a longer way.  All that changes hands does so
 * under the GIL, so that between the return of a route and its answer nobody loses the role.  Where
 * nothing happens nobody looks: the one that stands by sleeps until something is routed. */
#define PY_SSIZE_T_CLEAN
#include "loop/loop.h"
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { TICK_NS = 2000000, IDLE_TICKS = 50, PATIENCE_NS = 20000000 };

static void sleep_on(atomic_uint *word, unsigned int value, long nanoseconds) {
    struct timespec limit = {0, nanoseconds};
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, nanoseconds > 0 ? &limit : NULL, NULL, 0);
}

void ring(Loop *self) {
    atomic_fetch_add(&self->bell, 1);
    syscall(SYS_futex, &self->bell, FUTEX_WAKE_PRIVATE, 1 << 30, NULL, NULL, 0);
}

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
            sleep_on(&self->bell, bell, sleeps ? 0 : TICK_NS);
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

/* Without the GIL, where somebody stalls: until the role is needed or time is over, or something else is being routed. */
static void hold_on(Loop *self, unsigned long seen, long nanoseconds) {
    struct pollfd some = {.fd = self->epoll, .events = POLLIN};
    const struct timespec tick = {0, TICK_NS};
    for (; nanoseconds > 0 && !self->more && !self->closed && self->serial == seen; nanoseconds -= TICK_NS)
        if (ppoll(&some, 1, &tick, NULL) > 0)
            return;
}

/* The same, with the GIL: due says after how many seconds it is needed whatever comes, None if that is not known. */
static void need(Loop *self, PyObject *due, unsigned long seen) {
    long left = PATIENCE_NS;
    PyObject *said = self->more ? NULL : PyObject_CallFunctionObjArgs(due, NULL);
    if (said != NULL && said != Py_None) {
        double seconds = PyFloat_AsDouble(said);
        left = seconds < PATIENCE_NS / 1e9 ? (long)(seconds * 1e9) : PATIENCE_NS;
    }
    Py_XDECREF(said);
    if (PyErr_Occurred() != NULL) {
        PyErr_WriteUnraisable(due);
        return;
    }
    Py_BEGIN_ALLOW_THREADS
    hold_on(self, seen, left);
    Py_END_ALLOW_THREADS
}

/* Whoever insists for a while wants nothing to be under way that was begun before: to close, or to hand over.  Who insists
 * without a limit is about to receive (Supervisor.step), and would wait for a slow caller again and again. */
static void calm(Loop *self, int how, unsigned long token, int looks) {
    if (how != INSIST || token == 0 || looks < 0)
        return;
    Py_BEGIN_ALLOW_THREADS
    giver_calm(self->giver, looks);
    Py_END_ALLOW_THREADS
    giver_settle(self->giver, NULL);
}

PyObject *loop_lead(PyObject *me, PyObject *args) {
    Loop *self = (Loop *)me;
    int how, looks, state;
    unsigned long token, seen;
    unsigned int nobody = 0;
    bool standing = false;
    PyObject *taken, *due = NULL;
    if (!PyArg_ParseTuple(args, "iOi|O", &how, &taken, &looks, &due))
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
        if (state == EBUSY && self->serial == seen && how != INSIST && due != NULL)
            need(self, due, seen);
        if (state == EBUSY && self->serial == seen && !self->closed) { /* it still is where it was: the role is ours */
            PyObject *way = Py_NewRef(self->way), *what = Py_XNewRef(self->what);
            unsigned long open = self->generation * 2;
            if (!atomic_compare_exchange_strong(&self->claim, &open, 0) && what != NULL)
                notification_given(what);
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
            calm(self, how, token, looks);
            return PyLong_FromUnsignedLong(token);
        }
        if (state == 0)
            token = take(self, how);
    }
    calm(self, how, token, looks);
    if (standing)
        self->standing = 0;
    if (how == INSIST)
        self->wanted--;
    return PyErr_Occurred() != NULL ? NULL : PyLong_FromUnsignedLong(token);
}

PyObject *loop_surrender(PyObject *me, PyObject *Py_UNUSED(none)) {
    Loop *self = (Loop *)me;
    if (self->serial % 2 != 0) {
        self->surrendered = self->serial;
        ring(self);
    }
    return Py_NewRef(Py_None);
}

PyObject *loop_resign(PyObject *me, PyObject *args) {
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
