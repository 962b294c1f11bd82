/* Calls of one number that all come to the same: neither a notification is made for Python nor a handler asked.  The manual is
 * _core.pyi.  The loop asks constant_answers() before all else, with the GIL: nothing in there can stall, so that nobody need
 * be able to take the role meanwhile.  Whatever may have to wait goes the ordinary way, by the call of the object. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "usual/usual.h"
#include <errno.h>

typedef struct {
    HOLDS(6, ROUTE, *wire, *cell, *counts);
    struct seccomp_notif_resp says;
} Constant;

PyTypeObject *constant_type;

int constant_answers(PyObject *route, int listener, const struct seccomp_notif *raw) {
    if (Py_TYPE(route) != constant_type)
        return -1;
    Constant *self = (Constant *)route;
    bool waits = may_wait(self->share, self->busy, raw);
    PyObject *known = NULL;
    if (!waits && self->counts != Py_None) {
        PyObject *key = PyBytes_FromStringAndSize((const char *)raw->data.args, sizeof raw->data.args);
        known = key != NULL ? Py_XNewRef(PyDict_GetItemWithError(self->counts, key)) : NULL;
        Py_XDECREF(key);
        waits = known == NULL || !is_known(known);
    }
    if (!waits)
        count(self->cell);
    if (PyErr_Occurred() != NULL) { /* no memory: the ordinary way says so */
        PyErr_Clear();
        waits = true;
    }
    int problem = waits ? -1 : answer(listener, raw->id, self->says.val, self->says.error, self->says.flags);
    if (known != NULL && (problem == 0 || problem == ENOENT))
        known_again(known);
    Py_XDECREF(known);
    PyErr_Clear();
    return problem == 0 || problem == ENOENT || problem == EINPROGRESS ? problem : -1; /* gone, or answered, is no error */
}

static PyObject *constant_call(PyObject *me, PyObject *args, PyObject *Py_UNUSED(names)) {
    PyObject *notification;
    if (!PyArg_ParseTuple(args, "O", &notification))
        return NULL;
    Constant *self = (Constant *)me;
    const struct seccomp_notif *raw = notification_of(notification);
    bool waits = raw == NULL || self->counts != Py_None || may_wait(self->share, self->busy, raw);
    if (!waits)
        count(self->cell);
    if (PyErr_Occurred() != NULL)
        return NULL;
    return waits ? PyObject_CallFunctionObjArgs(self->fallback, notification, NULL) : Py_NewRef(self->wire);
}

static PyObject *constant_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(names)) {
    Constant *self = holder_new(type);
    long long value;
    unsigned int flags;
    if (self == NULL)
        return NULL;
    bool good = PyArg_ParseTuple(args, "OO!OO!OO", &self->share, &PyDict_Type, &self->busy, &self->fallback, &PyTuple_Type,
                                 &self->wire, &self->cell, &self->counts);
    if (good && (good = PyArg_ParseTuple(self->wire, "LiI", &value, &self->says.error, &flags))) {
        self->says.val = value, self->says.flags = flags;
        if (self->says.error < -4095 || self->says.error > 0) /* it would succeed: C055 */
            good = PyErr_Format(PyExc_ValueError, "%d: 0 or a negative errno", self->says.error) != NULL;
    }
    return holder_made(self, MANY(self), good);
}

static PyType_Slot constant_slots[] = {{Py_tp_new, constant_new}, {Py_tp_call, constant_call}, HOLDER_SLOTS, {0, NULL}};
PyType_Spec constant_spec = HOLDER_SPEC("Constant", Constant, Py_TPFLAGS_IMMUTABLETYPE, constant_slots);
