/* Which executors wait for work, and which have some: what is done with each call.  The manual is _core.pyi;
 * proctor.performing.executing.executors has all the rest, under the same lock. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "acting/short.h"
#include <stddef.h>
#include <structmember.h>
#include <time.h>

enum { ACQUIRE, RELEASE, CONTAINER, EQUALS, LAST, NUMBER, PACE, PATIENCE, CAME, PERFORMING_OF, LIMIT, SEE, KEEP, TABLE, DISCARD, COUNTED, NAMES };
enum { HELPING = -1 }; /* a limit: who works for a call that has somebody already is not counted */
static PyObject *names[NAMES];

typedef struct {
    HOLDS(7, lock, *idle, *by_key, *taken, *busy, *closing, *reaper);
    char closed;
    Py_ssize_t most;
} Books;

static bool call(PyObject *object, int name) {
    PyObject *done = PyObject_CallMethodObjArgs(object, names[name], NULL);
    Py_XDECREF(done);
    return done != NULL;
}

/* The lock is given back with an exception, too. */
static void unlock(Books *self) {
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    if (!call(self->lock, RELEASE))
        PyErr_WriteUnraisable(self->lock);
    PyErr_Restore(type, value, trace);
}

static long number_in(PyObject *object, int name) {
    PyObject *found = PyObject_GetAttr(object, names[name]);
    long number = found != NULL ? PyLong_AsLong(found) : -1;
    Py_XDECREF(found);
    return number;
}

/* So many more, or less, of a container's work. */
static bool count_taken(Books *self, PyObject *container, long more, long limit) {
    PyObject *before = PyDict_GetItemWithError(self->taken, container);
    long now = before != NULL ? PyLong_AsLong(before) : 0;
    if (PyErr_Occurred() != NULL || (more > 0 && now >= limit))
        return false;
    if (now + more == 0)
        return PyDict_DelItem(self->taken, container) == 0;
    PyObject *left = PyLong_FromLong(now + more);
    bool good = left != NULL && PyDict_SetItem(self->taken, container, left) == 0;
    Py_XDECREF(left);
    return good;
}

/* It is not at work, or not any more; with an exception, too. */
static void drop_busy(Books *self, PyObject *executor) {
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PySet_Discard(self->busy, executor);
    PyErr_Clear();
    PyErr_Restore(type, value, trace);
}

/* NULL without an exception: none waits, or as many work already. */
static PyObject *borrow(Books *self, PyObject *key, PyObject *container, long limit) {
    PyObject *executor = NULL;
    if ((PyList_Size(self->closing) != 0 && !call((PyObject *)self, SEE)) || !call(self->lock, ACQUIRE))
        return NULL;
    PyObject *waiting = PyDict_GetItemWithError(self->by_key, key); /* its hash, and what it equals, is Python's */
    Py_ssize_t count = waiting != NULL ? PyList_Size(waiting) : 0;
    /* what may want memory comes first, and is taken back */
    if (count > 0 && (executor = Py_XNewRef(PyList_GetItem(waiting, count - 1))) != NULL) {
        bool counts = limit != HELPING, good = PySet_Add(self->busy, executor) == 0 && (!counts || count_taken(self, container, 1, limit));
        if (!good)
            drop_busy(self, executor); /* where there is no room for more it was put there all the same */
        if (!good || PyList_SetSlice(waiting, count - 1, count, NULL) != 0 || PyDict_DelItem(self->idle, executor) != 0
            || PyObject_SetAttr(executor, names[CONTAINER], container) != 0
            || PyObject_SetAttr(executor, names[COUNTED], counts ? Py_True : Py_False) != 0)
            Py_CLEAR(executor);
    }
    unlock(self);
    return executor;
}

/* It waits for work and is counted no more, if it was, or nothing has happened, with an exception. */
static bool waits_again(Books *self, PyObject *executor, PyObject *container, bool counted, PyObject *equals, PyObject *since) {
    PyObject *type, *value, *trace;
    if (PyList_Append(equals, executor) != 0)
        return false;
    bool idles = PyDict_SetItem(self->idle, executor, since) == 0;
    if (idles && (!counted || count_taken(self, container, -1, 0)))
        return true;
    PyErr_Fetch(&type, &value, &trace);
    Py_ssize_t count = PyList_Size(equals);
    if ((idles && PyDict_DelItem(self->idle, executor) != 0) || PyList_SetSlice(equals, count - 1, count, NULL) != 0)
        PyErr_WriteUnraisable((PyObject *)self);
    PyErr_Restore(type, value, trace);
    return false;
}

static bool set_free(Books *self, PyObject *executor) {
    if (!call(self->lock, ACQUIRE))
        return false;
    PyObject *last = PyObject_GetAttr(executor, names[LAST]), *container = NULL, *counted = NULL, *equals = NULL, *since = NULL;
    bool plain = last == Py_False && !self->closed && self->reaper != Py_None && PyDict_Size(self->idle) < self->most, good = true;
    if (plain) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        good = (container = PyObject_GetAttr(executor, names[CONTAINER])) != NULL
               && (counted = PyObject_GetAttr(executor, names[COUNTED])) != NULL
               && (equals = PyObject_GetAttr(executor, names[EQUALS])) != NULL
               && (since = PyFloat_FromDouble((double)now.tv_sec + (double)now.tv_nsec * 1e-9)) != NULL
               && waits_again(self, executor, container, counted == Py_True, equals, since);
        if (good)
            drop_busy(self, executor);
    }
    unlock(self);
    Py_XDECREF(last), Py_XDECREF(container), Py_XDECREF(counted), Py_XDECREF(equals), Py_XDECREF(since);
    if (plain && !good) /* it is at work still, and nobody has it */
        books_discard((PyObject *)self, executor);
    if (!plain && PyErr_Occurred() == NULL) {
        PyObject *done = PyObject_CallMethodObjArgs((PyObject *)self, names[KEEP], executor, NULL);
        good = done != NULL;
        Py_XDECREF(done);
    }
    return good && PyErr_Occurred() == NULL;
}

PyObject *books_lend(PyObject *me, PyObject *kept, PyObject *whom, long limit, struct asked *asked, int *table) {
    PyObject *key = PyTuple_GetItem(kept, 0), *container = key != NULL ? PyObject_GetAttr(key, names[CONTAINER]) : NULL, *own = NULL;
    PyObject *executor = NULL, *pace = NULL;
    if (container != NULL && container != Py_None && (own = PyObject_GetAttr(container, names[PERFORMING_OF])) != NULL) {
        PyObject *said = PyDict_GetItemWithError(own, names[LIMIT]);
        if (said != NULL)
            limit = PyLong_AsLong(said);
    }
    if (PyErr_Occurred() == NULL)
        executor = borrow((Books *)me, whom != NULL ? whom : key, container, whom != NULL ? HELPING : limit);
    if (executor != NULL && (pace = PyObject_GetAttr(executor, names[PACE])) != NULL)
        asked->sock = (int)number_in(executor, NUMBER), asked->patience = number_in(pace, PATIENCE);
    if (executor != NULL && table != NULL)
        *table = (int)number_in(executor, TABLE);
    Py_XDECREF(pace), Py_XDECREF(own), Py_XDECREF(container);
    if (executor != NULL && PyErr_Occurred() != NULL) {
        books_free(me, executor, TICK);
        Py_CLEAR(executor);
    }
    return executor;
}

void books_free(PyObject *me, PyObject *executor, long patience) {
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyObject *came = patience != TICK ? PyObject_CallMethodObjArgs(executor, names[CAME], Py_True, NULL) : NULL;
    Py_XDECREF(came);
    if (!set_free((Books *)me, executor) || PyErr_Occurred() != NULL)
        PyErr_WriteUnraisable(me);
    PyErr_Restore(type, value, trace);
}

void books_discard(PyObject *me, PyObject *executor) {
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyObject *done = PyObject_CallMethodObjArgs(me, names[DISCARD], executor, NULL);
    if (done == NULL)
        PyErr_WriteUnraisable(me);
    Py_XDECREF(done);
    PyErr_Restore(type, value, trace);
}

static PyObject *books_borrow(PyObject *me, PyObject *args) {
    PyObject *key, *container;
    long limit;
    if (!PyArg_ParseTuple(args, "OOl", &key, &container, &limit))
        return NULL;
    PyObject *executor = borrow((Books *)me, key, container, limit);
    return executor != NULL || PyErr_Occurred() != NULL ? executor : Py_NewRef(Py_None);
}

static PyObject *books_set_free(PyObject *me, PyObject *executor) {
    return set_free((Books *)me, executor) ? Py_NewRef(Py_None) : NULL;
}

static PyObject *books_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(given)) {
    Books *self = holder_new(type);
    if (self == NULL)
        return NULL;
    self->many = MANY(self);
    self->lock = Py_NewRef(Py_None), self->reaper = Py_NewRef(Py_None);
    self->idle = PyDict_New(), self->by_key = PyDict_New(), self->taken = PyDict_New();
    self->busy = PySet_New(NULL), self->closing = PyList_New(0);
    for (size_t i = 0; i < MANY(self); i++)
        if (self->held[i] == NULL) {
            Py_DECREF((PyObject *)self);
            return NULL;
        }
    return (PyObject *)self;
}

#define ITS(name) {"_" #name, T_OBJECT_EX, offsetof(Books, name), 0, NULL}
static PyMemberDef books_members[] = {ITS(lock), ITS(idle), ITS(by_key), ITS(taken), ITS(busy), ITS(closing), ITS(reaper),
                                      {"_closed", T_BOOL, offsetof(Books, closed), 0, NULL},
                                      {"_most", T_PYSSIZET, offsetof(Books, most), 0, NULL}, {0}};
static PyMethodDef books_methods[] = {{"borrow", books_borrow, METH_VARARGS, NULL}, {"set_free", books_set_free, METH_O, NULL}, {0}};
static PyType_Slot books_slots[] = {{Py_tp_new, books_new}, {Py_tp_members, books_members}, {Py_tp_methods, books_methods},
                                    HOLDER_SLOTS, {0, NULL}};
PyType_Spec books_spec = HOLDER_SPEC("Books", Books, Py_TPFLAGS_BASETYPE, books_slots);

bool books_ready(void) {
    static const char *const texts[NAMES] = {"acquire", "release", "container", "equals", "last", "number", "pace",
                                             "patience", "came", "performing", "limit", "_see_who_closed", "keep", "table", "discard", "counted"};
    return interned(names, texts, NAMES);
}
