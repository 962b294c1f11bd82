/* Where a path leads for callers that are not what we are: somebody is lent who is what they are, and asked.  It is
 * part of the usual call (usual/usual.c); the manual is _core.pyi. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "asking/posing.h"
#include "usual/usual.h"
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

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
            && (posed->caller = known_from(known)) != NULL && (posed->many = forms_in(forms, &posed->forms)) >= 0) {
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

/* The last name of a path that has one, and no slash behind it; NULL if it has none. */
static const char *last_of(const char *path, size_t length) {
    const char *slash = memrchr(path, '/', length), *last = slash != NULL ? slash + 1 : path;
    size_t size = (size_t)(path + length - last);
    return size == 0 || (last[0] == '.' && (size == 1 || (size == 2 && last[1] == '.'))) ? NULL : last;
}

int led_by(struct lent *lent, const char *path, size_t length, char *name) {
    struct posed *posed = &lent->posed;
    char inside[PATH_MAX + 2];
    const char *last = length < PATH_MAX ? last_of(path, length) : NULL;
    size_t head = last != NULL ? (size_t)(last - path) : 0, rest = length - head;
    memcpy(inside, path, head);
    memcpy(inside + head, ".", 2);
    posed->path = path, posed->used = length;
    choose(posed);
    ask_chosen(posed, inside, last != NULL ? head + 1 : 0); /* its directory, in case that it is not there */
    if (plainly_named(posed, name))
        return 0;
    if (last == NULL || !plainly_missing(posed, name))
        return ECANCELED;
    size_t at = strlen(name);
    at -= name[at - 1] == '/';
    if (at + 1 + rest >= PLACE_SIZE)
        return ECANCELED;
    name[at] = '/';
    memcpy(name + at + 1, last, rest);
    name[at + 1 + rest] = 0;
    return 0;
}

void return_lent(const Usual *self, struct lent *lent) {
    struct asked *asked = &lent->posed.asked;
    bool sent = lent->posed.form != NULL;
    int became = !sent ? UNASKED : asked->problem == 0 && asked->length > 0 ? ANSWERED : LATE;
    PyObject *done = PyObject_CallFunction(self->took_back, "Oi", lent->who, became);
    if (done == NULL)
        PyErr_WriteUnraisable(self->took_back);
    Py_XDECREF(done);
    if (sent)
        drop_room(asked);
    Py_DECREF(lent->made);
    free(lent);
}
