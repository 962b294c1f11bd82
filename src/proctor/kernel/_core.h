/* What the two sources of the native core share. */
#include <Python.h>

#define KERNEL_SIGSET 8 /* size of the kernel's sigset_t, for raw calls */

PyObject *core_launch(PyObject *module, PyObject *args);
