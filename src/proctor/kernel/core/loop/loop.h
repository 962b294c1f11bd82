/* What the sources of the loop share: loop/loop.c routes, loop/sources.c receives, loop/role.c says who does that. */
#include "core.h"

enum { EVENTS = 16, PER_LISTENER = 32, BATCH = EVENTS * PER_LISTENER };
enum { FREE, RECEIVING, RECEIVED, PERFORMING, GIVEN };
enum { ROUTES, FALLBACK, SETTLE, AMEND = 4 }; /* items of a source's tuple */

struct slot { /* docs/journal.md; 128 bytes */
    _Atomic uint32_t state;
    uint32_t given; /* GIVEN: the caller's descriptor, which is the answer */
    uint64_t time; /* CLOCK_MONOTONIC, ns */
    struct seccomp_notif raw;
    uint64_t spare[4];
};
struct header {
    char magic[8];
    uint32_t version, slot_size, slots;
    _Atomic uint32_t lost; /* received when no slot was free */
    char spare[104];
};
_Static_assert(sizeof(struct slot) == 128 && sizeof(struct header) == 128, "as documented");

struct source { /* something that epoll watches, whose data this is */
    struct source *next; /* of those that are watched no more */
    int fd;
    bool listener, gone;
    struct slot *slots; /* its journal's; NULL without one */
    uint32_t count, at;
    Py_buffer journal;
};

struct entry {
    struct source *source;
    struct slot *slot; /* NULL: it is no listener, and readable */
};

typedef struct {
    PyObject_HEAD
    int epoll, event;
    struct source **sources; /* by descriptor: there may be thousands */
    struct source *gone;     /* those that are watched no more */
    int room;                /* for so many */
    PyObject *way, *what; /* what is being routed; whoever does that holds them */
    int count, next;      /* of the batch */
    struct entry batch[BATCH];
    struct slot own[BATCH];
    _Atomic unsigned long generation, serial, surrendered;
    /* Who answers what is being routed: twice the token of whoever may claim that, and one more once it did. */
    _Atomic unsigned long claim;
    struct giver *giver;
    unsigned long handed; /* calls that it was given */
    atomic_uint led, standing, wanted, closed, asleep, bell;
    atomic_bool more; /* of the batch, behind what is being routed */
} Loop;

/* Without the GIL: receive what a listener has into the batch.  Not to drain saves time: after many
 * rounds without a second notification, if all is fast. */
void receive(Loop *self, struct source *source, bool drain, int *problem);
/* Free what is watched no more; no entry of the batch is about it. */
void forget(Loop *self);
/* Nothing is watched any more. */
void leave_all(Loop *self);
/* Wake who stands by. */
void ring(Loop *self);

/* What is left of a call that is claimed: who is given what. */
struct gift {
    int listener, fd; /* the engine's own number of it; what is given, and closed */
    uint64_t id;
    bool cloexec, waits;
    struct slot *slot; /* or NULL */
};
/* loop/giving.c.  NULL without memory. */
struct giver *giver_new(void);
/* Without the GIL, in a route: claim its call, and have another thread give and answer it: whether that will.
 *
 * held: the journal of its slot, which may be taken. */
bool giver_takes(struct giver *giver, const struct gift *what, Py_buffer *held);
/* With the GIL, after that: whose call it was, of this id.  Of nothing, if it has another one by then. */
void giver_knows(struct giver *giver, uint64_t id, PyObject *tuple, PyObject *notification);
/* With the GIL: see to what came of the last one; its journal is let go of unless it is this one. */
void giver_settle(struct giver *giver, const void *journal);
/* Without the GIL: wait until it is at nothing, for so many looks, 2 ms each. */
void giver_calm(struct giver *giver, int looks);
/* Close a listener, at once or when it is not at that any more. */
void giver_closes(struct giver *giver, int listener);
/* In a child of fork(2): close what it was to close, since it is not there. */
void giver_disown(struct giver *giver);
/* With the GIL: it is to end; it is not needed any more. */
void giver_over(struct giver *giver);
void giver_forget(struct giver *giver);

PyObject *loop_watch(PyObject *me, PyObject *args);
PyObject *loop_unwatch(PyObject *me, PyObject *args);
PyObject *loop_forget(PyObject *me, PyObject *none);
PyObject *loop_lead(PyObject *me, PyObject *args);
PyObject *loop_surrender(PyObject *me, PyObject *none);
PyObject *loop_resign(PyObject *me, PyObject *args);
