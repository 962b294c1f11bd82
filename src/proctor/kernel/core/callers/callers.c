/* Who called, for a log: process, name and program of threads, which call again and again.
 *
 * Of a thread that was met two files stay open.  What it is called and what it runs is read anew for each
 * call, since prctl(2) and execve(2) change both; which process it belongs to is not.  A descriptor of
 * /proc/TID refers to that thread and to no other: once it is dead the kernel answers ESRCH, also when its
 * number is somebody else's.  So whoever was met under a caller's number before its call came, and still
 * answers, is that caller.  None of it waits for anybody, so that the GIL is kept, and guards all. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "core.h"
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Threads that are known at the same time: one for each remainder. */
enum { MOST = 64, COMM = 64 };

struct known {
    int tid, comm, exe, tgid; /* exe: the link itself, not what it leads to */
    size_t used;
    char *seen; /* comm, of COMM bytes, and exe behind it, as they were when `text` was made */
    PyObject *text;
};

typedef struct {
    PyObject_HEAD
    PyObject *quote;
    unsigned long changes;
    struct known known[MOST];
} Callers;

static void drop(struct known *one) {
    if (one->comm >= 0)
        close(one->comm);
    if (one->exe >= 0)
        close(one->exe);
    free(one->seen);
    Py_XDECREF(one->text);
    *one = (struct known){.comm = -1, .exe = -1};
}

/* The process of a thread; 0 if that cannot be told. */
static int process_of(int tid, int proc) {
    char text[4096], *line;
    int number = 0, fd = (int)syscall(SYS_pidfd_open, tid, 0);
    if (fd >= 0) { /* the first thread of a process */
        close(fd);
        return tid;
    }
    fd = openat(proc, "status", O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    text[got > 0 ? got : 0] = 0;
    return (line = strstr(text, "\nTgid:")) != NULL && sscanf(line + 6, "%d", &number) == 1 ? number : 0;
}

static bool meet(Callers *self, struct known *one, int tid) {
    char place[32];
    snprintf(place, sizeof place, "/proc/%d", tid);
    self->changes++;
    drop(one);
    one->tid = tid;
    int proc = open(place, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (proc < 0)
        return false;
    one->comm = openat(proc, "comm", O_RDONLY | O_CLOEXEC);
    one->exe = openat(proc, "exe", O_PATH | O_NOFOLLOW | O_CLOEXEC);
    one->tgid = process_of(tid, proc);
    close(proc);
    return one->comm >= 0 && one->exe >= 0 && one->tgid != 0;
}

/* What it is called and runs, in `text`; false if it is dead, or that cannot be had. */
static bool read_again(Callers *self, struct known *one) {
    char now[COMM + PATH_MAX];
    ssize_t first = pread(one->comm, now, COMM, 0);
    if (first <= 0)
        return false;
    memset(now + first, 0, (size_t)(COMM - first));
    ssize_t second = readlinkat(one->exe, "", now + COMM, PATH_MAX);
    if (second < 0)
        return false;
    size_t used = COMM + (size_t)second;
    if (one->text != NULL && one->used == used && memcmp(one->seen, now, used) == 0)
        return true;
    char *seen = realloc(one->seen, used);
    if (seen == NULL)
        return false;
    one->seen = memcpy(seen, now, one->used = used);
    Py_CLEAR(one->text);
    unsigned long at = ++self->changes;
    PyObject *text = PyObject_CallFunction(self->quote, "iNN", one->tgid,
                                           PyBytes_FromStringAndSize(now, first - 1),
                                           PyBytes_FromStringAndSize(now + COMM, second));
    if (text == NULL)
        PyErr_WriteUnraisable(self->quote);
    if (text == NULL || !PyUnicode_Check(text) || self->changes != at) { /* another thread was here */
        Py_XDECREF(text);
        return false;
    }
    one->text = text;
    return true;
}

void caller_forget(PyObject *callers, int tid) {
    ((Callers *)callers)->changes++;
    drop(&((Callers *)callers)->known[(unsigned int)tid % MOST]);
}

PyObject *caller_told(PyObject *callers, int tid, bool *fresh) {
    Callers *self = (Callers *)callers;
    struct known *one = &self->known[(unsigned int)tid % MOST];
    *fresh = false;
    if (tid == 0)
        return NULL;
    if (one->tid == tid && read_again(self, one))
        return one->text;
    *fresh = true; /* nobody, or another one had the number */
    if (meet(self, one, tid) && read_again(self, one))
        return one->text;
    caller_forget(callers, tid);
    return NULL;
}

static PyObject *callers_told(PyObject *me, PyObject *args) {
    int tid;
    bool fresh;
    PyObject *valid;
    if (!PyArg_ParseTuple(args, "iO", &tid, &valid))
        return NULL;
    PyObject *text = Py_XNewRef(caller_told(me, tid, &fresh));
    PyObject *lives = text != NULL && fresh ? PyObject_CallNoArgs(valid) : NULL;
    bool wrong = text != NULL && fresh && (lives == NULL || !PyObject_IsTrue(lives));
    Py_XDECREF(lives);
    if (wrong) {
        Py_CLEAR(text);
        caller_forget(me, tid);
    }
    if (PyErr_Occurred() != NULL)
        return NULL;
    return text != NULL ? text : Py_NewRef(Py_None);
}

static PyObject *callers_close(PyObject *me, PyObject *Py_UNUSED(args)) {
    for (int i = 0; i < MOST; i++)
        caller_forget(me, i);
    return Py_NewRef(Py_None);
}

static PyObject *callers_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(names)) {
    PyObject *quote;
    if (!PyArg_ParseTuple(args, "O", &quote))
        return NULL;
    Callers *self = PyObject_New(Callers, type);
    for (int i = 0; self != NULL && i < MOST; i++)
        self->known[i] = (struct known){.comm = -1, .exe = -1};
    if (self != NULL)
        self->quote = Py_NewRef(quote), self->changes = 0;
    return (PyObject *)self;
}

static void callers_dealloc(PyObject *me) {
    PyTypeObject *type = Py_TYPE(me);
    Py_XDECREF(callers_close(me, NULL));
    Py_DECREF(((Callers *)me)->quote);
    PyObject_Free(me);
    Py_DECREF(type);
}

static PyMethodDef callers_methods[] = {{"told", callers_told, METH_VARARGS, NULL},
                                        {"close", callers_close, METH_NOARGS, NULL},
                                        {0}};
static PyType_Slot callers_slots[] = {{Py_tp_new, callers_new}, {Py_tp_dealloc, callers_dealloc},
                                      {Py_tp_methods, callers_methods}, {0, NULL}};
PyType_Spec callers_spec = {"proctor.kernel._core.Callers", sizeof(Callers), 0,
                            Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, callers_slots};
