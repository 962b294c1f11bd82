/* The short way of an ordinary open, from what its handler said to the answer.  The manual is _core.pyi.
 *
 * Nothing that is decided here is decided otherwise by a longer way: whatever is not plain is left to that, with
 * what was read.  The GIL is given up for all that looks at the caller; an errno is answered without it, in one
 * step, so that the kernel sees to it that there is one answer: whoever took the role over meanwhile may answer, too. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "acting/short.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Threads that are known at the same time: Standings has it. */
enum { MOST_KNOWN = 32 };
enum { ALLOW = 0, OPTIONS = 2 };               /* of a Perform */
enum { NOTIFICATION, MEMORY_READ, CONTAINER, KNOWN, KEPT, TABLE, ROOT, MAKER, WAITS, JOURNAL, CLOSE, NAMES };
static PyObject *names[NAMES];

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

void let_go_of_caller(struct caller *caller) {
    Py_CLEAR(caller->standing);
    Py_CLEAR(caller->kept);
}

bool find_caller(PyObject *standings, PyObject *container, PyObject *tid, struct caller *caller) {
    PyObject *standing = tid != NULL ? PyDict_GetItemWithError(standings, tid) : NULL;
    if (standing == NULL)
        return false;
    caller->standing = Py_NewRef(standing);
    caller->kept = PyObject_GetAttr(standing, names[KEPT]);
    PyObject *known = PyObject_GetAttr(standing, names[KNOWN]);
    bool good = PyErr_Occurred() == NULL && known != Py_None && (caller->known = known_from(known)) != NULL
                && PyTuple_Size(caller->kept) == FIELDS
                && is_attribute(PyTuple_GetItem(caller->kept, KEY), CONTAINER, container);
    Py_XDECREF(known); /* its standing has it */
    if (!good)
        let_go_of_caller(caller);
    return good;
}

bool take_known(PyObject *standings, PyObject *container, PyObject *tid, struct caller *caller) {
    bool good = find_caller(standings, container, tid, caller) && PyDict_DelItem(standings, tid) == 0;
    if (!good)
        let_go_of_caller(caller);
    return good;
}

/* Take the caller, if it is known, in this container.  Who is `asked` for a rule is so by a longer way, but about what an
 * executor pins for it; and nothing is made but by ourselves, for who is in our cgroups, which what is made is charged to, and
 * where nobody has to know afterwards, when we are gone, that it was. */
static bool take(const Short *self, PyObject *container, PyObject *tid, bool asked, const struct turn *turn,
                 struct caller *caller) {
    uint64_t flags = turn->flags;
    bool makes = flags & self->making;
    if ((makes && turn->slot != NULL) || !find_caller(self->standings, container, tid, caller))
        return false;
    bool good = (PyTuple_GetItem(caller->kept, HERE) == Py_True
                     ? !asked && number_of(self->here, ROOT) >= 0
                           && (!makes || PyTuple_GetItem(caller->kept, MAKES) == Py_True)
                     : !makes && PyTuple_GetItem(caller->kept, DEVICES) == Py_True && !(asked && flags & O_NOFOLLOW))
                && PyDict_DelItem(self->standings, tid) == 0;
    if (!good)
        let_go_of_caller(caller);
    return good;
}

void put_back(const Short *self, PyObject *tid, struct caller *caller) {
    give_back_caller(self->standings, self->give_back, tid, caller);
}

void give_back_caller(PyObject *standings, PyObject *give_back, PyObject *tid, struct caller *caller) {
    PyObject *type, *value, *trace, *done = NULL;
    PyErr_Fetch(&type, &value, &trace);
    if (PyDict_Size(standings) >= MOST_KNOWN || PyDict_Contains(standings, tid) != 0) {
        done = PyObject_CallFunctionObjArgs(give_back, caller->standing, NULL);
    } else if (PyDict_SetItem(standings, tid, caller->standing) != 0) { /* nobody has it: what it holds open goes with it */
        PyErr_WriteUnraisable(give_back);
        done = PyObject_CallMethodObjArgs(caller->standing, names[CLOSE], NULL);
    }
    if (PyErr_Occurred() != NULL)
        PyErr_WriteUnraisable(give_back);
    Py_XDECREF(done);
    let_go_of_caller(caller);
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

/* What is to be known before anything is opened: its flags, how it waits, and where it is written down what it was given. */
static void prepare(Short *self, PyObject *notification, struct turn *turn) {
    PyObject *journal = PyObject_GetAttr(self->port, names[JOURNAL]);
    turn->slot = journal != NULL ? slot_in(journal, notification_slot(notification), &turn->held) : NULL;
    Py_XDECREF(journal);
    PyErr_Clear(); /* a listener of somebody's has none */
    see_how_they_wait(self), turn->flags = turn->raw->data.args[2] & self->valid;
}

void turn_over(struct turn *turn) {
    free(turn->path);
    if (turn->slot != NULL)
        PyBuffer_Release(&turn->held);
}

/* What was opened is given in more than one step, so it has to be claimed first. */
void conclude_turn(const Short *self, struct turn *turn) {
    if (turn->fd >= 0 && self->waits >= 0 && !turn->told
        && hand_routed(turn->raw->id, turn->fd, turn->flags & O_CLOEXEC, self->waits, turn->slot, &turn->held)) {
        turn->answered = turn->delivered = true;
        turn->fd = 0;
        return;
    }
    if (turn->fd == LEFT || (turn->fd >= 0 && (self->waits < 0 || !claim_routed())))
        return;
    if (turn->fd >= 0) {
        turn->answered = true;
        int fd = turn->fd, problem = give(self->listener, turn->raw->id, fd, turn->flags & O_CLOEXEC, self->waits, NULL, turn->slot);
        turn->fd = 0;
        turn->delivered = problem == 0;
        if (problem <= 0)
            return;
        close(fd);
        if (problem == ENOENT || problem == ESRCH) /* nobody waits any more */
            return;
        turn->fd = -problem; /* its table is full */
    }
    int problem = answer(self->listener, turn->raw->id, 0, turn->fd, 0);
    turn->delivered = problem == 0;
    turn->answered = turn->answered || problem == 0 || problem == ENOENT || problem == EINPROGRESS;
}

const uint32_t *kinds_of(const Short *self, size_t *count) {
    *count = (size_t)PyBytes_Size(self->kinds) / sizeof(uint32_t);
    return (const uint32_t *)(const void *)PyBytes_AsString(self->kinds); /* bytes objects are aligned */
}

PyObject *our_place(PyObject *here, int *root, int *table, struct maker **maker) {
    PyObject *held = PyObject_GetAttr(here, names[MAKER]);
    *root = number_of(here, ROOT), *table = number_of(here, TABLE);
    *maker = held != NULL && held != Py_None ? maker_from(held) : NULL;
    if (*maker == NULL || *root < 0 || PyErr_Occurred() != NULL) {
        PyErr_Clear();
        Py_CLEAR(held);
    }
    return held;
}

/* Open it ourselves, as far as rules allow that.  Without the GIL. */
static void open_if(const Short *self, const Known *known, bool groups, int root, struct opening *opening,
                    struct turn *turn) {
    opening->kinds = kinds_of(self, &opening->count);
    opening->dirfd = (int)turn->raw->data.args[0], opening->flags = turn->flags;
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
        int said = opening->allows != NULL ? opening->allows(opening->rules, turn->path, NULL) : ALLOWED;
        if (said == ALLOWED) /* nobody is to be asked about what it leads to */
            opening->allows = NULL;
        turn->fd = said == REFUSED ? LEFT : open_plainly(known, root, opening);
    }
    if (text != here)
        free(text);
    conclude_turn(self, turn);
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

bool short_by_rules(PyObject *me, PyObject *container, PyObject *notification, allows *allows, void *rules,
                    struct turn *turn) {
    Short *self = (Short *)me;
    struct caller caller = {0};
    struct opening opening = {.allows = allows, .rules = rules};
    PyObject *tid = standing_in(self->ours, &opening.ours) && is_plain(self, turn->raw) ? PyLong_FromUnsignedLong(turn->raw->pid) : NULL;
    if (tid != NULL)
        prepare(self, notification, turn);
    if (PyErr_Occurred() == NULL && is_open(self->port, self->listener) && is_met(self, tid, notification, container)
        && take(self, container, tid, false, turn, &caller)) {
        if (PyTuple_GetItem(caller.kept, HERE) == Py_True)
            open_here(self, tid, &caller, &opening, turn);
        else
            put_back(self, tid, &caller);
    }
    Py_XDECREF(tid);
    return turn->answered;
}

PyObject *handed(PyObject *whom, PyObject *args, int fd) {
    PyObject *result = args != NULL ? PyObject_CallObject(whom, args) : NULL;
    if (args == NULL && fd >= 0)
        close(fd);
    Py_XDECREF(args);
    return result;
}

PyObject *concluded(const Short *self, PyObject *call, const struct turn *turn) {
    if (turn->answered)
        return PyLong_FromLong(-turn->fd);
    /* no format with a length: what Python 3.13 builds calls what takes an int there before that */
    PyObject *path = turn->fd >= 0 || turn->path == NULL ? Py_NewRef(Py_None)
                                                         : PyBytes_FromStringAndSize(turn->path, (Py_ssize_t)turn->used);
    return handed(self->rest, Py_BuildValue("(ONiO)", call, path, turn->fd, turn->flags & O_CLOEXEC ? Py_True : Py_False), turn->fd);
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
        || !take(self, container, tid, ruled, &turn, &caller)) {
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
    turn_over(&turn);
    Py_XDECREF(tid);
    Py_XDECREF(container);
    Py_XDECREF(notification);
    return result;
}

bool is_short(PyObject *object) { return PyType_GetSlot(Py_TYPE(object), Py_tp_call) == (void *)short_call; }

static PyObject *short_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(given)) {
    Short *self = holder_new(type);
    if (self == NULL)
        return NULL;
    bool good = PyArg_ParseTuple(args, "OOO!OOSSOiOOO!OOOOIKKK", &self->longer, &self->rest, &PyDict_Type, &self->standings,
                                 &self->give_back, &self->here, &self->ours, &self->kinds, &self->executors,
                                 &self->limit, &self->plan, &self->asked, &PyDict_Type, &self->foreseen, &self->allows,
                                 &self->allowed, &self->meet, &self->port, &self->arch, &self->valid, &self->unusual, &self->making);
    self->waits = -1;
    good = good && (self->listener = PyObject_AsFileDescriptor(self->port)) >= 0;
    self = (Short *)holder_made(self, MANY(self), good);
    if (self != NULL && (self->plans = PyDict_New()) == NULL)
        Py_CLEAR(self);
    return (PyObject *)self;
}

static PyType_Slot short_slots[] = {{Py_tp_new, short_new}, {Py_tp_call, short_call}, HOLDER_SLOTS, {0, NULL}};
PyType_Spec short_spec = HOLDER_SPEC("Short", Short, Py_TPFLAGS_IMMUTABLETYPE, short_slots);

bool short_ready(void) {
    static const char *const texts[NAMES] = {"_notification", "memory_read", "container", "known", "kept", "table",
                                             "root", "maker", "waits", "journal", "close"};
    return interned(names, texts, NAMES);
}
