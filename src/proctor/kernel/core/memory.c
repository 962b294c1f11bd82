/* A caller's memory: read, and written to where that is plain; proctor.kernel.address_space has all the rest, and says why it is
 * written so.  The manual is _core.pyi. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "core.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

/* Up to size bytes: the count, or a negative errno. */
static ssize_t peek(pid_t pid, uint64_t address, void *into, size_t size) {
    struct iovec here = {into, size}, there = {(void *)(uintptr_t)address, size};
    ssize_t got = process_vm_readv(pid, &here, 1, &there, 1, 0);
    if (got >= 0 || (errno != EPERM && errno != ENOSYS))
        return got >= 0 ? got : -errno;
    char path[32];
    snprintf(path, sizeof path, "/proc/%d/mem", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? -ESRCH : -errno;
    got = pread(fd, into, size, (off_t)address); /* EIO: not mapped; EINVAL: beyond 2^63 */
    int problem = got == 0 ? ESRCH : errno == EIO || errno == EINVAL ? EFAULT : errno;
    close(fd);
    return got > 0 ? got : -problem;
}

/* Read into *bytes, malloced, which grows as far as memory is really there, not as far as a target
 * claims: up to limit bytes, fewer if the mapping ends; or a string up to its NUL, not touching the
 * page after it.  0, or an errno: ENAMETOOLONG if limit bytes hold no NUL.  Called without the GIL:
 * a target can back its memory with what answers late or never (userfaultfd, FUSE). */
int gather(pid_t pid, uint64_t address, size_t limit, bool string, char **bytes, size_t *used) {
    while (*used < limit) { /* no page is smaller than 4096 */
        size_t step = string ? 4096 - (address + *used) % 4096 : *used < 65536 ? 65536 : *used;
        step = string && *used == 0 && step > 256 ? 256 : step; /* most are short */
        step = step < limit - *used ? step : limit - *used;
        char *grown = realloc(*bytes, *used + step);
        if (grown == NULL)
            return ENOMEM;
        *bytes = grown;
        ssize_t got = peek(pid, address + *used, grown + *used, step);
        if (got <= 0)
            return !string && *used > 0 && got == -EFAULT ? 0 : got < 0 ? (int)-got : EFAULT;
        char *end = string ? memchr(grown + *used, 0, (size_t)got) : NULL;
        *used = end != NULL ? (size_t)(end - grown) : *used + (size_t)got;
        if (end != NULL)
            return 0;
    }
    return string ? ENAMETOOLONG : 0;
}

PyObject *core_read(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count) {
    if (count != 6)
        return PyErr_Format(PyExc_TypeError, "read() takes 6 arguments, not %zd", count);
    int problem, gone, pid = (int)PyLong_AsLong(args[0]), string = PyObject_IsTrue(args[3]);
    int listener = (int)PyLong_AsLong(args[4]);
    uint64_t address = PyLong_AsUnsignedLongLongMask(args[1]);
    uint64_t id = PyLong_AsUnsignedLongLongMask(args[5]);
    Py_ssize_t limit = PyLong_AsSsize_t(args[2]);
    size_t used = 0;
    char *bytes = NULL;
    if (PyErr_Occurred() != NULL)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    problem = gather(pid, address, limit > 0 ? (size_t)limit : 0, string, &bytes, &used);
    gone = listener >= 0 ? id_valid(listener, id) : 0;
    Py_END_ALLOW_THREADS
    problem = gone != 0 ? gone : problem;
    PyObject *result = problem != 0 ? raise_errno(problem)
                                    : PyBytes_FromStringAndSize(bytes, (Py_ssize_t)used);
    free(bytes);
    return result;
}

enum { MOST_READ = 8 };

PyObject *core_read_all(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count) {
    struct {
        unsigned long long address;
        Py_ssize_t limit;
        int string;
        char *bytes;
        size_t used;
    } part[MOST_READ];
    if (count != 4 || !PyTuple_Check(args[3]) || PyTuple_Size(args[3]) > MOST_READ)
        return PyErr_Format(PyExc_TypeError, "read_all() takes 3 numbers and what is wanted, at most %d parts", MOST_READ);
    int pid = (int)PyLong_AsLong(args[0]), listener = (int)PyLong_AsLong(args[1]), problem = 0;
    uint64_t id = PyLong_AsUnsignedLongLongMask(args[2]);
    Py_ssize_t parts = PyTuple_Size(args[3]);
    for (Py_ssize_t i = 0; i < parts && PyErr_Occurred() == NULL; i++) {
        part[i].bytes = NULL, part[i].used = 0;
        PyArg_ParseTuple(PyTuple_GetItem(args[3], i), "Knp", &part[i].address, &part[i].limit, &part[i].string);
    }
    if (PyErr_Occurred() != NULL)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t i = 0; i < parts && problem == 0; i++) {
        problem = gather(pid, part[i].address, part[i].limit > 0 ? (size_t)part[i].limit : 0, part[i].string,
                         &part[i].bytes, &part[i].used);
        if (problem == 0 && !part[i].string && part[i].used != (size_t)part[i].limit)
            problem = EFAULT;
    }
    int gone = id_valid(listener, id);
    problem = gone != 0 ? gone : problem;
    Py_END_ALLOW_THREADS
    PyObject *result = problem != 0 ? raise_errno(problem) : PyTuple_New(parts);
    for (Py_ssize_t i = 0; i < parts; i++) {
        PyObject *bytes = result != NULL ? PyBytes_FromStringAndSize(part[i].bytes, (Py_ssize_t)part[i].used) : NULL;
        if (result != NULL && (bytes == NULL || PyTuple_SetItem(result, i, bytes) != 0))
            Py_CLEAR(result);
        free(part[i].bytes);
    }
    return result;
}

struct query { /* struct procmap_query of include/uapi/linux/fs.h, since Linux 6.11 */
    uint64_t size, flags, address, start, end, rights, others[7];
};
enum { WRITABLE = 2 };
#define PROCMAP_QUERY 0xC0686611UL

/* Whether one mapping that may be written to has all of it. */
static bool may_write(int maps, uint64_t address, size_t size) {
    struct query query = {.size = sizeof query, .address = address};
    return ioctl(maps, PROCMAP_QUERY, &query) == 0 && query.rights & WRITABLE && query.start <= address
           && size <= query.end - address;
}

int fillable(int proc, int pid, uint64_t address, size_t size, int listener, uint64_t id) {
    char mem_name[32] = "mem", maps_name[32] = "maps";
    if (proc < 0) {
        snprintf(mem_name, sizeof mem_name, "/proc/%d/mem", pid);
        snprintf(maps_name, sizeof maps_name, "/proc/%d/maps", pid);
    }
    int mem = openat(proc, mem_name, O_RDWR | O_CLOEXEC), maps = mem < 0 ? -1 : openat(proc, maps_name, O_RDONLY | O_CLOEXEC);
    /* only while it waits is its number not somebody else's; from then on what is open is its own */
    bool good = maps >= 0 && id_valid(listener, id) == 0 && may_write(maps, address, size);
    if (maps >= 0)
        close(maps);
    if (mem >= 0 && !good)
        close(mem);
    return good ? mem : -1;
}

bool write_plainly(int proc, int pid, uint64_t address, const char *data, size_t size, int listener, uint64_t id) {
    int mem = fillable(proc, pid, address, size, listener, id);
    bool done = mem >= 0 && pwrite(mem, data, size, (off_t)address) == (ssize_t)size;
    if (mem >= 0)
        close(mem);
    return done;
}

PyObject *core_write(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count) {
    if (count != 5)
        return PyErr_Format(PyExc_TypeError, "write() takes 5 arguments, not %zd", count);
    int pid = (int)PyLong_AsLong(args[0]), listener = (int)PyLong_AsLong(args[3]);
    uint64_t address = PyLong_AsUnsignedLongLongMask(args[1]), id = PyLong_AsUnsignedLongLongMask(args[4]);
    char *data;
    Py_ssize_t size;
    bool done;
    if (PyErr_Occurred() != NULL || PyBytes_AsStringAndSize(args[2], &data, &size) < 0)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    done = write_plainly(-1, pid, address, data, (size_t)size, listener, id);
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(done);
}
