/* What the sources of the native core share. */
#include <Python.h>
#include <linux/seccomp.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Numbers younger than the oldest headers we build with; they and the layouts are ABI. */
#define IOCTL_RECV 0xC0502100UL
#define KERNEL_SIGSET 8 /* size of the kernel's sigset_t, for raw calls */

/* Raises errno as it is given; NULL. */
PyObject *raise_errno(int number);
/* SEND: 0 or the errno.  EINTR never comes out. */
int answer(int fd, uint64_t id, int64_t value, int32_t error, uint32_t flags);
/* ID_VALID: 0, or the errno (ENOENT: not received, answered, or gone). */
int id_valid(int fd, uint64_t id);
/* A Notification; slot: where the journal has it, -1 for nowhere. */
PyObject *notification_make(const struct seccomp_notif *raw, int slot);

/* A thread's memory, malloced; a string up to its NUL.  0, or an errno.  Without the GIL. */
int gather(pid_t pid, uint64_t address, size_t limit, bool string, char **bytes, size_t *used);

PyObject *core_find(PyObject *module, PyObject *args);
PyObject *core_where(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *core_launch(PyObject *module, PyObject *args);
PyObject *core_standing(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *core_same(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *core_open_at(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *core_pin_at(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *core_reopen(PyObject *module, PyObject *const *args, Py_ssize_t count);
extern PyType_Spec loop_spec, request_spec;
