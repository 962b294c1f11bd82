/* Requests and replies of the executor (executor.c): their layouts, and what makes one of the other.
 * proctor.performing.executing.steps has the other side.
 *
 * A request is one packet: struct head, the steps, fixes, ranges and numbers of given steps that it
 * counts, then its bytes.  Scratch space, zeroed, follows them; both together are the request's
 * *space*.  An argument of a step is a value, the address of a place in that space, a descriptor
 * that came along, or the result of an earlier step; fixes put such things into the space itself,
 * just before a step.  A step says what comes next when its result is good and when it is bad: on,
 * so many steps further, the end, or the end of this process (where going on would be with rights
 * that must not stay).
 *
 * A reply is struct reply, the results of all steps (SKIPPED for those not made), the wanted ranges
 * of the space, and the wanted descriptors.  Whatever else a request left open is closed: nothing
 * but descriptors 0 to KEPT-1 lives from one request to the next.  A reply without descriptors comes
 * when that is done; after one with them that it is done is said in a reply of its own (CLOSED), unless the process
 * was to end with it (head.last). */
#include <signal.h>
#include <stddef.h>
#include <stdint.h>

enum {
    CONTROL = 3,        /* the socket that requests come from */
    KEPT = 8,           /* lower descriptors are ours; 4 to 7 are for steps to put something there */
    MOST_SENT = 253,    /* descriptors with one request: what one message takes (SCM_MAX_FD of include/net/scm.h) */
    MOST_GIVEN = 8,     /* descriptors with one reply */
    MOST_STEPS = 1024,
    ROOM = 256 * 1024,  /* a request with its scratch space; a reply */
    DESCENDANT = 250,   /* greatest number of steps to skip */
    END = 0xfe,         /* what comes next: nothing, reply */
    DIE = 0xff,         /* what comes next: nothing ever */
};

/* Kinds of arguments (two bits each in step.kinds) and of fixes. */
enum { VALUE, PLACE, SENT, RESULT, DECIMAL };
enum { EXPECT = 1 << 12 };  /* in step.kinds: good is what equals step.want, not what is no errno */
enum { CHANGES = 1 << 13 }; /* the same: once it gave no errno, or EINPROGRESS which is not EXPECTed, no signal keeps the steps behind it from being made */
enum { BEGINS = 1 << 14 };  /* the same: it is a change that one behind it (CHANGES) has to finish: nobody else can, once we are gone */
#define AS_32_BITS 0x80000000L /* in step.number: openat(2) of the table of 32 bits */
#define LOAD 0x40000000L       /* in step.number: no call; the result is the four bytes at its first argument, a place */
#define COMPARE 0x20000000L    /* the same: whether two places hold the same, of a length: 0 or -EINVAL */

struct head {
    uint16_t steps, fixes, ranges;
    uint8_t given, last; /* last: the process ends with its reply, and says no more */
    uint32_t bytes, scratch;
    uint32_t where; /* ANYWHERE; FREELY, which who asks leaves as it is; or PROCESSOR and the number of a processor, to which it goes once it has replied */
    uint32_t unused;
};
enum { ANYWHERE, FREELY, PROCESSOR };
struct step {
    uint32_t number;
    uint16_t kinds;
    uint8_t good, bad; /* 0: the next step; up to DESCENDANT: so many are skipped; END; DIE */
    uint64_t want;
    uint64_t args[6];
};
struct fix {
    uint32_t offset;
    uint16_t step; /* done just before this one */
    uint8_t kind, width;
    uint64_t value;
};
struct range {
    uint32_t offset, length;
    uint32_t step; /* no longer than the result of this one; NO_STEP: of this length */
};
struct reply {
    uint16_t state, given;
    int32_t error; /* of DONE: one more than the number of the processor that it was on */
};
enum { NO_STEP = 0xffffffff };
enum { DONE, MALFORMED, CUT, NO_PROCESS, UNGIVEN, CLOSED, INTERRUPTED }; /* reply.state */

/* The signal by which the monitor has a request end as a signal for the caller would: as a step that waits ends with EINTR,
 * and what does not wait for anybody is done.  Ignored by whatever an executor becomes (execve), unless it says otherwise. */
#define INTERRUPTS SIGURG
void interrupt(int number, siginfo_t *info, void *context); /* its handler */
enum { RESTARTS = 512 }; /* ERESTARTSYS of include/linux/errno.h: nothing was done, and the caller's handler says what becomes of that */
/* Whether it is seen what is to be begun anew, and what is EINTR whatever the caller's handler says: the kernel takes the former back
 * to its instruction (kernel/signal.c of each architecture). */
#if defined(__x86_64__) || defined(__aarch64__) || defined(__riscv)
enum { GOES_BACK = SA_RESTART };
#else
enum { GOES_BACK = 0 };
#endif

extern unsigned char request[], answer[]; /* packets of ROOM bytes */

/* How far an executor is with the last request that it was given, in memory that outlives it and its monitor, of which
 * proctor.kernel.progress is the other side: who comes after them knows by it what was done. */
struct progress {
    uint32_t owner;  /* a robust futex (get_robust_list(2)): its thread; the kernel adds FUTEX_OWNER_DIED once that makes no calls any more */
    uint32_t state;
    uint32_t serial; /* requests that this place has seen; written after the state of the new one */
    int32_t result;  /* of the last change that was made; written before the state that says so */
    uint32_t spare[12];
};
/* Nothing is changed; it has steps that may change something; it is at one; one is done, others may follow; one was done, and
 * all that was behind it; several were, or not all of one. */
enum { NOTHING_DONE, MAY_CHANGE, AT_A_CHANGE, CHANGED, ONE_CHANGE, SEVERAL_CHANGES };
_Static_assert(sizeof(struct progress) == 64, "as documented");
extern struct progress *progress; /* NULL: nobody is to know */

/* A request taken apart; pointers are into the packet. */
struct job {
    const struct head *head;
    const struct step *steps;
    const struct fix *fixes;
    const struct range *ranges;
    const uint32_t *given;
    unsigned char *space;
    uint64_t size; /* of the space */
    const int *sent;
    size_t count; /* of sent */
    int64_t *results;
};

/* Take the packet of this length in request[] apart; 0 if it cannot be one. */
int parse(size_t length, const int *sent, size_t count, int64_t *results, struct job *job);
/* Make its steps in order; what they say may be that it is the end of this process.  RESTARTS or EINTR if a signal ended one
 * and nothing was changed: rights may be lent still, so the process is to end. */
int make_steps(const struct job *job);
/* The reply in answer[]: its length; the descriptors that go along are put into fds. */
size_t compose(const struct job *job, int *fds, size_t *given);
