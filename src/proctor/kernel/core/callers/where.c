/* Where paths lead, for Python: callers/path.c finds out.  The manual is _core.pyi. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "core.h"
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* Whether there is a path to be looked up, then in `into`, of PATH_MAX bytes. */
static bool copy_path(const char *given, size_t length, char *into) {
    if (length == 0 || length >= PATH_MAX || memchr(given, 0, length) != NULL)
        return false;
    memcpy(into, given, length);
    into[length] = 0;
    return true;
}

PyObject *core_find(PyObject *Py_UNUSED(module), PyObject *args) {
    int root, dirfd, follow, entry, pin = -1, parent = -1;
    Py_buffer given;
    char path[PATH_MAX], name[PLACE_SIZE];
    if (!PyArg_ParseTuple(args, "iiy*pp", &root, &dirfd, &given, &follow, &entry))
        return NULL;
    bool found = copy_path(given.buf, (size_t)given.len, path);
    PyBuffer_Release(&given);
    if (found) {
        Py_BEGIN_ALLOW_THREADS
        found = found_at(root, dirfd, path, follow, entry, name, &pin, &parent);
        Py_END_ALLOW_THREADS
    }
    return found ? Py_BuildValue("yii", name, pin, parent) : Py_NewRef(Py_None);
}

PyObject *core_where(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count) {
    if (count != 7)
        return PyErr_Format(PyExc_TypeError, "where() takes 7 arguments, not %zd", count);
    int tid = (int)PyLong_AsLong(args[0]), dirfd = (int)PyLong_AsLong(args[2]);
    int follow = PyObject_IsTrue(args[3]), entry = PyObject_IsTrue(args[4]);
    int listener = (int)PyLong_AsLong(args[5]), problem = 0, leads = ECANCELED;
    uint64_t id = PyLong_AsUnsignedLongLongMask(args[6]), address = 0;
    char path[PATH_MAX], name[PLACE_SIZE], *bytes = NULL;
    size_t used = 0;
    bool found = false, given = PyBytes_Check(args[1]);
    if (given)
        found = copy_path(PyBytes_AsString(args[1]), (size_t)PyBytes_Size(args[1]), path);
    else
        address = PyLong_AsUnsignedLongLongMask(args[1]);
    if (PyErr_Occurred() != NULL)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    if (!given) {
        problem = gather(tid, address, PATH_MAX, true, &bytes, &used);
        found = problem == 0 && copy_path(bytes, used, path);
    }
    if (found)
        leads = leads_to(tid, false, dirfd, path, follow, entry, name);
    int gone = listener >= 0 ? id_valid(listener, id) : 0;
    problem = gone != 0 ? gone : problem;
    Py_END_ALLOW_THREADS
    PyObject *text = problem != 0 ? raise_errno(problem)
                     : given      ? Py_NewRef(args[1])
                                  : PyBytes_FromStringAndSize(bytes, (Py_ssize_t)used);
    free(bytes);
    if (text == NULL)
        return NULL;
    if (leads == 0)
        return Py_BuildValue("(Ny)", text, name);
    return leads == ENOENT ? Py_BuildValue("(Ni)", text, ENOENT) : Py_BuildValue("(NO)", text, Py_None);
}
