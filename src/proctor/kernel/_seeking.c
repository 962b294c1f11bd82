/* Where a path leads for callers that are not what we are: somebody is lent who is what they are, and asked.  It is
 * part of the usual call (_usual.c); the manual is _core.pyi. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "_posing.h"
#include "_usual.h"
#include <errno.h>
#include <limits.h>
#include <stdlib.h>

enum { UNASKED, ANSWERED, LATE };

struct lent {
    PyObject *made, *who; /* what was lent, which has all that the question points to; the first of it */
    struct posed posed;
};

struct lent *borrow(const Usual *self, const Sheet *sheet, const struct seccomp_notif *raw) {
    struct lent *lent = NULL;
    PyObject *known, *forms, *made = NULL;
    int groups;
    if (self->lend != Py_None && !sheet->entry)
        made = PyObject_CallFunction(self->lend, "IOO", raw->pid, self->container, sheet->follow ? Py_True : Py_False);
    if (made != NULL && made != Py_None && (lent = malloc(sizeof *lent)) != NULL) {
        struct posed *posed = &lent->posed;
        posed->form = NULL, posed->read = NULL, posed->dirfd = sheet->dirfd;
        if (PyArg_ParseTuple(made, "OOpiilO", &lent->who, &known, &groups, &posed->asked.sock, &posed->table,
                             &posed->asked.patience, &forms)
            && (posed->caller = known_from(known)) != NULL && (posed->many = forms_in(forms, posed->forms)) >= 0) {
            lent->made = made, posed->groups = groups != 0;
            return lent;
        }
    }
    if (PyErr_Occurred() != NULL)
        PyErr_WriteUnraisable(self->lend);
    free(lent);
    Py_XDECREF(made);
    return NULL;
}

int led_by(struct lent *lent, const char *path, size_t length, char *name) {
    struct posed *posed = &lent->posed;
    posed->path = path, posed->used = length;
    pose(posed);
    return plainly_named(posed, name) ? 0 : ECANCELED;
}

void return_lent(const Usual *self, struct lent *lent) {
    const struct asked *asked = &lent->posed.asked;
    bool sent = lent->posed.form != NULL;
    int became = !sent ? UNASKED : asked->problem == 0 && asked->length > 0 ? ANSWERED : LATE;
    PyObject *done = PyObject_CallFunction(self->took_back, "Oi", lent->who, became);
    if (done == NULL)
        PyErr_WriteUnraisable(self->took_back);
    Py_XDECREF(done);
    if (sent && asked->into != asked->here)
        free(asked->into);
    Py_DECREF(lent->made);
    free(lent);
}
