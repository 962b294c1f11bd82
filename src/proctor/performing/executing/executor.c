/* The executor: a process that makes system calls as it is told, and knows nothing else.
 *
 * The monitor must never become a container, so whatever is done in a caller's identity is done
 * here.  What that identity is, which calls are made and why, is decided and composed in Python
 * (proctor.performing.executing.steps has the other side of every layout below).
 *
 *   mother     started by the monitor: descriptor 3 is its control socket, argv[1] the monitor's
 *              number.  Each packet there brings one descriptor, the socket of a new executor, for
 *              which it forks; a second one is the memory in which executors say how far they are, and
 *              the packet says where this one does.  It does nothing else, touches nothing of a container's,
 *              and ends with its monitor, as soon as no executor is at what it had better finish
 *              (struct progress).  As their parent it gives executors a thread to die with
 *              (PR_SET_PDEATHSIG means the *thread* that forked, and the monitor's come and go).
 *   executor   reads a request from its socket, makes the steps in it in order, replies; again.
 *
 * What requests and replies are is said in executor.h. */
#define _GNU_SOURCE
#include "executor.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_close_range
#define SYS_close_range 436 /* Linux 5.9; the same number on every architecture */
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

static ssize_t receive(int *fds, size_t most, size_t *count, int *cut)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(MOST_SENT * sizeof(int))];
    } control;
    struct iovec part = {request, ROOM};
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

/* Before a request is done: go back to where we might be, if it does not say where; what is begun meanwhile would stay here, too.
 * Once it is done: go where it says, so that next time we are there. */
static void follow(uint32_t where, int done)
{
    static uint32_t at; /* 0: where we might be */
    static cpu_set_t before;
    cpu_set_t there;
    uint32_t wanted = where < PROCESSOR ? 0 : where;
    if (wanted == at || done != (wanted > 0) || wanted >= PROCESSOR + CPU_SETSIZE ||
        (at == 0 && sched_getaffinity(0, sizeof before, &before) != 0))
        return;
    at = wanted;
    CPU_ZERO(&there);
    if (wanted > 0)
        CPU_SET(wanted - PROCESSOR, &there);
    sched_setaffinity(0, sizeof there, wanted > 0 ? &there : &before);
}

/* Answer requests until the monitor closes its end. */
static void serve(void)
{
    static int64_t results[MOST_STEPS];
    for (;;) {
        int sent[MOST_SENT], fds[MOST_GIVEN], cut, closed = 0, last = 0;
        size_t count, given = 0;
        uint32_t where = ANYWHERE;
        ssize_t length = receive(sent, MOST_SENT, &count, &cut);
        if (length <= 0)
            return;
        struct job job;
        int error;
        if (cut) {
            error = say_state(CUT, 0);
        } else if (!parse((size_t)length, sent, count, results, &job)) {
            error = say_state(MALFORMED, 0);
        } else if (follow(job.head->where, 0), (error = make_steps(&job)) != 0) {
            say_state(INTERRUPTED, error);
            return;
        } else {
            where = job.head->where;
            size_t size = compose(&job, fds, &given);
            /* Who is answered may unmount at once what we had open. */
            if (given == 0)
                syscall(SYS_close_range, KEPT, ~0U, 0);
            error = say(size, fds, given);
            if (error && given > 0)
                error = say_state(UNGIVEN, error);
            closed = given == 0;
            last = job.head->last;
        }
        if (error || last)
            return;
        if (!closed)
            syscall(SYS_close_range, KEPT, ~0U, 0);
        if (given > 0 && say_state(CLOSED, 0))
            return;
        follow(where, 1);
    }
}

enum { PLACES = 4096 };           /* in which executors say how far they are: proctor.kernel.progress */
enum { SOON = 10, GRACE = 150 };  /* ms, after a monitor's death: who waits is interrupted, and all end */
static struct progress *places;   /* the first is no executor's */
static uint8_t mine[PLACES];      /* where executors of this mother are */

static void map_places(int memory)
{
    struct stat status;
    if (places == NULL && fstat(memory, &status) == 0 && status.st_size == PLACES * sizeof *places) {
        void *made = mmap(NULL, PLACES * sizeof *places, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
        if (made == MAP_FAILED)
            _exit(4); /* who reads there that nothing was begun would have it done again */
        places = made;
    }
    close(memory);
}

/* Own a place: the kernel says there when this process is at no call any more. */
static void own(struct progress *place)
{
    static struct robust_list one;
    static struct robust_list_head head = {.list = {&one}};
    one.next = &head.list;
    head.futex_offset = (char *)&place->owner - (char *)&one;
    __atomic_store_n(&place->owner, (uint32_t)getpid(), __ATOMIC_RELEASE);
    if (syscall(SYS_set_robust_list, &head, sizeof head) != 0)
        _exit(4); /* it could not be known when we are gone */
    progress = place;
}

/* The monitor is gone.  What changes something is not cut off in the middle: the next monitor finds what came of it.  Who waits
 * for others in such a step is interrupted, as by a signal for the caller. */
static void linger(void)
{
    for (int passed = 0; places != NULL && passed < GRACE; passed++) {
        int busy = 0;
        for (int i = 1; i < PLACES; i++) {
            uint32_t owner = mine[i] ? __atomic_load_n(&places[i].owner, __ATOMIC_ACQUIRE) : 0;
            if (owner == 0 || owner & FUTEX_OWNER_DIED)
                continue;
            /* Whoever was asked at the very end has not said yet what it is at; whoever was asked for nothing ends by itself. */
            uint32_t state = __atomic_load_n(&places[i].state, __ATOMIC_ACQUIRE);
            if (passed >= SOON && (state < MAY_CHANGE || state > CHANGED))
                continue;
            busy = 1;
            if (passed >= SOON && passed % 5 == 0)
                kill((pid_t)(owner & FUTEX_TID_MASK), INTERRUPTS);
        }
        if (!busy)
            return;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
}

/* In the child of the mother: a new executor, with nothing but its socket. */
static void begin(int socket, pid_t mother, struct progress *place)
{
    signal(SIGCHLD, SIG_DFL);
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* for now: setting ids clears it, and steps set it again */
    if (getppid() != mother)
        _exit(0);
    dup2(socket, CONTROL);
    syscall(SYS_close_range, KEPT, ~0U, 0);
    if (place != NULL)
        own(place);
    serve();
    _exit(0);
}

/* place: its number; 0: none. */
static void bear(int socket, uint32_t place)
{
    int known = places != NULL && place > 0 && place < PLACES;
    pid_t mother = getpid(), child = fork();
    if (child == 0)
        begin(socket, mother, known ? &places[place] : NULL);
    if (known)
        mine[place] = 1;
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
    sigaction(INTERRUPTS, &(struct sigaction){.sa_sigaction = interrupt, .sa_flags = SA_SIGINFO | GOES_BACK}, NULL);
    if (getrlimit(RLIMIT_NOFILE, &most) == 0) { /* the monitor's own limit is no caller's */
        most.rlim_cur = most.rlim_max;
        setrlimit(RLIMIT_NOFILE, &most);
    }
    for (int fd = 1; fd < KEPT; fd++) /* 0 is /dev/null: that it is opened here a supervisor of the monitor could not perform */
        if (fd != CONTROL)
            dup2(0, fd);
    syscall(SYS_close_range, KEPT, ~0U, 0);
    int alive = (int)syscall(SYS_pidfd_open, monitor, 0);
    if (alive < 0 || chdir("/") != 0 || getppid() != monitor)
        return 1;
    struct pollfd both[2] = {{.fd = CONTROL, .events = POLLIN}, {.fd = alive, .events = POLLIN}};
    for (;;) {
        int sent[MOST_SENT], cut;
        size_t arrived;
        ssize_t length = 0;
        if (poll(both, 2, -1) < 0 && errno != EINTR)
            return 1;
        uint32_t place = 0;
        /* a child that it forked may hold the other end, and is not the monitor */
        if (both[1].revents || (both[0].revents && (length = receive(sent, MOST_SENT, &arrived, &cut)) <= 0))
            break;
        if (!both[0].revents)
            continue;
        if (length == sizeof place)
            memcpy(&place, request, sizeof place);
        if (arrived > 1)
            map_places(sent[1]);
        if (arrived > 0)
            bear(sent[0], place);
    }
    linger();
    return 0;
}
