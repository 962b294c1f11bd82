/* Calls about names that are done by one plan of an executor's, where nobody asks what their paths lead to: the paths are read, the
 * plan is filled with them, asked, and what came of it answered, in one go.  For a caller that is what we are nobody is asked, and
 * the same is done here, where that has nobody wait (_ourselves.c).  The manual is _core.pyi.
 *
 * Whatever is out of the ordinary before the executor was asked goes the longer way from the start, and nothing has happened;
 * after that, who performs goes on from what the executor said.
 *
 * Where a right is lent for them, a lender is asked about what the plan has pinned, if that has come to what was agreed upon. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "_short.h"
#include "_lending.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST_PATHS = 2, MOST_VALUES = 4, MOST_HOLES = 8, MOST_PLANS = 2 << MOST_PATHS, TEXTS = MOST_PATHS + MOST_VALUES };
enum { CONSTANT, REGISTER, UMASK, TEXT };

struct value_of { /* a number: itself, of a register, or the caller's umask; or a text */
    int how, reg;
    unsigned long long number; /* itself, or the register's bits */
};
struct path_of { /* registers; a directory of -1 is the working directory; entry: the last name is not walked to */
    int dirfd, address, entry;
};

typedef struct {
    HOLDS(20, PERFORMING, *port, *starts, *goes_on, *cell_of, *judge, *cells, *judged,
          *native, *standings, *give_back, *executors, *lends, *here, *kinds); /* NULL until somebody performs; the first has the others */
    int what, nofollow; /* of struct ourselves; `here` is what we are, as somebody who does it, or None */
    const struct standing *ours;
    int listener, limit, paths, values, own, zero; /* zero: a register that is to be 0 but for these bits; -1: none */
    unsigned long long bits;
    unsigned int registers; /* that decide whether it is performed */
    bool flagged; /* whether there are other plans for when any of these is set */
    struct path_of path[MOST_PATHS];
    struct value_of value[MOST_VALUES];
    Request *plans[MOST_PLANS]; /* by which paths are relative, and whether it is flagged */
    int made[MOST_PLANS];       /* the step that acts */
    int takes[MOST_HOLES], takings; /* what goes into the loan: of values, and what goes into the plan of paths behind them */
    int node;                       /* the register of a mode, before that of a number, as is_device() wants them; -1: none */
} Doing;

/* What is to be done for whom, and what became of it. */
struct doing {
    int listener, plan, table;
    bool was_asked;
    int failed;         /* the errno that came of it, 0 for none; LEFT if that is not plain */
    struct loan *loan; /* NULL: nothing is lent */
    char *text[TEXTS], *head[MOST_PATHS], *packet, *lent; /* first those of values */
    size_t used[TEXTS];
    struct asked asked;
};

/* Whether values and paths are those of what is done here. */
static bool fits(const Doing *self, int holes) {
    static const int paths[] = {0, [MKDIR] = 1, [UNLINK] = 1, [RENAME] = 2, [LINK] = 2, [SYMLINK] = 1, [CHMOD] = 1, [CHOWN] = 1};
    static const int many[] = {0, [MKDIR] = 4, [UNLINK] = 3, [RENAME] = 5, [LINK] = 3, [SYMLINK] = 3, [CHMOD] = 2, [CHOWN] = 3};
    bool known = self->what > BY_EXECUTORS && self->what <= CHOWN && self->ours != NULL && self->own == self->values && self->takings == 0;
    return self->what == BY_EXECUTORS
           || (known && paths[self->what] == self->paths && many[self->what] == holes
               && (self->value[0].how == TEXT) == (self->what == SYMLINK) && (self->what != MKDIR || self->value[0].how == UMASK));
}

static bool sound(Doing *self, PyObject *paths, PyObject *values, PyObject *plans) {
    int holes = self->own, many = self->paths = (int)PyTuple_Size(paths);
    Py_ssize_t variants = PyTuple_Size(plans);
    self->values = (int)PyTuple_Size(values);
    bool good = many > 0 && many <= MOST_PATHS && self->values <= MOST_VALUES && self->own >= 0 && self->own <= self->values && (variants == 1 << many || variants == 2 << many);
    for (int i = 0; good && i < many; i++) {
        struct path_of *path = &self->path[i];
        good = PyArg_ParseTuple(PyTuple_GetItem(paths, i), "iip", &path->dirfd, &path->address, &path->entry) && path->dirfd < 6
               && path->address >= 0 && path->address < 6;
        holes += 1 + path->entry;
    }
    for (int i = 0; good && i < self->values; i++)
        good = PyArg_ParseTuple(PyTuple_GetItem(values, i), "iiK", &self->value[i].how, &self->value[i].reg, &self->value[i].number)
               && self->value[i].reg >= 0 && self->value[i].reg < 6;
    for (int i = 0; good && i < variants; i++)
        good = PyArg_ParseTuple(PyTuple_GetItem(plans, i), "O!i", request_type, &self->plans[i], &self->made[i])
               && self->made[i] >= 0 && self->made[i] < self->plans[i]->steps && self->plans[i]->values == holes;
    for (int i = 0; good && i < self->takings; i++)
        good = self->takes[i] >= 0 && self->takes[i] < self->values + holes - self->own;
    self->flagged = good && variants == 2 << many;
    return good && self->zero < 6 && fits(self, holes);
}

/* What is lent, if anything is: who says so, what goes into that, and whether it is for devices. */
static bool lends_soundly(Doing *self, PyObject *takes) {
    self->takings = (int)PyTuple_Size(takes);
    bool good = self->takings <= MOST_HOLES && self->node < 5;
    for (int i = 0; good && i < self->takings; i++)
        self->takes[i] = (int)PyLong_AsLong(PyTuple_GetItem(takes, i));
    return good && PyErr_Occurred() == NULL;
}

static bool is_found(Doing *self) {
    PyObject *native = self->native == NULL ? native_of(self->find) : NULL, *known, *give_back, *executors, *paths, *values, *plans;
    PyObject *lends, *takes, *here, *ours, *kinds;
    if (native != NULL
        && PyArg_ParseTuple(native, "O!OOiO!O!iKO!iOO!iipOSS", &PyDict_Type, &known, &give_back, &executors, &self->limit, &PyTuple_Type,
                            &paths, &PyTuple_Type, &values, &self->zero, &self->bits, &PyTuple_Type, &plans, &self->own, &lends,
                            &PyTuple_Type, &takes, &self->node, &self->what, &self->nofollow, &here, &ours, &kinds)
        && standing_in(ours, &self->ours) && lends_soundly(self, takes) && sound(self, paths, values, plans)) {
        self->native = Py_NewRef(native), self->standings = Py_NewRef(known), self->lends = Py_NewRef(lends);
        self->give_back = Py_NewRef(give_back), self->executors = Py_NewRef(executors);
        self->here = Py_NewRef(here), self->kinds = Py_NewRef(kinds); /* the tuple has the bytes of ours */
    }
    Py_XDECREF(native);
    return self->native != NULL;
}

/* A path as a directory that is to be searched, and a name with the slashes behind it (pins.within()): in a buffer that has
 * room for 3 bytes more than the path. */
static void split(const char *path, size_t length, char *into, struct value directory_and_name[2]) {
    size_t bare = length, cut;
    while (bare > 0 && path[bare - 1] == '/')
        bare--;
    for (cut = bare; cut > 0 && path[cut - 1] != '/';)
        cut--;
    if (bare == 0) { /* nothing is looked for in the root */
        directory_and_name[0] = directory_and_name[1] = (struct value){.text = "/", .length = 1};
        return;
    }
    const char *head = cut > 0 ? path : ".", *name = path + cut;
    size_t size = cut > 0 ? cut : 1;
    memcpy(into, head, size);
    if (into[size - 1] != '/')
        into[size++] = '/';
    into[size++] = '.', into[size] = 0;
    directory_and_name[0] = (struct value){.text = into, .length = size};
    directory_and_name[1] = (struct value){.text = name, .length = length - cut};
}

/* Without the GIL: read what the caller has passed, before anybody is lent who would have to wait for that. */
static bool read_texts(const Doing *self, const struct seccomp_notif *raw, struct doing *doing) {
    uint64_t address[TEXTS];
    int texts = 0;
    for (int i = 0; i < self->values; i++)
        if (self->value[i].how == TEXT)
            address[texts++] = raw->data.args[self->value[i].reg];
    for (int i = 0; i < self->paths; i++)
        address[texts++] = raw->data.args[self->path[i].address];
    for (int i = 0; i < texts; i++)
        if (gather((pid_t)raw->pid, address[i], PATH_MAX, true, &doing->text[i], &doing->used[i]) != 0 || doing->used[i] == 0)
            return false;
    return true;
}

/* What goes into the plan, by the text of the caller's status, if that was read. */
static bool put(const Doing *self, const Known *caller, const struct seccomp_notif *raw, const char *status, ssize_t length,
                struct doing *doing, struct value *values) {
    int texts = 0;
    doing->plan = 0;
    for (int i = 0; i < self->values; i++, values++) {
        const struct value_of *is = &self->value[i];
        int mask = is->how == UMASK ? mask_of(caller, status, (size_t)length) : 0;
        if (mask < 0)
            return false;
        if (is->how == TEXT)
            values->text = doing->text[texts], values->length = doing->used[texts], texts++;
        else
            values->number = is->how == CONSTANT ? is->number : is->how == REGISTER ? raw->data.args[is->reg] & is->number : (uint64_t)mask;
    }
    for (int i = 0; i < self->paths; i++, texts++) {
        const char *text = doing->text[texts];
        size_t used = doing->used[texts];
        free(doing->head[i]); /* it may be tried in another way before */
        doing->head[i] = NULL;
        if (!self->path[i].entry)
            *values++ = (struct value){.text = text, .length = used};
        else if ((doing->head[i] = malloc(used + 3)) != NULL)
            split(text, used, doing->head[i], values), values += 2;
        else
            return false;
        doing->plan |= (text[0] != '/') << i;
    }
    doing->plan |= (self->flagged && raw->data.args[self->zero] & self->bits) << self->paths;
    return true;
}

/* Whether it has come to something plain: the errno, 0 for none; LEFT if not. */
static int came_of(const Doing *self, const struct doing *doing) {
    const struct asked *asked = &doing->asked;
    const struct loan *loan = doing->loan;
    struct reply head;
    if (loan != NULL && loan->was_asked)
        return loan->closed == 0 ? came_of_loan(loan) : LEFT;
    if (asked->problem != 0 || asked->given > (loan != NULL)
        || asked->length < (ssize_t)(sizeof head + sizeof(int64_t) * (size_t)self->plans[doing->plan]->steps))
        return LEFT;
    memcpy(&head, asked->into, sizeof head);
    if (head.state != DONE || head.given != asked->given)
        return LEFT;
    int64_t made = step_result(asked, self->made[doing->plan]);
    return made == INT64_MIN || (loan != NULL && came_to(&loan->terms, made)) ? LEFT : is_error(made) ? (int)-made : 0;
}

/* Without the GIL: of an answer that is there: have it lent, if that was agreed upon, and see what came of it. */
static void conclude(const Doing *self, const struct seccomp_notif *raw, struct doing *doing) {
    struct asked *asked = &doing->asked;
    if (doing->loan != NULL && agreed(&doing->loan->terms, self->plans[doing->plan], asked) && id_valid(doing->listener, raw->id) == 0)
        lend_upon(doing->loan, asked);
    doing->failed = came_of(self, doing);
    if (doing->failed == LEFT || (doing->loan != NULL && doing->loan->was_asked) || asked->given == 0)
        return;
    if (hear_closed(asked->sock, asked->patience) == 0)
        close(asked->fds[--asked->given]);
    else
        doing->failed = LEFT;
}

/* See who calls, and what is done, and where relative paths start: how many, or -1 if that is not to be had. */
static int begin(const Doing *self, const Known *caller, bool groups, const struct seccomp_notif *raw, struct doing *doing,
                 struct value *values, int *dirfds) {
    char here[4096], *status;
    ssize_t length;
    int relative = 0;
    for (int i = 0; i < self->values; i++)
        groups = groups || self->value[i].how == UMASK;
    bool good = unchanged(caller, groups, NULL, here, sizeof here, &status, &length)
                && put(self, caller, raw, status, length, doing, values);
    if (status != here)
        free(status);
    for (int i = 0; good && i < self->paths; i++)
        if (doing->plan & 1 << i)
            dirfds[relative++] = self->path[i].dirfd < 0 ? AT_FDCWD : (int)raw->data.args[self->path[i].dirfd];
    return good ? relative : -1;
}

/* Without the GIL: do it ourselves: the errno that came of it, 0 for none; LEFT, and nothing has happened. */
static int by_us(const Doing *self, const Known *caller, bool groups, const struct seccomp_notif *raw, struct ourselves *us,
                 struct doing *doing) {
    struct value values[MOST_VALUES + 2 * MOST_PATHS] = {{0}};
    int dirfds[MOST_PATHS], relative;
    if ((relative = begin(self, caller, groups, raw, doing, values, dirfds)) < 0
        || !same_as(self->ours, relative > 0)) /* our root is where dots of a relative path end */
        return LEFT;
    us->values = values, us->dirfds = dirfds, us->paths = self->paths;
    us->nofollow = self->nofollow != doing->plan >> self->paths;
    us->listener = doing->listener, us->id = raw->id;
    return do_ourselves(caller, us);
}

/* Without the GIL: see who calls, fill the plan, and ask. */
static void do_it(const Doing *self, const Known *caller, bool groups, const struct seccomp_notif *raw, struct doing *doing) {
    struct value values[MOST_VALUES + 2 * MOST_PATHS] = {{0}}, taken[MOST_HOLES];
    struct loan *loan = doing->loan;
    int dirfds[MOST_PATHS], relative = begin(self, caller, groups, raw, doing, values, dirfds);
    bool good = relative >= 0;
    Request *request = self->plans[doing->plan];
    struct asked *asked = &doing->asked;
    for (int i = 0; i < self->takings; i++)
        taken[i] = values[self->takes[i]];
    good = good && (doing->packet = filled(request, values + self->values - self->own, &asked->size)) != NULL
           && (loan == NULL || (in_its_cgroups(caller) && (doing->lent = filled(loan->request, taken, &loan->asked.size)) != NULL))
           && make_room(request, asked);
    if (loan != NULL)
        loan->asked.packet = doing->lent;
    asked->packet = doing->packet, asked->along = 0;
    if (good && begins(caller, 0, dirfds, (size_t)relative, doing->listener, raw->id, asked)) {
        int places = asked->along;
        asked->sent[asked->along++] = doing->table;
        ask(request, asked);
        doing->was_asked = true;
        asked->along = places;
        conclude(self, raw, doing);
    } else if (good && asked->into != asked->here) {
        free(asked->into);
    }
    while (asked->along > 0)
        close(asked->sent[--asked->along]);
}

/* For whoever goes on: the standing, the executors, which plan, and what was heard; NULL with an exception, and the executors are of no
 * use any more. */
static PyObject *further(Doing *self, PyObject *tid, struct caller *caller, PyObject *executor, PyObject *lender, struct doing *doing) {
    struct loan *loan = doing->loan != NULL && doing->loan->was_asked ? doing->loan : NULL; /* who lends is asked last */
    Request *request = loan != NULL ? loan->request : self->plans[doing->plan];
    struct asked *asked = loan != NULL ? &loan->asked : &doing->asked;
    PyObject *found = heard(request, asked), *args = NULL;
    if (found == NULL && PyErr_Occurred() == NULL)
        found = PyLong_FromLong(asked->problem);
    if (loan != NULL && doing->asked.into != doing->asked.here)
        free(doing->asked.into);
    if (found != NULL)
        args = loan == NULL ? Py_BuildValue("OOiO", caller->standing, executor, doing->plan, found)
                            : Py_BuildValue("OOiOOii", caller->standing, executor, doing->plan, found, lender, loan->pin, loan->closed);
    if (args != NULL) { /* the executors and the standing are whose who goes on */
        let_go_of_caller(caller);
    } else {
        give_back_caller(self->standings, self->give_back, tid, caller);
        books_discard(self->executors, executor);
        if (loan != NULL)
            books_discard(self->executors, lender);
        if (loan != NULL && loan->pin >= 0)
            close(loan->pin);
    }
    Py_XDECREF(found);
    return args;
}

/* Have whoever goes on answer it. */
static void go_on(Doing *self, PyObject *notification, PyObject *further) {
    PyObject *first = further != NULL ? Py_BuildValue("(O)", notification) : NULL;
    PyObject *args = first != NULL ? PySequence_Concat(first, further) : NULL, *done = args != NULL ? PyObject_CallObject(self->goes_on, args) : NULL;
    Py_XDECREF(done), Py_XDECREF(args), Py_XDECREF(first);
}

/* Answer with what came of it: 0, or an errno. */
static int said(Doing *self, PyObject *notification, const struct seccomp_notif *raw, int plan, int failed) {
    if (answer_routed(raw->id, 0, -failed, 0) >= 0) { /* gone is no error */
        count_came(self->cells, self->cell_of, failed);
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
        || loan->request->values != self->takings)
        PyErr_SetString(PyExc_ValueError, "this is no loan");
    else
        *lender = books_lend(self->executors, caller->kept, whom, self->limit, &loan->asked, &loan->table);
    if (!along)
        loan->table = -1;
    if (*lender != NULL && !make_room(loan->request, &loan->asked))
        loan->asked.into = loan->asked.here, PyErr_NoMemory();
    return *lender != NULL && PyErr_Occurred() == NULL;
}

/* What we are, if that is what this caller is, and we may make what it would: a new reference; NULL if not so. */
static PyObject *who_makes(const Doing *self, const struct caller *caller, struct ourselves *us) {
    bool makes = self->what == MKDIR || self->what == RENAME || self->what == LINK || self->what == SYMLINK;
    if (self->what == BY_EXECUTORS || PyTuple_GetItem(caller->kept, HERE) != Py_True
        || (makes && PyTuple_GetItem(caller->kept, MAKES) != Py_True))
        return NULL;
    us->what = self->what, us->ours = self->ours;
    us->kinds = (const void *)PyBytes_AsString(self->kinds); /* bytes objects are aligned */
    us->count = (size_t)PyBytes_Size(self->kinds) / sizeof *us->kinds;
    return our_place(self->here, &us->root, &us->table, &us->maker);
}

/* Of a caller that was taken; REPLIED: it is to be answered with that errno, or 0; GOES_ON: with what further() says. */
static int done(Doing *self, PyObject *notification, const struct seccomp_notif *raw, int listener, PyObject *tid, struct caller *caller,
                int *failed, int *plan, PyObject **rest) {
    struct doing doing;
    struct loan loan;
    memset(&doing, 0, offsetof(struct doing, asked)); /* that one is large */
    doing.failed = LEFT, doing.listener = listener;
    struct ourselves us = {0};
    PyObject *executor = NULL, *lender = NULL, *terms = NULL, *began = NULL, *maker = who_makes(self, caller, &us);
    bool readable, groups = PyTuple_GetItem(caller->kept, GROUPS) == Py_True;
    int became = NOTHING;
    Py_BEGIN_ALLOW_THREADS
    readable = read_texts(self, raw, &doing);
    Py_END_ALLOW_THREADS
    if (readable && maker != NULL
        && (self->starts == Py_None || (began = PyObject_CallFunctionObjArgs(self->starts, notification, NULL)) != NULL)) {
        Py_BEGIN_ALLOW_THREADS
        doing.failed = by_us(self, caller->known, groups, raw, &us, &doing);
        Py_END_ALLOW_THREADS
        Py_CLEAR(began);
    }
    bool ours = doing.failed != LEFT;
    readable = readable && !ours && PyErr_Occurred() == NULL;
    loan_begins(&loan);
    if (readable && self->lends != Py_None)
        doing.loan = &loan, readable = borrow_lender(self, caller, &loan, &terms, &lender);
    if (readable && (executor = books_lend(self->executors, caller->kept, NULL, self->limit, &doing.asked, &doing.table)) != NULL
        && (self->starts == Py_None || (began = PyObject_CallFunctionObjArgs(self->starts, notification, NULL)) != NULL)) {
        Py_BEGIN_ALLOW_THREADS
        do_it(self, caller->known, groups, raw, &doing);
        Py_END_ALLOW_THREADS
    }
    bool left = doing.was_asked && doing.failed == LEFT;
    if (lender != NULL && !(left && loan.was_asked)) {
        if (loan.asked.into != loan.asked.here)
            free(loan.asked.into);
        books_free(self->executors, lender, loan.was_asked ? loan.asked.patience : TICK);
    }
    if (left) {
        *rest = further(self, tid, caller, executor, lender, &doing);
        became = GOES_ON;
    } else {
        if (doing.was_asked && doing.asked.into != doing.asked.here)
            free(doing.asked.into);
        give_back_caller(self->standings, self->give_back, tid, caller);
        if (executor != NULL)
            books_free(self->executors, executor, doing.asked.patience);
        if (doing.was_asked || ours)
            became = REPLIED, *failed = doing.failed, *plan = doing.plan;
    }
    for (int i = 0; i < TEXTS; i++)
        free(doing.text[i]);
    for (int i = 0; i < MOST_PATHS; i++)
        free(doing.head[i]);
    free(doing.packet), free(doing.lent);
    Py_XDECREF(began), Py_XDECREF(executor), Py_XDECREF(lender), Py_XDECREF(terms), Py_XDECREF(maker);
    return became;
}

/* Whether what is to be made is a device, and no whiteout, and wants no other right (lender.make_node() has more of S_ISGID). */
static bool is_device(const struct seccomp_notif *raw, int mode) {
    unsigned long long kind = raw->data.args[mode] & S_IFMT;
    return (kind == S_IFCHR || kind == S_IFBLK) && (raw->data.args[mode] & S_ISGID) == 0 && (uint32_t)raw->data.args[mode + 1] != 0;
}

/* Whether it is one that is done here, and who does it is there. */
static bool is_ours(Doing *self, const struct seccomp_notif *raw) {
    return is_found(self) && (self->zero < 0 || ((uint32_t)raw->data.args[self->zero] & ~(uint32_t)self->bits) == 0)
           && (self->node < 0 || is_device(raw, self->node));
}

static int doing_answers(void *me, PyObject *notification, const struct seccomp_notif *raw) {
    Doing *self = me;
    struct caller caller = {0};
    int failed = 0, plan = 0;
    PyObject *rest = NULL;
    if (!is_open(self->port, self->listener) || !judged_so(self->judge, self->judged, self->registers, notification, raw) || !is_ours(self, raw))
        return NOTHING;
    PyObject *tid = PyLong_FromUnsignedLong(raw->pid);
    int became = tid != NULL && take_known(self->standings, self->container, tid, &caller)
                     ? done(self, notification, raw, self->listener, tid, &caller, &failed, &plan, &rest) : NOTHING;
    if (became == REPLIED)
        became = said(self, notification, raw, plan, failed);
    else if (became == GOES_ON)
        go_on(self, notification, rest);
    Py_XDECREF(rest), Py_XDECREF(tid);
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
    int became = tid != NULL && take_known(self->standings, container, tid, &caller)
                     ? done(self, Py_None, &raw, listener, tid, &caller, &failed, &plan, &rest) : NOTHING;
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
                                 &self->container, &self->port, &self->starts, &self->goes_on, &self->cell_of, &self->judge,
                                 &self->registers)
                && (self->listener = self->port == Py_None ? -1 : PyObject_AsFileDescriptor(self->port)) >= -1 && PyErr_Occurred() == NULL;
    self = (Doing *)holder_made(self, MANY(self), good);
    if (self != NULL && ((self->cells = PyDict_New()) == NULL || (self->judged = PyDict_New()) == NULL))
        Py_CLEAR(self);
    return (PyObject *)self;
}

static PyMethodDef doing_methods[] = {{"act", doing_act, METH_VARARGS, NULL}, {0}};
static PyType_Slot doing_slots[] = {{Py_tp_new, doing_new}, {Py_tp_methods, doing_methods}, {Py_tp_call, doing_call}, HOLDER_SLOTS, {0, NULL}};
PyType_Spec doing_spec = HOLDER_SPEC("Doing", Doing, Py_TPFLAGS_IMMUTABLETYPE, doing_slots);
