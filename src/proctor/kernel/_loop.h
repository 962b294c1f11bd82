/* What the sources of the loop share: _loop.c routes, _sources.c receives, _role.c says who does that. */
#include "_core.h"

enum { EVENTS = 16, PER_LISTENER = 32, BATCH = EVENTS * PER_LISTENER };
enum { FREE, RECEIVING, RECEIVED, PERFORMING, GIVEN };

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
    atomic_uint led, standing, wanted, closed, asleep, bell;
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

PyObject *loop_watch(PyObject *me, PyObject *args);
PyObject *loop_unwatch(PyObject *me, PyObject *args);
PyObject *loop_forget(PyObject *me, PyObject *none);
PyObject *loop_lead(PyObject *me, PyObject *args);
PyObject *loop_surrender(PyObject *me, PyObject *none);
PyObject *loop_resign(PyObject *me, PyObject *args);
