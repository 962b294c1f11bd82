/* A path that an executor is asked about: who calls, what it names, and what is said to that, in one go.  The manual is
 * _core.pyi. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "asking/posing.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { STATX_BYTES = 256, STATFS_BYTES = 96, MODE_AT = 28, PROC_SUPER = 0x9FA0 }; /* as filestat.py asks for them */

/* Whether there are so many bytes in a form's packet. */
static bool has_hole(const struct form *form, int32_t offset, int32_t room) {
    return offset >= 0 && room >= 0 && room <= form->size && offset <= form->size - room;
}

/* Whether the steps of a form that looks are some that its request has. */
static bool sound(const struct form *form) {
    const struct looks *is = form->looks;
    const int32_t steps[] = {is->direct, is->pin, is->link, is->again, is->plain, is->above, is->upper_link, is->upper_again};
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++)
        if (steps[i] < (i == 0 ? -1 : 0) || steps[i] >= form->request->steps)
            return false;
    return is->first >= 0 && is->kind >= 0 && is->text >= 0 && has_hole(form, is->offset, is->room);
}

/* The same of one that foresees. */
static bool foresees_soundly(const struct form *form) {
    const struct foresees *is = form->foresees;
    return has_hole(form, is->offset, is->room) && is->opened >= 0 && is->opened < form->request->steps && is->pinned >= 0
           && is->pinned < form->request->steps;
}

/* Whether a form takes a path. */
static bool fits(const struct form *form, const char *path, size_t length) {
    return form->relative == (path[0] != '/') && length <= (size_t)form->room
           && (form->looks == NULL || form->looks->direct < 0 || is_own_name(path, length));
}

typedef struct { /* read once, and asked again and again */
    PyObject_HEAD
    PyObject *tuple; /* which has all that they point to */
    int many;
    struct form forms[MOST_FORMS];
} Forms;

static PyTypeObject *forms_type;

int forms_in(PyObject *object, const struct form **forms) {
    if (Py_TYPE(object) != forms_type) {
        PyErr_SetString(PyExc_TypeError, "Forms are wanted");
        return -1;
    }
    *forms = ((Forms *)object)->forms;
    return ((Forms *)object)->many;
}

static int read_forms(PyObject *tuple, struct form *forms) {
    Py_ssize_t count = PyTuple_Size(tuple);
    if (count > MOST_FORMS)
        PyErr_SetString(PyExc_ValueError, "too many forms");
    for (Py_ssize_t i = 0; i < count && PyErr_Occurred() == NULL; i++) {
        struct form *form = &forms[i];
        PyObject *request, *packet, *looks, *foresees;
        if (!PyArg_ParseTuple(PyTuple_GetItem(tuple, i), "OSnnpppSS", &request, &packet, &form->offset, &form->room,
                              &form->relative, &form->table, &form->opens, &looks, &foresees))
            break;
        Py_ssize_t known = PyBytes_Size(looks), foreseen = PyBytes_Size(foresees);
        form->foresees = foreseen > 0 ? (const void *)PyBytes_AsString(foresees) : NULL;
        form->looks = known > 0 ? (const void *)PyBytes_AsString(looks) : NULL; /* bytes objects are aligned */
        form->request = (Request *)request;
        form->packet = PyBytes_AsString(packet), form->size = PyBytes_Size(packet);
        if (Py_TYPE(request) != request_type || form->size > LONGEST_PACKET || form->room < 0 || form->offset < 0
            || form->room > form->size || form->offset > form->size - form->room
            || (known > 0 && (known != sizeof *form->looks || !sound(form)))
            || (foreseen > 0 && (foreseen != sizeof *form->foresees || !foresees_soundly(form)))
            || (form->opens && form->request->longest < STATX_BYTES + STATFS_BYTES + (Py_ssize_t)sizeof(struct reply)))
            PyErr_SetString(PyExc_ValueError, "this is no form");
    }
    return PyErr_Occurred() != NULL ? -1 : (int)count;
}

static PyObject *forms_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(named)) {
    PyObject *tuple;
    Forms *self = NULL;
    if (PyArg_ParseTuple(args, "O!", &PyTuple_Type, &tuple)
        && (self = (Forms *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0)) != NULL) {
        self->tuple = Py_NewRef(tuple);
        if ((self->many = read_forms(tuple, self->forms)) < 0)
            Py_CLEAR(self);
    }
    return (PyObject *)self;
}

static void forms_dealloc(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    Py_XDECREF(((Forms *)object)->tuple);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

static PyType_Slot forms_slots[] = {{Py_tp_new, forms_new}, {Py_tp_dealloc, forms_dealloc}, {0, NULL}};
static PyType_Spec forms_spec = {"proctor.kernel._core.Forms", sizeof(Forms), 0,
                                 Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, forms_slots};

bool forms_ready(PyObject *module) {
    forms_type = (PyTypeObject *)PyType_FromSpec(&forms_spec);
    return forms_type != NULL && PyModule_AddType(module, forms_type) == 0;
}

/* A form is taken if the caller is who it was and has room. */
void choose(struct posed *posed) {
    char here[4096], *text;
    ssize_t length;
    const Known *caller = posed->caller;
    const struct form *form = NULL;
    posed->same = unchanged(caller, posed->groups, NULL, here, sizeof here, &text, &length);
    if (posed->same && posed->path == NULL
        && gather(caller->tid, posed->address, PATH_MAX, true, &posed->read, &posed->used) == 0
        && id_valid(posed->listener, posed->id) == 0)
        posed->path = posed->read;
    for (int i = 0; posed->same && posed->path != NULL && posed->used > 0 && form == NULL && i < posed->many; i++)
        if (fits(&posed->forms[i], posed->path, posed->used))
            form = &posed->forms[i];
    if (form != NULL && form->looks == NULL && !(length > 0 ? has_room_by(caller, text, (size_t)length) : has_room(caller)))
        form = NULL; /* EMFILE comes before all else, and nothing happens */
    if (form != NULL && form->relative && (posed->asked.sent[0] = place_of(caller, posed->dirfd)) < 0)
        form = NULL;
    posed->form = form;
    if (text != here)
        free(text);
}

void pose(struct posed *posed) {
    choose(posed);
    ask_chosen(posed, NULL, 0);
}

void ask_chosen(struct posed *posed, const char *more, size_t size) {
    char packet[LONGEST_PACKET];
    const struct form *form = posed->form;
    if (form == NULL)
        return;
    struct asked *asked = &posed->asked;
    asked->along = form->relative;
    if (form->table)
        asked->sent[asked->along++] = posed->table;
    memcpy(packet, form->packet, (size_t)form->size);
    memcpy(packet + form->offset, posed->path, posed->used);
    size_t room = (size_t)(form->foresees != NULL ? form->foresees->room : form->looks != NULL ? form->looks->room : 0);
    if (size > 0 && room > 0)
        memcpy(packet + (form->foresees != NULL ? form->foresees->offset : form->looks->offset), more, size < room ? size : room);
    asked->packet = packet, asked->size = (size_t)form->size;
    if (make_room(form->request, asked))
        ask(form->request, asked);
    else
        asked->problem = ENOMEM; /* which is as if it could not be sent */
    if (form->relative)
        close(asked->sent[0]);
}

/* What core.ask_for() returns. */
PyObject *posed_result(struct posed *posed) {
    PyObject *said = posed->form != NULL ? heard(posed->form->request, &posed->asked) : NULL;
    PyObject *result = NULL;
    if (PyErr_Occurred() == NULL)
        result = !posed->same          ? Py_NewRef(Py_None)
                 : posed->path == NULL ? Py_BuildValue("(OOi)", Py_None, Py_None, -1)
                                       : Py_BuildValue("(NOi)", PyBytes_FromStringAndSize(posed->path, (Py_ssize_t)posed->used),
                                                       said != NULL ? said : Py_None,
                                                       posed->form == NULL ? -1 : (int)(posed->form - posed->forms));
    Py_XDECREF(said);
    return result;
}

PyObject *core_ask_for(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count) {
    if (count != 10)
        return PyErr_Format(PyExc_TypeError, "ask_for() takes 10 arguments, not %zd", count);
    struct posed posed;
    posed.caller = known_from(args[0]);
    if (posed.caller == NULL || (posed.many = forms_in(args[9], &posed.forms)) < 0)
        return NULL;
    posed.groups = PyObject_IsTrue(args[1]) == 1, posed.listener = (int)PyLong_AsLong(args[2]);
    posed.id = PyLong_AsUnsignedLongLongMask(args[3]);
    posed.dirfd = (int)PyLong_AsLong(args[4]);
    bool given = PyBytes_Check(args[5]);
    posed.path = given ? PyBytes_AsString(args[5]) : NULL;
    posed.used = given ? (size_t)PyBytes_Size(args[5]) : 0;
    posed.address = given ? 0 : PyLong_AsUnsignedLongLongMask(args[5]);
    posed.read = NULL;
    posed.asked.sock = (int)PyLong_AsLong(args[6]);
    posed.table = (int)PyLong_AsLong(args[7]);
    posed.asked.patience = PyLong_AsLong(args[8]);
    if (PyErr_Occurred() != NULL)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    pose(&posed);
    Py_END_ALLOW_THREADS
    PyObject *result = posed_result(&posed);
    free(posed.read);
    return result;
}

int plainly_opened(const struct posed *posed, const uint32_t *kinds, size_t count) {
    const struct asked *asked = &posed->asked;
    struct reply head;
    struct statfs system;
    uint16_t mode;
    if (posed->form == NULL || !posed->form->opens || asked->problem != 0 || asked->given != 1 || asked->length != posed->form->request->longest)
        return -1;
    const char *status = asked->into + asked->length - STATX_BYTES, *kind = status - STATFS_BYTES;
    memcpy(&head, asked->into, sizeof head);
    memcpy(&mode, status + MODE_AT, sizeof mode);
    memcpy(&system.f_type, kind + offsetof(struct statfs, f_type), sizeof system.f_type);
    if (head.state != DONE || head.given != 1 || !(S_ISREG(mode) || S_ISDIR(mode)))
        return -1;
    for (size_t i = 0; i < count; i++)
        if (kinds[i] == (uint32_t)system.f_type && hear_closed(asked->sock, asked->patience) == 0)
            return asked->fds[0];
    return -1;
}

int opened_as_foreseen(const struct posed *posed) {
    const struct asked *asked = &posed->asked;
    const struct foresees *foresees = posed->form != NULL ? posed->form->foresees : NULL;
    struct reply head;
    if (foresees == NULL || asked->problem != 0 || asked->given != 1
        || asked->length < (ssize_t)(sizeof head + 8 * (size_t)posed->form->request->steps))
        return -1;
    memcpy(&head, asked->into, sizeof head);
    return head.state == DONE && head.given == 1 && !is_error(step_result(asked, foresees->opened))
                   && is_error(step_result(asked, foresees->pinned)) && hear_closed(asked->sock, asked->patience) == 0
               ? asked->fds[0] : -1;
}

static bool is_procfs(const char *kind, size_t length) {
    struct statfs system;
    if (kind == NULL || length < sizeof system.f_type)
        return true;
    memcpy(&system.f_type, kind + offsetof(struct statfs, f_type), sizeof system.f_type);
    return (uint32_t)system.f_type == PROC_SUPER;
}

static bool same_place(const char *one, const char *other) {
    return memcmp(one + STATX_INODE, other + STATX_INODE, 8) == 0
           && memcmp(one + STATX_DEVICE, other + STATX_DEVICE, 8) == 0
           && memcmp(one + STATX_MOUNT, other + STATX_MOUNT, 8) == 0;
}

/* What a form looks for, if it has its answer. */
static const struct looks *looked(const struct posed *posed) {
    const struct asked *asked = &posed->asked;
    const struct looks *looks = posed->form != NULL ? posed->form->looks : NULL;
    struct reply head;
    if (looks == NULL || asked->problem != 0
        || asked->length < (ssize_t)(sizeof head + 8 * (size_t)posed->form->request->steps))
        return NULL;
    memcpy(&head, asked->into, sizeof head);
    return head.state == DONE && head.given == 0 ? looks : NULL;
}

/* The name of what was pinned by one step, if it leads there: parts are its status, file system, name and what that
 * leads to. */
static bool named_by(const struct posed *posed, const int32_t steps[3], const int32_t parts[4], char *name) {
    const struct asked *asked = &posed->asked;
    const char *part[4];
    size_t size[4];
    for (int i = 0; i < 3; i++)
        if (is_error(step_result(asked, steps[i])))
            return false;
    for (int i = 0; i < 4; i++)
        if ((part[i] = answer_part(posed->form->request, asked, parts[i], &size[i])) == NULL)
            return false;
    if (size[0] < STATX_BYTES || size[3] < STATX_BYTES || is_procfs(part[1], size[1]) || size[2] == 0 || size[2] > PATH_MAX
        || part[2][0] != '/' || !same_place(part[0], part[3]))
        return false;
    memcpy(name, part[2], size[2]);
    name[size[2]] = 0;
    return true;
}

bool plainly_missing(const struct posed *posed, char *name) {
    const struct looks *looks = looked(posed);
    return looks != NULL && step_result(&posed->asked, looks->pin) == -ENOENT
           && step_result(&posed->asked, looks->plain) == -ENOENT
           && named_by(posed, (int32_t[]){looks->above, looks->upper_link, looks->upper_again},
                       (int32_t[]){looks->first, looks->first + 1, looks->text, looks->first + 3}, name);
}

bool plainly_named(const struct posed *posed, char *name) {
    const struct asked *asked = &posed->asked;
    const struct looks *looks = looked(posed);
    if (looks == NULL)
        return false;
    if (looks->direct >= 0 && !is_error(step_result(asked, looks->direct))) {
        size_t size;
        const char *kind = answer_part(posed->form->request, asked, looks->kind, &size);
        memcpy(name, posed->path, posed->used);
        name[posed->used] = 0;
        return !is_procfs(kind, size);
    }
    return named_by(posed, (int32_t[]){looks->pin, looks->link, looks->again},
                    (int32_t[]){looks->first, looks->first + 1, looks->first + 2, looks->first + 3}, name);
}

bool begins(const Known *caller, int look, const int *dirfds, size_t many, int listener, uint64_t id,
                   struct asked *asked) {
    char here[4096], *text = here;
    ssize_t length;
    bool good = look == 0 || unchanged(caller, look > 1, NULL, here, sizeof here, &text, &length);
    if (text != here)
        free(text);
    for (size_t i = 0; good && i < many; i++) {
        int place = asked->sent[asked->along] = place_of(caller, dirfds[i]);
        good = place >= 0, asked->along += good;
    }
    return good && (listener < 0 || id_valid(listener, id) == 0);
}

/* What was heard, or why it could not be sent; False where nothing was asked. */
static PyObject *came_of(Request *request, struct asked *asked, bool begun) {
    if (!begun) {
        drop_room(asked);
        return Py_NewRef(Py_False);
    }
    PyObject *result = heard(request, asked);
    return result != NULL || PyErr_Occurred() != NULL ? result : raise_errno(asked->problem);
}

PyObject *core_act_for(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count) {
    if (count != 10)
        return PyErr_Format(PyExc_TypeError, "act_for() takes 10 arguments, not %zd", count);
    const Known *caller = known_from(args[0]);
    if (caller == NULL)
        return NULL;
    struct asked asked;
    Py_ssize_t many = PyTuple_Size(args[4]);
    int look = (int)PyLong_AsLong(args[1]), listener = (int)PyLong_AsLong(args[2]), dirfds[MOST_SENT];
    uint64_t id = PyLong_AsUnsignedLongLongMask(args[3]);
    for (Py_ssize_t i = 0; i < many && i < MOST_SENT; i++)
        dirfds[i] = (int)PyLong_AsLong(PyTuple_GetItem(args[4], i));
    asked.along = 0, asked.sock = (int)PyLong_AsLong(args[5]);
    int table = (int)PyLong_AsLong(args[6]);
    asked.patience = PyLong_AsLong(args[7]);
    Request *request = PyErr_Occurred() == NULL ? request_from(args[8], args[9], &asked) : NULL;
    if (request == NULL)
        return NULL;
    if (many >= MOST_SENT)
        return PyErr_Format(PyExc_TypeError, "fewer than %d paths are wanted", MOST_SENT);
    if (!make_room(request, &asked))
        return PyErr_NoMemory();
    bool begun;
    Py_BEGIN_ALLOW_THREADS
    begun = begins(caller, look, dirfds, (size_t)many, listener, id, &asked);
    int places = asked.along;
    if (begun) {
        take_along(request, &asked, table);
        ask(request, &asked);
    }
    while (places > 0)
        close(asked.sent[--places]);
    Py_END_ALLOW_THREADS
    return came_of(request, &asked, begun);
}

/* A duplicate of what a caller has open under a number; -1 if that is nothing, or is held as a path only. */
static int taken(const Known *caller, int number) {
    int fd = number < 0 || caller->pidfd < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, caller->pidfd, number, 0);
    int flags = fd < 0 ? -1 : fcntl(fd, F_GETFL);
    if (fd >= 0 && (flags < 0 || flags & O_PATH)) {
        close(fd);
        return -1;
    }
    return fd;
}

PyObject *core_act_on(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count) {
    if (count != 9)
        return PyErr_Format(PyExc_TypeError, "act_on() takes 9 arguments, not %zd", count);
    const Known *caller = known_from(args[0]);
    if (caller == NULL)
        return NULL;
    struct asked asked;
    int look = (int)PyLong_AsLong(args[1]), listener = (int)PyLong_AsLong(args[2]), number = (int)PyLong_AsLong(args[4]), fd = -1;
    uint64_t id = PyLong_AsUnsignedLongLongMask(args[3]);
    asked.along = 0, asked.sock = (int)PyLong_AsLong(args[5]);
    asked.patience = PyLong_AsLong(args[6]);
    Request *request = PyErr_Occurred() == NULL ? request_from(args[7], args[8], &asked) : NULL;
    if (request == NULL)
        return NULL;
    if (!make_room(request, &asked))
        return PyErr_NoMemory();
    Py_BEGIN_ALLOW_THREADS
    fd = taken(caller, number); /* and then it is seen whose that is */
    if (fd >= 0 && begins(caller, look, NULL, 0, listener, id, &asked)) {
        ask_on(request, &asked, &fd);
    } else if (fd >= 0) {
        close(fd);
        fd = -1;
    }
    Py_END_ALLOW_THREADS
    PyObject *result = came_of(request, &asked, fd >= 0);
    if (fd >= 0 && result == NULL)
        close(fd);
    return fd < 0 || result == NULL ? result : Py_BuildValue("(Ni)", result, fd);
}
