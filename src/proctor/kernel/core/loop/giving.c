/* Whoever gives: a thread of ours that hands callers what was opened for them, while whoever receives goes on.
 *
 * ADDFD waits until the caller has put the descriptor into its table, which it does on a processor of its own, and so
 * takes two wake-ups.  Where other notifications are there already, all that is left of a call, once it is claimed, is
 * left to this thread: ADDFD, our copy is closed, the answer, the journal's slot.  It has one call at a time, and nobody
 * waits for it: whoever receives gives by itself while it is busy, so one slow caller keeps nothing but its own call.
 *
 * What is counted as given, and was not since the caller's table is full, is amended by whoever receives. */
#define PY_SSIZE_T_CLEAN
#include "loop/loop.h"
#include <errno.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { STACK = 64 << 10, CLOSES = 1 << 30, TICK_NS = 2000000 };

struct giver {
    atomic_uint asked;
    atomic_int at; /* whose listener it is at, and one more; 0: it is free.  CLOSES: that is closed when it is not any more */
    atomic_int failed; /* the errno that a caller got instead */
    _Atomic uint64_t last; /* whose call it was left last */
    atomic_int full; /* a truth: what is exchanged has a word's size, or riscv64 wants libatomic */
    atomic_bool over, waited, known, holds;
    atomic_int holders;
    bool there;
    struct gift what; /* of whoever has set `at` */
    Py_buffer held;   /* the journal that has its slot */
    PyObject *tuple, *notification; /* under the GIL: of the last one, if it is `known` */
};

static void futex_on(void *word, int what, unsigned int value, const struct timespec *limit) {
    syscall(SYS_futex, word, what, value, limit, NULL, 0);
}

static void let_go(struct giver *giver) {
    if (atomic_fetch_sub(&giver->holders, 1) == 1)
        free(giver);
}

static void leave(struct giver *giver) {
    int at = atomic_exchange(&giver->at, 0);
    if (at & CLOSES)
        close((at & ~CLOSES) - 1);
    if (atomic_load(&giver->waited))
        futex_on(&giver->at, FUTEX_WAKE_PRIVATE, 1 << 30, NULL);
}

static void give_it(struct giver *giver) {
    struct gift what = giver->what;
    int problem = give(what.listener, what.id, what.fd, what.cloexec, what.waits, NULL, what.slot);
    if (problem > 0)
        close(what.fd);
    if (problem > 0 && problem != ENOENT && problem != ESRCH) { /* its table is full */
        answer(what.listener, what.id, 0, -problem, 0);
        atomic_store(&giver->failed, problem);
    }
    if (what.slot != NULL)
        atomic_store_explicit(&what.slot->state, FREE, memory_order_release);
    leave(giver);
}

static void *gives(void *given) {
    struct giver *giver = given;
    prctl(PR_SET_NAME, "proctor-gives");
    for (unsigned int seen = 0;; seen++) {
        while (atomic_load(&giver->asked) == seen)
            futex_on(&giver->asked, FUTEX_WAIT_PRIVATE, seen, NULL);
        if (atomic_exchange(&giver->full, false))
            give_it(giver);
        else if (atomic_load(&giver->over))
            break;
    }
    let_go(giver);
    return NULL;
}

static void tell(struct giver *giver) {
    atomic_fetch_add(&giver->asked, 1);
    futex_on(&giver->asked, FUTEX_WAKE_PRIVATE, 1, NULL);
}

static bool is_there(struct giver *giver) {
    if (giver->there)
        return true;
    atomic_fetch_add(&giver->holders, 1);
    giver->there = thread_begins(gives, giver, STACK);
    if (!giver->there)
        atomic_fetch_sub(&giver->holders, 1);
    return giver->there;
}

/* It is taken before the call is claimed: a listener that is given up in between is closed by whoever leaves it. */
bool giver_takes(struct giver *giver, const struct gift *what, Py_buffer *held) {
    int nobody = 0;
    if (!atomic_compare_exchange_strong(&giver->at, &nobody, what->listener + 1))
        return false;
    bool fits = what->slot == NULL || giver->held.obj == NULL || giver->held.buf == held->buf;
    if (!fits || atomic_load(&giver->failed) != 0 || atomic_load(&giver->over) || !is_there(giver) || !claim_routed()) {
        leave(giver);
        return false;
    }
    if (what->slot != NULL && giver->held.obj == NULL) {
        giver->held = *held;
        held->obj = NULL;
        atomic_store(&giver->holds, true);
    }
    giver->what = *what;
    atomic_store(&giver->known, false);
    atomic_store(&giver->last, what->id);
    atomic_store(&giver->full, true);
    tell(giver);
    return true;
}

void giver_knows(struct giver *giver, uint64_t id, PyObject *tuple, PyObject *notification) {
    if (atomic_load(&giver->last) != id) /* the role was lost meanwhile, and that one was given what it was to be given */
        return;
    PyObject *before[] = {giver->tuple, giver->notification};
    giver->tuple = Py_NewRef(tuple);
    giver->notification = Py_NewRef(notification);
    atomic_store(&giver->known, true);
    Py_XDECREF(before[0]);
    Py_XDECREF(before[1]);
}

void giver_settle(struct giver *giver, const void *journal) {
    int nobody = 0, failed;
    if ((giver->tuple == NULL && !atomic_load(&giver->holds))
        || !atomic_compare_exchange_strong(&giver->at, &nobody, CLOSES - 1))
        return;
    if (!atomic_load(&giver->known)) { /* whoever handed that over is about to say whose it was */
        leave(giver);
        return;
    }
    PyObject *tuple = giver->tuple, *notification = giver->notification;
    giver->tuple = giver->notification = NULL;
    Py_buffer held = {0};
    if (giver->held.obj != NULL && giver->held.buf != journal) {
        held = giver->held;
        giver->held.obj = NULL;
        atomic_store(&giver->holds, false);
    }
    failed = atomic_exchange(&giver->failed, 0);
    leave(giver);
    PyBuffer_Release(&held);
    PyObject *done = failed != 0 ? PyObject_CallFunction(PyTuple_GetItem(tuple, AMEND), "Oi", notification, failed) : NULL;
    if (failed != 0 && done == NULL)
        PyErr_WriteUnraisable(tuple);
    Py_XDECREF(done);
    Py_XDECREF(tuple);
    Py_XDECREF(notification);
}

void giver_calm(struct giver *giver, int looks) {
    const struct timespec tick = {0, TICK_NS};
    atomic_store(&giver->waited, true);
    for (int i = 0; i < looks; i++) {
        int at = atomic_load(&giver->at);
        if (at == 0)
            break;
        futex_on(&giver->at, FUTEX_WAIT_PRIVATE, (unsigned int)at, &tick);
    }
    atomic_store(&giver->waited, false);
}

void giver_closes(struct giver *giver, int listener) {
    int at = listener + 1;
    if (!atomic_compare_exchange_strong(&giver->at, &at, at | CLOSES))
        close(listener);
}

void giver_disown(struct giver *giver) {
    int at = atomic_load(&giver->at);
    if (at & CLOSES)
        close((at & ~CLOSES) - 1);
}

struct giver *giver_new(void) {
    struct giver *giver = calloc(1, sizeof *giver);
    if (giver != NULL)
        atomic_store(&giver->holders, 1);
    return giver;
}

void giver_over(struct giver *giver) {
    atomic_store(&giver->over, true);
    Py_CLEAR(giver->tuple); /* which leads back to the loop */
    Py_CLEAR(giver->notification);
    tell(giver);
}

void giver_forget(struct giver *giver) {
    if (atomic_load(&giver->at) == 0) /* or its slot may be written: then its journal is kept */
        PyBuffer_Release(&giver->held);
    Py_CLEAR(giver->tuple);
    Py_CLEAR(giver->notification);
    let_go(giver);
}
