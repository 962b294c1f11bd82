/* What types have in common whose objects hold others, and do nothing else about them than to keep them. */
#pragma once
#include <Python.h>
#include <stdbool.h>

/* What such an object begins with, by the names of what it holds: each an object, or NULL. */
#define HOLDS(most, ...) \
    PyObject_HEAD Py_ssize_t many; /* of those that are held; 0 until they are its own */ \
    union { \
        PyObject *held[most]; \
        struct { \
            PyObject *__VA_ARGS__; \
        }; \
    }
#define MANY(self) (sizeof(self)->held / sizeof *(self)->held)

/* A new one, all of it 0; NULL with an exception. */
void *holder_new(PyTypeObject *type);
/* Have what was borrowed from arguments be its own: the object, or NULL, with an exception, where it is not `good`. */
PyObject *holder_made(void *self, size_t many, bool good);

int holder_traverse(PyObject *self, visitproc visit, void *arg);
int holder_clear(PyObject *self);
void holder_dealloc(PyObject *self);
#define HOLDER_KEEPS {Py_tp_traverse, holder_traverse}, {Py_tp_clear, holder_clear}
#define HOLDER_SLOTS HOLDER_KEEPS, {Py_tp_dealloc, holder_dealloc}
#define HOLDER_SPEC(name, type, more, slots) \
    {"proctor.kernel._core." name, sizeof(type), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | (more), slots}
