/* Objects that hold others: see holding.h. */
#define PY_SSIZE_T_CLEAN
#include "holding.h"

struct holder {
    HOLDS(1, first);
};

void *holder_new(PyTypeObject *type) { return ((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0); }

PyObject *holder_made(void *self, size_t many, bool good) {
    struct holder *holder = self;
    for (size_t i = 0; i < many; i++)
        Py_XINCREF(holder->held[i]);
    holder->many = (Py_ssize_t)many;
    if (!good)
        Py_CLEAR(self);
    return self;
}

int holder_traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    for (Py_ssize_t i = 0; i < ((struct holder *)self)->many; i++)
        Py_VISIT(((struct holder *)self)->held[i]);
    return 0;
}

int holder_clear(PyObject *self) {
    for (Py_ssize_t i = 0; i < ((struct holder *)self)->many; i++)
        Py_CLEAR(((struct holder *)self)->held[i]);
    return 0;
}

void holder_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    holder_clear(self);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}
