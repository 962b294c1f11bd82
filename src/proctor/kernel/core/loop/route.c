/* Routes: see loop/route.h. */
#define PY_SSIZE_T_CLEAN
#include "usual/usual.h"
#include <errno.h>

struct route {
    HOLDS(3, ROUTE);
};

enum { WATCHFUL, SLOW, NATIVE, NAMES };
static PyObject *names[NAMES], *denied; /* what is said where nobody is left who could say anything else */

bool may_wait(PyObject *share, PyObject *busy, const struct seccomp_notif *raw) {
    PyObject *turns = PyObject_GetAttr(share, names[WATCHFUL]), *stalled = PyObject_GetAttr(share, names[SLOW]);
    bool waits = turns != Py_False || stalled == NULL;
    if (!waits && PyObject_IsTrue(stalled) != 0) {
        PyObject *number = Py_BuildValue("(Ii)", raw->data.arch, raw->data.nr);
        waits = number == NULL || PyDict_Contains(stalled, number) != 0;
        Py_XDECREF(number);
    }
    if (!waits && PyDict_Size(busy) != 0) {
        PyObject *tid = PyLong_FromUnsignedLong(raw->pid);
        waits = tid == NULL || PyDict_Contains(busy, tid) != 0;
        Py_XDECREF(tid);
    }
    Py_XDECREF(turns), Py_XDECREF(stalled);
    return waits;
}

PyObject *routed(PyObject *me, PyObject *args, answers *answers) {
    struct route *self = (struct route *)me;
    PyObject *notification = PyTuple_Size(args) == 1 ? PyTuple_GetItem(args, 0) : NULL;
    if (notification == NULL)
        return PyErr_Format(PyExc_TypeError, "a notification is wanted");
    const struct seccomp_notif *raw = notification_of(notification);
    bool quick = raw != NULL && raw->pid != 0 && !may_wait(self->share, self->busy, raw);
    int became = quick ? answers(me, notification, raw) : NOTHING;
    bool failed = PyErr_Occurred() != NULL;
    if (failed && !PyErr_ExceptionMatches(PyExc_Exception)) /* somebody interrupts us */
        return NULL;
    if (failed && became == NOTHING) /* a longer way comes upon it by itself */
        PyErr_Clear();
    else if (failed)
        PyErr_WriteUnraisable(me);
    return became == NOTHING    ? PyObject_CallFunctionObjArgs(self->fallback, notification, NULL)
           : became == REPLIED ? Py_NewRef(Py_True)
                                : Py_NewRef(failed ? denied : Py_None);
}

bool judged_so(PyObject *judge, PyObject *judged, unsigned int registers, PyObject *notification, const struct seccomp_notif *raw) {
    enum { MANY = 6, MOST_JUDGED = 256 };
    uint64_t are[MANY];
    if (judge == Py_None)
        return true;
    for (int i = 0; i < MANY; i++)
        are[i] = registers & 1U << i ? raw->data.args[i] : 0;
    PyObject *key = PyBytes_FromStringAndSize((const char *)are, sizeof are);
    PyObject *known = key != NULL ? PyDict_GetItemWithError(judged, key) : NULL, *said = NULL; /* one of two that are there for ever */
    if (known == NULL && PyErr_Occurred() == NULL)
        known = said = PyObject_CallFunctionObjArgs(judge, notification, NULL);
    bool so = known == Py_True;
    if (said != NULL && PyDict_Size(judged) < MOST_JUDGED && PyDict_SetItem(judged, key, said) != 0)
        so = false;
    Py_XDECREF(said), Py_XDECREF(key);
    return so;
}

void count_came(PyObject *cells, PyObject *cell_of, int failed) {
    PyObject *key = PyLong_FromLong(failed), *cell = key != NULL ? PyDict_GetItemWithError(cells, key) : NULL;
    if (cell == NULL && PyErr_Occurred() == NULL && (cell = PyObject_CallFunctionObjArgs(cell_of, key, NULL)) != NULL) {
        PyDict_SetItem(cells, key, cell);
        Py_DECREF(cell);
    }
    if (cell != NULL && PyErr_Occurred() == NULL)
        count(cell);
    Py_XDECREF(key);
}

PyObject *native_of(PyObject *find) {
    PyObject *way = PyObject_CallFunctionObjArgs(find, NULL), *native = NULL;
    if (way != NULL && way != Py_None && (native = PyObject_GetAttr(way, names[NATIVE])) == NULL)
        PyErr_Clear(); /* somebody else performs here, and has nothing of this */
    if (native == Py_None)
        Py_CLEAR(native);
    Py_XDECREF(way);
    return native;
}

bool route_ready(void) {
    static const char *const texts[NAMES] = {"watchful", "slow", "native"};
    return interned(names, texts, NAMES) && (denied = Py_BuildValue("(iii)", 0, -EPERM, 0)) != NULL;
}
