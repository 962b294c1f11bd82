/* Usual calls that their rules have performed: opened at once by a Short (acting/short.c), with the rules asked about what is
 * pinned, and told of.  It is part of the usual call (usual/usual.c). */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "acting/short.h"
#include "usual/usual.h"
#include <errno.h>
#include <string.h>
#include <unistd.h>

/* What rules are asked about a call, and what they said. */
struct rules {
    const Usual *usual;
    const Sheet *sheet;
    bool logged;
    int index;        /* of what allowed it; -1: that is not known */
    struct seen seen; /* by which name that was asked about, if it was */
};

static int meant(const struct rules *rules, int index) {
    return rules->usual->outcomes[index].how == PERFORMED ? ALLOWED : REFUSED;
}

/* What rules say of a path's text alone, before anything is looked at, and then by the name of what it leads to. */
static int are_for(void *given, const char *path, const char *name) {
    struct rules *rules = given;
    const Sheet *sheet = rules->sheet;
    int found = sheet->otherwise;
    rules->seen.text = (char *)(uintptr_t)path, rules->seen.length = strlen(path);
    if (name != NULL)
        strcpy(rules->seen.name, name), rules->seen.leads = 0;
    if (rules->logged && !is_shown(sheet, &rules->seen))
        return REFUSED; /* it is told of by a longer way */
    for (int i = 0; i < sheet->count; i++) {
        const struct test *test = &sheet->tests[i];
        const char *text = test->text ? path : name;
        if (text == NULL)
            return UNDECIDED;
        if (one_matches(test->programs, text, strlen(text))) {
            found = test->outcome;
            break;
        }
    }
    rules->index = found;
    return meant(rules, found);
}

/* Whether there is who performs at once; it may come later.  False with an exception, too. */
static bool has_performer(Usual *self) {
    PyObject *found = self->performer == NULL && self->find != NULL ? PyObject_CallNoArgs(self->find) : NULL;
    if (found != NULL && found != Py_None) {
        Py_CLEAR(self->find); /* it is another one for good */
        if (is_short(found))
            self->performer = Py_NewRef(found);
    }
    Py_XDECREF(found);
    return self->performer != NULL;
}

/* What is told of calls that one rule has performed, and that come to one errno; borrowed. */
static PyObject *what_became(Usual *self, int index, int failed) {
    PyObject *key = PyLong_FromLong((index + 1) * 4096L + failed), *made = NULL;
    PyObject *known = key != NULL ? PyDict_GetItemWithError(self->known, key) : NULL;
    if (key != NULL && known == NULL && PyErr_Occurred() == NULL
        && (made = PyObject_CallFunction(self->became, "ii", index, failed)) != NULL && PyTuple_Size(made) == 3
        && PyDict_SetItem(self->known, key, made) == 0)
        known = made;
    Py_XDECREF(made);
    Py_XDECREF(key);
    return known;
}

/* It is answered: count it, and write it down. */
static void tell(Usual *self, const struct turn *turn, struct rules *rules, PyObject *who, double received) {
    if (turn->fd == -EEXIST && rules->seen.leads == 0) /* asked about what would have been made; that comes first */
        rules->seen.leads = rules->index = -1;
    PyObject *became = what_became(self, rules->index, -turn->fd);
    if (became == NULL) {
        PyErr_WriteUnraisable(self->became);
        return;
    }
    count(PyTuple_GetItem(became, 0));
    rules->seen.text = turn->path, rules->seen.length = turn->used;
    if (who != NULL)
        write_down(self, turn->raw, rules->sheet, &rules->seen, who, PyTuple_GetItem(became, turn->delivered ? 1 : 2), received);
}

PyObject *usual_perform(Usual *self, PyObject *notification, const struct seccomp_notif *raw, const Sheet *sheet,
                        double received) {
    char name[PLACE_SIZE];
    bool logged = self->log != Py_None;
    struct rules rules = {self, sheet, logged, -1, {.leads = -1, .name = name}};
    struct turn turn = {.raw = raw, .fd = LEFT, .told = logged};
    PyObject *who = NULL, *result = NULL;
    if (!has_performer(self) || (logged && (!sheet->shown || (who = told_of(self, raw)) == NULL)))
        return NULL;
    if (short_by_rules(self->performer, self->container, notification, are_for, &rules, &turn)) {
        tell(self, &turn, &rules, who, received);
        result = Py_NewRef(Py_True);
    } else if (turn.fd >= 0) { /* which is there, and may be new */
        PyObject *path = PyBytes_FromStringAndSize(turn.path, (Py_ssize_t)turn.used);
        PyObject *pinned = rules.seen.leads == 0 ? PyBytes_FromString(name) : Py_NewRef(Py_None);
        if (path == NULL || pinned == NULL)
            close(turn.fd);
        else
            result = PyObject_CallFunction(self->given, "OOOiid", notification, path, pinned, rules.index, turn.fd, received);
        Py_XDECREF(path);
        Py_XDECREF(pinned);
    }
    turn_over(&turn);
    Py_XDECREF(who);
    return result;
}
