/* What the sources of the short way share: acting/short.c is it, as far as we open ourselves, acting/ahead.c where an executor is asked. */
#pragma once
#include "loop/route.h"
#include "asking/posing.h"

enum { KEY, DEVICES, HERE, GROUPS, MAKES, ITSELF, FIELDS }; /* of a callers.Known */

typedef struct {
    HOLDS(16, longer, *rest, *standings, *give_back, *here, *ours, *kinds, *executors, *plan, *asked, *plans, *foreseen, *allows,
          *allowed, *meet, *port);
    int listener, limit, waits; /* whether callers wait killably; -1: nobody has seen that yet */
    uint32_t arch;
    unsigned long long valid, unusual, making;
} Short;

struct caller { /* taken out of the standings, for one call */
    PyObject *standing, *kept;
    Known *known;
};

/* A call on this way. */
struct turn {
    const struct seccomp_notif *raw;
    uint64_t flags;
    char *path; /* malloced; NULL: not read */
    size_t used;
    int fd; /* what is to be given; minus the errno of its answer; LEFT */
    bool told, answered, delivered; /* who is told of it wants to know the last: whether somebody was there to hear it */
    struct slot *slot; /* of a journal; NULL for nowhere */
    Py_buffer held;    /* which that is in */
};

/* What is said of what was answered; or what is done with what was opened, or else was read. */
PyObject *concluded(const Short *self, PyObject *call, const struct turn *turn);
/* Have somebody called with arguments, who has this descriptor from then on; it is closed if they are NULL, with an exception. */
PyObject *handed(PyObject *whom, PyObject *args, int fd);
/* Answer with an errno that came out, or give what was opened, if that is ours to do.  Without the GIL. */
void conclude_turn(const Short *self, struct turn *turn);
/* Of a here.Here: our root, our own descriptors as links, and who makes what has a umask; that one's holder, which is the asker's,
 * or NULL where we are not what we were, or it is closed. */
PyObject *our_place(PyObject *here, int *root, int *table, struct maker **maker);
void let_go_of_caller(struct caller *caller);
/* What is known of a caller in this container, which is not taken out; false if nothing is, or with an exception. */
bool find_caller(PyObject *standings, PyObject *container, PyObject *tid, struct caller *caller);
/* The same, taken out. */
bool take_known(PyObject *standings, PyObject *container, PyObject *tid, struct caller *caller);
void put_back(const Short *self, PyObject *tid, struct caller *caller);
/* The same: among those that are known. */
void give_back_caller(PyObject *standings, PyObject *give_back, PyObject *tid, struct caller *caller);
const uint32_t *kinds_of(const Short *self, size_t *count);
/* Have an executor asked, who is lent for that; NULL without an exception if there is none, and nothing has happened.
 * The standing is given back by whoever goes on, if anybody does. */
PyObject *ask_one(Short *self, PyObject *call, PyObject *wish, PyObject *tid, struct caller *caller, bool ruled,
                  struct turn *turn);

/* Whether an object is a Short. */
bool is_short(PyObject *object);
/* Open for the call that this thread routes, if it is plain, and whoever calls is what we are: whether it is answered, with
 * 0 in the turn's fd, or minus an errno.  If not, nothing has happened, unless that is a descriptor that is to be given, and
 * may be that of a new file.  With the GIL; false with an exception, too. */
bool short_by_rules(PyObject *me, PyObject *container, PyObject *notification, allows *allows, void *rules,
                    struct turn *turn);
void turn_over(struct turn *turn);

/* A call that is performed at once; NULL or an owned reference where nothing else is said. */
struct routing {
    PyObject *notification, *container, *wish; /* borrowed */
    PyObject *call, *make;                     /* NULL: made of the notification, by this, when it is wanted */
};
/* Whether an object is a Connect. */
bool is_connect(PyObject *object);
/* With the GIL, as calling a Connect: REPLIED: with this errno, as an int; GOES_ON: what is said to the call; NOTHING has happened.
 * An exception may be set with any of them. */
PyObject *connect_routed(PyObject *connect, struct routing *call, const struct seccomp_notif *raw, int *became);

/* asking/books.c: an executor for what is kept of somebody (callers.Known), how it is asked, and its descriptors (unless table is NULL); NULL
 * without an exception: none waits.
 *
 * whom: another one's, who works for him; NULL: his own. */
PyObject *books_lend(PyObject *books, PyObject *kept, PyObject *whom, long limit, struct asked *asked, int *table);
/* It is of no use any more: what it is at, nobody waits for. */
void books_discard(PyObject *books, PyObject *executor);
/* It has answered in time, and has nothing open any more that it gave: it is free again. */
void books_free(PyObject *books, PyObject *executor, long patience);
