/* The short way of an ordinary open, from what its handler said to the answer.  The manual is _core.pyi.
 *
 * Nothing that is decided here is decided otherwise by a longer way: whatever is not plain is left to that, with
 * what was read.  The GIL is given up for all that looks at the caller; an errno is answered without it, in one
 * step, so that the kernel sees to it that there is one answer: whoever took the role over meanwhile may answer, too. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "_posing.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Threads that are known at the same time: Standings has it. */
enum { MOST_KNOWN = 32, MOST_PLANS = 256 };
enum { ALLOW = 0, OPTIONS = 2 };               /* of a Perform */
enum { KEY, DEVICES, HERE, GROUPS, MAKES, FIELDS }; /* of a callers.Known */

typedef struct {
    PyObject_HEAD
    PyObject *longer, *rest, *standings, *give_back, *here, *ours, *kinds, *lend, *plan, *asked, *done, *plans, *port;
    PyObject *foreseen, *allows, *allowed, *meet;
    int listener, waits; /* whether callers wait killably; -1: nobody has seen that yet */
    uint32_t arch;
    unsigned long long valid, unusual, making;
} Short;

enum { NOTIFICATION, MEMORY_READ, CONTAINER, KNOWN, KEPT, TABLE, ROOT, MAKER, WAITS, JOURNAL, NAMES };
static PyObject *names[NAMES];

struct caller { /* taken out of the standings, for one call */
    PyObject *standing, *kept;
    Known *known;
};

static bool is_attribute(PyObject *object, int name, PyObject *value) {
    PyObject *found = PyObject_GetAttr(object, names[name]);
    Py_XDECREF(found);
    return found == value;
}

static int number_of(PyObject *object, int name) {
    PyObject *found = PyObject_GetAttr(object, names[name]);
    int number = found != NULL ? (int)PyLong_AsLong(found) : -1;
    Py_XDECREF(found);
    return number;
}

/* Whether it is openat(2), and nothing happens but that something is opened, or made. */
static bool is_plain(const Short *self, const struct seccomp_notif *raw) {
    uint64_t flags = raw->data.args[2] & self->valid;
    return raw->pid != 0 && raw->data.nr == SYS_openat && raw->data.arch == self->arch
           && (flags & self->unusual & ~self->making) == 0 && (flags & O_ACCMODE) != O_ACCMODE && raw->data.args[1] != 0;
}

static void let_go(struct caller *caller) {
    Py_CLEAR(caller->standing);
    Py_CLEAR(caller->kept);
}

/* Take the caller, if it is known, in this container.  Who is `asked` for a rule is so by a longer way, but about what an
 * executor pins for it; and nothing is made but by ourselves, for who is in our cgroups, which what is made is charged to. */
static bool take(const Short *self, PyObject *container, PyObject *tid, bool asked, uint64_t flags,
                 struct caller *caller) {
    bool makes = flags & self->making;
    PyObject *standing = tid != NULL ? PyDict_GetItemWithError(self->standings, tid) : NULL;
    if (standing == NULL)
        return false;
    caller->standing = Py_NewRef(standing);
    caller->kept = PyObject_GetAttr(standing, names[KEPT]);
    PyObject *known = PyObject_GetAttr(standing, names[KNOWN]);
    bool good = PyErr_Occurred() == NULL && known != Py_None && (caller->known = known_from(known)) != NULL
                && PyTuple_Size(caller->kept) == FIELDS
                && (PyTuple_GetItem(caller->kept, HERE) == Py_True
                        ? !asked && number_of(self->here, ROOT) >= 0
                              && (!makes || PyTuple_GetItem(caller->kept, MAKES) == Py_True)
                        : !makes && PyTuple_GetItem(caller->kept, DEVICES) == Py_True && !(asked && flags & O_NOFOLLOW))
                && is_attribute(PyTuple_GetItem(caller->kept, KEY), CONTAINER, container)
                && PyDict_DelItem(self->standings, tid) == 0;
    Py_XDECREF(known); /* its standing has it */
    if (!good)
        let_go(caller);
    return good;
}

static void put_back(const Short *self, PyObject *tid, struct caller *caller) {
    PyObject *type, *value, *trace, *done = NULL;
    PyErr_Fetch(&type, &value, &trace);
    if (PyDict_Size(self->standings) >= MOST_KNOWN || PyDict_Contains(self->standings, tid) != 0)
        done = PyObject_CallFunctionObjArgs(self->give_back, caller->standing, NULL);
    else
        PyDict_SetItem(self->standings, tid, caller->standing);
    if (PyErr_Occurred() != NULL)
        PyErr_WriteUnraisable(self->give_back);
    Py_XDECREF(done);
    let_go(caller);
    PyErr_Restore(type, value, trace);
}

/* Whether callers of this listener wait killably is seen by whoever first gives them something. */
static void see_how_they_wait(Short *self) {
    PyObject *waits = self->waits < 0 ? PyObject_GetAttr(self->port, names[WAITS]) : NULL;
    if (waits == Py_True || waits == Py_False)
        self->waits = waits == Py_True;
    Py_XDECREF(waits);
    PyErr_Clear();
}

struct turn {
    const struct seccomp_notif *raw;
    uint64_t flags;
    char *path; /* malloced; NULL: not read */
    size_t used;
    int fd; /* what is to be given; minus the errno of its answer; LEFT */
    bool answered;
    struct slot *slot; /* of a journal; NULL for nowhere */
    Py_buffer held;    /* which that is in */
};

/* What is to be known before anything is opened: its flags, how it waits, and where it is written down what it was given. */
static void prepare(Short *self, PyObject *notification, struct turn *turn) {
    PyObject *journal = PyObject_GetAttr(self->port, names[JOURNAL]);
    turn->slot = journal != NULL ? slot_in(journal, notification_slot(notification), &turn->held) : NULL;
    Py_XDECREF(journal);
    PyErr_Clear(); /* a listener of somebody's has none */
    see_how_they_wait(self), turn->flags = turn->raw->data.args[2] & self->valid;
}

static void let_go_of(struct turn *turn) {
    free(turn->path);
    if (turn->slot != NULL)
        PyBuffer_Release(&turn->held);
}

/* Answer with an errno that came out, or give what was opened: in more than one step, so it has to be claimed first.
 * Without the GIL. */
static void conclude(const Short *self, struct turn *turn) {
    if (turn->fd == LEFT || (turn->fd >= 0 && (self->waits < 0 || !claim_routed())))
        return;
    if (turn->fd >= 0) {
        turn->answered = true;
        int fd = turn->fd, problem = give(self->listener, turn->raw->id, fd, turn->flags & O_CLOEXEC, self->waits, NULL, turn->slot);
        turn->fd = 0;
        if (problem <= 0)
            return;
        close(fd);
        if (problem == ENOENT || problem == ESRCH) /* nobody waits any more */
            return;
        turn->fd = -problem; /* its table is full */
    }
    int problem = answer(self->listener, turn->raw->id, 0, turn->fd, 0);
    turn->answered = turn->answered || problem == 0 || problem == ENOENT || problem == EINPROGRESS;
}

static const uint32_t *kinds_of(const Short *self, size_t *count) {
    *count = (size_t)PyBytes_Size(self->kinds) / sizeof(uint32_t);
    return (const uint32_t *)(const void *)PyBytes_AsString(self->kinds); /* bytes objects are aligned */
}

/* Open it ourselves, as far as rules allow that.  Without the GIL. */
static void open_if(const Short *self, const Known *known, bool groups, int root, struct opening *opening,
                    struct turn *turn) {
    opening->kinds = kinds_of(self, &opening->count);
    opening->dirfd = (int)turn->raw->data.args[0], opening->flags = turn->flags, opening->slot = turn->slot;
    opening->mode = opening->flags & (O_CREAT | TMPFILE) ? turn->raw->data.args[3] & 07777 : 0;
    char here[4096], *text = here;
    ssize_t length;
    bool same = same_as(opening->ours, false) && unchanged(known, groups, NULL, here, sizeof here, &text, &length);
    bool whole = same && gather(known->tid, turn->raw->data.args[1], PATH_MAX, true, &turn->path, &turn->used) == 0
                 && id_valid(self->listener, turn->raw->id) == 0;
    if (!whole) { /* the beginning of what cannot be read, or somebody else's, is no path */
        free(turn->path);
        turn->path = NULL;
    } else if (turn->used > 0 && (turn->path[0] == '/' || same_as(opening->ours, true))) {
        opening->path = turn->path, opening->text = text, opening->length = (size_t)length;
        opening->listener = self->listener, opening->id = turn->raw->id;
        turn->fd = open_plainly(known, root, opening);
    }
    if (text != here)
        free(text);
    conclude(self, turn);
}

/* The same, of a caller that was taken, which is put back. */
static void open_here(const Short *self, PyObject *tid, struct caller *caller, struct opening *opening,
                      struct turn *turn) {
    bool groups = PyTuple_GetItem(caller->kept, GROUPS) == Py_True;
    int root = number_of(self->here, ROOT);
    PyObject *maker = PyObject_GetAttr(self->here, names[MAKER]); /* ours until it is done */
    opening->table = number_of(self->here, TABLE);
    opening->maker = maker != NULL && maker != Py_None ? maker_from(maker) : NULL;
    Py_BEGIN_ALLOW_THREADS
    open_if(self, caller->known, groups, root, opening, turn);
    Py_END_ALLOW_THREADS
    Py_XDECREF(maker);
    put_back(self, tid, caller);
}

/* Whether a caller is known; if it is not, it is met. */
static bool is_met(const Short *self, PyObject *tid, PyObject *notification, PyObject *container) {
    if (tid == NULL || PyDict_Contains(self->standings, tid) != 0)
        return tid != NULL;
    PyObject *done = PyObject_CallFunctionObjArgs(self->meet, notification, container, NULL);
    Py_XDECREF(done);
    return done != NULL;
}

bool short_by_rules(PyObject *me, PyObject *container, PyObject *notification, const struct seccomp_notif *raw,
                    allows *allows, const void *rules, int *fd, PyObject **path) {
    Short *self = (Short *)me;
    struct caller caller = {0};
    struct turn turn = {.raw = raw, .fd = LEFT};
    struct opening opening = {.allows = allows, .rules = rules};
    PyObject *tid = standing_in(self->ours, &opening.ours) && is_plain(self, raw) ? PyLong_FromUnsignedLong(raw->pid) : NULL;
    if (tid != NULL)
        prepare(self, notification, &turn);
    if (PyErr_Occurred() == NULL && is_open(self->port, self->listener) && is_met(self, tid, notification, container)
        && take(self, container, tid, false, turn.flags, &caller)) {
        if (PyTuple_GetItem(caller.kept, HERE) == Py_True)
            open_here(self, tid, &caller, &opening, &turn);
        else
            put_back(self, tid, &caller);
    }
    if (turn.fd >= 0 && !turn.answered) /* which is there, and may be new */
        *path = PyBytes_FromStringAndSize(turn.path, (Py_ssize_t)turn.used);
    *fd = turn.fd;
    let_go_of(&turn);
    Py_XDECREF(tid);
    return turn.answered;
}

/* What is said of what was answered; or what is done with what was opened, or else was read. */
static PyObject *concluded(const Short *self, PyObject *call, const struct turn *turn) {
    if (turn->answered)
        return PyLong_FromLong(-turn->fd);
    /* no format with a length: what Python 3.13 builds calls what takes an int there before that */
    PyObject *path = turn->fd >= 0 || turn->path == NULL ? Py_NewRef(Py_None)
                                                         : PyBytes_FromStringAndSize(turn->path, (Py_ssize_t)turn->used);
    return path == NULL ? NULL
                        : PyObject_CallFunction(self->rest, "ONiO", call, path, turn->fd,
                                                turn->flags & O_CLOEXEC ? Py_True : Py_False);
}

enum kind { PLAINLY, RULED, FORESEEN };

/* Forms of the question for these flags; borrowed, NULL with an exception. */
static PyObject *plan_for(Short *self, uint64_t flags, enum kind kind) {
    PyObject *key = PyLong_FromUnsignedLongLong(flags << 2 | kind), *known = NULL;
    if (key != NULL && (known = PyDict_GetItemWithError(self->plans, key)) == NULL && PyErr_Occurred() == NULL) {
        PyObject *made = PyObject_CallFunction(self->plan, "Ki", (unsigned long long)flags, (int)kind);
        if (made != NULL && PyDict_Size(self->plans) < MOST_PLANS && PyDict_SetItem(self->plans, key, made) == 0)
            known = made;
        Py_XDECREF(made);
    }
    Py_XDECREF(key);
    return known;
}

/* How long a rule may think before it is seen once more who calls, in seconds. */
static const double AT_ONCE = 0.001;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

/* Whether a path led somewhere before, and its rule allows that; borrowed from `plan`, which is replaced by what foresees
 * that, or NULL: the rule is to be asked about what is found.  What the caller's root was when it was looked at may not be
 * it any more when a rule has thought for long: then it is looked at again. */
static PyObject *foresee(Short *self, PyObject *call, PyObject *wish, uint64_t flags, struct posed *posed, PyObject **plan) {
    PyObject *path = PyBytes_FromStringAndSize(posed->path, (Py_ssize_t)posed->used), *made = NULL, *said = NULL;
    PyObject *expected = path != NULL ? Py_XNewRef(PyDict_GetItemWithError(self->foreseen, path)) : NULL;
    double began = now();
    bool relative = posed->form->relative, good = false;
    if (expected != NULL && PyTuple_Size(expected) == 3)
        said = PyObject_CallFunctionObjArgs(self->allows, call, wish, path, expected, NULL);
    if (said == Py_True && (made = plan_for(self, flags, FORESEEN)) != NULL) {
        bool late = now() - began > AT_ONCE;
        if (late && relative)
            close(posed->asked.sent[0]);
        Py_BEGIN_ALLOW_THREADS
        if (late)
            choose(posed);
        good = posed->form != NULL && id_valid(self->listener, posed->id) == 0;
        Py_END_ALLOW_THREADS
        PyObject *name = PyTuple_GetItem(expected, 0);
        int form = relative ? 2 : PyObject_RichCompareBool(name, path, Py_EQ) == 1 ? 0 : 1;
        if (good && (posed->many = forms_in(made, &posed->forms)) > form) {
            posed->form = &posed->forms[form];
            Py_DECREF(*plan);
            *plan = Py_NewRef(made);
        } else {
            good = false;
        }
    }
    Py_XDECREF(said);
    Py_XDECREF(path);
    if (!good)
        Py_CLEAR(expected);
    return expected;
}

/* Have an executor asked, who is lent for that; NULL without an exception if there is none, and nothing has happened.
 * The standing is given back by whoever goes on, if anybody does. */
static PyObject *ask_one(Short *self, PyObject *call, PyObject *wish, PyObject *tid, struct caller *caller, bool ruled,
                         struct turn *turn) {
    struct posed posed;
    PyObject *plan = plan_for(self, turn->flags, ruled ? RULED : PLAINLY), *lent = NULL, *executor, *result = NULL;
    PyObject *expected = NULL;
    bool opened = false;
    int sock;
    Py_XINCREF(plan);
    if (plan != NULL && (posed.many = forms_in(plan, &posed.forms)) >= 0)
        lent = PyObject_CallFunctionObjArgs(self->lend, caller->kept, NULL);
    if (lent == NULL || lent == Py_None
        || !PyArg_ParseTuple(lent, "Oiil", &executor, &sock, &posed.table, &posed.asked.patience)) {
        Py_XDECREF(lent);
        Py_XDECREF(plan);
        return NULL;
    }
    size_t count;
    const uint32_t *kinds = kinds_of(self, &count);
    posed.caller = caller->known, posed.groups = PyTuple_GetItem(caller->kept, GROUPS) == Py_True;
    posed.listener = self->listener, posed.id = turn->raw->id, posed.dirfd = (int)turn->raw->data.args[0];
    posed.path = posed.read = NULL, posed.used = 0;
    posed.address = turn->raw->data.args[1], posed.asked.sock = sock;
    Py_BEGIN_ALLOW_THREADS
    choose(&posed);
    if (!ruled)
        ask_chosen(&posed, NULL, 0);
    turn->fd = ruled ? LEFT : plainly_opened(&posed, kinds, count);
    if ((opened = turn->fd >= 0))
        conclude(self, turn);
    Py_END_ALLOW_THREADS
    PyObject *type, *value, *trace;
    if (ruled && posed.form != NULL)
        expected = foresee(self, call, wish, turn->flags, &posed, &plan);
    PyErr_Fetch(&type, &value, &trace);
    if (type != NULL && posed.form != NULL) { /* somebody interrupts us: nobody is asked */
        if (posed.form->relative)
            close(posed.asked.sent[0]);
        posed.form = NULL;
    }
    if (ruled) {
        PyObject *bytes = expected != NULL ? PyTuple_GetItem(expected, 1) : NULL;
        const char *what = bytes != NULL ? PyBytes_AsString(bytes) : NULL;
        size_t length = bytes != NULL ? (size_t)PyBytes_Size(bytes) : 0;
        Py_BEGIN_ALLOW_THREADS
        ask_chosen(&posed, what, length);
        turn->fd = opened_as_foreseen(&posed);
        if ((opened = turn->fd >= 0))
            conclude(self, turn);
        Py_END_ALLOW_THREADS
    }
    if (opened) {
        if (posed.asked.into != posed.asked.here)
            free(posed.asked.into);
        put_back(self, tid, caller);
        PyObject *done = PyObject_CallFunctionObjArgs(self->done, executor, NULL);
        if (done == NULL)
            PyErr_WriteUnraisable(self->done);
        Py_XDECREF(done);
        result = expected == NULL || turn->answered
                     ? concluded(self, call, turn)
                     : PyObject_CallFunction(self->allowed, "OOiO", call, expected, turn->fd,
                                             turn->flags & O_CLOEXEC ? Py_True : Py_False);
    } else {
        PyObject *found = posed_result(&posed);
        if (found != NULL)
            result = PyObject_CallFunction(self->asked, "OOOONKi", call, wish, caller->standing, executor, found,
                                           (unsigned long long)turn->flags,
                                           expected != NULL ? FORESEEN : ruled ? RULED : PLAINLY);
        let_go(caller);
    }
    if (type != NULL) {
        Py_CLEAR(result);
        PyErr_Restore(type, value, trace);
    }
    free(posed.read);
    Py_XDECREF(expected);
    Py_DECREF(plan);
    Py_DECREF(lent);
    return result;
}

static PyObject *short_call(PyObject *me, PyObject *args, PyObject *Py_UNUSED(given)) {
    Short *self = (Short *)me;
    PyObject *call, *wish, *result = NULL;
    const struct standing *ours = NULL;
    if (!PyArg_ParseTuple(args, "OO!", &call, &PyTuple_Type, &wish) || !standing_in(self->ours, &ours))
        return NULL;
    PyObject *notification = PyObject_GetAttr(call, names[NOTIFICATION]);
    const struct seccomp_notif *raw = notification != NULL ? notification_of(notification) : NULL;
    /* nobody may have looked at it */
    bool plain = raw != NULL && is_plain(self, raw) && PyTuple_GetItem(wish, OPTIONS) == Py_None
                 && is_attribute(call, MEMORY_READ, Py_False);
    PyObject *container = PyObject_GetAttr(call, names[CONTAINER]), *tid = plain ? PyLong_FromUnsignedLong(raw->pid) : NULL;
    struct caller caller = {0};
    struct turn turn = {.raw = raw, .fd = LEFT};
    bool ruled = PyTuple_GetItem(wish, ALLOW) != Py_None, left = true;
    if (tid != NULL)
        prepare(self, notification, &turn);
    if (PyErr_Occurred() != NULL || !is_open(self->port, self->listener)
        || !take(self, container, tid, ruled, turn.flags, &caller)) {
        ;
    } else if (PyTuple_GetItem(caller.kept, HERE) == Py_True) {
        struct opening opening = {.ours = ours};
        open_here(self, tid, &caller, &opening, &turn);
        left = false;
        result = concluded(self, call, &turn);
    } else {
        result = ask_one(self, call, wish, tid, &caller, ruled, &turn);
        left = result == NULL && caller.standing != NULL; /* nobody was asked */
        if (left)
            put_back(self, tid, &caller);
    }
    if (left && PyErr_Occurred() == NULL)
        result = PyObject_CallFunctionObjArgs(self->longer, call, wish, NULL);
    let_go_of(&turn);
    Py_XDECREF(tid);
    Py_XDECREF(container);
    Py_XDECREF(notification);
    return result;
}

bool is_short(PyObject *object) { return PyType_GetSlot(Py_TYPE(object), Py_tp_call) == (void *)short_call; }

static PyObject *short_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(given)) {
    PyObject *longer, *rest, *standings, *give_back, *here, *ours, *kinds, *lend, *plan, *asked, *done, *port;
    PyObject *foreseen, *allows, *allowed, *meet;
    int listener;
    unsigned int arch;
    unsigned long long valid, unusual, making;
    if (!PyArg_ParseTuple(args, "OOO!OOSSOOOOO!OOOOIKKK", &longer, &rest, &PyDict_Type, &standings, &give_back, &here,
                          &ours, &kinds, &lend, &plan, &asked, &done, &PyDict_Type, &foreseen, &allows, &allowed, &meet, &port,
                          &arch, &valid, &unusual, &making)
        || (listener = PyObject_AsFileDescriptor(port)) < 0)
        return NULL;
    Short *self = (Short *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (self == NULL)
        return NULL;
    self->port = Py_NewRef(port);
    self->longer = Py_NewRef(longer);
    self->rest = Py_NewRef(rest);
    self->standings = Py_NewRef(standings);
    self->give_back = Py_NewRef(give_back);
    self->here = Py_NewRef(here);
    self->ours = Py_NewRef(ours);
    self->kinds = Py_NewRef(kinds);
    self->lend = Py_NewRef(lend);
    self->plan = Py_NewRef(plan);
    self->asked = Py_NewRef(asked);
    self->done = Py_NewRef(done);
    self->foreseen = Py_NewRef(foreseen);
    self->allows = Py_NewRef(allows);
    self->allowed = Py_NewRef(allowed);
    self->meet = Py_NewRef(meet);
    self->plans = PyDict_New();
    self->listener = listener, self->arch = arch, self->valid = valid, self->unusual = unusual;
    self->making = making, self->waits = -1;
    if (self->plans == NULL)
        Py_CLEAR(self);
    return (PyObject *)self;
}

static void short_dealloc(PyObject *me) {
    Short *self = (Short *)me;
    PyTypeObject *type = Py_TYPE(me);
    Py_XDECREF(self->port);
    Py_XDECREF(self->longer);
    Py_XDECREF(self->rest);
    Py_XDECREF(self->standings);
    Py_XDECREF(self->give_back);
    Py_XDECREF(self->here);
    Py_XDECREF(self->ours);
    Py_XDECREF(self->kinds);
    Py_XDECREF(self->lend);
    Py_XDECREF(self->plan);
    Py_XDECREF(self->asked);
    Py_XDECREF(self->done);
    Py_XDECREF(self->foreseen);
    Py_XDECREF(self->allows);
    Py_XDECREF(self->allowed);
    Py_XDECREF(self->meet);
    Py_XDECREF(self->plans);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(me);
    Py_DECREF(type);
}

static PyType_Slot short_slots[] = {{Py_tp_new, short_new}, {Py_tp_dealloc, short_dealloc}, {Py_tp_call, short_call},
                                    {0, NULL}};
PyType_Spec short_spec = {"proctor.kernel._core.Short", sizeof(Short), 0,
                          Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, short_slots};

bool short_ready(void) {
    static const char *const texts[NAMES] = {"_notification", "memory_read", "container", "known", "kept", "table",
                                             "root", "maker", "waits", "journal"};
    for (int i = 0; i < NAMES; i++)
        if ((names[i] = PyUnicode_InternFromString(texts[i])) == NULL)
            return false;
    return true;
}
