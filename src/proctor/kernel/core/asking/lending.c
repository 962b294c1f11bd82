/* A right that is lent: an executor is asked as the caller, and then the lender about what that has pinned, in one go.
 * The manual is _core.pyi; proctor.performing.short_ways.lending has the rest, and all that is not plain. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "asking/lending.h"
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { STATX_IDS = 0x18, STATX_UID_AT = 20, STATX_GID_AT = 24 };

static bool among(const uint32_t *ranges, size_t count, uint32_t number) {
    for (size_t i = 0; i + 1 < count; i += 2)
        if (number - ranges[i] < ranges[i + 1])
            return true;
    return false;
}

/* Whether what is pinned has both its owners there; not if they are hidden from us. */
static bool is_theirs(const struct terms *terms, int pin) {
    unsigned char status[256];
    uint32_t uid, gid;
    if (!terms->owned)
        return true;
    if (syscall(SYS_statx, pin, "", AT_EMPTY_PATH | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC, STATX_IDS, status) != 0)
        return false;
    memcpy(&uid, status + STATX_UID_AT, sizeof uid);
    memcpy(&gid, status + STATX_GID_AT, sizeof gid);
    return among(terms->users, terms->users_count, uid) && among(terms->groups, terms->groups_count, gid);
}

static bool nodes_work(const struct terms *terms, const Request *request, const struct asked *asked) {
    size_t size;
    struct statfs system;
    if (terms->system < 0)
        return true;
    const char *part = answer_part(request, asked, terms->system, &size);
    if (part == NULL || size < offsetof(struct statfs, f_flags) + sizeof system.f_flags)
        return false;
    memcpy(&system.f_type, part + offsetof(struct statfs, f_type), sizeof system.f_type);
    memcpy(&system.f_flags, part + offsetof(struct statfs, f_flags), sizeof system.f_flags);
    for (size_t i = 0; i < terms->kinds_count; i++)
        if (terms->kinds[i] == (uint32_t)system.f_type)
            return !(system.f_flags & ST_NODEV);
    return false;
}

bool came_to(const struct terms *terms, int64_t made) {
    return terms->result == 0 ? !is_error(made) : made == terms->result;
}

bool agreed(const struct terms *terms, const Request *request, const struct asked *asked) {
    struct reply head;
    if (asked->problem != 0 || asked->given != 1
        || asked->length < (ssize_t)(sizeof head + 8 * (size_t)request->steps))
        return false;
    memcpy(&head, asked->into, sizeof head);
    return head.state == DONE && head.given == 1 && came_to(terms, step_result(asked, terms->made)) && nodes_work(terms, request, asked) && is_theirs(terms, asked->fds[0]);
}

static const uint32_t *numbers_in(PyObject *bytes, size_t *count) {
    char *data = NULL;
    Py_ssize_t size = 0;
    if (PyBytes_AsStringAndSize(bytes, &data, &size) == 0 && size % (Py_ssize_t)sizeof(uint32_t) != 0)
        PyErr_SetString(PyExc_ValueError, "these are no numbers");
    *count = (size_t)size / sizeof(uint32_t);
    return (const void *)data; /* bytes objects are aligned */
}

void loan_begins(struct loan *loan) {
    memset(loan, 0, offsetof(struct loan, asked)); /* that one is large */
    loan->pin = -1, loan->closed = EAGAIN, loan->asked.along = 0, loan->asked.into = loan->asked.here;
}

bool terms_in(PyObject *tuple, struct terms *terms) {
    PyObject *kinds, *users, *groups;
    long long result;
    if (!PyArg_ParseTuple(tuple, "iLiSpSS", &terms->made, &result, &terms->system, &kinds, &terms->owned, &users, &groups))
        return false;
    terms->result = result;
    terms->kinds = numbers_in(kinds, &terms->kinds_count);
    terms->users = numbers_in(users, &terms->users_count);
    terms->groups = numbers_in(groups, &terms->groups_count);
    return PyErr_Occurred() == NULL;
}

void lend_upon(struct loan *loan, const struct asked *first) {
    struct asked *asked = &loan->asked;
    loan->pin = asked->sent[asked->along++] = first->fds[0];
    if (loan->table >= 0)
        asked->sent[asked->along++] = loan->table;
    ask(loan->request, asked);
    loan->was_asked = true;
    if (asked->problem != 0 || asked->length >= 0) {
        loan->closed = hear_closed(first->sock, first->patience);
        close(loan->pin);
        loan->pin = -1;
    }
}

int came_of_loan(const struct loan *loan) {
    const struct asked *asked = &loan->asked;
    struct __user_cap_data_struct left[2];
    struct reply head;
    size_t size;
    if (asked->problem != 0 || asked->given != 0 || asked->length < (ssize_t)(sizeof head + sizeof(int64_t) * (size_t)loan->request->steps))
        return LEFT;
    memcpy(&head, asked->into, sizeof head);
    const char *part = answer_part(loan->request, asked, loan->left, &size);
    if (head.state != DONE || head.given != 0 || part == NULL || size != sizeof left)
        return LEFT;
    memcpy(left, part, sizeof left);
    int64_t made = step_result(asked, loan->retried);
    if (made == INT64_MIN) /* it was not made */
        made = step_result(asked, loan->made);
    return left[0].effective != 0 || left[1].effective != 0 || made == INT64_MIN ? LEFT : is_error(made) ? (int)-made : 0;
}

PyObject *core_lend_for(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *valid, *dirfds, *agreed_upon, *requests[2], *packets[2];
    struct asked first;
    struct loan loan;
    Known *caller;
    PyObject *known;
    int look, listener, table;
    first.along = 0;
    loan_begins(&loan);
    unsigned long long id;
    if (!PyArg_ParseTuple(args, "OiOiKO!(iil)OSO!(iil)OS", &known, &look, &valid, &listener, &id, &PyTuple_Type,
                          &dirfds, &first.sock, &table, &first.patience, &requests[0], &packets[0], &PyTuple_Type,
                          &agreed_upon, &loan.asked.sock, &loan.table, &loan.asked.patience, &requests[1], &packets[1])
        || (caller = known_from(known)) == NULL)
        return NULL;
    Request *asking = request_from(requests[0], packets[0], &first);
    if (asking == NULL || (loan.request = request_from(requests[1], packets[1], &loan.asked)) == NULL || !terms_in(agreed_upon, &loan.terms))
        return NULL;
    Py_ssize_t many = PyTuple_Size(dirfds);
    int places[MOST_SENT];
    if (many >= MOST_SENT || loan.terms.made < 0 || loan.terms.made >= asking->steps)
        return PyErr_Format(PyExc_ValueError, "so many places, or such a step, there are not");
    for (Py_ssize_t i = 0; i < many; i++)
        places[i] = (int)PyLong_AsLong(PyTuple_GetItem(dirfds, i));
    if (PyErr_Occurred() != NULL)
        return NULL;
    if (!make_room(asking, &first) || !make_room(loan.request, &loan.asked)) {
        drop_room(&first);
        return PyErr_NoMemory();
    }
    bool begun, lent;
    Py_BEGIN_ALLOW_THREADS
    begun = begins(caller, look, places, (size_t)many, listener, id, &first);
    int started = first.along;
    if (begun) {
        take_along(asking, &first, table);
        ask(asking, &first);
    }
    while (started > 0)
        close(first.sent[--started]);
    lent = begun && agreed(&loan.terms, asking, &first) && (listener < 0 || id_valid(listener, id) == 0);
    Py_END_ALLOW_THREADS
    if (lent && listener < 0) {
        PyObject *waits = PyObject_CallNoArgs(valid);
        lent = waits == Py_True;
        if (waits == NULL)
            PyErr_WriteUnraisable(valid);
        Py_XDECREF(waits);
    }
    Py_BEGIN_ALLOW_THREADS
    if (lent)
        lend_upon(&loan, &first);
    Py_END_ALLOW_THREADS
    if (!begun) {
        drop_room(&first);
        drop_room(&loan.asked);
        return Py_NewRef(Py_False);
    }
    PyObject *said;
    if (!lent) {
        drop_room(&loan.asked);
        said = heard(asking, &first);
        return said != NULL ? Py_BuildValue("(NOii)", said, Py_None, -1, EAGAIN)
               : PyErr_Occurred() != NULL ? NULL : raise_errno(first.problem);
    }
    size_t size = 0;
    const char *part = answer_part(asking, &first, 0, &size);
    PyObject *told = PyBytes_FromStringAndSize(part, part != NULL ? (Py_ssize_t)size : 0);
    drop_room(&first);
    said = told != NULL ? heard(loan.request, &loan.asked) : NULL;
    if (said == NULL && PyErr_Occurred() == NULL)
        said = PyLong_FromLong(loan.asked.problem);
    if (said == NULL) {
        if (loan.pin >= 0)
            close(loan.pin);
        Py_XDECREF(told);
        return NULL;
    }
    return Py_BuildValue("(NNii)", told, said, loan.pin, loan.closed);
}
