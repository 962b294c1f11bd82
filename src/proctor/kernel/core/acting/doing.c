/* Calls about names that are done by one plan of an executor's, where nobody asks what their paths lead to: the paths are read, the
 * plan is filled with them, asked, and what came of it answered, in one go.  For a caller that is what we are nobody is asked, and
 * the same is done here, where that has nobody wait (acting/ourselves.c).  The manual is _core.pyi.
 *
 * Whatever is out of the ordinary before the executor was asked goes the longer way from the start, and nothing has happened;
 * after that, who performs goes on from what the executor said.
 *
 * Where a right is lent for them, a lender is asked about what the plan has pinned, if that has come to what was agreed upon. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "acting/short.h"
#include "acting/deed.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct {
    HOLDS(20, PERFORMING, *port, *decider, *goes_on, *cell_of, *judge, *cells, *judged,
          *native, *standings, *give_back, *executors, *lends, *here, *kinds); /* NULL until somebody performs; the first has the others */
    struct deed deed; /* `here` is what we are, as somebody who does it, or None */
    int listener, limit;
    unsigned int registers; /* that decide whether it is performed */
} Doing;

static PyObject *leaving_name;

static bool is_found(Doing *self) {
    PyObject *native = self->native == NULL ? native_of(self->find) : NULL, *known, *give_back, *executors, *paths, *values, *plans;
    PyObject *lends, *takes, *here, *ours, *kinds;
    struct deed *deed = &self->deed;
    if (native != NULL
        && PyArg_ParseTuple(native, "O!OOiO!O!iKO!iOO!ip(iiiiiKi)ipOSS", &PyDict_Type, &known, &give_back, &executors, &self->limit, &PyTuple_Type,
                            &paths, &PyTuple_Type, &values, &deed->zero, &deed->bits, &PyTuple_Type, &plans, &deed->own, &lends,
                            &PyTuple_Type, &takes, &deed->node, &deed->mounts, &deed->fills, &deed->cut, &deed->within, &deed->least, &deed->most,
                            &deed->ignored, &deed->itself, &deed->what, &deed->nofollow, &here, &ours, &kinds)
        && standing_in(ours, &deed->ours) && deed_is_sound(deed, paths, values, plans, takes)) {
        self->native = Py_NewRef(native), self->standings = Py_NewRef(known), self->lends = Py_NewRef(lends);
        self->give_back = Py_NewRef(give_back), self->executors = Py_NewRef(executors);
        self->here = Py_NewRef(here), self->kinds = Py_NewRef(kinds); /* the tuple has the bytes of ours */
    }
    Py_XDECREF(native);
    return self->native != NULL;
}

/* What whoever goes on is called with: the notification, unless that is NULL, the standing, the executors, which plan, and what was heard;
 * NULL with an exception, and the executors are of no use any more. */
static PyObject *further(Doing *self, PyObject *notification, PyObject *tid, struct caller *caller, PyObject *executor, PyObject *lender,
                         struct doing *doing) {
    struct loan *loan = doing->loan != NULL && doing->loan->was_asked ? doing->loan : NULL; /* who lends is asked last */
    Request *request = loan != NULL ? loan->request : self->deed.plans[doing->plan];
    struct asked *asked = loan != NULL ? &loan->asked : &doing->asked;
    PyObject *found = heard(request, asked), *args = NULL;
    if (found == NULL && PyErr_Occurred() == NULL)
        found = PyLong_FromLong(asked->problem);
    if (loan != NULL)
        drop_room(&doing->asked);
    Py_ssize_t at = notification != NULL, last = at + (loan == NULL ? 4 : 7);
    PyObject *items[] = {notification, caller->standing, executor, PyLong_FromLong(doing->plan), found, lender,
                         loan != NULL ? PyLong_FromLong(loan->pin) : NULL, loan != NULL ? PyLong_FromLong(loan->closed) : NULL};
    if (PyErr_Occurred() == NULL)
        args = PyTuple_New(last);
    for (Py_ssize_t i = 0; args != NULL && i < last; i++)
        PyTuple_SetItem(args, i, Py_NewRef(items[i + 1 - at]));
    if (args != NULL) { /* the executors and the standing are whose who goes on */
        let_go_of_caller(caller);
    } else {
        give_back_caller(self->standings, self->give_back, tid, caller);
        books_discard(self->executors, executor);
        if (loan != NULL)
            books_discard(self->executors, lender);
        if (loan != NULL && loan->pin >= 0)
            close(loan->pin);
        while (asked->problem == 0 && asked->given > 0) /* of an answer that was read; else there are none any more */
            close(asked->fds[--asked->given]);
    }
    Py_XDECREF(items[3]), Py_XDECREF(found), Py_XDECREF(items[6]), Py_XDECREF(items[7]);
    return args;
}

/* Answer with what came of it: an errno, or minus a value. */
static int said(Doing *self, PyObject *notification, const struct seccomp_notif *raw, int plan, int failed) {
    if (answer_routed(raw->id, failed < 0 ? -failed : 0, failed > 0 ? -failed : 0, 0) >= 0) { /* gone is no error */
        count_came(self->cells, self->cell_of, failed > 0 ? failed : 0);
        return REPLIED;
    }
    PyObject *done = PyObject_CallFunction(self->goes_on, "OOOii", notification, Py_None, Py_None, plan, failed); /* the role is another's */
    Py_XDECREF(done);
    return GOES_ON;
}

/* Who lends to a caller that was taken, and what; whether anybody does, and is free. */
static bool borrow_lender(Doing *self, struct caller *caller, struct loan *loan, PyObject **terms, PyObject **lender) {
    PyObject *whom, *agreed_upon, *request;
    *terms = PyObject_CallFunctionObjArgs(self->lends, caller->standing, NULL);
    if (*terms == NULL || *terms == Py_None
        || !PyArg_ParseTuple(*terms, "OO!O!iiii", &whom, &PyTuple_Type, &agreed_upon, request_type, &request, &loan->made, &loan->retried,
                             &loan->left, &loan->table)
        || !terms_in(agreed_upon, &loan->terms))
        return false;
    loan->request = (Request *)request;
    bool along = loan->table != 0;
    if (loan->made < 0 || loan->made >= loan->request->steps || loan->retried < 0 || loan->retried >= loan->request->steps
        || loan->request->values != self->deed.takings)
        PyErr_SetString(PyExc_ValueError, "this is no loan");
    else
        *lender = books_lend(self->executors, caller->kept, whom, self->limit, &loan->asked, &loan->table);
    if (!along)
        loan->table = -1;
    if (*lender != NULL && !make_room(loan->request, &loan->asked))
        loan->asked.into = loan->asked.here, PyErr_NoMemory();
    return *lender != NULL && PyErr_Occurred() == NULL;
}

/* Take who calls, if he is known, and is as whom such a call looks. */
static bool take(Doing *self, const struct seccomp_notif *raw, PyObject *container, PyObject *tid, struct caller *caller) {
    const struct deed *deed = &self->deed;
    if (!take_known(self->standings, container, tid, caller))
        return false;
    if (!deed->itself || (deed->flagged && raw->data.args[deed->zero] & deed->bits) || PyTuple_GetItem(caller->kept, ITSELF) == Py_True)
        return true;
    give_back_caller(self->standings, self->give_back, tid, caller);
    return false;
}

/* What we are, if that is what this caller is, and we may make what it would: a new reference; NULL if not so. */
static PyObject *who_makes(const Doing *self, const struct caller *caller, struct ourselves *us) {
    bool makes = self->deed.what == MKDIR || self->deed.what == RENAME || self->deed.what == LINK || self->deed.what == SYMLINK;
    if (self->deed.what == BY_EXECUTORS || PyTuple_GetItem(caller->kept, HERE) != Py_True
        || (makes && PyTuple_GetItem(caller->kept, MAKES) != Py_True))
        return NULL;
    us->what = self->deed.what, us->ours = self->deed.ours;
    us->kinds = (const void *)PyBytes_AsString(self->kinds); /* bytes objects are aligned */
    us->count = (size_t)PyBytes_Size(self->kinds) / sizeof *us->kinds;
    return our_place(self->here, &us->root, &us->table, &us->maker);
}

/* Whether anything is begun still.  (Nobody has to know that it is: there is no journal.) */
static bool may_begin(const Doing *self) {
    PyObject *leaving = self->decider != Py_None ? PyObject_GetAttr(self->decider, leaving_name) : Py_NewRef(Py_False);
    Py_XDECREF(leaving); /* it is there for ever */
    return leaving == Py_False;
}

/* Of a caller that was taken; REPLIED: it is to be answered with that errno, or minus that value; GOES_ON: with what further() says. */
static int done(Doing *self, PyObject *notification, const struct seccomp_notif *raw, int listener, PyObject *tid, struct caller *caller,
                int *failed, int *plan, PyObject **rest) {
    struct doing doing;
    struct loan loan;
    memset(&doing, 0, offsetof(struct doing, asked)); /* that one is large */
    doing.failed = LEFT, doing.listener = listener;
    struct ourselves us = {0};
    PyObject *executor = NULL, *lender = NULL, *terms = NULL, *maker = who_makes(self, caller, &us);
    bool readable, groups = PyTuple_GetItem(caller->kept, GROUPS) == Py_True;
    int became = NOTHING;
    Py_BEGIN_ALLOW_THREADS
    readable = read_texts(&self->deed, raw, &doing);
    Py_END_ALLOW_THREADS
    if (readable && maker != NULL && may_begin(self)) {
        Py_BEGIN_ALLOW_THREADS
        doing.failed = by_us(&self->deed, caller->known, groups, raw, &us, &doing);
        Py_END_ALLOW_THREADS
    }
    bool ours = doing.failed != LEFT;
    readable = readable && !ours && PyErr_Occurred() == NULL;
    loan_begins(&loan);
    if (readable && self->lends != Py_None)
        doing.loan = &loan, readable = borrow_lender(self, caller, &loan, &terms, &lender);
    if (readable && (executor = books_lend(self->executors, caller->kept, NULL, self->limit, &doing.asked, &doing.table)) != NULL
        && may_begin(self)) {
        Py_BEGIN_ALLOW_THREADS
        do_it(&self->deed, caller->known, groups, raw, &doing);
        Py_END_ALLOW_THREADS
    }
    bool left = doing.was_asked && doing.failed == LEFT;
    if (lender != NULL && !(left && loan.was_asked)) {
        drop_room(&loan.asked);
        books_free(self->executors, lender, loan.was_asked ? loan.asked.patience : TICK);
    }
    if (left) {
        *rest = further(self, notification, tid, caller, executor, lender, &doing);
        became = GOES_ON;
    } else {
        if (doing.was_asked)
            drop_room(&doing.asked);
        give_back_caller(self->standings, self->give_back, tid, caller);
        if (executor != NULL)
            books_free(self->executors, executor, doing.asked.patience);
        if (doing.was_asked || ours)
            became = REPLIED, *failed = doing.failed > 0 ? doing.failed : -doing.value, *plan = doing.plan;
    }
    for (int i = 0; i < TEXTS; i++)
        free(doing.text[i]);
    for (int i = 0; i < MOST_PATHS; i++)
        free(doing.head[i]);
    free(doing.packet), free(doing.lent);
    Py_XDECREF(executor), Py_XDECREF(lender), Py_XDECREF(terms), Py_XDECREF(maker);
    return became;
}

/* Whether it is one that is done here, and who does it is there. */
static bool is_ours(Doing *self, const struct seccomp_notif *raw) { return is_found(self) && is_done_so(&self->deed, raw); }

static int doing_answers(void *me, PyObject *notification, const struct seccomp_notif *raw) {
    Doing *self = me;
    struct caller caller = {0};
    int failed = 0, plan = 0;
    PyObject *rest = NULL;
    if (!is_open(self->port, self->listener) || !judged_so(self->judge, self->judged, self->registers, notification, raw) || !is_ours(self, raw))
        return NOTHING;
    PyObject *tid = PyLong_FromUnsignedLong(raw->pid);
    int became = tid != NULL && take(self, raw, self->container, tid, &caller)
                     ? done(self, notification, raw, self->listener, tid, &caller, &failed, &plan, &rest) : NOTHING;
    if (became == REPLIED)
        became = said(self, notification, raw, plan, failed);
    PyObject *done_by = became == GOES_ON && rest != NULL ? PyObject_CallObject(self->goes_on, rest) : NULL;
    Py_XDECREF(done_by), Py_XDECREF(rest), Py_XDECREF(tid);
    return became;
}

/* The same of a call that was received elsewhere, and is answered there. */
static PyObject *doing_act(PyObject *me, PyObject *args) {
    Doing *self = (Doing *)me;
    struct caller caller = {0};
    PyObject *bytes, *container, *rest = NULL;
    struct seccomp_notif raw;
    int listener, failed = 0, plan = 0;
    if (!PyArg_ParseTuple(args, "SOi", &bytes, &container, &listener))
        return NULL;
    if (PyBytes_Size(bytes) != sizeof raw)
        return PyErr_Format(PyExc_ValueError, "this is no struct seccomp_notif");
    memcpy(&raw, PyBytes_AsString(bytes), sizeof raw);
    PyObject *tid = is_ours(self, &raw) ? PyLong_FromUnsignedLong(raw.pid) : NULL;
    int became = tid != NULL && take(self, &raw, container, tid, &caller)
                     ? done(self, NULL, &raw, listener, tid, &caller, &failed, &plan, &rest) : NOTHING;
    Py_XDECREF(tid);
    if (became == NOTHING && PyErr_Occurred() != NULL && PyErr_ExceptionMatches(PyExc_Exception))
        PyErr_Clear(); /* a longer way comes upon it by itself */
    if (PyErr_Occurred() != NULL) {
        Py_XDECREF(rest);
        return NULL;
    }
    return became == REPLIED ? PyLong_FromLong(failed) : became == GOES_ON ? rest : Py_NewRef(Py_None);
}

static PyObject *doing_call(PyObject *me, PyObject *args, PyObject *Py_UNUSED(named)) { return routed(me, args, doing_answers); }

static PyObject *doing_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(named)) {
    Doing *self = holder_new(type);
    if (self == NULL)
        return NULL;
    bool good = PyArg_ParseTuple(args, "OO!OOOOOOOOI", &self->share, &PyDict_Type, &self->busy, &self->fallback, &self->find,
                                 &self->container, &self->port, &self->decider, &self->goes_on, &self->cell_of, &self->judge,
                                 &self->registers)
                && (self->listener = self->port == Py_None ? -1 : PyObject_AsFileDescriptor(self->port)) >= -1 && PyErr_Occurred() == NULL;
    self = (Doing *)holder_made(self, MANY(self), good);
    if (self != NULL && ((self->cells = PyDict_New()) == NULL || (self->judged = PyDict_New()) == NULL))
        Py_CLEAR(self);
    return (PyObject *)self;
}

static PyMethodDef doing_methods[] = {{"act", doing_act, METH_VARARGS, NULL}, {0}};
static PyType_Slot doing_slots[] = {{Py_tp_new, doing_new}, {Py_tp_methods, doing_methods}, {Py_tp_call, doing_call}, HOLDER_SLOTS, {0, NULL}};
bool doing_ready(void) { return (leaving_name = PyUnicode_InternFromString("leaving")) != NULL; }

PyType_Spec doing_spec = HOLDER_SPEC("Doing", Doing, Py_TPFLAGS_IMMUTABLETYPE, doing_slots);
