/* What a usual call comes to: its path is read, looked for where its rules ask for that, and matched; by those who see
 * what its caller sees.  It is part of the usual call (usual/usual.c). */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "usual/usual.h"
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum { KNOWN, CLOSE, NAMES };
static PyObject *names[NAMES];

bool one_matches(PyObject *programs, const char *text, size_t length) {
    for (Py_ssize_t i = 0; i < PyTuple_Size(programs); i++) {
        PyObject *program = PyTuple_GetItem(programs, i); /* of a tuple that is held: no GIL is needed */
        if (matches((const uint8_t *)PyBytes_AsString(program), (size_t)PyBytes_Size(program), text, length))
            return true;
    }
    return false;
}

bool read_text(const Usual *self, const struct seccomp_notif *raw, struct seen *seen) {
    uint64_t address = raw->data.args[self->reg] & self->mask;
    return gather((pid_t)raw->pid, address, PATH_MAX, true, &seen->text, &seen->length) == 0;
}

/* Whether there is more of a caller that is as it was, so that it may be told what we saw. */
static bool is_alike(const Usual *self, const Known *who) {
    char here[4096], *text = here;
    ssize_t length;
    bool alike = is_same(who, self->groups, here, sizeof here, &text, &length);
    if (text != here)
        free(text);
    return alike;
}

/* We walk for those alone who are what we are: others would learn what we see and they do not. */
static bool find_out(const Usual *self, const Sheet *sheet, const struct seccomp_notif *raw, const Known *who,
                     struct lent *lent, struct seen *seen) {
    char path[PATH_MAX];
    if (lent != NULL)
        return (seen->leads = led_by(lent, seen->text, seen->length, seen->name)) != ECANCELED;
    if (seen->length == 0 || who == NULL || !looks_same(who))
        return false;
    memcpy(path, seen->text, seen->length);
    path[seen->length] = 0;
    seen->leads = leads_to((int)raw->pid, self->rooted, sheet->dirfd, path, sheet->follow, sheet->entry, seen->name);
    return seen->leads != ECANCELED;
}

/* Which outcome it comes to; -1 for what is to be decided the long way. */
static int decide(const Usual *self, const Sheet *sheet, const struct seccomp_notif *raw, const Known *who,
                  struct lent *lent, struct seen *seen) {
    int found = sheet->otherwise;
    if (!read_text(self, raw, seen))
        return -1;
    for (int i = 0; i < sheet->count; i++) {
        const struct test *test = &sheet->tests[i];
        if (!test->text && seen->leads < 0 && !find_out(self, sheet, raw, who, lent, seen))
            return -1;
        bool holds = test->text ? one_matches(test->programs, seen->text, seen->length)
                     : seen->leads != 0 ? test->when_nowhere
                                        : one_matches(test->programs, seen->name, strlen(seen->name));
        if (holds) {
            found = test->outcome;
            break;
        }
    }
    if (seen->leads >= 0 && lent == NULL && !(self->outcomes[found].flags & SECCOMP_USER_NOTIF_FLAG_CONTINUE) && !is_alike(self, who))
        return -1;
    /* Who is alive when it is answered was so all the time, and it was its memory.  Whoever tells of it
     * wants to know before. */
    bool told = self->outcomes[found].how != PLAIN;
    return told && id_valid(self->listener, raw->id) != 0 ? -1 : found;
}

/* Take what is known of a caller that is what we are, for this call alone; NULL if that is nothing. */
static PyObject *take_alike(Usual *self, const struct seccomp_notif *raw, const Known **who) {
    PyObject *tid = PyLong_FromUnsignedLong(raw->pid);
    PyObject *standing = tid != NULL ? PyDict_GetItemWithError(self->alikes, tid) : NULL;
    Py_XINCREF(standing);
    if (standing != NULL && PyDict_DelItem(self->alikes, tid) != 0)
        Py_CLEAR(standing);
    Py_XDECREF(tid);
    PyObject *known = standing != NULL ? PyObject_GetAttr(standing, names[KNOWN]) : NULL;
    *who = known != NULL && known != Py_None ? known_from(known) : NULL;
    Py_XDECREF(known); /* the standing has it */
    return standing;
}

/* Whether a caller that nobody knows is what we are. */
static bool meets(const Usual *self, const struct seccomp_notif *raw) {
    PyObject *said = self->meet == Py_None ? Py_NewRef(Py_False) : PyObject_CallFunction(self->meet, "I", raw->pid);
    bool is = said == Py_True;
    if (said == NULL)
        PyErr_WriteUnraisable(self->meet);
    Py_XDECREF(said);
    return is;
}

static void give_back(Usual *self, const struct seccomp_notif *raw, PyObject *standing) {
    PyObject *tid = PyLong_FromUnsignedLong(raw->pid), *done = NULL;
    if (tid == NULL || PyDict_GetItemWithError(self->alikes, tid) != NULL
        || PyDict_SetItem(self->alikes, tid, standing) != 0) { /* another of that number came meanwhile */
        PyErr_Clear();
        done = PyObject_CallMethodObjArgs(standing, names[CLOSE], NULL);
        PyErr_Clear();
    }
    Py_XDECREF(done);
    Py_XDECREF(tid);
    Py_DECREF(standing);
}

int usual_decided(Usual *self, const Sheet *sheet, const struct seccomp_notif *raw, struct seen *seen) {
    const Known *who = NULL;
    int index = -1;
    PyObject *standing = sheet->looks ? take_alike(self, raw, &who) : NULL;
    if (sheet->looks && standing == NULL && PyErr_Occurred() == NULL && meets(self, raw))
        standing = take_alike(self, raw, &who);
    struct lent *lent = sheet->looks && standing == NULL ? borrow(self, sheet, raw) : NULL;
    if (PyErr_Occurred() == NULL && (who != NULL || lent != NULL || !sheet->looks)) {
        Py_BEGIN_ALLOW_THREADS
        index = decide(self, sheet, raw, who, lent, seen);
        Py_END_ALLOW_THREADS
    }
    if (lent != NULL)
        return_lent(self, lent);
    if (standing != NULL)
        give_back(self, raw, standing);
    PyErr_Clear(); /* then it goes the long way */
    return index;
}

bool deciding_ready(void) { return interned(names, (const char *const[]){"known", "close"}, NAMES); }
