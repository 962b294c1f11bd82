/* Of which kind the file system is that something is on, without asking it: statfs(2) asks a FUSE or network server, which
 * may never answer.  A mount tells without (statmount(2), Linux 6.8), and stays of its kind; its number is given no second
 * time.  Before that the file system is asked. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "core.h"
#include "callers/acting.h"
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SYS_statmount_ 457
enum { SB_BASIC = 1, DONT_SYNC = 0x4000, SEEN = 64, MODE_AT = 28 };

struct asked { /* struct mnt_id_req */
    uint32_t size, spare;
    uint64_t mount, wanted;
};
struct told { /* the beginning of struct statmount, which the kernel fills as far as there is room */
    uint32_t size, options;
    uint64_t mask;
    uint32_t major, minor;
    uint64_t magic;
    unsigned char rest[512];
};

static uint32_t said_by_itself(int fd) {
    struct statfs system;
    return fstatfs(fd, &system) == 0 ? (uint32_t)system.f_type : 0;
}

uint32_t kind_of(int fd) { return kind_and_mode(fd, false, NULL); }

uint32_t kind_and_mode(int fd, bool waits, uint16_t *mode) {
    static _Atomic uint64_t seen[SEEN]; /* a mount and its kind */
    unsigned char status[256];
    uint32_t mask;
    struct asked asked = {.size = sizeof asked, .wanted = SB_BASIC};
    struct told told;
    unsigned int wanted = STATX_MNT_ID_UNIQUE | (mode != NULL ? STATX_MODE : 0);
    if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH | AT_NO_AUTOMOUNT | DONT_SYNC, wanted, status) != 0)
        return 0;
    if (mode != NULL)
        memcpy(mode, status + MODE_AT, sizeof *mode);
    memcpy(&mask, status, sizeof mask);
    if (!(mask & STATX_MNT_ID_UNIQUE))
        return said_by_itself(fd);
    memcpy(&asked.mount, status + STATX_MOUNT, sizeof asked.mount);
    uint64_t known = atomic_load_explicit(&seen[asked.mount % SEEN], memory_order_relaxed);
    if (known >> 32 == asked.mount)
        return (uint32_t)known;
    uint32_t kind;
    if (syscall(SYS_statmount_, &asked, &told, sizeof told, 0) == 0)
        kind = told.mask & SB_BASIC ? (uint32_t)told.magic : 0;
    else /* ENOENT: it is in no mount namespace of ours */
        kind = errno == ENOSYS || errno == EPERM || waits ? said_by_itself(fd) : 0;
    if (kind != 0 && asked.mount >> 32 == 0)
        atomic_store_explicit(&seen[asked.mount % SEEN], asked.mount << 32 | kind, memory_order_relaxed);
    return kind;
}

PyObject *core_kind_of(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count) {
    long fd = count == 1 ? PyLong_AsLong(args[0]) : -1;
    uint32_t kind;
    if (PyErr_Occurred() != NULL)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    kind = kind_of((int)fd);
    Py_END_ALLOW_THREADS
    return PyLong_FromUnsignedLong(kind);
}
