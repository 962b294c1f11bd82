/* Calls of one number that are all performed, and of which nobody is told: who performs them at once is asked without a handler.
 * The manual is _core.pyi. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "_short.h"
#include "_usual.h"

enum { HELD_BY_PERFORMED = 9 };

typedef struct {
    PyObject_HEAD
    union {
        PyObject *held[HELD_BY_PERFORMED];
        struct {
            PyObject *share, *busy, *fallback, *find, *container, *wish, *make, *went_on, *cell_of;
        };
    };
    PyObject *performer; /* once that is there */
    PyObject *cells;     /* by errno: where such answers are counted */
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

static void count_answer(Performed *self, PyObject *failed) {
    PyObject *cell = PyDict_GetItemWithError(self->cells, failed);
    if (cell == NULL && PyErr_Occurred() == NULL && (cell = PyObject_CallFunctionObjArgs(self->cell_of, failed, NULL)) != NULL) {
        PyDict_SetItem(self->cells, failed, cell);
        Py_DECREF(cell);
    }
    if (cell != NULL && PyErr_Occurred() == NULL)
        count(cell);
    if (PyErr_Occurred() != NULL) /* it is answered all the same */
        PyErr_WriteUnraisable(self->cell_of);
}

static PyObject *performed_call(PyObject *me, PyObject *args, PyObject *Py_UNUSED(names)) {
    Performed *self = (Performed *)me;
    struct routing call = {.container = self->container, .wish = self->wish, .make = self->make};
    PyObject *said = NULL, *result = NULL;
    if (!PyArg_ParseTuple(args, "O", &call.notification))
        return NULL;
    const struct seccomp_notif *raw = notification_of(call.notification);
    if (raw != NULL && !may_wait(self->share, self->busy, raw) && has_performer(self))
        said = connect_routed(self->performer, &call, raw);
    if (PyErr_Occurred() != NULL) {
        ;
    } else if (said == NULL || said == Py_None) {
        result = PyObject_CallFunctionObjArgs(self->fallback, call.notification, NULL);
    } else if (PyLong_Check(said)) {
        count_answer(self, said);
        result = Py_NewRef(Py_True);
    } else {
        result = PyObject_CallFunctionObjArgs(self->went_on, call.call, said, NULL);
    }
    Py_XDECREF(said);
    Py_XDECREF(call.call);
    return result;
}

static PyObject *performed_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(names)) {
    Performed *self = (Performed *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (self == NULL)
        return NULL;
    bool good = PyArg_ParseTuple(args, "OO!OOOO!OOO", &self->share, &PyDict_Type, &self->busy, &self->fallback, &self->find,
                                 &self->container, &PyTuple_Type, &self->wish, &self->make, &self->went_on, &self->cell_of);
    for (int i = 0; i < HELD_BY_PERFORMED; i++) /* were borrowed */
        Py_XINCREF(self->held[i]);
    if (!good || (self->cells = PyDict_New()) == NULL)
        Py_CLEAR(self);
    return (PyObject *)self;
}

static int performed_traverse(PyObject *me, visitproc visit, void *arg) {
    Performed *self = (Performed *)me;
    Py_VISIT(Py_TYPE(me));
    for (int i = 0; i < HELD_BY_PERFORMED; i++)
        Py_VISIT(self->held[i]);
    Py_VISIT(self->performer);
    Py_VISIT(self->cells);
    return 0;
}

static int performed_clear(PyObject *me) {
    Performed *self = (Performed *)me;
    for (int i = 0; i < HELD_BY_PERFORMED; i++)
        Py_CLEAR(self->held[i]);
    Py_CLEAR(self->performer);
    Py_CLEAR(self->cells);
    return 0;
}

static void performed_dealloc(PyObject *me) {
    PyTypeObject *type = Py_TYPE(me);
    PyObject_GC_UnTrack(me);
    performed_clear(me);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(me);
    Py_DECREF(type);
}

static PyType_Slot performed_slots[] = {{Py_tp_new, performed_new}, {Py_tp_dealloc, performed_dealloc},
                                        {Py_tp_traverse, performed_traverse}, {Py_tp_clear, performed_clear},
                                        {Py_tp_call, performed_call}, {0, NULL}};
PyType_Spec performed_spec = {"proctor.kernel._core.Performed", sizeof(Performed), 0,
                              Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_HAVE_GC, performed_slots};
