/* Calls of one number that are all performed, and of which nobody is told: who performs them at once is asked without a handler.
 * The manual is _core.pyi. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "acting/short.h"
#include "usual/usual.h"

typedef struct {
    HOLDS(11, PERFORMING, *wish, *make, *went_on, *cell_of,
          *performer, /* once that is there */
          *cells);    /* by errno: where such answers are counted */
} Performed;

/* Whether there is who performs at once; it may come later. */
static bool has_performer(Performed *self) {
    PyObject *found = self->performer == NULL && self->find != Py_None ? PyObject_CallNoArgs(self->find) : NULL;
    if (found != NULL && found != Py_None) {
        Py_DECREF(self->find); /* it is another one for good */
        self->find = Py_NewRef(Py_None);
        if (is_connect(found))
            self->performer = Py_NewRef(found);
    }
    Py_XDECREF(found);
    return self->performer != NULL;
}

static int performed_answers(void *me, PyObject *notification, const struct seccomp_notif *raw) {
    Performed *self = me;
    struct routing call = {.notification = notification, .container = self->container, .wish = self->wish, .make = self->make};
    int became = NOTHING;
    PyObject *said = has_performer(self) ? connect_routed(self->performer, &call, raw, &became) : NULL, *done = NULL;
    if (said != NULL && became == REPLIED)
        count_came(self->cells, self->cell_of, (int)PyLong_AsLong(said));
    else if (said != NULL && became == GOES_ON)
        done = PyObject_CallFunctionObjArgs(self->went_on, call.call, said, NULL);
    Py_XDECREF(done), Py_XDECREF(said), Py_XDECREF(call.call);
    return became;
}

static PyObject *performed_call(PyObject *me, PyObject *args, PyObject *Py_UNUSED(names)) {
    return routed(me, args, performed_answers);
}

static PyObject *performed_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(names)) {
    Performed *self = holder_new(type);
    if (self == NULL)
        return NULL;
    bool good = PyArg_ParseTuple(args, "OO!OOOO!OOO", &self->share, &PyDict_Type, &self->busy, &self->fallback, &self->find,
                                 &self->container, &PyTuple_Type, &self->wish, &self->make, &self->went_on, &self->cell_of);
    self = (Performed *)holder_made(self, MANY(self), good);
    if (self != NULL && (self->cells = PyDict_New()) == NULL)
        Py_CLEAR(self);
    return (PyObject *)self;
}

static PyType_Slot performed_slots[] = {{Py_tp_new, performed_new}, {Py_tp_call, performed_call}, HOLDER_SLOTS, {0, NULL}};
PyType_Spec performed_spec = HOLDER_SPEC("Performed", Performed, Py_TPFLAGS_IMMUTABLETYPE, performed_slots);
