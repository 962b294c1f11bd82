/* The short way of an open for somebody else: an executor is asked at once.  The manual is _core.pyi, as for acting/short.c. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "acting/short.h"
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { MOST_PLANS = 256 };

enum kind { PLAINLY, RULED, FORESEEN };

/* Forms of the question for these flags; borrowed, NULL with an exception. */
static PyObject *plan_for(Short *self, uint64_t flags, enum kind kind) {
    PyObject *key = PyLong_FromUnsignedLongLong(flags << 2 | kind), *known = NULL;
    if (key != NULL && (known = PyDict_GetItemWithError(self->plans, key)) == NULL && PyErr_Occurred() == NULL) {
        PyObject *made = PyObject_CallFunction(self->plan, "Ki", (unsigned long long)flags, (int)kind);
        if (made != NULL && PyDict_Size(self->plans) < MOST_PLANS && PyDict_SetItem(self->plans, key, made) == 0)
            known = made;
        Py_XDECREF(made);
    }
    Py_XDECREF(key);
    return known;
}

/* How long a rule may think before it is seen once more who calls, in seconds. */
static const double AT_ONCE = 0.001;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

/* Whether a path led somewhere before, and its rule allows that; borrowed from `plan`, which is replaced by what foresees
 * that, or NULL: the rule is to be asked about what is found.  What the caller's root was when it was looked at may not be
 * it any more when a rule has thought for long: then it is looked at again. */
static PyObject *foresee(Short *self, PyObject *call, PyObject *wish, uint64_t flags, struct posed *posed, PyObject **plan) {
    PyObject *path = PyBytes_FromStringAndSize(posed->path, (Py_ssize_t)posed->used), *made = NULL, *said = NULL;
    PyObject *expected = path != NULL ? Py_XNewRef(PyDict_GetItemWithError(self->foreseen, path)) : NULL;
    double began = now();
    bool relative = posed->form->relative, good = false;
    if (expected != NULL && PyTuple_Size(expected) == 3)
        said = PyObject_CallFunctionObjArgs(self->allows, call, wish, path, expected, NULL);
    if (said == Py_True && (made = plan_for(self, flags, FORESEEN)) != NULL) {
        bool late = now() - began > AT_ONCE;
        if (late && relative)
            close(posed->asked.sent[0]);
        Py_BEGIN_ALLOW_THREADS
        if (late)
            choose(posed);
        good = posed->form != NULL && id_valid(self->listener, posed->id) == 0;
        Py_END_ALLOW_THREADS
        PyObject *name = PyTuple_GetItem(expected, 0);
        int form = relative ? 2 : PyObject_RichCompareBool(name, path, Py_EQ) == 1 ? 0 : 1;
        if (good && (posed->many = forms_in(made, &posed->forms)) > form) {
            posed->form = &posed->forms[form];
            Py_DECREF(*plan);
            *plan = Py_NewRef(made);
        } else {
            good = false;
        }
    }
    Py_XDECREF(said);
    Py_XDECREF(path);
    if (!good)
        Py_CLEAR(expected);
    return expected;
}

/* What was heard, to whoever goes on; with an exception, the executor is of no use any more. */
static PyObject *hand_on(const Short *self, PyObject *call, PyObject *wish, PyObject *tid, struct caller *caller, PyObject *executor,
                         struct posed *posed, uint64_t flags, enum kind kind) {
    PyObject *found = posed_result(posed), *result = NULL;
    PyObject *args = found == NULL ? NULL
                                   : Py_BuildValue("(OOOONKi)", call, wish, caller->standing, executor, found, (unsigned long long)flags,
                                                   (int)kind);
    if (args != NULL) { /* the executor, what it gave and the standing are whose who goes on */
        result = PyObject_CallFunctionObjArgs(self->asked, args, NULL); /* of one argument: no method wants memory before it begins */
        let_go_of_caller(caller);
    } else {
        put_back(self, tid, caller);
        books_discard(self->executors, executor);
        while (posed->form != NULL && posed->asked.problem == 0 && posed->asked.given > 0) /* of an answer that was read */
            close(posed->asked.fds[--posed->asked.given]);
    }
    Py_XDECREF(args);
    return result;
}

PyObject *ask_one(Short *self, PyObject *call, PyObject *wish, PyObject *tid, struct caller *caller, bool ruled,
                  struct turn *turn) {
    struct posed posed;
    PyObject *plan = plan_for(self, turn->flags, ruled ? RULED : PLAINLY), *executor = NULL, *result = NULL;
    PyObject *expected = NULL;
    bool opened = false;
    Py_XINCREF(plan);
    if (plan != NULL && (posed.many = forms_in(plan, &posed.forms)) >= 0)
        executor = books_lend(self->executors, caller->kept, NULL, self->limit, &posed.asked, &posed.table);
    if (executor == NULL) {
        Py_XDECREF(plan);
        return NULL;
    }
    size_t count;
    const uint32_t *kinds = kinds_of(self, &count);
    posed.caller = caller->known, posed.groups = PyTuple_GetItem(caller->kept, GROUPS) == Py_True;
    posed.listener = self->listener, posed.id = turn->raw->id, posed.dirfd = (int)turn->raw->data.args[0];
    posed.path = posed.read = NULL, posed.used = 0;
    posed.address = turn->raw->data.args[1];
    Py_BEGIN_ALLOW_THREADS
    choose(&posed);
    if (!ruled)
        ask_chosen(&posed, NULL, 0);
    turn->fd = ruled ? LEFT : plainly_opened(&posed, kinds, count);
    if ((opened = turn->fd >= 0))
        conclude_turn(self, turn);
    Py_END_ALLOW_THREADS
    PyObject *type, *value, *trace;
    if (ruled && posed.form != NULL)
        expected = foresee(self, call, wish, turn->flags, &posed, &plan);
    PyErr_Fetch(&type, &value, &trace);
    if (type != NULL && posed.form != NULL) { /* somebody interrupts us: nobody is asked */
        if (posed.form->relative)
            close(posed.asked.sent[0]);
        posed.form = NULL;
    }
    if (ruled) {
        PyObject *bytes = expected != NULL ? PyTuple_GetItem(expected, 1) : NULL;
        const char *what = bytes != NULL ? PyBytes_AsString(bytes) : NULL;
        size_t length = bytes != NULL ? (size_t)PyBytes_Size(bytes) : 0;
        Py_BEGIN_ALLOW_THREADS
        ask_chosen(&posed, what, length);
        turn->fd = opened_as_foreseen(&posed);
        if ((opened = turn->fd >= 0))
            conclude_turn(self, turn);
        Py_END_ALLOW_THREADS
    }
    if (opened) {
        drop_room(&posed.asked);
        put_back(self, tid, caller);
        books_free(self->executors, executor, posed.asked.patience);
        result = expected == NULL || turn->answered
                     ? concluded(self, call, turn)
                     : handed(self->allowed,
                              Py_BuildValue("(OOiO)", call, expected, turn->fd, turn->flags & O_CLOEXEC ? Py_True : Py_False), turn->fd);
    } else {
        result = hand_on(self, call, wish, tid, caller, executor, &posed, turn->flags,
                         expected != NULL ? FORESEEN : ruled ? RULED : PLAINLY);
    }
    if (type != NULL) {
        Py_CLEAR(result);
        PyErr_Restore(type, value, trace);
    }
    free(posed.read);
    Py_XDECREF(expected);
    Py_DECREF(plan);
    Py_DECREF(executor);
    return result;
}
