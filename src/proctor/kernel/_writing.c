/* A caller's memory written to where that is plain; proctor.kernel.address_space has all the rest, and says why it is
 * written so.  The manual is _core.pyi. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "_core.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

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

static bool write_plainly(int pid, uint64_t address, const char *data, size_t size, int listener, uint64_t id) {
    int mem = fillable(-1, pid, address, size, listener, id);
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
    done = write_plainly(pid, address, data, (size_t)size, listener, id);
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(done);
}
