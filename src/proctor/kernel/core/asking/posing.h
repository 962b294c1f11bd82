/* Questions to executors: asking/asking.c asks them, asking/posing.c and acting/short.c have them asked. */
#pragma once
#include <Python.h>
#include "core.h"
#include "callers/acting.h"

enum { MOST_SENT = 253, MOST_GIVEN = 8 };

/* A request: what is sent, where values are put into it, and what its answer looks like. */
typedef struct {
    PyObject_HEAD
    PyObject *packet, *holes, *ranges, *given; /* bytes */
    Py_ssize_t steps, values, longest, sent; /* sent: how many descriptors it knows what to do with */
} Request;

/* A question on its way, and what became of it. */
struct asked {
    int sock, along, sent[MOST_SENT];
    long patience;
    const char *packet; /* NULL only receives */
    size_t size;
    char here[12288], *into; /* room for the answer */
    int problem, given, fds[MOST_GIVEN];
    ssize_t length;
};

struct head { /* executor.h */
    uint16_t steps, fixes, ranges;
    uint8_t given, last;
    uint32_t bytes, scratch, where, unused;
};
enum { ANYWHERE = 0, PROCESSOR = 2 }; /* head.where */
struct reply { /* the same */
    uint16_t state, given;
    int32_t error; /* of DONE: one more than the processor that it was done on */
};
enum { DONE = 0, CLOSED = 5 };
/* So many microseconds a socket waits by itself (SO_RCVTIMEO), which is a system call less: Pace.TICK. */
enum { TICK = 4000 };
/* So few that nobody minds, whoever waits: Pace. */
enum { FEW = 50 };

extern PyTypeObject *request_type;

struct value { /* what is put into a hole: a number, or bytes */
    uint64_t number;
    const char *text; /* NULL: a number */
    size_t length;
};
/* A request's packet with its values, malloced; NULL without memory, or if one has no room.  Without the GIL. */
char *filled(const Request *self, const struct value *values, size_t *size);
/* One that Python gave, with its packet filled in, and nothing asked yet; NULL with an exception. */
Request *request_from(PyObject *object, PyObject *packet, struct asked *asked);
/* Whether there is room for the answer, which the asker drops, or hears. */
bool make_room(const Request *self, struct asked *asked);
void drop_room(struct asked *asked);
/* Without the GIL: put the value of this index (a number has eight bytes) into a copy of its packet: false if it has no room. */
bool put_value(const Request *self, char *packet, uint32_t index, const void *bytes, size_t length);
/* Without the GIL. */
void ask(const Request *self, struct asked *asked);
/* The same, with this descriptor behind those that go along: closed, and -1, where it is one that cannot be passed, and nothing was
 * asked: a longer way says what it is. */
void ask_on(const Request *self, struct asked *asked, int *fd);
/* What Request.ask() returns, and room is freed; NULL without an exception if it could not be sent. */
PyObject *heard(Request *self, struct asked *asked);
/* The result of a step in an answer, and a part of it (NULL: it has not got it), which is so long. */
int64_t step_result(const struct asked *asked, int step);
const char *answer_part(const Request *self, const struct asked *asked, int part, size_t *length);
/* Whether a result is an errno, or its step was not made. */
bool is_error(int64_t result);
/* Without the GIL: wait until an executor says that it has closed what it gave: 0 or an errno. */
int hear_closed(int sock, long patience);

struct form { /* a question that wants a path, and nothing else any more */
    Request *request;
    const char *packet;
    Py_ssize_t size, offset, room;
    int relative, table; /* whether the place where it starts goes along, and the executor's own descriptors */
    int opens; /* its last wants are struct statfs and struct statx of what is given */
    const struct looks *looks; /* it names what the path leads to; NULL: it does not */
    const struct foresees *foresees; /* it opens what is expected there; NULL: nothing is expected */
};

struct foresees { /* where in the packet that is put, how long it may be; steps that open it, or give something else */
    int32_t offset, room, opened, pinned;
};

struct looks { /* steps, and parts of the answer: seeking.py has it */
    int32_t direct, kind;            /* a walk without any link, of what is its own name then; -1: none is made */
    int32_t pin, first, link, again; /* first: status, file system, name and what that leads to */
    int32_t plain;                   /* the walk that follows no link */
    int32_t above, text, upper_link, upper_again; /* the same of the directory of what is not there: text: its name */
    int32_t offset, room;            /* where in the packet the path of that directory is put */
};

enum { MOST_FORMS = 8, LONGEST_PACKET = 4096 };

/* A path that an executor is asked about for somebody, and what came of that. */
struct posed {
    const Known *caller;
    bool groups, same;
    int listener, dirfd, table, many;
    uint64_t id, address; /* of the path, if it is not known yet */
    const char *path;     /* NULL: not known */
    char *read;           /* malloced */
    size_t used;
    const struct form *forms, *form; /* the one that was taken */
    struct asked asked;
};

/* What core.Forms has, which holds them: how many they are; -1 with an exception. */
int forms_in(PyObject *object, const struct form **forms);
/* Without the GIL: see who calls, read the path, ask, and hear. */
void pose(struct posed *posed);
/* The same in two: up to the choice of a form (NULL: none), and from there, with what is expected, if it foresees, or
 * the path of the directory, if it looks. */
void choose(struct posed *posed);
void ask_chosen(struct posed *posed, const char *more, size_t size);
/* Without the GIL: the descriptor in the answer to a form that foresees, if that is what was expected, and the executor has
 * closed its own; -1 if not. */
int opened_as_foreseen(const struct posed *posed);
/* Without the GIL: the descriptor in the answer to a form that opens, if that is a regular file or a directory of
 * one of these kinds of file systems, and the executor has closed its own; -1 if not. */
int plainly_opened(const struct posed *posed, const uint32_t *kinds, size_t count);
/* Without the GIL: the name that the answer to a form that looks has for where the path leads, PLACE_SIZE bytes; false
 * for all that is not plain. */
bool plainly_named(const struct posed *posed, char *name);
/* The same of one that says that nothing is there, and that no link is on the way: the name of the directory. */
bool plainly_missing(const struct posed *posed, char *name);
/* Without the GIL: see who calls (look 0: that was done; above 1 also its groups), take where its paths start, and see that
 * it waits: whether that is so.  Who goes along is the asker's to close. */
bool begins(const Known *caller, int look, const int *dirfds, size_t many, int listener, uint64_t id, struct asked *asked);
/* The executor's own descriptors go along behind the places where paths start, if the request has anything to do with them: every
 * descriptor costs both sides some. */
void take_along(const Request *self, struct asked *asked, int table);
/* What core.ask_for() returns. */
PyObject *posed_result(struct posed *posed);
