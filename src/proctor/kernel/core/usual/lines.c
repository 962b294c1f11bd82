/* Lines that wait for whoever writes them: gathered here, under the GIL, since to hand over each by itself
 * costs more than to make it. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "core.h"
#include <stdlib.h>
#include <string.h>

/* Bytes that are gathered until they are to be fetched. */
enum { FULL = 256 << 10 };

typedef struct {
    PyObject_HEAD
    PyObject *hint;
    char *bytes;
    size_t used, size;
    long lines;
} Gathered;

bool gathered_put(PyObject *me, const struct text *parts, int count) {
    Gathered *self = (Gathered *)me;
    size_t length = 0;
    for (int i = 0; i < count; i++)
        length += parts[i].length;
    if (self->used + length > self->size) {
        size_t size = 2 * (self->used + length);
        char *grown = realloc(self->bytes, size);
        if (grown == NULL)
            return false;
        self->bytes = grown;
        self->size = size;
    }
    for (int i = 0; i < count; i++) {
        memcpy(self->bytes + self->used, parts[i].at, parts[i].length);
        self->used += parts[i].length;
    }
    if (self->lines++ == 0 || self->used >= FULL) {
        PyObject *done = PyObject_CallNoArgs(self->hint);
        if (done == NULL)
            PyErr_WriteUnraisable(self->hint);
        Py_XDECREF(done);
    }
    return true;
}

static PyObject *gathered_take(PyObject *me, PyObject *Py_UNUSED(args)) {
    Gathered *self = (Gathered *)me;
    PyObject *text = PyUnicode_FromStringAndSize(self->bytes, (Py_ssize_t)self->used);
    PyObject *taken = text != NULL ? Py_BuildValue("(Nl)", text, self->lines) : NULL;
    if (taken != NULL)
        self->used = 0, self->lines = 0;
    return taken;
}

static PyObject *gathered_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(names)) {
    PyObject *hint;
    if (!PyArg_ParseTuple(args, "O", &hint))
        return NULL;
    Gathered *self = PyObject_New(Gathered, type);
    if (self == NULL)
        return NULL;
    self->hint = Py_NewRef(hint);
    self->bytes = NULL;
    self->used = self->size = 0;
    self->lines = 0;
    return (PyObject *)self;
}

static void gathered_dealloc(PyObject *me) {
    PyTypeObject *type = Py_TYPE(me);
    free(((Gathered *)me)->bytes);
    Py_DECREF(((Gathered *)me)->hint);
    PyObject_Free(me);
    Py_DECREF(type);
}

static PyMethodDef gathered_methods[] = {{"take", gathered_take, METH_NOARGS, NULL}, {0}};
static PyType_Slot gathered_slots[] = {{Py_tp_new, gathered_new}, {Py_tp_dealloc, gathered_dealloc},
                                       {Py_tp_methods, gathered_methods}, {0, NULL}};
PyType_Spec gathered_spec = {"proctor.kernel._core.Gathered", sizeof(Gathered), 0,
                             Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, gathered_slots};
