/* The executor: a process that makes system calls as it is told, and knows nothing else.
 *
 * The monitor must never become a container, so whatever is done in a caller's identity is done
 * here.  What that identity is, which calls are made and why, is decided and composed in Python
 * (proctor.performing.steps has the other side of every layout below).
 *
 *   mother     started by the monitor: descriptor 3 is its control socket, argv[1] the monitor's
 *              number.  Each packet there brings one descriptor, the socket of a new executor, for
 *              which it forks.  It does nothing else, touches nothing of a container's, and ends
 *              with its monitor.  As their parent it gives executors a thread to die with
 *              (PR_SET_PDEATHSIG means the *thread* that forked, and the monitor's come and go).
 *   executor   reads a request from its socket, makes the steps in it in order, replies; again.
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
 * when that is done; after one with them that it is done is said in a reply of its own (CLOSED).
 *
 * Requests are trusted, as the memory they come from is.  They are checked all the same, so that
 * no mistake of the other side becomes one of memory here. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_close_range
#define SYS_close_range 436 /* Linux 5.9; the same number on every architecture */
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

enum {
    CONTROL = 3,        /* the socket that requests come from */
    KEPT = 8,           /* lower descriptors are ours; 4 to 7 are for steps to put something there */
    MOST_SENT = 16,     /* descriptors with one request */
    MOST_GIVEN = 8,     /* descriptors with one reply */
    MOST_STEPS = 1024,
    ROOM = 256 * 1024,  /* a request with its scratch space; a reply */
    DESCENDANT = 250,   /* greatest number of steps to skip */
    END = 0xfe,         /* what comes next: nothing, reply */
    DIE = 0xff,         /* what comes next: nothing ever */
};

/* Kinds of arguments (two bits each in step.kinds) and of fixes. */
enum { VALUE, PLACE, SENT, RESULT, DECIMAL };
enum { EXPECT = 1 << 12 }; /* in step.kinds: good is what equals step.want, not what is no errno */
#define AS_32_BITS 0x80000000L /* in step.number: openat(2) of the table of 32 bits */

struct head {
    uint16_t steps, fixes, ranges, given;
    uint32_t bytes, scratch;
};
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
    int32_t error;
};
enum { NO_STEP = 0xffffffff };
enum { DONE, MALFORMED, CUT, NO_PROCESS, UNGIVEN, CLOSED }; /* reply.state */

static const int64_t SKIPPED = INT64_MIN;
/* Stands for the descriptor that a failed step did not give: no number that any call takes. */
static const int NOTHING = INT_MIN;

static _Alignas(8) unsigned char request[ROOM];
static _Alignas(8) unsigned char answer[ROOM];

/* One system call: its result, or minus its errno. */
#ifndef CALL
#ifdef __x86_64__
/* openat(2) as programs of 32 bits make it, whose flags the kernel leaves as they are (no O_LARGEFILE); its path
 * has to be where those have theirs. */
static int64_t open_as_32_bits(long number, const unsigned long *a)
{
    enum { LONGEST = 8192 };
    static char *low;
    if (low == NULL) {
        void *room = mmap(NULL, LONGEST, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
        if (room == MAP_FAILED)
            return -errno;
        low = room;
    }
    strncpy(low, (const char *)a[1], LONGEST - 1);
    int32_t made;
    __asm__ volatile("int $0x80"
                     : "=a"(made)
                     : "a"((uint32_t)number), "b"((uint32_t)a[0]), "c"((uint32_t)(uintptr_t)low), "d"((uint32_t)a[2]),
                       "S"((uint32_t)a[3])
                     : "memory", "r8", "r9", "r10", "r11");
    return made;
}
#endif

static int64_t CALL(long number, const unsigned long *a)
{
#ifdef __x86_64__
    if (number & AS_32_BITS)
        return open_as_32_bits(number & ~AS_32_BITS, a);
#endif
    errno = 0;
    long made = syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    return made == -1 && errno != 0 ? -errno : made;
}
#endif

static int failed(int64_t result)
{
    return result == SKIPPED || (result < 0 && result >= -4095);
}

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

/* Whether length bytes at offset lie in a space of this size. */
static int within(uint64_t size, uint64_t offset, uint64_t length)
{
    return length <= size && offset <= size - length;
}

/* The next item of a request that has so many of this size; NULL if they are not there. */
static const void *take(size_t *at, size_t length, size_t count, size_t size)
{
    const unsigned char *place = request + *at;
    if (count * size > length - *at)
        return NULL;
    *at += count * size;
    return place;
}

static int sound(const struct job *job)
{
    const struct head *head = job->head;
    for (size_t i = 0; i < head->steps; i++)
        for (int k = 0; k < 6; k++) {
            uint64_t value = job->steps[i].args[k];
            unsigned kind = job->steps[i].kinds >> 2 * k & 3;
            if ((kind == PLACE && value > job->size) || (kind == SENT && value >= job->count) ||
                (kind == RESULT && value >= i))
                return 0;
        }
    for (size_t i = 0; i < head->fixes; i++) {
        const struct fix *fix = &job->fixes[i];
        size_t width = fix->kind == DECIMAL ? 12 : fix->width;
        if (!within(job->size, fix->offset, width) || fix->step >= head->steps ||
            (i > 0 && fix->step < fix[-1].step))
            return 0;
        if (fix->kind != DECIMAL && width != 4 && width != 8)
            return 0;
        if (fix->kind == PLACE ? fix->value > job->size || width != sizeof(void *)
            : fix->kind == SENT ? fix->value >= job->count
            : fix->kind == RESULT || fix->kind == DECIMAL ? fix->value >= fix->step : 1)
            return 0;
    }
    uint64_t total = sizeof(struct reply) + 8 * (uint64_t)head->steps;
    for (size_t i = 0; i < head->ranges; i++) {
        const struct range *range = &job->ranges[i];
        if (!within(job->size, range->offset, range->length) ||
            (range->step != NO_STEP && range->step >= head->steps))
            return 0;
        total += range->length;
    }
    for (size_t i = 0; i < head->given; i++)
        if (job->given[i] >= head->steps)
            return 0;
    return total <= sizeof answer && head->given <= MOST_GIVEN;
}

/* Take a packet of this length apart; 0 if it cannot be one. */
static int parse(size_t length, const int *sent, size_t count, int64_t *results, struct job *job)
{
    size_t at = 0;
    const struct head *head = take(&at, length, 1, sizeof *head);
    if (head == NULL || head->steps > MOST_STEPS)
        return 0;
    job->head = head;
    job->steps = take(&at, length, head->steps, sizeof *job->steps);
    job->fixes = take(&at, length, head->fixes, sizeof *job->fixes);
    job->ranges = take(&at, length, head->ranges, sizeof *job->ranges);
    job->given = take(&at, length, head->given, sizeof *job->given);
    if (job->steps == NULL || job->fixes == NULL || job->ranges == NULL || job->given == NULL)
        return 0;
    at = (at + 7) & ~(size_t)7;
    if (at > length || head->bytes != length - at || !within(ROOM, length, head->scratch))
        return 0;
    job->space = request + at;
    job->size = (uint64_t)head->bytes + head->scratch;
    job->sent = sent;
    job->count = count;
    job->results = results;
    memset(request + length, 0, head->scratch);
    return sound(job);
}

/* The result of a step as an argument: what failed gave nothing. */
static uint64_t result_of(const struct job *job, uint64_t step)
{
    int64_t result = job->results[step];
    return failed(result) ? (uint64_t)(int64_t)NOTHING : (uint64_t)result;
}

static void apply(const struct job *job, const struct fix *fix)
{
    unsigned char *place = job->space + fix->offset;
    if (fix->kind == DECIMAL) { /* ten digits and a NUL are enough for a descriptor or a process */
        char digits[12];
        uint32_t left = (uint32_t)result_of(job, fix->value);
        int at = sizeof digits - 1;
        digits[at] = 0;
        do {
            digits[--at] = (char)('0' + left % 10);
            left /= 10;
        } while (left != 0);
        memcpy(place, digits + at, sizeof digits - (size_t)at);
        return;
    }
    uint64_t value = fix->kind == PLACE  ? (uint64_t)(uintptr_t)(job->space + fix->value)
                     : fix->kind == SENT ? (uint64_t)job->sent[fix->value]
                                         : result_of(job, fix->value);
    if (fix->width == 8) {
        memcpy(place, &value, 8);
    } else {
        uint32_t low = (uint32_t)value;
        memcpy(place, &low, 4);
    }
}

static void make_steps(const struct job *job)
{
    size_t count = job->head->steps, fix = 0;
    for (size_t i = 0; i < count; i++)
        job->results[i] = SKIPPED;
    for (size_t i = 0; i < count; i++) {
        const struct step *step = &job->steps[i];
        for (; fix < job->head->fixes && job->fixes[fix].step <= i; fix++)
            if (job->fixes[fix].step == i)
                apply(job, &job->fixes[fix]);
        unsigned long args[6];
        for (int k = 0; k < 6; k++) {
            uint64_t value = step->args[k];
            switch (step->kinds >> 2 * k & 3) {
            case PLACE:
                args[k] = (unsigned long)(uintptr_t)(job->space + value);
                break;
            case SENT:
                args[k] = (unsigned long)job->sent[value];
                break;
            case RESULT:
                args[k] = (unsigned long)result_of(job, value);
                break;
            default:
                args[k] = (unsigned long)value;
            }
        }
        int64_t result = job->results[i] = CALL((long)step->number, args);
        int good = step->kinds & EXPECT ? result == (int64_t)step->want : !failed(result);
        unsigned next = good ? step->good : step->bad;
        if (next == DIE)
            _exit(3);
        if (next == END)
            break;
        i += next;
    }
}

/* The reply in answer[]: its length; the descriptors that go along are put into fds. */
static size_t compose(const struct job *job, int *fds, size_t *given)
{
    struct reply *reply = (struct reply *)answer;
    size_t at = sizeof *reply, steps = job->head->steps;
    *given = 0;
    for (size_t i = 0; i < job->head->given; i++) {
        int64_t fd = job->results[job->given[i]];
        if (!failed(fd))
            fds[(*given)++] = (int)fd;
    }
    *reply = (struct reply){.state = DONE, .given = (uint16_t)*given};
    memcpy(answer + at, job->results, 8 * steps);
    at += 8 * steps;
    for (size_t i = 0; i < job->head->ranges; i++) {
        const struct range *range = &job->ranges[i];
        size_t length = range->length;
        if (range->step != NO_STEP) {
            int64_t result = job->results[range->step];
            if (failed(result))
                length = 0;
            else if ((uint64_t)result < length)
                length = (size_t)result;
        }
        memcpy(answer + at, job->space + range->offset, length);
        at += length;
    }
    return at;
}

#ifndef EXECUTOR_TEST /* from here on: sockets and processes */

static ssize_t receive(int *fds, size_t most, size_t *count, int *cut)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(MOST_SENT * sizeof(int))];
    } control;
    struct iovec part = {request, sizeof request};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t length;
    *count = 0;
    do
        length = recvmsg(CONTROL, &message, MSG_CMSG_CLOEXEC);
    while (length < 0 && errno == EINTR);
    if (length < 0)
        return length;
    for (struct cmsghdr *one = CMSG_FIRSTHDR(&message); one; one = CMSG_NXTHDR(&message, one))
        if (one->cmsg_level == SOL_SOCKET && one->cmsg_type == SCM_RIGHTS) {
            size_t bytes = one->cmsg_len - CMSG_LEN(0);
            if (*count + bytes / sizeof(int) > most)
                _exit(2); /* nobody sends so many */
            memcpy(fds + *count, CMSG_DATA(one), bytes);
            *count += bytes / sizeof(int);
        }
    *cut = (message.msg_flags & (MSG_CTRUNC | MSG_TRUNC)) != 0;
    return length;
}

static int say(size_t length, const int *fds, size_t given)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(MOST_GIVEN * sizeof(int))];
    } control;
    struct iovec part = {answer, length};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (given > 0) {
        memset(&control, 0, sizeof control);
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(given * sizeof(int));
        control.head.cmsg_level = SOL_SOCKET;
        control.head.cmsg_type = SCM_RIGHTS;
        control.head.cmsg_len = CMSG_LEN(given * sizeof(int));
        memcpy(CMSG_DATA(&control.head), fds, given * sizeof(int));
    }
    ssize_t sent;
    do
        sent = sendmsg(CONTROL, &message, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    return sent < 0 ? errno : 0;
}

static int say_state(int state, int error)
{
    struct reply *reply = (struct reply *)answer;
    *reply = (struct reply){.state = (uint16_t)state, .error = error};
    return say(sizeof *reply, NULL, 0);
}

/* Answer requests until the monitor closes its end. */
static void serve(void)
{
    static int64_t results[MOST_STEPS];
    for (;;) {
        int sent[MOST_SENT], fds[MOST_GIVEN], cut;
        size_t count, given = 0;
        ssize_t length = receive(sent, MOST_SENT, &count, &cut);
        if (length <= 0)
            return;
        struct job job;
        int error;
        if (cut) {
            error = say_state(CUT, 0);
        } else if (!parse((size_t)length, sent, count, results, &job)) {
            error = say_state(MALFORMED, 0);
        } else {
            make_steps(&job);
            size_t size = compose(&job, fds, &given);
            /* Who is answered may unmount at once what we had open. */
            if (given == 0)
                syscall(SYS_close_range, KEPT, ~0U, 0);
            error = say(size, fds, given);
            if (error && given > 0)
                error = say_state(UNGIVEN, error);
        }
        if (error)
            return;
        syscall(SYS_close_range, KEPT, ~0U, 0);
        if (given > 0 && say_state(CLOSED, 0))
            return;
    }
}

/* In the child of the mother: a new executor, with nothing but its socket. */
static void begin(int socket, pid_t mother)
{
    signal(SIGCHLD, SIG_DFL);
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* for now: setting ids clears it, and steps set it again */
    if (getppid() != mother)
        _exit(0);
    dup2(socket, CONTROL);
    syscall(SYS_close_range, KEPT, ~0U, 0);
    serve();
    _exit(0);
}

static void bear(int socket)
{
    pid_t mother = getpid(), child = fork();
    if (child == 0)
        begin(socket, mother);
    if (child < 0) {
        int error = errno;
        dup2(CONTROL, 4);
        dup2(socket, CONTROL);
        say_state(NO_PROCESS, error);
        dup2(4, CONTROL);
        dup2(0, 4);
    }
    close(socket);
}

int main(int count, char **argv)
{
    pid_t monitor = count > 1 ? (pid_t)atol(argv[1]) : 0;
    struct rlimit most;
    prctl(PR_SET_DUMPABLE, 0); /* traced and looked into by nobody below the monitor's own root */
    prctl(PR_SET_NAME, "proctor-perform");
    signal(SIGCHLD, SIG_IGN); /* nobody waits for executors: who counts them holds pidfds */
    prctl(PR_SET_CHILD_SUBREAPER, 1); /* nor for what one of them left behind (a FUSE server) */
    signal(SIGINT, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    if (getrlimit(RLIMIT_NOFILE, &most) == 0) { /* the monitor's own limit is no caller's */
        most.rlim_cur = most.rlim_max;
        setrlimit(RLIMIT_NOFILE, &most);
    }
    int null = open("/dev/null", O_RDWR);
    for (int fd = 0; fd < KEPT && null >= 0; fd++)
        if (fd != CONTROL)
            dup2(null, fd);
    syscall(SYS_close_range, KEPT, ~0U, 0);
    int alive = (int)syscall(SYS_pidfd_open, monitor, 0);
    if (null < 0 || alive < 0 || chdir("/") != 0 || getppid() != monitor)
        return 1;
    struct pollfd both[2] = {{.fd = CONTROL, .events = POLLIN}, {.fd = alive, .events = POLLIN}};
    for (;;) {
        int sent[MOST_SENT], cut;
        size_t arrived;
        if (poll(both, 2, -1) < 0 && errno != EINTR)
            return 1;
        if (both[1].revents)
            return 0; /* a child that it forked may hold the other end, and is not the monitor */
        if (!both[0].revents)
            continue;
        if (receive(sent, MOST_SENT, &arrived, &cut) <= 0)
            return 0;
        if (arrived == 1)
            bear(sent[0]);
    }
}
#endif
