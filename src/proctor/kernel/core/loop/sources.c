/* What the loop watches, and what it receives from there. *
 * The journal.  A notification is received straight into a slot, which lies in the listener's journal
 * (memory shared with whoever is to know it after our death) or else in memory of our own.  The slot
 * says RECEIVING before the kernel fills it, and is zero until then: whenever we are killed, either
 * nothing was received, or the slot has it.  It is cleared after the answer, never before. */
#define PY_SSIZE_T_CLEAN
#include "loop/loop.h"
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <time.h>

/* Where the next notification goes. */
static struct slot *place(Loop *self, struct source *source) {
    for (uint32_t tried = 0; tried < source->count; tried++) {
        struct slot *slot = &source->slots[source->at];
        if (atomic_load_explicit(&slot->state, memory_order_relaxed) == FREE)
            return slot;
        source->at = (source->at + 1) % source->count;
    }
    return &self->own[self->count];
}

void receive(Loop *self, struct source *source, bool drain, int *problem) {
    struct pollfd more = {.fd = source->fd, .events = POLLIN, .revents = POLLIN};
    for (int i = 0; i < PER_LISTENER && (more.revents & POLLIN); i++) {
        struct slot *slot = place(self, source);
        memset(&slot->raw, 0, sizeof slot->raw);
        atomic_store_explicit(&slot->state, RECEIVING, memory_order_release);
        if (ioctl(source->fd, IOCTL_RECV, &slot->raw) == 0) {
            if (source->slots != NULL) {
                struct timespec now;
                clock_gettime(CLOCK_MONOTONIC, &now);
                slot->time = (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
                if (slot == &self->own[self->count])
                    ((struct header *)source->journal.buf)->lost++;
            }
            atomic_store_explicit(&slot->state, RECEIVED, memory_order_release);
            self->batch[self->count++] = (struct entry){source, slot};
        } else {
            int number = errno;
            atomic_store_explicit(&slot->state, FREE, memory_order_release);
            if (number != ENOENT) {
                *problem = number;
                break;
            }
        }
        more.revents = 0;
        if (drain)
            poll(&more, 1, 0);
    }
}

void forget(Loop *self) {
    struct source *source = self->gone;
    self->gone = NULL;
    while (source != NULL) {
        struct source *next = source->next;
        PyBuffer_Release(&source->journal);
        PyMem_Free(source);
        source = next;
    }
}

static void drop(Loop *self, struct source *source) {
    source->gone = true;
    source->next = self->gone;
    self->gone = source;
}

/* A descriptor is watched no more, if it was. */
static bool leave(Loop *self, int fd) {
    struct source *source = fd >= 0 && fd < self->room ? self->sources[fd] : NULL;
    if (source == NULL)
        return false;
    self->sources[fd] = NULL;
    drop(self, source);
    return true;
}

void leave_all(Loop *self) {
    for (int fd = 0; fd < self->room; fd++)
        leave(self, fd);
    PyMem_Free(self->sources);
    self->sources = NULL;
    self->room = 0;
}

/* Have room for what is known of this descriptor; false with an exception. */
static bool reserve(Loop *self, int fd) {
    if (fd < self->room)
        return true;
    int room = fd < INT_MAX / 2 ? 2 * fd + 64 : fd + 1;
    struct source **sources = PyMem_Realloc(self->sources, (size_t)room * sizeof *sources);
    if (sources == NULL)
        return PyErr_NoMemory() != NULL;
    memset(sources + self->room, 0, (size_t)(room - self->room) * sizeof *sources);
    self->sources = sources;
    self->room = room;
    return true;
}

PyObject *loop_watch(PyObject *me, PyObject *args) {
    Loop *self = (Loop *)me;
    int fd, listener;
    PyObject *journal;
    if (!PyArg_ParseTuple(args, "ipO", &fd, &listener, &journal))
        return NULL;
    struct source *source = PyMem_Calloc(1, sizeof *source);
    if (source == NULL)
        return PyErr_NoMemory();
    *source = (struct source){.fd = fd, .listener = listener};
    if (journal != Py_None) {
        if (PyObject_GetBuffer(journal, &source->journal, PyBUF_WRITABLE) < 0) {
            PyMem_Free(source);
            return NULL;
        }
        Py_ssize_t size = source->journal.len - (Py_ssize_t)sizeof(struct header);
        source->count = size > 0 ? (uint32_t)((size_t)size / sizeof(struct slot)) : 0;
        source->slots = (struct slot *)((char *)source->journal.buf + sizeof(struct header));
    }
    struct epoll_event event = {.events = EPOLLIN | (listener ? 0 : EPOLLONESHOT),
                                .data.ptr = source};
    if (epoll_ctl(self->epoll, EPOLL_CTL_ADD, fd, &event) < 0) {
        PyBuffer_Release(&source->journal);
        PyMem_Free(source);
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    bool room = reserve(self, fd); /* a number that is a file's, so no great one */
    leave(self, fd);               /* it was closed, and nobody said so */
    if (!room) {
        epoll_ctl(self->epoll, EPOLL_CTL_DEL, fd, NULL);
        drop(self, source); /* who waits may have it already */
        return NULL;
    }
    self->sources[fd] = source;
    return Py_NewRef(Py_None);
}

PyObject *loop_unwatch(PyObject *me, PyObject *args) {
    Loop *self = (Loop *)me;
    int fd;
    if (!PyArg_ParseTuple(args, "i", &fd))
        return NULL;
    if (leave(self, fd))
        epoll_ctl(self->epoll, EPOLL_CTL_DEL, fd, NULL);
    return Py_NewRef(Py_None);
}

PyObject *loop_forget(PyObject *me, PyObject *Py_UNUSED(none)) {
    Loop *self = (Loop *)me;
    if (self->next == self->count)
        forget(self);
    return Py_NewRef(Py_None);
}
