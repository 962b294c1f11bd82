/* Where a path leads for callers that are not what we are: somebody is lent who is what they are, and asked.  It is
 * part of the usual call (_usual.c); the manual is _core.pyi. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "_posing.h"
#include "_usual.h"
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum { UNASKED, ANSWERED, LATE };

struct lent {
    PyObject *made, *who; /* what was lent, which has all that the question points to; the first of it */
    struct posed posed;
    const struct form *above; /* what is asked about a directory */
    int count;
};

struct lent *borrow(const Usual *self, const Sheet *sheet, const struct seccomp_notif *raw) {
    struct lent *lent = NULL;
    PyObject *known, *forms, *above, *made = NULL;
    int groups;
    if (self->lend != Py_None && !sheet->entry)
        made = PyObject_CallFunction(self->lend, "IOO", raw->pid, self->container, sheet->follow ? Py_True : Py_False);
    if (made != NULL && made != Py_None && (lent = malloc(sizeof *lent)) != NULL) {
        struct posed *posed = &lent->posed;
        posed->form = NULL, posed->read = NULL, posed->dirfd = sheet->dirfd;
        if (PyArg_ParseTuple(made, "OOpiilOO", &lent->who, &known, &groups, &posed->asked.sock, &posed->table,
                             &posed->asked.patience, &forms, &above)
            && (posed->caller = known_from(known)) != NULL && (posed->many = forms_in(forms, &posed->forms)) >= 0
            && (lent->count = forms_in(above, &lent->above)) >= 0) {
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

static void let_go(struct asked *asked) {
    if (asked->into != asked->here)
        free(asked->into);
}

/* The last name of a path that has one, and no slash behind it; NULL if it has none. */
static const char *last_of(const char *path, size_t length) {
    const char *slash = memrchr(path, '/', length), *last = slash != NULL ? slash + 1 : path;
    size_t size = (size_t)(path + length - last);
    return size == 0 || (last[0] == '.' && (size == 1 || (size == 2 && last[1] == '.'))) ? NULL : last;
}

/* Ask about the directory of what is not there: whether that has a name, to which the last one is added. */
static bool led_above(struct lent *lent, const char *path, size_t length, char *name) {
    struct posed *posed = &lent->posed;
    char inside[PATH_MAX + 2];
    const char *last = last_of(path, length);
    if (last == NULL || length >= PATH_MAX)
        return false;
    size_t head = (size_t)(last - path), rest = length - head;
    memcpy(inside, path, head);
    memcpy(inside + head, ".", 2);
    let_go(&posed->asked);
    posed->path = inside, posed->used = head + 1;
    posed->forms = lent->above, posed->many = lent->count;
    pose(posed);
    if (!plainly_named(posed, name))
        return false;
    size_t at = strlen(name);
    at -= name[at - 1] == '/';
    if (at + 1 + rest >= PLACE_SIZE)
        return false;
    name[at] = '/';
    memcpy(name + at + 1, last, rest);
    name[at + 1 + rest] = 0;
    return true;
}

int led_by(struct lent *lent, const char *path, size_t length, char *name) {
    struct posed *posed = &lent->posed;
    posed->path = path, posed->used = length;
    pose(posed);
    bool led = plainly_named(posed, name) || (plainly_missing(posed) && led_above(lent, path, length, name));
    return led ? 0 : ECANCELED;
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
        let_go(asked);
    Py_DECREF(lent->made);
    free(lent);
}
