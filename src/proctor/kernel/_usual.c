/* The usual call: one that differs by nothing but a path from others before it.  The manual is _core.pyi.
 *
 * What is known of calls with the same registers, all but the path's, is a Sheet, which Python makes when
 * the first of them comes: what its path is relative to, which patterns decide about it, and how a log shows
 * it.  From then on such a call is looked at, decided, answered and written down in one go, the GIL given up
 * where its caller can make us wait.  Each thing is looked at once.  Whatever is out of the ordinary before
 * anything was decided goes the long way from the start; after that, with what was seen.
 *
 * While the GIL is given up the role may be lost, and sheets may be cleared by another thread: hence the
 * references, and that an outcome is a number. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "_usual.h"
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <structmember.h>
#include <time.h>
#include <unistd.h>

/* Characters of a path that is shown in whole. */
enum { LONGEST = 1024 };

struct seen {
    char *text;
    size_t length;
    int leads; /* as leads_to(); -1: nobody asked */
    char *name; /* PLACE_SIZE bytes: not worth clearing for each call */
};

static PyObject *watchful, *slow, *labels, *logging, *known_as, *close_it;

/* ---- Looking and deciding, without the GIL -------------------------------------------------- */

static bool one_matches(PyObject *programs, const char *text, size_t length) {
    for (Py_ssize_t i = 0; i < PyTuple_Size(programs); i++) {
        PyObject *program = PyTuple_GetItem(programs, i); /* of a tuple that is held: no GIL is needed */
        if (matches((const uint8_t *)PyBytes_AsString(program), (size_t)PyBytes_Size(program), text, length))
            return true;
    }
    return false;
}

static bool read_text(const Usual *self, const struct seccomp_notif *raw, struct seen *seen) {
    uint64_t address = raw->data.args[self->reg] & self->mask;
    return gather((pid_t)raw->pid, address, PATH_MAX, true, &seen->text, &seen->length) == 0;
}

/* Whether there is more of a caller that is as it was, so that it may be told what we saw. */
static bool is_alike(const Usual *self, const Known *who) {
    char here[4096], *text = here;
    ssize_t length;
    bool alike = is_same(who, self->groups, here, sizeof here, &text, &length);
    if (text != here)
        free(text);
    return alike;
}

/* We walk for those alone who are what we are: others would learn what we see and they do not. */
static bool find_out(const Usual *self, const Sheet *sheet, const struct seccomp_notif *raw, const Known *who,
                     struct lent *lent, struct seen *seen) {
    char path[PATH_MAX];
    if (lent != NULL)
        return (seen->leads = led_by(lent, seen->text, seen->length, seen->name)) != ECANCELED;
    if (seen->length == 0 || who == NULL || !looks_same(who))
        return false;
    memcpy(path, seen->text, seen->length);
    path[seen->length] = 0;
    seen->leads = leads_to((int)raw->pid, self->rooted, sheet->dirfd, path, sheet->follow, sheet->entry, seen->name);
    return seen->leads != ECANCELED;
}

/* Which outcome it comes to; -1 for what is to be decided the long way. */
static int decide(const Usual *self, const Sheet *sheet, const struct seccomp_notif *raw, const Known *who,
                  struct lent *lent, struct seen *seen) {
    int found = sheet->otherwise;
    if (!read_text(self, raw, seen))
        return -1;
    for (int i = 0; i < sheet->count; i++) {
        const struct test *test = &sheet->tests[i];
        if (!test->text && seen->leads < 0 && !find_out(self, sheet, raw, who, lent, seen))
            return -1;
        bool holds = test->text ? one_matches(test->programs, seen->text, seen->length)
                     : seen->leads != 0 ? test->when_nowhere
                                        : one_matches(test->programs, seen->name, strlen(seen->name));
        if (holds) {
            found = test->outcome;
            break;
        }
    }
    if (seen->leads >= 0 && lent == NULL && !(self->outcomes[found].flags & SECCOMP_USER_NOTIF_FLAG_CONTINUE) && !is_alike(self, who))
        return -1;
    /* Who is alive when it is answered was so all the time, and it was its memory.  Whoever tells of it
     * wants to know before. */
    bool told = self->outcomes[found].how != PLAIN;
    return told && id_valid(self->listener, raw->id) != 0 ? -1 : found;
}

/* ---- Answering, with the GIL ---------------------------------------------------------------- */

/* Whether C, JSON and we write a text alike; as long as a log shows it in whole. */
static bool is_plain(const char *text, size_t length) {
    for (size_t i = 0; i < length; i++)
        if (text[i] < ' ' || text[i] > '~' || text[i] == '"' || text[i] == '\\')
            return false;
    return length > 0 && length <= LONGEST;
}

static void count(const struct outcome *outcome) {
    PyObject *number = outcome->cell == Py_None ? NULL : PyList_GetItem(outcome->cell, 0);
    if (number != NULL && (number = PyLong_FromLongLong(PyLong_AsLongLong(number) + 1)) != NULL)
        PyList_SetItem(outcome->cell, 0, number);
}

static double seconds(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static struct text text_of(PyObject *bytes) {
    return (struct text){PyBytes_AsString(bytes), (size_t)PyBytes_Size(bytes)};
}

#define LITERALLY(words) ((struct text){words, sizeof words - 1})

static void write_down(Usual *self, const struct seccomp_notif *raw, const Sheet *sheet,
                       const struct outcome *outcome, const struct seen *seen, struct text who,
                       bool delivered, double received) {
    char number[16], took[32], at[48];
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    struct text path = {seen->text, seen->length}, none = {"", 0};
    bool named = seen->leads == 0;
    /* to print a double takes as long as all the rest */
    long long tenths = (long long)((seconds(CLOCK_MONOTONIC) - received) * 1e7 + 0.5);
    tenths = tenths > 0 ? tenths : 0;
    const struct text line[] = {
        text_of(self->head),
        {at, (size_t)snprintf(at, sizeof at, "%lld.%06ld", (long long)now.tv_sec, now.tv_nsec / 1000)},
        text_of(self->middle),
        {number, (size_t)snprintf(number, sizeof number, "%u", raw->pid)},
        sheet->pieces[FIRST],
        sheet->path ? path : none,
        sheet->pieces[SECOND],
        sheet->path ? path : none,
        sheet->pieces[LAST],
        named ? sheet->pieces[NAMED] : none,
        named ? (struct text){seen->name, strlen(seen->name)} : none,
        named ? LITERALLY("\"}, ") : LITERALLY(", "),
        who,
        LITERALLY(", "),
        text_of(delivered ? outcome->delivered : outcome->gone),
        {took, (size_t)snprintf(took, sizeof took, ", \"microseconds\": %lld.%d}\n", tenths / 10, (int)(tenths % 10))},
    };
    gathered_put(self->log, line, (int)(sizeof line / sizeof *line));
}

static bool has(PyObject *object, PyObject *name, PyObject *value) {
    PyObject *found = PyObject_GetAttr(object, name);
    Py_XDECREF(found);
    PyErr_Clear();
    return found == value;
}

/* Answer, and write it down; false, before anything was done, for what is told at length. */
static bool conclude(Usual *self, const struct seccomp_notif *raw, const Sheet *sheet, int index,
                     const struct seen *seen, double received) {
    const struct outcome *outcome = &self->outcomes[index];
    bool fresh, same;
    if (outcome->how != LOGGED || !sheet->shown || (sheet->path && !is_plain(seen->text, seen->length))
        || (seen->leads == 0 && !is_plain(seen->name, strlen(seen->name))))
        return false;
    same = has(self->container, labels, self->labels) && has(self->container, logging, Py_None);
    PyObject *who = same ? caller_told(self->callers, (int)raw->pid, &fresh) : NULL;
    struct text shown = {NULL, 0};
    if (who != NULL)
        shown.at = PyUnicode_AsUTF8AndSize(who, (Py_ssize_t *)&shown.length);
    if (shown.at == NULL) {
        PyErr_Clear();
        return false;
    }
    if (fresh && id_valid(self->listener, raw->id) != 0) {
        caller_forget(self->callers, (int)raw->pid);
        return false;
    }
    int problem = answer_routed(raw->id, outcome->value, outcome->error, outcome->flags);
    if (problem != 0 && problem != ENOENT)
        return false;
    count(outcome);
    write_down(self, raw, sheet, outcome, seen, shown, problem == 0, received);
    return true;
}

/* Take what is known of a caller that is what we are, for this call alone; NULL if that is nothing. */
static PyObject *take_alike(Usual *self, const struct seccomp_notif *raw, const Known **who) {
    PyObject *tid = PyLong_FromUnsignedLong(raw->pid);
    PyObject *standing = tid != NULL ? PyDict_GetItemWithError(self->alikes, tid) : NULL;
    Py_XINCREF(standing);
    if (standing != NULL && PyDict_DelItem(self->alikes, tid) != 0)
        Py_CLEAR(standing);
    Py_XDECREF(tid);
    PyObject *known = standing != NULL ? PyObject_GetAttr(standing, known_as) : NULL;
    *who = known != NULL && known != Py_None ? known_from(known) : NULL;
    Py_XDECREF(known); /* the standing has it */
    return standing;
}

/* Whether a caller that nobody knows is what we are. */
static bool meets(const Usual *self, const struct seccomp_notif *raw) {
    PyObject *said = self->meet == Py_None ? Py_NewRef(Py_False) : PyObject_CallFunction(self->meet, "I", raw->pid);
    bool is = said == Py_True;
    if (said == NULL)
        PyErr_WriteUnraisable(self->meet);
    Py_XDECREF(said);
    return is;
}

static void give_back(Usual *self, const struct seccomp_notif *raw, PyObject *standing) {
    PyObject *tid = PyLong_FromUnsignedLong(raw->pid), *done = NULL;
    if (tid == NULL || PyDict_GetItemWithError(self->alikes, tid) != NULL
        || PyDict_SetItem(self->alikes, tid, standing) != 0) { /* another of that number came meanwhile */
        PyErr_Clear();
        done = PyObject_CallMethodObjArgs(standing, close_it, NULL);
        PyErr_Clear();
    }
    Py_XDECREF(done);
    Py_XDECREF(tid);
    Py_DECREF(standing);
}

/* What is performed by rules. */
struct rules {
    const Usual *usual;
    const Sheet *sheet;
};

static bool are_for(const void *given, const char *path, const char *name) {
    const struct rules *rules = given;
    int found = rules->sheet->otherwise;
    for (int i = 0; i < rules->sheet->count; i++) {
        const struct test *test = &rules->sheet->tests[i];
        const char *text = test->text ? path : name;
        if (one_matches(test->programs, text, strlen(text))) {
            found = test->outcome;
            break;
        }
    }
    return rules->usual->outcomes[found].how == PERFORMED;
}

/* Whether there is who performs at once; it may come later.  False with an exception, too. */
static bool has_performer(Usual *self) {
    PyObject *found = self->performer == NULL && self->find != NULL ? PyObject_CallNoArgs(self->find) : NULL;
    if (found != NULL && found != Py_None) {
        Py_CLEAR(self->find); /* it is another one for good */
        if (is_short(found))
            self->performer = Py_NewRef(found);
    }
    Py_XDECREF(found);
    return self->performer != NULL;
}

/* Perform a call as rules about its path say.  True: it is answered; NULL without an exception: nothing has happened. */
static PyObject *perform(Usual *self, PyObject *notification, const struct seccomp_notif *raw, const Sheet *sheet) {
    struct rules rules = {self, sheet};
    PyObject *path = NULL, *done;
    int fd;
    if (!short_by_rules(self->performer, self->container, notification, raw, are_for, &rules, &fd, &path)) {
        if (fd >= 0 && path == NULL)
            close(fd);
        return path == NULL ? NULL : PyObject_CallFunction(self->given, "ONi", notification, path, fd);
    }
    if (self->counts == Py_None)
        return Py_NewRef(Py_True);
    done = PyObject_CallFunction(self->counts, "i", -fd);
    if (done == NULL)
        PyErr_WriteUnraisable(self->counts);
    Py_XDECREF(done);
    return Py_NewRef(Py_True);
}

/* Whether a call may have to wait: for its turn, behind an earlier one of its caller, or since its number is known
 * for stalling; true with an exception, too. */
static bool may_wait(const Usual *self, const struct seccomp_notif *raw) {
    PyObject *turns = PyObject_GetAttr(self->share, watchful), *stalled = PyObject_GetAttr(self->share, slow);
    bool waits = turns != Py_False || stalled == NULL;
    if (!waits && PyObject_IsTrue(stalled) != 0) {
        PyObject *number = Py_BuildValue("(Ii)", raw->data.arch, raw->data.nr);
        waits = number == NULL || PyDict_Contains(stalled, number) != 0;
        Py_XDECREF(number);
    }
    if (!waits && PyDict_Size(self->busy) != 0) {
        PyObject *tid = PyLong_FromUnsignedLong(raw->pid);
        waits = tid == NULL || PyDict_Contains(self->busy, tid) != 0;
        Py_XDECREF(tid);
    }
    Py_XDECREF(turns), Py_XDECREF(stalled);
    return waits;
}

/* Look at a call, decide and answer it.  True: it is answered. */
static PyObject *usual_call(PyObject *me, PyObject *args, PyObject *Py_UNUSED(names)) {
    Usual *self = (Usual *)me;
    PyObject *notification, *result = NULL;
    if (!PyArg_ParseTuple(args, "O", &notification))
        return NULL;
    const struct seccomp_notif *raw = notification_of(notification);
    char name_seen[PLACE_SIZE];
    struct seen seen = {.leads = -1, .name = name_seen};
    int index = -1;
    double received = seconds(CLOCK_MONOTONIC);
    Sheet *sheet = raw != NULL && !may_wait(self, raw) && raw->pid != 0 && self->reg >= 0
                           && (raw->data.args[self->reg] & self->mask) != 0
                           && is_open(self->port, self->listener)
                       ? sheet_of(self, notification, raw)
                       : NULL;
    if (PyErr_Occurred() != NULL)
        return NULL;
    if (sheet != NULL && sheet->performs) {
        if (has_performer(self))
            result = perform(self, notification, raw, sheet);
    } else if (sheet != NULL && sheet->otherwise >= 0) {
        const Known *who = NULL;
        PyObject *standing = sheet->looks ? take_alike(self, raw, &who) : NULL;
        if (sheet->looks && standing == NULL && PyErr_Occurred() == NULL && meets(self, raw))
            standing = take_alike(self, raw, &who);
        struct lent *lent = sheet->looks && standing == NULL ? borrow(self, sheet, raw) : NULL;
        if (PyErr_Occurred() == NULL && (who != NULL || lent != NULL || !sheet->looks)) {
            Py_BEGIN_ALLOW_THREADS
            index = decide(self, sheet, raw, who, lent, &seen);
            Py_END_ALLOW_THREADS
        }
        if (lent != NULL)
            return_lent(self, lent);
        if (standing != NULL)
            give_back(self, raw, standing);
        PyErr_Clear(); /* then it goes the long way */
    }
    if (result != NULL || PyErr_Occurred() != NULL) {
        ;
    } else if (index < 0) {
        result = PyObject_CallFunctionObjArgs(self->fallback, notification, NULL);
    } else if (self->outcomes[index].how == PLAIN) {
        count(&self->outcomes[index]);
        result = Py_NewRef(self->outcomes[index].wire);
    } else if (conclude(self, raw, sheet, index, &seen, received)) {
        result = Py_NewRef(Py_True);
    } else {
        PyObject *name = seen.leads == 0   ? PyBytes_FromString(seen.name)
                         : seen.leads > 0 ? PyLong_FromLong(seen.leads)
                                           : Py_NewRef(Py_None);
        if (name != NULL)
            result = PyObject_CallFunction(self->told, "ONNd", notification,
                                           PyBytes_FromStringAndSize(seen.text, (Py_ssize_t)seen.length),
                                           name, received);
    }
    free(seen.text);
    if (sheet != NULL)
        sheet_let_go(sheet);
    return result;
}

/* record(notification, outcome, path, received): of a call that a handler decided, who may have read the
 * path.  True: it is answered and written down; else the path, if it was read here. */
static PyObject *usual_record(PyObject *me, PyObject *args) {
    Usual *self = (Usual *)me;
    PyObject *notification, *path, *result = NULL;
    int index;
    double received;
    if (!PyArg_ParseTuple(args, "OiOd", &notification, &index, &path, &received))
        return NULL;
    const struct seccomp_notif *raw = notification_of(notification);
    if (raw == NULL || raw->pid == 0 || index < 0 || index >= self->count || !is_open(self->port, self->listener))
        return Py_NewRef(Py_None);
    Sheet *sheet = sheet_of(self, notification, raw);
    if (sheet == NULL)
        return PyErr_Occurred() != NULL ? NULL : Py_NewRef(Py_None);
    struct seen seen = {.leads = -1};
    bool good = sheet->shown, given = PyBytes_Check(path);
    if (good && given) {
        struct text known = text_of(path);
        seen.text = malloc(known.length + 1);
        good = seen.text != NULL;
        if (good)
            memcpy(seen.text, known.at, seen.length = known.length);
    } else if (good && sheet->path) {
        good = (raw->data.args[self->reg] & self->mask) != 0;
        if (good) {
            Py_BEGIN_ALLOW_THREADS
            good = read_text(self, raw, &seen) && id_valid(self->listener, raw->id) == 0;
            Py_END_ALLOW_THREADS
        }
    }
    if (good && conclude(self, raw, sheet, index, &seen, received))
        result = Py_NewRef(Py_True);
    else if (good && !given && sheet->path)
        result = PyBytes_FromStringAndSize(seen.text, (Py_ssize_t)seen.length);
    else
        result = Py_NewRef(Py_None);
    free(seen.text);
    sheet_let_go(sheet);
    return result;
}

/* ---- The type ------------------------------------------------------------------------------- */

/* performs(find, given, counts) */
static PyObject *usual_performs(PyObject *me, PyObject *args) {
    Usual *self = (Usual *)me;
    PyObject *find, *given, *counts;
    if (!PyArg_ParseTuple(args, "OOO", &find, &given, &counts))
        return NULL;
    if (self->find == NULL && self->performer == NULL) {
        self->find = Py_NewRef(find);
        self->given = Py_NewRef(given);
        self->counts = Py_NewRef(counts);
    }
    return Py_NewRef(Py_None);
}

/* outcome(how, wire, cell, delivered, gone): its number; -1 if there are too many. */
static PyObject *usual_outcome(PyObject *me, PyObject *args) {
    Usual *self = (Usual *)me;
    struct outcome made;
    long long value;
    if (!PyArg_ParseTuple(args, "iO!OSS", &made.how, &PyTuple_Type, &made.wire, &made.cell, &made.delivered,
                          &made.gone)
        || !PyArg_ParseTuple(made.wire, "LiI", &value, &made.error, &made.flags))
        return NULL;
    if (self->count >= OUTCOMES)
        return PyLong_FromLong(-1);
    made.value = value;
    Py_INCREF(made.wire);
    Py_INCREF(made.cell);
    Py_INCREF(made.delivered);
    Py_INCREF(made.gone);
    self->outcomes[self->count] = made;
    return PyLong_FromLong(self->count++);
}

static PyObject *usual_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(names)) {
    PyObject *learn, *fallback, *told, *share, *busy, *container, *marks, *log, *callers, *head, *middle, *alikes, *ours;
    PyObject *meet, *lend, *took_back, *port;
    int listener, reg, groups;
    unsigned int registers;
    unsigned long long mask;
    const struct standing *is = NULL;
    if (!PyArg_ParseTuple(args, "OOOOO!OOOOSSOIiKO!pSOOO", &learn, &fallback, &told, &share, &PyDict_Type, &busy,
                          &container, &marks, &log, &callers, &head, &middle, &port, &registers, &reg, &mask,
                          &PyDict_Type, &alikes, &groups, &ours, &meet, &lend, &took_back)
        || !standing_in(ours, &is) || (listener = PyObject_AsFileDescriptor(port)) < 0)
        return NULL;
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Usual *self = (Usual *)allocate(type, 0);
    if (self == NULL)
        return NULL;
    self->port = Py_NewRef(port);
    self->learn = Py_NewRef(learn);
    self->fallback = Py_NewRef(fallback);
    self->told = Py_NewRef(told);
    self->share = Py_NewRef(share);
    self->busy = Py_NewRef(busy);
    self->container = Py_NewRef(container);
    self->labels = Py_NewRef(marks);
    self->log = Py_NewRef(log);
    self->callers = Py_NewRef(callers);
    self->head = Py_NewRef(head);
    self->middle = Py_NewRef(middle);
    self->alikes = Py_NewRef(alikes);
    self->meet = Py_NewRef(meet);
    self->lend = Py_NewRef(lend);
    self->took_back = Py_NewRef(took_back);
    self->groups = groups;
    self->rooted = is != NULL && is_first(is->root);
    self->listener = listener;
    self->reg = reg;
    self->registers = registers;
    self->mask = mask;
    return (PyObject *)self;
}

static int usual_traverse(PyObject *me, visitproc visit, void *arg) {
    Usual *self = (Usual *)me;
    Py_VISIT(Py_TYPE(me));
    Py_VISIT(self->port);
    Py_VISIT(self->learn);
    Py_VISIT(self->fallback);
    Py_VISIT(self->told);
    Py_VISIT(self->share);
    Py_VISIT(self->busy);
    Py_VISIT(self->container);
    Py_VISIT(self->alikes);
    Py_VISIT(self->meet);
    Py_VISIT(self->lend);
    Py_VISIT(self->took_back);
    Py_VISIT(self->find);
    Py_VISIT(self->performer);
    Py_VISIT(self->given);
    Py_VISIT(self->counts);
    return 0;
}

static int usual_clear(PyObject *me) {
    Usual *self = (Usual *)me;
    Py_CLEAR(self->port);
    Py_CLEAR(self->learn);
    Py_CLEAR(self->fallback);
    Py_CLEAR(self->told);
    Py_CLEAR(self->share);
    Py_CLEAR(self->busy);
    Py_CLEAR(self->container);
    Py_CLEAR(self->alikes);
    Py_CLEAR(self->meet);
    Py_CLEAR(self->lend);
    Py_CLEAR(self->took_back);
    Py_CLEAR(self->find);
    Py_CLEAR(self->performer);
    Py_CLEAR(self->given);
    Py_CLEAR(self->counts);
    return 0;
}

static void usual_dealloc(PyObject *me) {
    Usual *self = (Usual *)me;
    PyTypeObject *type = Py_TYPE(me);
    PyObject_GC_UnTrack(me);
    usual_clear(me);
    sheets_forget(self);
    for (int i = 0; i < self->count; i++) {
        Py_DECREF(self->outcomes[i].wire);
        Py_DECREF(self->outcomes[i].cell);
        Py_DECREF(self->outcomes[i].delivered);
        Py_DECREF(self->outcomes[i].gone);
    }
    Py_XDECREF(self->labels);
    Py_XDECREF(self->log);
    Py_XDECREF(self->callers);
    Py_XDECREF(self->head);
    Py_XDECREF(self->middle);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(me);
    Py_DECREF(type);
}

static PyMethodDef usual_methods[] = {{"learn", usual_learn, METH_VARARGS, NULL},
                                      {"outcome", usual_outcome, METH_VARARGS, NULL},
                                      {"performs", usual_performs, METH_VARARGS, NULL},
                                      {"record", usual_record, METH_VARARGS, NULL},
                                      {0}};
static PyType_Slot usual_slots[] = {{Py_tp_new, usual_new}, {Py_tp_dealloc, usual_dealloc},
                                    {Py_tp_traverse, usual_traverse}, {Py_tp_clear, usual_clear},
                                    {Py_tp_call, usual_call}, {Py_tp_methods, usual_methods}, {0, NULL}};
PyType_Spec usual_spec = {"proctor.kernel._core.Usual", sizeof(Usual), 0,
                          Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_HAVE_GC, usual_slots};

bool usual_ready(void) {
    watchful = PyUnicode_InternFromString("watchful");
    slow = PyUnicode_InternFromString("slow");
    labels = PyUnicode_InternFromString("labels");
    logging = PyUnicode_InternFromString("logging");
    known_as = PyUnicode_InternFromString("known");
    close_it = PyUnicode_InternFromString("close");
    return watchful != NULL && slow != NULL && labels != NULL && logging != NULL && known_as != NULL && close_it != NULL;
}
