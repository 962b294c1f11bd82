/* Calls about names that are done by one plan of an executor's, where nobody asks what their paths lead to: the paths are read, the
 * plan is filled with them, asked, and what came of it answered, in one go.  The manual is _core.pyi.
 *
 * Whatever is out of the ordinary before the executor was asked goes the longer way from the start, and nothing has happened;
 * after that, who performs goes on from what the executor said. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "_short.h"
#include "_usual.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { HELD = 10, MOST_PATHS = 2, MOST_VALUES = 2, PLANS = 1 << MOST_PATHS };
enum { CONSTANT, REGISTER, UMASK };
static PyObject *native_name;

struct value_of { /* a number: itself, of a register, or the caller's umask */
    int how, reg;
    unsigned long long number; /* itself, or the register's bits */
};
struct path_of { /* registers; a directory of -1 is the working directory */
    int dirfd, address;
};

typedef struct {
    PyObject_HEAD
    union {
        PyObject *held[HELD];
        struct {
            PyObject *share, *busy, *fallback, *find, *container, *port, *starts, *goes_on, *counted, *found;
        };
    };
    /* of `found`, NULL until somebody performs */
    PyObject *standings, *give_back, *lend, *release;
    int listener, paths, values, zero; /* zero: a register that is to be 0 but for these bits; -1: none */
    unsigned long long bits;
    struct path_of path[MOST_PATHS];
    struct value_of value[MOST_VALUES];
    Request *plans[PLANS]; /* by which paths are relative */
    int made[PLANS];       /* the step that acts */
} Doing;

/* What is to be done for whom, and what became of it. */
struct doing {
    int plan; /* -1: nobody was asked */
    char *text[MOST_PATHS], *packet;
    struct asked asked;
};

static bool is_found(Doing *self) {
    if (self->found != NULL)
        return true;
    PyObject *way = PyObject_CallFunctionObjArgs(self->find, NULL), *native = NULL, *paths, *values, *plans;
    bool good = way != NULL && way != Py_None && (native = PyObject_GetAttr(way, native_name)) != NULL
                && PyArg_ParseTuple(native, "O!OOOO!O!iKO!", &PyDict_Type, &self->standings, &self->give_back, &self->lend,
                                    &self->release, &PyTuple_Type, &paths, &PyTuple_Type, &values, &self->zero, &self->bits,
                                    &PyTuple_Type, &plans);
    self->paths = good ? (int)PyTuple_Size(paths) : 0, self->values = good ? (int)PyTuple_Size(values) : 0;
    good = good && self->paths > 0 && self->paths <= MOST_PATHS && self->values <= MOST_VALUES
           && PyTuple_Size(plans) == 1 << self->paths;
    for (int i = 0; good && i < self->paths; i++)
        good = PyArg_ParseTuple(PyTuple_GetItem(paths, i), "ii", &self->path[i].dirfd, &self->path[i].address)
               && self->path[i].dirfd < 6 && self->path[i].address >= 0 && self->path[i].address < 6;
    for (int i = 0; good && i < self->values; i++)
        good = PyArg_ParseTuple(PyTuple_GetItem(values, i), "iiK", &self->value[i].how, &self->value[i].reg, &self->value[i].number)
               && self->value[i].reg >= 0 && self->value[i].reg < 6;
    for (int i = 0; good && i < 1 << self->paths; i++)
        good = PyArg_ParseTuple(PyTuple_GetItem(plans, i), "O!i", request_type, &self->plans[i], &self->made[i])
               && self->made[i] >= 0 && self->made[i] < self->plans[i]->steps && self->plans[i]->values == self->values + 2 * self->paths;
    if (good)
        self->found = Py_NewRef(native); /* which has all of these */
    if (way != NULL)
        PyErr_Clear(); /* somebody else performs here, and has nothing of this */
    Py_XDECREF(native), Py_XDECREF(way);
    return good;
}

/* A path as a directory that is to be searched, and a name with the slashes behind it (pins.within()): in a buffer that has
 * room for 3 bytes more than the path. */
static void split(const char *path, size_t length, char *into, struct value directory_and_name[2]) {
    size_t bare = length, cut;
    while (bare > 0 && path[bare - 1] == '/')
        bare--;
    for (cut = bare; cut > 0 && path[cut - 1] != '/';)
        cut--;
    const char *head = cut > 0 ? path : bare == 0 ? "/" : ".", *name = bare > 0 ? path + cut : "/";
    size_t size = cut > 0 ? cut : 1;
    memcpy(into, head, size);
    if (into[size - 1] != '/')
        into[size++] = '/';
    into[size++] = '.';
    directory_and_name[0] = (struct value){.text = into, .length = size};
    directory_and_name[1] = (struct value){.text = name, .length = bare > 0 ? length - cut : 1};
}

/* Without the GIL: see who calls, read, fill, and ask. */
static void do_it(const Doing *self, const Known *caller, bool groups, const struct seccomp_notif *raw, int table, struct doing *doing) {
    char here[4096], *text, *heads[MOST_PATHS] = {NULL};
    ssize_t length;
    struct value values[MOST_VALUES + 2 * MOST_PATHS] = {{0}};
    int dirfds[MOST_PATHS], relative = 0, plan = 0;
    bool wants_mask = false, good;
    for (int i = 0; i < self->values; i++)
        wants_mask = wants_mask || self->value[i].how == UMASK;
    good = unchanged(caller, groups || wants_mask, NULL, here, sizeof here, &text, &length);
    for (int i = 0; good && i < self->values; i++) {
        const struct value_of *value = &self->value[i];
        int mask = value->how == UMASK ? mask_of(caller, text, (size_t)length) : 0;
        values[i].number = value->how == CONSTANT   ? value->number
                           : value->how == REGISTER ? raw->data.args[value->reg] & value->number
                                                    : (uint64_t)mask;
        good = mask >= 0;
    }
    if (text != here)
        free(text);
    for (int i = 0; good && i < self->paths; i++) {
        size_t used = 0;
        good = gather(caller->tid, raw->data.args[self->path[i].address], PATH_MAX, true, &doing->text[i], &used) == 0 && used > 0
               && (heads[i] = malloc(used + 3)) != NULL;
        if (good)
            split(doing->text[i], used, heads[i], &values[self->values + 2 * i]);
        if (good && doing->text[i][0] != '/') {
            dirfds[relative++] = self->path[i].dirfd < 0 ? AT_FDCWD : (int)raw->data.args[self->path[i].dirfd];
            plan |= 1 << i;
        }
    }
    Request *request = self->plans[plan];
    good = good && (doing->packet = filled(request, values, &doing->asked.size)) != NULL && make_room(request, &doing->asked);
    doing->asked.packet = doing->packet, doing->asked.along = 0;
    if (good && begins(caller, 0, dirfds, (size_t)relative, self->listener, raw->id, &doing->asked)) {
        int places = doing->asked.along;
        doing->asked.sent[doing->asked.along++] = table;
        ask(request, &doing->asked);
        doing->plan = plan;
        doing->asked.along = places;
    } else if (good && doing->asked.into != doing->asked.here) {
        free(doing->asked.into);
    }
    while (doing->asked.along > 0)
        close(doing->asked.sent[--doing->asked.along]);
    for (int i = 0; i < self->paths; i++)
        free(heads[i]);
}

/* The errno that came of it, 0 for none; LEFT if that is not plain. */
static int came_of(const Doing *self, const struct doing *doing) {
    const struct asked *asked = &doing->asked;
    struct reply head;
    if (asked->problem != 0 || asked->given != 0
        || asked->length < (ssize_t)(sizeof head + sizeof(int64_t) * (size_t)self->plans[doing->plan]->steps))
        return LEFT;
    memcpy(&head, asked->into, sizeof head);
    if (head.state != DONE || head.given != 0)
        return LEFT;
    int64_t made = step_result(asked, self->made[doing->plan]);
    return made == INT64_MIN ? LEFT : is_error(made) ? (int)-made : 0;
}

enum { NOTHING, ANSWERED, GOES_ON };
/* Whether nothing has happened, it is answered, or who goes on is to answer it. */
static int done(Doing *self, PyObject *notification, const struct seccomp_notif *raw, PyObject *tid, struct caller *caller) {
    PyObject *lent = PyObject_CallFunctionObjArgs(self->lend, caller->kept, NULL), *executor, *began = NULL, *said = NULL;
    struct doing doing = {.plan = -1};
    int table, failed = LEFT, became = NOTHING;
    if (lent == NULL || lent == Py_None || !PyArg_ParseTuple(lent, "Oiil", &executor, &doing.asked.sock, &table, &doing.asked.patience)) {
        Py_XDECREF(lent);
        give_back_caller(self->standings, self->give_back, tid, caller);
        return NOTHING;
    }
    if ((began = PyObject_CallFunctionObjArgs(self->starts, notification, NULL)) != NULL) {
        bool groups = PyTuple_GetItem(caller->kept, GROUPS) == Py_True;
        Py_BEGIN_ALLOW_THREADS
        do_it(self, caller->known, groups, raw, table, &doing);
        Py_END_ALLOW_THREADS
    }
    if (doing.plan >= 0)
        failed = came_of(self, &doing);
    if (doing.plan >= 0 && failed == LEFT) { /* the executor and the standing are whose who goes on */
        PyObject *heard_of = heard(self->plans[doing.plan], &doing.asked);
        if (heard_of == NULL && PyErr_Occurred() == NULL)
            heard_of = PyLong_FromLong(doing.asked.problem);
        said = heard_of == NULL ? NULL
                                : PyObject_CallFunction(self->goes_on, "OOOiN", notification, caller->standing, executor, doing.plan, heard_of);
        let_go_of_caller(caller);
        became = GOES_ON;
    } else {
        if (doing.plan >= 0 && doing.asked.into != doing.asked.here)
            free(doing.asked.into);
        PyObject *type, *value, *trace;
        PyErr_Fetch(&type, &value, &trace);
        give_back_caller(self->standings, self->give_back, tid, caller);
        PyObject *free_again = PyObject_CallFunction(self->release, "Oi", executor, doing.plan >= 0);
        if (free_again == NULL)
            PyErr_WriteUnraisable(self->release);
        Py_XDECREF(free_again);
        PyErr_Restore(type, value, trace);
        if (doing.plan >= 0) {
            became = answer_routed(raw->id, 0, -failed, 0) < 0 ? GOES_ON : ANSWERED; /* gone is no error; or the role is another thread's */
            said = became == GOES_ON ? PyObject_CallFunction(self->goes_on, "OOOii", notification, Py_None, Py_None, doing.plan, failed)
                   : self->counted != Py_None ? PyObject_CallFunction(self->counted, "i", failed)
                                              : Py_NewRef(Py_None);
        }
    }
    if (PyErr_Occurred() != NULL && PyErr_ExceptionMatches(PyExc_Exception)) { /* or somebody interrupts us */
        if (became != NOTHING)
            PyErr_WriteUnraisable(self->goes_on);
        PyErr_Clear(); /* who is not to begin is told so by the longer way */
    }
    for (int i = 0; i < self->paths; i++)
        free(doing.text[i]);
    free(doing.packet);
    Py_XDECREF(said), Py_XDECREF(began), Py_DECREF(lent);
    return became;
}

static PyObject *doing_call(PyObject *me, PyObject *args, PyObject *Py_UNUSED(named)) {
    Doing *self = (Doing *)me;
    PyObject *notification = PyTuple_Size(args) == 1 ? PyTuple_GetItem(args, 0) : NULL, *tid = NULL;
    if (notification == NULL)
        return PyErr_Format(PyExc_TypeError, "a notification is wanted");
    const struct seccomp_notif *raw = notification_of(notification);
    struct caller caller = {0};
    int became = NOTHING;
    bool good = raw != NULL && raw->pid != 0 && !may_wait(self->share, self->busy, raw) && is_open(self->port, self->listener)
                && is_found(self) && (self->zero < 0 || ((uint32_t)raw->data.args[self->zero] & ~(uint32_t)self->bits) == 0)
                && (tid = PyLong_FromUnsignedLong(raw->pid)) != NULL
                && take_known(self->standings, self->container, tid, &caller);
    if (good)
        became = done(self, notification, raw, tid, &caller);
    Py_XDECREF(tid);
    if (PyErr_Occurred() != NULL)
        return NULL;
    return became == ANSWERED  ? Py_NewRef(Py_True)
           : became == GOES_ON ? Py_NewRef(Py_None)
                               : PyObject_CallFunctionObjArgs(self->fallback, notification, NULL);
}

static PyObject *doing_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(named)) {
    Doing *self = (Doing *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (self == NULL)
        return NULL;
    bool good = PyArg_ParseTuple(args, "OO!OOOOOOO", &self->share, &PyDict_Type, &self->busy, &self->fallback, &self->find,
                                 &self->container, &self->port, &self->starts, &self->goes_on, &self->counted);
    for (int i = 0; i < HELD; i++) /* were borrowed */
        Py_XINCREF(self->held[i]);
    if (!good || (self->listener = PyObject_AsFileDescriptor(self->port)) < 0)
        Py_CLEAR(self);
    return (PyObject *)self;
}

static int doing_traverse(PyObject *me, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(me));
    for (int i = 0; i < HELD; i++)
        Py_VISIT(((Doing *)me)->held[i]);
    return 0;
}

static int doing_clear(PyObject *me) {
    for (int i = 0; i < HELD; i++)
        Py_CLEAR(((Doing *)me)->held[i]);
    return 0;
}

static void doing_dealloc(PyObject *me) {
    PyTypeObject *type = Py_TYPE(me);
    PyObject_GC_UnTrack(me);
    doing_clear(me);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(me);
    Py_DECREF(type);
}

static PyType_Slot doing_slots[] = {{Py_tp_new, doing_new}, {Py_tp_dealloc, doing_dealloc},
                                    {Py_tp_traverse, doing_traverse}, {Py_tp_clear, doing_clear},
                                    {Py_tp_call, doing_call}, {0, NULL}};
static PyType_Spec doing_spec = {"proctor.kernel._core.Doing", sizeof(Doing), 0,
                                 Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_HAVE_GC, doing_slots};

bool doing_ready(PyObject *module) {
    PyTypeObject *type = (PyTypeObject *)PyType_FromSpec(&doing_spec); /* kept */
    native_name = PyUnicode_InternFromString("native");
    return type != NULL && native_name != NULL && PyModule_AddType(module, type) == 0;
}
