/* Sheets: what is known of calls that have the same registers, all but a path's.  Which are known is the
 * target's to choose, so there are not more than SHEETS of them: then they are learnt anew. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "usual/usual.h"
#include <string.h>

enum { SHEETS = 1024 };

void sheet_let_go(Sheet *sheet) {
    if (--sheet->references > 0)
        return;
    Py_XDECREF(sheet->held);
    PyMem_Free(sheet);
}

static unsigned int bucket(const Usual *self, const __u64 *registers, uint64_t *key) {
    uint64_t hash = 0;
    for (int i = 0; i < WORDS; i++) {
        key[i] = self->registers >> i & 1 ? registers[i] : 0;
        hash = (hash ^ key[i]) * 0x9E3779B97F4A7C15U;
    }
    return (unsigned int)(hash >> 58) % BUCKETS;
}

static Sheet *known(const Usual *self, const struct seccomp_notif *raw) {
    uint64_t key[WORDS];
    Sheet *sheet = self->buckets[bucket(self, raw->data.args, key)];
    while (sheet != NULL && memcmp(sheet->key, key, sizeof key) != 0)
        sheet = sheet->next;
    return sheet;
}

Sheet *sheet_of(Usual *self, PyObject *notification, const struct seccomp_notif *raw) {
    Sheet *sheet = known(self, raw);
    if (sheet == NULL) {
        PyObject *done = PyObject_CallFunctionObjArgs(self->learn, notification, NULL);
        if (done == NULL)
            return NULL;
        Py_DECREF(done);
        sheet = known(self, raw);
    }
    if (sheet != NULL)
        sheet->references++;
    return sheet;
}

void sheets_forget(Usual *self) {
    for (int i = 0; i < BUCKETS; i++)
        while (self->buckets[i] != NULL) {
            Sheet *sheet = self->buckets[i];
            self->buckets[i] = sheet->next;
            sheet_let_go(sheet);
        }
    self->sheets = 0;
}

/* learn(registers, (dirfd, follow, entry), tests, otherwise, pieces) */
PyObject *usual_learn(PyObject *me, PyObject *args) {
    Usual *self = (Usual *)me;
    unsigned long long words[WORDS];
    int dirfd, follow, entry, otherwise;
    PyObject *tests, *pieces;
    if (!PyArg_ParseTuple(args, "(KKKKKK)(ipp)O!iO!", &words[0], &words[1], &words[2], &words[3], &words[4],
                          &words[5], &dirfd, &follow, &entry, &PyTuple_Type, &tests, &otherwise,
                          &PyTuple_Type, &pieces))
        return NULL;
    Py_ssize_t count = PyTuple_Size(tests);
    Sheet *sheet = PyMem_Malloc(sizeof *sheet + (size_t)count * sizeof *sheet->tests);
    if (sheet == NULL)
        return PyErr_NoMemory();
    *sheet = (Sheet){.references = 1, .dirfd = dirfd, .follow = follow, .entry = entry, .count = (int)count,
                     .otherwise = otherwise, .path = self->reg >= 0, .shown = PyTuple_Size(pieces) == PIECES,
                     .held = PyTuple_Pack(2, tests, pieces)};
    for (int i = 0; sheet->shown && i < PIECES; i++) {
        PyObject *piece = PyTuple_GetItem(pieces, i);
        sheet->pieces[i] = (struct text){PyBytes_AsString(piece), (size_t)PyBytes_Size(piece)};
    }
    for (int i = 0; i < sheet->count && PyErr_Occurred() == NULL; i++) {
        int text, nowhere;
        struct test *test = &sheet->tests[i];
        if (PyArg_ParseTuple(PyTuple_GetItem(tests, i), "ppiO!", &text, &nowhere, &test->outcome,
                             &PyTuple_Type, &test->programs))
            test->text = text, test->when_nowhere = nowhere, sheet->looks |= !text;
    }
    for (int i = 0; i <= sheet->count && otherwise >= 0 && PyErr_Occurred() == NULL; i++) {
        int outcome = i < sheet->count ? sheet->tests[i].outcome : otherwise;
        sheet->performs |= self->outcomes[outcome].how == PERFORMED;
    }
    if (sheet->held == NULL || PyErr_Occurred() != NULL) {
        sheet_let_go(sheet);
        return NULL;
    }
    if (self->sheets >= SHEETS) /* registers are the target's to choose */
        sheets_forget(self);
    __u64 given[WORDS];
    for (int i = 0; i < WORDS; i++)
        given[i] = words[i];
    Sheet **place = &self->buckets[bucket(self, given, sheet->key)];
    sheet->next = *place;
    *place = sheet;
    self->sheets++;
    return Py_NewRef(Py_None);
}

