/* Opens a FIFO in one of its threads, and says what came of it.
 *
 *   signals FIFO WHO OTHERS [restart]
 *
 * WHO is "first", "second" or "many": which thread opens, or that three do beside the first.  OTHERS says what
 * the other one is at: "blocks" (the signals are blocked there) or "sleeps".  SIGUSR1 has a handler, with
 * SA_RESTART if that is said. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char *fifo;
static int sleeps;
static atomic_int handled, rested, opening = 1;

static void handler(int number) { (void)number, handled++; }

static void *opens(void *unused)
{
    while (!rested)
        sched_yield();
    dprintf(1, "%ld\n", syscall(SYS_gettid));
    int fd = open(fifo, O_RDONLY), failed = fd < 0 ? errno : 0;
    dprintf(1, "%s %d\n", failed == EINTR ? "EINTR" : failed ? strerror(failed) : "opened", handled);
    if (--opening == 0)
        _exit(0);
    return unused;
}

static void *rests(void *unused)
{
    sigset_t both;
    sigemptyset(&both);
    sigaddset(&both, SIGUSR1);
    sigaddset(&both, SIGTERM);
    if (!sleeps)
        pthread_sigmask(SIG_BLOCK, &both, NULL);
    rested = 1;
    for (;;)
        pause();
    return unused;
}

int main(int count, char **words)
{
    pthread_t other;
    int opens_more = 2;
    struct sigaction action = {.sa_handler = handler, .sa_flags = count > 4 ? SA_RESTART : 0};
    if (count < 4)
        return 2;
    fifo = words[1];
    sleeps = !strcmp(words[3], "sleeps");
    sigaction(SIGUSR1, &action, NULL);
    int first = !strcmp(words[2], "first");
    if (!strcmp(words[2], "many"))
        for (opening = 3; opens_more > 0; opens_more--)
            if (pthread_create(&other, NULL, opens, NULL) != 0)
                return 2;
    if (pthread_create(&other, NULL, first ? rests : opens, NULL) != 0)
        return 2;
    (first ? opens : rests)(NULL);
}
