/* The usual call: one that differs by nothing but a path from others before it.  The manual is _core.pyi.
 *
 * What is known of calls with the same registers, all but the path's, is a Sheet, which Python makes when
 * the first of them comes: what its path is relative to, which patterns decide about it, and how a log shows
 * it.  From then on such a call is looked at, decided, answered and written down in one go, the GIL given up
 * where its caller can make us wait.  Each thing is looked at once.  Whatever is out of the ordinary before
 * anything was decided goes the long way from the start; after that, with what was seen.
 *
 * While the GIL is given up the role may be lost, and sheets may be cleared by another thread: hence the
 * references, and that an outcome is a number. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "usual/usual.h"
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* Where a refusal like this one is counted, if that need not be told of: a call of the same registers, the same path, leading
 * to the same. */
static PyObject *counted(const Usual *self, const Sheet *sheet, const struct seen *seen) {
    size_t named = seen->leads == 0 ? strlen(seen->name) : 0, size = sizeof sheet->key + sizeof seen->leads;
    char key[sizeof sheet->key + sizeof seen->leads + 2 * PATH_MAX + 1];
    if (size + seen->length + 1 + named > sizeof key)
        return NULL;
    memcpy(key, sheet->key, sizeof sheet->key);
    memcpy(key + sizeof sheet->key, &seen->leads, sizeof seen->leads);
    memcpy(key + size, seen->text, seen->length);
    key[size += seen->length] = 0;
    memcpy(key + size + 1, seen->name, named);
    PyObject *wanted = PyBytes_FromStringAndSize(key, (Py_ssize_t)(size + 1 + named));
    PyObject *cell = wanted != NULL ? Py_XNewRef(PyDict_GetItemWithError(self->counts, wanted)) : NULL;
    Py_XDECREF(wanted);
    if (cell != NULL && !is_known(cell))
        Py_CLEAR(cell);
    PyErr_Clear(); /* then it is told of */
    return cell;
}

/* Answer what somebody counts by himself; false, before anything was done, for what he is to be told of. */
static bool count_again(const Usual *self, const struct seccomp_notif *raw, const Sheet *sheet, const struct outcome *outcome,
                        const struct seen *seen) {
    PyObject *cell = self->counts != NULL ? counted(self, sheet, seen) : NULL;
    int problem = cell == NULL ? -1 : answer_routed(raw->id, outcome->value, outcome->error, outcome->flags);
    bool answered = problem == 0 || problem == ENOENT;
    if (answered) {
        count(outcome->cell);
        known_again(cell);
    }
    Py_XDECREF(cell);
    PyErr_Clear(); /* no memory to count in: it is answered all the same */
    return answered;
}

/* Look at a call, decide and answer it.  True: it is answered. */
static PyObject *usual_call(PyObject *me, PyObject *args, PyObject *Py_UNUSED(names)) {
    Usual *self = (Usual *)me;
    PyObject *notification, *result = NULL;
    if (!PyArg_ParseTuple(args, "O", &notification))
        return NULL;
    const struct seccomp_notif *raw = notification_of(notification);
    char name_seen[PLACE_SIZE];
    struct seen seen = {.leads = -1, .name = name_seen};
    int index = -1;
    double received = seconds(CLOCK_MONOTONIC);
    Sheet *sheet = raw != NULL && !may_wait(self->share, self->busy, raw) && raw->pid != 0 && self->reg >= 0
                           && (raw->data.args[self->reg] & self->mask) != 0
                           && is_open(self->port, self->listener)
                       ? sheet_of(self, notification, raw)
                       : NULL;
    if (PyErr_Occurred() != NULL)
        return NULL;
    if (sheet != NULL && sheet->performs)
        result = usual_perform(self, notification, raw, sheet, received);
    else if (sheet != NULL && sheet->otherwise >= 0)
        index = usual_decided(self, sheet, raw, &seen);
    if (result != NULL || PyErr_Occurred() != NULL) {
        ;
    } else if (index < 0) {
        result = PyObject_CallFunctionObjArgs(self->fallback, notification, NULL);
    } else if (self->outcomes[index].how == PLAIN) {
        count(self->outcomes[index].cell);
        result = Py_NewRef(self->outcomes[index].wire);
    } else if (self->outcomes[index].how == COUNTED ? count_again(self, raw, sheet, &self->outcomes[index], &seen)
                                                    : conclude(self, raw, sheet, index, &seen, received)) {
        result = Py_NewRef(Py_True);
    } else {
        PyObject *name = seen.leads == 0   ? PyBytes_FromString(seen.name)
                         : seen.leads > 0 ? PyLong_FromLong(seen.leads)
                                           : Py_NewRef(Py_None);
        if (name != NULL)
            result = PyObject_CallFunction(self->told, "ONNd", notification,
                                           PyBytes_FromStringAndSize(seen.text, (Py_ssize_t)seen.length),
                                           name, received);
    }
    free(seen.text);
    if (sheet != NULL)
        sheet_let_go(sheet);
    return result;
}

/* record(notification, outcome, path, received): of a call that a handler decided, who may have read the
 * path.  True: it is answered and written down; else the path, if it was read here. */
static PyObject *usual_record(PyObject *me, PyObject *args) {
    Usual *self = (Usual *)me;
    PyObject *notification, *path, *result = NULL;
    int index;
    double received;
    if (!PyArg_ParseTuple(args, "OiOd", &notification, &index, &path, &received))
        return NULL;
    const struct seccomp_notif *raw = notification_of(notification);
    if (raw == NULL || raw->pid == 0 || index < 0 || index >= self->count || !is_open(self->port, self->listener))
        return Py_NewRef(Py_None);
    Sheet *sheet = sheet_of(self, notification, raw);
    if (sheet == NULL)
        return PyErr_Occurred() != NULL ? NULL : Py_NewRef(Py_None);
    struct seen seen = {.leads = -1};
    bool good = sheet->shown, given = PyBytes_Check(path);
    if (good && given) {
        seen.length = (size_t)PyBytes_Size(path);
        good = (seen.text = malloc(seen.length + 1)) != NULL;
        if (good)
            memcpy(seen.text, PyBytes_AsString(path), seen.length);
    } else if (good && sheet->path) {
        good = (raw->data.args[self->reg] & self->mask) != 0;
        if (good) {
            Py_BEGIN_ALLOW_THREADS
            good = read_text(self, raw, &seen) && id_valid(self->listener, raw->id) == 0;
            Py_END_ALLOW_THREADS
        }
    }
    if (good && conclude(self, raw, sheet, index, &seen, received))
        result = Py_NewRef(Py_True);
    else if (good && !given && sheet->path)
        result = PyBytes_FromStringAndSize(seen.text, (Py_ssize_t)seen.length);
    else
        result = Py_NewRef(Py_None);
    free(seen.text);
    sheet_let_go(sheet);
    return result;
}

/* ---- The type ------------------------------------------------------------------------------- */

/* performs(find, given, became) */
static PyObject *usual_performs(PyObject *me, PyObject *args) {
    Usual *self = (Usual *)me;
    PyObject *find, *given, *became;
    if (!PyArg_ParseTuple(args, "OOO", &find, &given, &became))
        return NULL;
    if (self->known == NULL && (self->known = PyDict_New()) != NULL) {
        self->find = Py_NewRef(find);
        self->given = Py_NewRef(given);
        self->became = Py_NewRef(became);
    }
    return self->known != NULL ? Py_NewRef(Py_None) : NULL;
}

/* counts(cells) */
static PyObject *usual_counts(PyObject *me, PyObject *args) {
    Usual *self = (Usual *)me;
    PyObject *cells;
    if (!PyArg_ParseTuple(args, "O!", &PyDict_Type, &cells))
        return NULL;
    if (self->counts == NULL)
        self->counts = Py_NewRef(cells);
    return Py_NewRef(Py_None);
}

/* outcome(how, wire, cell, delivered, gone): its number; -1 if there are too many. */
static PyObject *usual_outcome(PyObject *me, PyObject *args) {
    Usual *self = (Usual *)me;
    struct outcome made;
    long long value;
    if (!PyArg_ParseTuple(args, "iO!OSS", &made.how, &PyTuple_Type, &made.wire, &made.cell, &made.delivered,
                          &made.gone)
        || !PyArg_ParseTuple(made.wire, "LiI", &value, &made.error, &made.flags))
        return NULL;
    if (self->count >= OUTCOMES)
        return PyLong_FromLong(-1);
    made.value = value;
    Py_INCREF(made.wire);
    Py_INCREF(made.cell);
    Py_INCREF(made.delivered);
    Py_INCREF(made.gone);
    self->outcomes[self->count] = made;
    return PyLong_FromLong(self->count++);
}

static PyObject *usual_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(names)) {
    PyObject *ours;
    unsigned long long mask;
    const struct standing *is = NULL;
    Usual *self = holder_new(type);
    int groups;
    if (self == NULL)
        return NULL;
    bool good = PyArg_ParseTuple(args, "OOOOO!OOOOSSOIiKO!pSOOO", &self->learn, &self->fallback, &self->told, &self->share,
                                 &PyDict_Type, &self->busy, &self->container, &self->labels, &self->log, &self->callers,
                                 &self->head, &self->middle, &self->port, &self->registers, &self->reg, &mask, &PyDict_Type,
                                 &self->alikes, &groups, &ours, &self->meet, &self->lend, &self->took_back);
    good = good && standing_in(ours, &is) && (self->listener = PyObject_AsFileDescriptor(self->port)) >= 0;
    self->groups = groups, self->mask = mask;
    self->rooted = good && is != NULL && is_first(is->root);
    return holder_made(self, MANY(self), good);
}

static void usual_dealloc(PyObject *me) {
    Usual *self = (Usual *)me;
    PyObject_GC_UnTrack(me);
    sheets_forget(self);
    for (int i = 0; i < self->count; i++) {
        Py_DECREF(self->outcomes[i].wire);
        Py_DECREF(self->outcomes[i].cell);
        Py_DECREF(self->outcomes[i].delivered);
        Py_DECREF(self->outcomes[i].gone);
    }
    holder_dealloc(me);
}

static PyMethodDef usual_methods[] = {{"counts", usual_counts, METH_VARARGS, NULL},
                                      {"learn", usual_learn, METH_VARARGS, NULL},
                                      {"outcome", usual_outcome, METH_VARARGS, NULL},
                                      {"performs", usual_performs, METH_VARARGS, NULL},
                                      {"record", usual_record, METH_VARARGS, NULL},
                                      {0}};
static PyType_Slot usual_slots[] = {{Py_tp_new, usual_new}, {Py_tp_call, usual_call}, {Py_tp_methods, usual_methods},
                                    HOLDER_KEEPS, {Py_tp_dealloc, usual_dealloc}, {0, NULL}};
PyType_Spec usual_spec = HOLDER_SPEC("Usual", Usual, Py_TPFLAGS_IMMUTABLETYPE, usual_slots);

bool usual_ready(void) {
    return deciding_ready() && telling_ready();
}
