/* The short way of a connect, from what its handler said to the answer: an executor connects the caller's own socket.  The
 * manual is _core.pyi; proctor.performing.networks.connecting has the rest, and all that is not plain. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "acting/short.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PACKET = 1024 };
enum { OPTIONS = 2 }; /* of a Perform */
enum { NOTIFICATION, MEMORY_READ, CALLER, CONTAINER, NAMES };
static PyObject *names[NAMES];

typedef struct {
    HOLDS(9, longer, *standings, *give_back, *executors, *asked, *is_plain, *port, *request,
          *plain); /* options of which that was said, or NULL */
    int listener, limit;
    uint32_t arch;
} Connect;

/* One call. */
struct connecting {
    const struct seccomp_notif *raw;
    const Known *who;
    int fd; /* the caller's socket: a duplicate, ours until it is answered; -1: nobody was asked */
    bool answered;
    int failed; /* with this errno */
    char address[sizeof(struct sockaddr_storage)];
    size_t length;
    char packet[PACKET];
    struct asked asked;
};

static bool has(PyObject *object, int name, PyObject *value) {
    PyObject *found = PyObject_GetAttr(object, names[name]);
    Py_XDECREF(found);
    return found == value;
}

/* Whether it is connect(2), of an address that is as long as some are; what that is, is still to be read. */
static bool may_be_plain(const Connect *self, const struct seccomp_notif *raw) {
    int length = (int)raw->data.args[2];
    return raw->pid != 0 && raw->data.nr == SYS_connect && raw->data.arch == self->arch
           && length >= (int)sizeof(sa_family_t) && length <= (int)sizeof(struct sockaddr_storage);
}

/* Whether options leave the socket and its address as the caller has them. */
static bool are_plain(Connect *self, PyObject *options) {
    if (options == Py_None || options == self->plain)
        return true;
    PyObject *said = PyObject_CallFunctionObjArgs(self->is_plain, options, NULL);
    bool plain = said == Py_True;
    Py_XDECREF(said);
    if (plain) {
        Py_XDECREF(self->plain);
        self->plain = Py_NewRef(options);
    }
    return plain;
}

/* Read the address: false for what is no address, and for that of a socket file, which is looked for first. */
static bool read_address(struct connecting *one) {
    char *read = NULL;
    size_t used = 0, length = (size_t)(int)one->raw->data.args[2];
    sa_family_t family = AF_UNIX;
    bool good = gather((pid_t)one->raw->pid, one->raw->data.args[1], length, false, &read, &used) == 0 && used == length;
    if (good) {
        memcpy(one->address, read, length);
        memcpy(&family, read, sizeof family);
        one->length = length;
    }
    free(read);
    return good && family != AF_UNIX;
}

/* What came of it, if it has come to something that is the caller's to hear: 0 or minus an errno; else 1, also of what is no socket:
 * who closes a file may wait for its server. */
static int made(const Request *request, const struct asked *asked) {
    struct reply head;
    if (asked->problem != 0 || asked->length != (ssize_t)(sizeof head + 8 * (size_t)request->steps))
        return 1;
    memcpy(&head, asked->into, sizeof head);
    int64_t result = step_result(asked, 0);
    return head.state == DONE && head.given == 0 && result != -EMFILE && result != -ENOTSOCK && result <= 0 && result >= -4095 ? (int)result : 1;
}

/* Fill the request in: the address and its length. */
static bool fill(const Request *request, struct connecting *one) {
    const uint64_t length = one->length;
    size_t size = (size_t)PyBytes_Size(request->packet);
    if (size > sizeof one->packet)
        return false;
    memcpy(one->packet, PyBytes_AsString(request->packet), size);
    one->asked.packet = one->packet, one->asked.size = size;
    return put_value(request, one->packet, 0, one->address, one->length)
           && put_value(request, one->packet, 1, &length, sizeof length);
}

/* Without the GIL. */
static void connect_it(const Connect *self, struct connecting *one) {
    Request *request = (Request *)self->request;
    if (!fill(request, one))
        return;
    /* what is held as a path only is no socket to connect(2) either */
    one->fd = one->who->pidfd < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, one->who->pidfd, (int)one->raw->data.args[0], 0);
    if (one->fd < 0)
        return;
    /* and then it is seen whose that is */
    if (!acts_the_same(one->who) || id_valid(self->listener, one->raw->id) != 0) {
        close(one->fd);
        one->fd = -1;
        return;
    }
    ask_on(request, &one->asked, &one->fd);
    int result = made(request, &one->asked);
    if (one->fd < 0 || result > 0)
        return;
    close(one->fd); /* before: what its caller closes then is closed */
    answer(self->listener, one->raw->id, 0, result, 0); /* gone, or answered, is no error */
    one->answered = true, one->failed = -result;
}

/* For Python: the call that a notification is of, which is made when it is wanted first; borrowed. */
static PyObject *call_of(struct routing *call) {
    if (call->call == NULL)
        call->call = PyObject_CallFunctionObjArgs(call->make, call->notification, NULL);
    return call->call;
}

/* What was heard, and a descriptor, to whoever goes on; with an exception, the executor is of no use any more. */
static PyObject *hand_on(Connect *self, struct routing *call, PyObject *tid, struct caller *caller, PyObject *executor,
                         struct connecting *one) {
    PyObject *found = heard((Request *)self->request, &one->asked), *args = NULL, *result = NULL;
    if (found == NULL && PyErr_Occurred() == NULL)
        found = PyLong_FromLong(one->asked.problem);
    if (found != NULL && call_of(call) != NULL)
        args = Py_BuildValue("OOOOOiN", call->call, call->wish, caller->standing, executor, found, one->fd,
                             PyBytes_FromStringAndSize(one->address, (Py_ssize_t)one->length));
    if (args != NULL) { /* the descriptor, the executor and the standing are whose who goes on */
        result = PyObject_CallObject(self->asked, args);
        let_go_of_caller(caller);
    } else {
        close(one->fd);
        give_back_caller(self->standings, self->give_back, tid, caller);
        books_discard(self->executors, executor);
    }
    Py_XDECREF(args), Py_XDECREF(found);
    return result;
}

/* Have it connected by who is lent for that. */
static PyObject *connect_by(Connect *self, struct routing *call, PyObject *tid, struct caller *caller, struct connecting *one,
                            PyObject *executor, int *became) {
    bool room = make_room((Request *)self->request, &one->asked);
    one->who = caller->known, one->fd = -1, one->asked.along = 0;
    if (room) {
        Py_BEGIN_ALLOW_THREADS
        connect_it(self, one);
        Py_END_ALLOW_THREADS
    }
    if (one->fd >= 0 && !one->answered) {
        *became = GOES_ON;
        return hand_on(self, call, tid, caller, executor, one);
    }
    if (room)
        drop_room(&one->asked);
    give_back_caller(self->standings, self->give_back, tid, caller);
    books_free(self->executors, executor, one->asked.patience);
    *became = one->answered ? REPLIED : NOTHING;
    return one->answered ? PyLong_FromLong(one->failed) : NULL;
}

/* With a caller that was taken.  Its memory is read before anybody is lent: it may take as long as it likes. */
static PyObject *connect_for(Connect *self, struct routing *call, PyObject *tid, struct caller *caller, struct connecting *one,
                             int *became) {
    PyObject *executor = NULL, *result = NULL;
    bool readable;
    Py_BEGIN_ALLOW_THREADS
    readable = read_address(one);
    Py_END_ALLOW_THREADS
    if (readable)
        executor = books_lend(self->executors, caller->kept, NULL, self->limit, &one->asked, NULL);
    if (executor != NULL)
        result = connect_by(self, call, tid, caller, one, executor, became);
    Py_XDECREF(executor);
    if (caller->standing != NULL) /* nobody was asked */
        give_back_caller(self->standings, self->give_back, tid, caller);
    return result;
}

PyObject *connect_routed(PyObject *me, struct routing *call, const struct seccomp_notif *raw, int *became) {
    Connect *self = (Connect *)me;
    struct connecting one;
    struct caller caller = {0};
    one.raw = raw, one.answered = false, *became = NOTHING;
    bool plain = may_be_plain(self, raw) && is_open(self->port, self->listener)
                 && are_plain(self, PyTuple_GetItem(call->wish, OPTIONS));
    PyObject *tid = plain ? PyLong_FromUnsignedLong(raw->pid) : NULL, *result = NULL;
    if (take_known(self->standings, call->container, tid, &caller)) {
        result = connect_for(self, call, tid, &caller, &one, became);
        let_go_of_caller(&caller);
    }
    Py_XDECREF(tid);
    if (result == Py_None) { /* it ended before it saw that */
        Py_CLEAR(result);
        *became = NOTHING;
    }
    return result;
}

static PyObject *connect_call(PyObject *me, PyObject *args, PyObject *Py_UNUSED(given)) {
    Connect *self = (Connect *)me;
    struct routing call = {0};
    PyObject *result = NULL;
    int became = NOTHING;
    if (!PyArg_ParseTuple(args, "OO!", &call.call, &PyTuple_Type, &call.wish))
        return NULL;
    call.notification = PyObject_GetAttr(call.call, names[NOTIFICATION]);
    const struct seccomp_notif *raw = call.notification != NULL ? notification_of(call.notification) : NULL;
    /* nobody may have looked at it */
    if (raw != NULL && has(call.call, MEMORY_READ, Py_False) && has(call.call, CALLER, Py_None)
        && (call.container = PyObject_GetAttr(call.call, names[CONTAINER])) != NULL)
        result = connect_routed(me, &call, raw, &became);
    if (became == NOTHING && PyErr_Occurred() == NULL)
        result = PyObject_CallFunctionObjArgs(self->longer, call.call, call.wish, NULL);
    Py_XDECREF(call.container);
    Py_XDECREF(call.notification);
    return result;
}

bool is_connect(PyObject *object) { return PyType_GetSlot(Py_TYPE(object), Py_tp_call) == (void *)connect_call; }

static PyObject *connect_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(given)) {
    Connect *self = holder_new(type);
    if (self == NULL)
        return NULL;
    bool good = PyArg_ParseTuple(args, "OO!OOiOOOO!I", &self->longer, &PyDict_Type, &self->standings, &self->give_back,
                                 &self->executors, &self->limit, &self->asked, &self->is_plain, &self->port, request_type,
                                 &self->request, &self->arch)
                && (self->listener = PyObject_AsFileDescriptor(self->port)) >= 0;
    return holder_made(self, MANY(self), good);
}

static PyType_Slot connect_slots[] = {{Py_tp_new, connect_new}, {Py_tp_call, connect_call}, HOLDER_SLOTS, {0, NULL}};
PyType_Spec connect_spec = HOLDER_SPEC("Connect", Connect, Py_TPFLAGS_IMMUTABLETYPE, connect_slots);

bool connect_ready(void) {
    static const char *const texts[NAMES] = {"_notification", "memory_read", "_caller", "container"};
    return interned(names, texts, NAMES);
}
