/* One plan of an executor's, filled for a call about names and asked; or the same done by ourselves.  acting/doing.c says for whom, and what
 * is said to what comes of it. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "acting/deed.h"
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

/* Whether values and paths are those of what is done here. */
static bool fits(const struct deed *self, int holes) {
    static const int paths[] = {0, [MKDIR] = 1, [UNLINK] = 1, [RENAME] = 2, [LINK] = 2, [SYMLINK] = 1, [CHMOD] = 1, [CHOWN] = 1,
                                [STAT] = 1, [STATX] = 1, [ACCESS] = 1};
    static const int many[] = {0, [MKDIR] = 4, [UNLINK] = 3, [RENAME] = 5, [LINK] = 3, [SYMLINK] = 3, [CHMOD] = 2, [CHOWN] = 3,
                               [STAT] = 1, [STATX] = 2, [ACCESS] = 2};
    bool status = self->what == STAT || self->what == STATX;
    bool known = self->what > BY_EXECUTORS && self->what <= ACCESS && status == (self->fills >= 0) && self->ours != NULL
                 && self->own == self->values && self->takings == 0;
    return self->what == BY_EXECUTORS
           || (known && paths[self->what] == self->paths && many[self->what] == holes
               && (self->value[0].how == TEXT) == (self->what == SYMLINK) && (self->what != MKDIR || self->value[0].how == UMASK));
}

bool deed_is_sound(struct deed *self, PyObject *paths, PyObject *values, PyObject *plans, PyObject *takes) {
    int holes = self->own, many = self->paths = (int)PyTuple_Size(paths);
    Py_ssize_t variants = PyTuple_Size(plans);
    self->values = (int)PyTuple_Size(values), self->takings = (int)PyTuple_Size(takes);
    bool good = many > 0 && many <= MOST_PATHS && self->values <= MOST_VALUES && self->own >= 0 && self->own <= self->values
                && (variants == 1 << many || variants == 2 << many) && self->takings <= MOST_HOLES && self->node < 5
                && self->fills < 6 && self->cut < 6 && self->within < 6;
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
    for (int i = 0; good && i < self->takings; i++) {
        self->takes[i] = (int)PyLong_AsLong(PyTuple_GetItem(takes, i));
        good = self->takes[i] >= 0 && self->takes[i] < self->values + holes - self->own;
    }
    self->flagged = good && variants == 2 << many;
    return good && PyErr_Occurred() == NULL && self->zero < 6 && fits(self, holes);
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

/* Two texts in one call, where both are short, as most are: to look whose memory that is costs more than to read it.  If not so each is
 * read by itself, from its beginning. */
static void read_both(pid_t pid, const uint64_t address[2], struct doing *doing) {
    enum { SHORT = 256, PAGE = 4096 }; /* none is smaller */
    struct iovec here[2], there[2];
    for (int i = 0; i < 2; i++) {
        size_t size = PAGE - address[i] % PAGE;
        size = size < SHORT ? size : SHORT;
        if ((doing->text[i] = malloc(size)) == NULL)
            return;
        here[i] = (struct iovec){doing->text[i], size}, there[i] = (struct iovec){(void *)(uintptr_t)address[i], size};
    }
    if (process_vm_readv(pid, here, 2, there, 2, 0) != (ssize_t)(here[0].iov_len + here[1].iov_len))
        return;
    size_t first = strnlen(doing->text[0], here[0].iov_len), second = strnlen(doing->text[1], here[1].iov_len);
    if (first < here[0].iov_len && second < here[1].iov_len)
        doing->used[0] = first, doing->used[1] = second;
}

bool read_texts(const struct deed *self, const struct seccomp_notif *raw, struct doing *doing) {
    uint64_t address[TEXTS];
    int texts = 0;
    for (int i = 0; i < self->values; i++)
        if (self->value[i].how == TEXT)
            address[texts++] = raw->data.args[self->value[i].reg];
    for (int i = 0; i < self->paths; i++)
        address[texts++] = raw->data.args[self->path[i].address];
    if (texts == 2)
        read_both((pid_t)raw->pid, address, doing);
    for (int i = 0; i < texts; i++)
        if (doing->used[i] == 0
            && (gather((pid_t)raw->pid, address[i], PATH_MAX, true, &doing->text[i], &doing->used[i]) != 0 || doing->used[i] == 0))
            return false;
    return true;
}

/* What goes into the plan, by the text of the caller's status, if that was read. */
static bool put(const struct deed *self, const Known *caller, const struct seccomp_notif *raw, const char *status, ssize_t length,
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
        if (self->cut >= 0 && text[used - 1] == '/')
            return false; /* a link is followed there, and not read */
        doing->plan |= (text[0] != '/') << i;
    }
    doing->plan |= (self->flagged && raw->data.args[self->zero] & self->bits) << self->paths;
    return true;
}

/* Whether it has come to something plain: the errno, 0 for none; LEFT if not. */
static int came_of(const struct deed *self, const struct doing *doing) {
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

/* Write to the caller's memory what was found, as far as it is wanted: whether that was plain. */
static bool fill(const struct deed *self, const Known *caller, const struct seccomp_notif *raw, const char *found, size_t size,
                 struct doing *doing) {
    if (self->cut >= 0) {
        size_t room = (size_t)(uint32_t)raw->data.args[self->cut]; /* more than nothing */
        doing->value = (int)(size = size < room ? size : room);
    }
    return found != NULL && write_plainly(caller->proc, (pid_t)raw->pid, raw->data.args[self->fills], found, size, doing->listener, raw->id);
}

/* Without the GIL: of an answer that is there: have it lent, if that was agreed upon, and see what came of it. */
static void conclude(const struct deed *self, const Known *caller, const struct seccomp_notif *raw, struct doing *doing) {
    struct asked *asked = &doing->asked;
    if (doing->loan != NULL && agreed(&doing->loan->terms, self->plans[doing->plan], asked) && id_valid(doing->listener, raw->id) == 0)
        lend_upon(doing->loan, asked);
    doing->failed = came_of(self, doing);
    if (doing->failed == 0 && self->fills >= 0) {
        size_t size = 0;
        const char *found = answer_part(self->plans[doing->plan], asked, 0, &size);
        doing->failed = fill(self, caller, raw, found, size, doing) ? 0 : LEFT;
    }
    if (doing->failed == LEFT || (doing->loan != NULL && doing->loan->was_asked) || asked->given == 0)
        return;
    if (hear_closed(asked->sock, asked->patience) == 0)
        close(asked->fds[--asked->given]);
    else
        doing->failed = LEFT;
}

/* See who calls, and what is done, and where relative paths start: how many, or -1 if that is not to be had. */
static int begin(const struct deed *self, const Known *caller, bool groups, const struct seccomp_notif *raw, struct doing *doing,
                 struct value *values, int *dirfds) {
    char here[4096], *status;
    ssize_t length;
    int relative = 0;
    for (int i = 0; i < self->values; i++)
        groups = groups || self->value[i].how == UMASK;
    bool good = unchanged(caller, groups, NULL, here, sizeof here, &status, &length) && (!self->mounts || in_its_mounts(caller))
                && put(self, caller, raw, status, length, doing, values);
    if (status != here)
        free(status);
    for (int i = 0; good && i < self->paths; i++)
        if (doing->plan & 1 << i)
            dirfds[relative++] = self->path[i].dirfd < 0 ? AT_FDCWD : (int)raw->data.args[self->path[i].dirfd];
    return good ? relative : -1;
}

int by_us(const struct deed *self, const Known *caller, bool groups, const struct seccomp_notif *raw, struct ourselves *us,
                 struct doing *doing) {
    struct value values[MOST_VALUES + 2 * MOST_PATHS] = {{0}};
    int dirfds[MOST_PATHS], relative;
    if ((relative = begin(self, caller, groups, raw, doing, values, dirfds)) < 0
        || !same_as(self->ours, relative > 0)) /* our root is where dots of a relative path end */
        return LEFT;
    us->values = values, us->dirfds = dirfds, us->paths = self->paths;
    us->nofollow = self->nofollow != doing->plan >> self->paths;
    us->listener = doing->listener, us->id = raw->id;
    char found[LARGEST_STATUS];
    us->found = found;
    int failed = do_ourselves(caller, us);
    size_t size = self->what == STAT ? sizeof(struct stat) : sizeof found;
    return failed == 0 && self->fills >= 0 && !fill(self, caller, raw, found, size, doing) ? LEFT : failed;
}

void do_it(const struct deed *self, const Known *caller, bool groups, const struct seccomp_notif *raw, struct doing *doing) {
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
        take_along(request, asked, doing->table);
        ask(request, asked);
        doing->was_asked = true;
        asked->along = places;
        conclude(self, caller, raw, doing);
    } else if (good) {
        drop_room(asked);
    }
    while (asked->along > 0)
        close(asked->sent[--asked->along]);
}

/* Whether what is to be made is a device, and no whiteout, and wants no other right (lender.make_node() has more of S_ISGID). */
static bool is_device(const struct seccomp_notif *raw, int mode) {
    unsigned long long kind = raw->data.args[mode] & S_IFMT;
    return (kind == S_IFCHR || kind == S_IFBLK) && (raw->data.args[mode] & S_ISGID) == 0 && (uint32_t)raw->data.args[mode + 1] != 0;
}

bool is_done_so(const struct deed *self, const struct seccomp_notif *raw) {
    return (self->zero < 0 || ((uint32_t)raw->data.args[self->zero] & ~(uint32_t)(self->bits | self->ignored)) == 0)
           && (self->within < 0
               || ((int32_t)raw->data.args[self->within] >= self->least && (int32_t)raw->data.args[self->within] <= self->most))
           && (self->node < 0 || is_device(raw, self->node));
}
