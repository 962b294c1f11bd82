/* A question to an executor, and its answer.  The manual is _core.pyi. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "asking/posing.h"
#include "asking/staying.h"
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Send a packet with descriptors: 0 or an errno.
 *
 * follow: the executor comes to the processor that we are on, once it has answered, if it may. */
static int tell(int sock, const char *packet, size_t size, const int *fds, size_t count, bool follow) {
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(MOST_SENT * sizeof(int))];
    } control;
    struct head head;
    struct iovec parts[] = {{&head, sizeof head}, {(void *)(uintptr_t)(packet + sizeof head), size - sizeof head}};
    struct iovec whole = {(void *)(uintptr_t)packet, size};
    struct msghdr message = {.msg_iov = &whole, .msg_iovlen = 1};
    if (follow && size >= sizeof head) {
        memcpy(&head, packet, sizeof head);
        if (head.where == ANYWHERE) {
            head.where = (uint32_t)sched_getcpu() + PROCESSOR;
            message.msg_iov = parts, message.msg_iovlen = 2;
        }
    }
    if (count > 0) {
        memset(&control, 0, CMSG_SPACE(count * sizeof(int)));
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(count * sizeof(int));
        control.head.cmsg_level = SOL_SOCKET;
        control.head.cmsg_type = SCM_RIGHTS;
        control.head.cmsg_len = CMSG_LEN(count * sizeof(int));
        memcpy(CMSG_DATA(&control.head), fds, count * sizeof(int));
    }
    while (sendmsg(sock, &message, MSG_NOSIGNAL) < 0)
        if (errno != EINTR)
            return errno;
    return 0;
}

/* What says that an executor has closed what it gave before. */
static bool is_closed(const void *packet, ssize_t length) {
    struct reply head;
    if (length != sizeof head)
        return false;
    memcpy(&head, packet, sizeof head);
    return head.state == CLOSED;
}

/* Wait until something is readable, for so many microseconds.  Who receives for others, too, waits only until one of these
 * wants something, but a few. */
static void wait_for(int sock, long patience) {
    int others = patience > FEW ? others_wanting() : NOBODY;
    long time = others == THERE ? FEW : patience;
    const struct timespec limit = {time / 1000000, time % 1000000 * 1000};
    struct pollfd readable[] = {{.fd = sock, .events = POLLIN}, {.fd = others, .events = POLLIN}};
    ppoll(readable, 2, &limit, NULL);
}

int hear_closed(int sock, long patience) {
    char packet[sizeof(struct reply)];
    ssize_t length = recv(sock, packet, sizeof packet, patience == TICK ? 0 : MSG_DONTWAIT);
    if (length < 0 && errno == EAGAIN && patience > 0 && patience != TICK) {
        wait_for(sock, patience);
        length = recv(sock, packet, sizeof packet, MSG_DONTWAIT);
    }
    return length < 0 ? errno : is_closed(packet, length) ? 0 : ECONNRESET;
}

PyObject *core_hear_closed(PyObject *Py_UNUSED(module), PyObject *args) {
    int sock, problem;
    long patience;
    if (!PyArg_ParseTuple(args, "il", &sock, &patience))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    problem = hear_closed(sock, patience);
    Py_END_ALLOW_THREADS
    return PyLong_FromLong(problem);
}

/* Receive a reply: its length, or minus an errno.  Descriptors that came with a part of it are closed.
 * Whoever waits does so for a moment: what takes longer is waited for by the loop. */
static ssize_t hear(int sock, void *into, size_t size, long patience, int *fds, int *given) {
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(MOST_GIVEN * sizeof(int))];
    } control;
    struct iovec part = {into, size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control};
    ssize_t length;
    *given = 0;
    int at_once = patience == TICK ? 0 : MSG_DONTWAIT;
    do {
        message.msg_controllen = sizeof control;
        if (patience > 0 && at_once)
            wait_for(sock, patience);
        while ((length = recvmsg(sock, &message, MSG_CMSG_CLOEXEC | at_once)) < 0)
            if (errno != EINTR)
                return -errno;
    } while (is_closed(into, length));
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    if (head != NULL && head->cmsg_level == SOL_SOCKET && head->cmsg_type == SCM_RIGHTS) {
        *given = (int)((head->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(fds, CMSG_DATA(head), (size_t)*given * sizeof(int));
    }
    if ((message.msg_flags & (MSG_CTRUNC | MSG_TRUNC)) == 0)
        return length;
    while (*given > 0)
        close(fds[--*given]);
    return message.msg_flags & MSG_TRUNC ? -EMSGSIZE : -EMFILE;
}

struct hole { /* of the value with this index, in order */
    uint32_t index, offset, size; /* size 8: a number, or so many bytes */
    uint32_t number;
};
struct range {
    uint32_t length, step; /* no longer than the result of that step, NO_STEP: exactly this */
};
enum { NO_STEP = -1 };

PyTypeObject *request_type;

static PyObject *request_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(named)) {
    Request *self = (Request *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (self == NULL || !PyArg_ParseTuple(args, "nnSSSSnn", &self->steps, &self->values, &self->packet,
                                          &self->holes, &self->ranges, &self->given, &self->longest, &self->sent)) {
        if (self != NULL)
            self->packet = self->holes = self->ranges = self->given = NULL;
        Py_XDECREF((PyObject *)self);
        return NULL;
    }
    Py_INCREF(self->packet), Py_INCREF(self->holes), Py_INCREF(self->ranges), Py_INCREF(self->given);
    return (PyObject *)self;
}

static void request_dealloc(PyObject *object) {
    Request *self = (Request *)object;
    PyTypeObject *type = Py_TYPE(object);
    Py_XDECREF(self->packet), Py_XDECREF(self->holes), Py_XDECREF(self->ranges), Py_XDECREF(self->given);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

static const void *content(PyObject *bytes, Py_ssize_t size, Py_ssize_t *count) {
    *count = PyBytes_Size(bytes) / size;
    return PyBytes_AsString(bytes);
}

static PyObject *request_fill(PyObject *object, PyObject *values) {
    Request *self = (Request *)object;
    Py_ssize_t size = PyBytes_Size(self->packet), holes;
    const struct hole *hole = content(self->holes, sizeof *hole, &holes);
    if (PyTuple_Size(values) != self->values)
        return PyErr_Format(PyExc_ValueError, "%zd values where %zd are wanted", PyTuple_Size(values),
                            self->values);
    PyObject *packet = PyBytes_FromStringAndSize(PyBytes_AsString(self->packet), size);
    char *into = packet != NULL ? PyBytes_AsString(packet) : NULL; /* nobody else has it yet */
    for (Py_ssize_t i = 0; packet != NULL && i < holes; i++) {
        PyObject *value = PyTuple_GetItem(values, (Py_ssize_t)hole[i].index);
        if (hole[i].number) {
            uint64_t number = PyLong_AsUnsignedLongLongMask(value);
            memcpy(into + hole[i].offset, &number, sizeof number);
        } else {
            Py_ssize_t length = PyBytes_Size(value);
            if (length > (Py_ssize_t)hole[i].size)
                PyErr_Format(PyExc_ValueError, "%zd bytes where there is room for %u", length, hole[i].size);
            else if (length > 0)
                memcpy(into + hole[i].offset, PyBytes_AsString(value), (size_t)length);
        }
        if (PyErr_Occurred() != NULL)
            Py_CLEAR(packet);
    }
    return packet;
}

bool put_value(const Request *self, char *packet, uint32_t index, const void *bytes, size_t length) {
    Py_ssize_t holes;
    const struct hole *hole = content(self->holes, sizeof *hole, &holes);
    bool put = false;
    for (Py_ssize_t i = 0; i < holes; i++)
        if (hole[i].index == index && length <= hole[i].size) {
            memcpy(packet + hole[i].offset, bytes, length);
            put = true;
        }
    return put;
}

char *filled(const Request *self, const struct value *values, size_t *size) {
    Py_ssize_t holes;
    const struct hole *hole = content(self->holes, sizeof *hole, &holes);
    char *into = malloc(*size = (size_t)PyBytes_Size(self->packet));
    if (into != NULL)
        memcpy(into, PyBytes_AsString(self->packet), *size);
    for (Py_ssize_t i = 0; into != NULL && i < holes; i++) {
        const struct value *value = &values[hole[i].index];
        bool number = value->text == NULL;
        if (number != (hole[i].number != 0) || value->length > hole[i].size) {
            free(into);
            into = NULL;
        } else if (number) {
            memcpy(into + hole[i].offset, &value->number, sizeof value->number);
        } else {
            memcpy(into + hole[i].offset, value->text, value->length);
        }
    }
    return into;
}

bool is_error(int64_t result) {
    return result == INT64_MIN || (result < 0 && result >= -4095);
}

int64_t step_result(const struct asked *asked, int step) {
    int64_t result;
    memcpy(&result, asked->into + sizeof(struct reply) + sizeof result * (size_t)step, sizeof result);
    return result;
}

const char *answer_part(const Request *self, const struct asked *asked, int part, size_t *length) {
    Py_ssize_t parts;
    const struct range *range = content(self->ranges, sizeof *range, &parts);
    size_t at = sizeof(struct reply) + 8 * (size_t)self->steps;
    for (int i = 0; i <= part && part < parts; i++, at += *length) {
        int64_t result = range[i].step == (uint32_t)NO_STEP ? range[i].length : step_result(asked, (int)range[i].step);
        *length = result < 0 ? 0 : result < range[i].length ? (size_t)result : range[i].length;
        if (*length > (size_t)asked->length - at)
            return NULL;
        if (i == part)
            return asked->into + at;
    }
    return NULL;
}

/* (results, parts, {step: descriptor}); NULL without an exception for what is no answer to this. */
static PyObject *answer_of(Request *self, const char *data, Py_ssize_t length, const int *fds, int count) {
    Py_ssize_t parts, givens, at = (Py_ssize_t)(sizeof(struct reply) + 8 * (size_t)self->steps), made = 0;
    const struct range *range = content(self->ranges, sizeof *range, &parts);
    const uint32_t *given = content(self->given, sizeof *given, &givens);
    struct reply head;
    if (length < at)
        return NULL;
    memcpy(&head, data, sizeof head);
    const char *results = data + sizeof head;
    int64_t result;
#define RESULT(step) (memcpy(&result, results + 8 * (size_t)(step), 8), result)
    for (Py_ssize_t i = 0; i < givens; i++)
        made += !is_error(RESULT(given[i]));
    if (head.state != DONE || head.given != count || made != count)
        return NULL;
    PyObject *numbers = PyTuple_New(self->steps), *bytes = PyTuple_New(parts), *descriptors = PyDict_New();
    bool good = numbers != NULL && bytes != NULL && descriptors != NULL, fits = true;
    for (Py_ssize_t i = 0; good && i < self->steps; i++)
        good = PyTuple_SetItem(numbers, i, PyLong_FromLongLong(RESULT(i))) == 0 && PyErr_Occurred() == NULL;
    for (Py_ssize_t i = 0; good && fits && i < parts; i++) {
        Py_ssize_t size = (Py_ssize_t)range[i].length;
        if (range[i].step != (uint32_t)NO_STEP) {
            result = RESULT(range[i].step);
            size = result < 0 ? 0 : result < size ? (Py_ssize_t)result : size;
        }
        fits = size <= length - at;
        PyObject *part = fits ? PyBytes_FromStringAndSize(data + at, size) : NULL;
        good = !fits || (part != NULL && PyTuple_SetItem(bytes, i, part) == 0);
        at += size;
    }
    for (Py_ssize_t i = 0, fd = 0; good && i < givens; i++)
        if (!is_error(RESULT(given[i]))) {
            PyObject *step = PyLong_FromLong((long)given[i]), *number = PyLong_FromLong(fds[fd++]);
            good = step != NULL && number != NULL && PyDict_SetItem(descriptors, step, number) == 0;
            Py_XDECREF(step), Py_XDECREF(number);
        }
#undef RESULT
    PyObject *made_of = good && fits && at == length ? PyTuple_Pack(3, numbers, bytes, descriptors) : NULL;
    Py_XDECREF(numbers), Py_XDECREF(bytes), Py_XDECREF(descriptors);
    return made_of;
}

Request *request_from(PyObject *object, PyObject *packet, struct asked *asked) {
    char *data = NULL;
    Py_ssize_t size = 0;
    if (Py_TYPE(object) != request_type)
        return PyErr_Format(PyExc_TypeError, "a request is wanted"), NULL;
    if (PyBytes_AsStringAndSize(packet, &data, &size) < 0)
        return NULL;
    asked->packet = data, asked->size = (size_t)size, asked->problem = -1, asked->into = asked->here;
    return (Request *)object;
}

void drop_room(struct asked *asked) {
    if (asked->into != asked->here)
        free(asked->into);
}

bool make_room(const Request *self, struct asked *asked) {
    asked->into = (size_t)self->longest <= sizeof asked->here ? asked->here : malloc((size_t)self->longest);
    return asked->into != NULL;
}

void take_along(const Request *self, struct asked *asked, int table) {
    if (self->sent > asked->along)
        asked->sent[asked->along++] = table;
}

void ask(const Request *self, struct asked *asked) {
    struct staying staying = {.stays = false};
    bool soon = asked->packet != NULL && asked->patience == TICK;
    if (soon)
        stay(&staying);
    asked->problem = asked->packet == NULL ? 0 : tell(asked->sock, asked->packet, asked->size, asked->sent,
                                                      (size_t)asked->along, staying.stays);
    if (asked->problem == 0)
        asked->length = hear(asked->sock, asked->into, (size_t)self->longest, asked->patience, asked->fds,
                             &asked->given);
    if (soon) {
        struct reply head = {0};
        if (asked->problem == 0 && asked->length >= (ssize_t)sizeof head)
            memcpy(&head, asked->into, sizeof head);
        move_on(&staying, head.state == DONE && head.error != 0 && head.error - 1 != staying.cpu);
    }
}

void ask_on(const Request *self, struct asked *asked, int *fd) {
    asked->sent[asked->along++] = *fd;
    ask(self, asked);
    if (asked->problem == EINVAL) { /* of sendmsg(2): an io_uring is passed to nobody since Linux 6.7 */
        close(*fd);
        *fd = -1;
    }
}

PyObject *heard(Request *self, struct asked *asked) {
    PyObject *result = NULL;
    if (asked->problem == 0 && asked->length < 0) {
        result = Py_BuildValue("(iy)", (int)-asked->length, "");
    } else if (asked->problem == 0
               && (result = answer_of(self, asked->into, asked->length, asked->fds, asked->given)) == NULL) {
        while (asked->given > 0)
            close(asked->fds[--asked->given]);
        if (PyErr_Occurred() == NULL)
            result = Py_BuildValue("(iN)", 0, PyBytes_FromStringAndSize(asked->into, asked->length));
    }
    drop_room(asked);
    return result;
}

static PyObject *request_ask(PyObject *object, PyObject *const *args, Py_ssize_t count) {
    Request *self = (Request *)object;
    struct asked asked;
    if (count != 4)
        return PyErr_Format(PyExc_TypeError, "ask() takes 4 arguments, not %zd", count);
    asked.sock = (int)PyLong_AsLong(args[0]);
    asked.patience = PyLong_AsLong(args[3]);
    Py_ssize_t along = PyTuple_Size(args[2]);
    if (along > MOST_SENT)
        return PyErr_Format(PyExc_ValueError, "%zd descriptors", along);
    for (Py_ssize_t i = 0; i < along; i++)
        asked.sent[i] = (int)PyLong_AsLong(PyTuple_GetItem(args[2], i));
    asked.along = (int)along;
    char *packet = NULL;
    Py_ssize_t size = 0;
    if (PyErr_Occurred() != NULL
        || (args[1] != Py_None && PyBytes_AsStringAndSize(args[1], &packet, &size) < 0)
)
        return NULL;
    if (!make_room(self, &asked))
        return PyErr_NoMemory();
    asked.packet = packet, asked.size = (size_t)size;
    Py_BEGIN_ALLOW_THREADS
    ask(self, &asked);
    Py_END_ALLOW_THREADS
    PyObject *result = heard(self, &asked);
    return result != NULL || PyErr_Occurred() != NULL ? result : raise_errno(asked.problem);
}

static PyMethodDef request_methods[] = {
    {"fill", request_fill, METH_VARARGS, NULL},
    {"ask", (PyCFunction)(void (*)(void))request_ask, METH_FASTCALL, NULL},
    {0}};
static PyType_Slot request_slots[] = {{Py_tp_new, request_new}, {Py_tp_dealloc, request_dealloc},
                                      {Py_tp_methods, request_methods}, {0, NULL}};
static PyType_Spec request_spec = {"proctor.kernel._core.Request", sizeof(Request), 0,
                            Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, request_slots};

bool request_ready(PyObject *module) {
    request_type = (PyTypeObject *)PyType_FromSpec(&request_spec);
    return request_type != NULL && PyModule_AddType(module, request_type) == 0;
}
