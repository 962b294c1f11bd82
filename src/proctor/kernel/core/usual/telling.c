/* Who is told of a usual call: it is counted, and its line put to the others that the log's writer fetches.  It is part of
 * the usual call (usual/usual.c), and under the GIL. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "usual/usual.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

/* Characters of a path that is shown in whole. */
enum { LONGEST = 1024 };
/* Seconds after which what is known is looked at again: _FRESH of agent/refusals.py. */
enum { FRESH = 1 };

enum { LABELS, LOGGING, NAMES };
static PyObject *names[NAMES];

/* Whether C, JSON and we write a text alike; as long as a log shows it in whole. */
static bool is_plain(const char *text, size_t length) {
    for (size_t i = 0; i < length; i++)
        if (text[i] < ' ' || text[i] > '~' || text[i] == '"' || text[i] == '\\')
            return false;
    return length > 0 && length <= LONGEST;
}

void count(PyObject *cell) {
    PyObject *number = cell == Py_None ? NULL : PyList_GetItem(cell, 0);
    if (number != NULL && (number = PyLong_FromLongLong(PyLong_AsLongLong(number) + 1)) != NULL)
        PyList_SetItem(cell, 0, number);
}

bool is_known(PyObject *cell) {
    bool known = cell != NULL && PyList_Check(cell) && PyList_Size(cell) == 2;
    long long times = known ? PyLong_AsLongLong(PyList_GetItem(cell, 0)) : 0;
    known = known && times > 0 && (times & (times + 1)) != 0
            && seconds(CLOCK_REALTIME) - PyFloat_AsDouble(PyList_GetItem(cell, 1)) <= FRESH;
    return known && PyErr_Occurred() == NULL;
}

void known_again(PyObject *cell) {
    count(cell);
    PyObject *now = PyFloat_FromDouble(seconds(CLOCK_REALTIME));
    if (now != NULL)
        PyList_SetItem(cell, 1, now);
}

double seconds(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static struct text text_of(PyObject *bytes) {
    return (struct text){PyBytes_AsString(bytes), (size_t)PyBytes_Size(bytes)};
}

#define LITERALLY(words) ((struct text){words, sizeof words - 1})

void write_down(Usual *self, const struct seccomp_notif *raw, const Sheet *sheet, const struct seen *seen, PyObject *who,
                PyObject *became, double received) {
    char number[16], took[32], at[48];
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    struct text path = {seen->text, seen->length}, none = {"", 0}, caller;
    caller.at = PyUnicode_AsUTF8AndSize(who, (Py_ssize_t *)&caller.length); /* which it has: see told_of() */
    bool named = seen->leads == 0;
    /* to print a double takes as long as all the rest */
    long long tenths = (long long)((seconds(CLOCK_MONOTONIC) - received) * 1e7 + 0.5);
    tenths = tenths > 0 ? tenths : 0;
    const struct text line[] = {
        text_of(self->head),
        {at, (size_t)snprintf(at, sizeof at, "%lld.%06ld", (long long)now.tv_sec, now.tv_nsec / 1000)},
        text_of(self->middle),
        {number, (size_t)snprintf(number, sizeof number, "%u", raw->pid)},
        sheet->pieces[FIRST],
        sheet->path ? path : none,
        sheet->pieces[SECOND],
        sheet->path ? path : none,
        sheet->pieces[LAST],
        named ? sheet->pieces[NAMED] : none,
        named ? (struct text){seen->name, strlen(seen->name)} : none,
        named ? LITERALLY("\"}, ") : LITERALLY(", "),
        caller,
        LITERALLY(", "),
        text_of(became),
        {took, (size_t)snprintf(took, sizeof took, ", \"microseconds\": %lld.%d}\n", tenths / 10, (int)(tenths % 10))},
    };
    gathered_put(self->log, line, (int)(sizeof line / sizeof *line));
}

static bool has(PyObject *object, PyObject *name, PyObject *value) {
    PyObject *found = PyObject_GetAttr(object, name);
    Py_XDECREF(found);
    PyErr_Clear();
    return found == value;
}

bool is_shown(const Sheet *sheet, const struct seen *seen) {
    return sheet->shown && (!sheet->path || is_plain(seen->text, seen->length))
           && (seen->leads != 0 || is_plain(seen->name, strlen(seen->name)));
}

PyObject *told_of(Usual *self, const struct seccomp_notif *raw) {
    bool fresh = false;
    bool same = has(self->container, names[LABELS], self->labels) && has(self->container, names[LOGGING], Py_None);
    PyObject *who = same ? Py_XNewRef(caller_told(self->callers, (int)raw->pid, &fresh)) : NULL;
    if (who != NULL && PyUnicode_AsUTF8AndSize(who, NULL) == NULL) {
        PyErr_Clear();
        Py_CLEAR(who);
    }
    if (who != NULL && fresh && id_valid(self->listener, raw->id) != 0) {
        caller_forget(self->callers, (int)raw->pid);
        Py_CLEAR(who);
    }
    return who;
}

bool conclude(Usual *self, const struct seccomp_notif *raw, const Sheet *sheet, int index, const struct seen *seen,
              double received) {
    const struct outcome *outcome = &self->outcomes[index];
    PyObject *who = outcome->how == LOGGED && is_shown(sheet, seen) ? told_of(self, raw) : NULL;
    if (who == NULL)
        return false;
    int problem = answer_routed(raw->id, outcome->value, outcome->error, outcome->flags);
    bool answered = problem == 0 || problem == ENOENT;
    if (answered) {
        count(outcome->cell);
        write_down(self, raw, sheet, seen, who, problem == 0 ? outcome->delivered : outcome->gone, received);
    }
    Py_DECREF(who);
    return answered;
}

bool telling_ready(void) { return interned(names, (const char *const[]){"labels", "logging"}, NAMES); }
