/* What the loops in C share: the clock, one notification, and the text at args[1]. */
#ifndef LISTENING_H
#define LISTENING_H
#include <errno.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <time.h>

#define LISTENER 3
#define PATH_ROOM 4096

static inline uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* For qsort(3) of times. */
static inline int ascending(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* The next notification; 0 when nobody is left. */
static inline int receive(struct seccomp_notif *request)
{
    for (;;) {
        struct pollfd one = {.fd = LISTENER, .events = POLLIN};
        memset(request, 0, sizeof *request);
        if (ioctl(LISTENER, SECCOMP_IOCTL_NOTIF_RECV, request) == 0)
            return 1;
        if (errno == EINTR)
            continue;
        poll(&one, 1, 0);
        if (one.revents & POLLHUP)
            return 0;
    }
}

static inline int still_waits(const struct seccomp_notif *request)
{
    return ioctl(LISTENER, SECCOMP_IOCTL_NOTIF_ID_VALID, &request->id) == 0;
}

/* The caller's bytes at an argument, up to the page's end or room; their number, or -1. */
static inline ssize_t text_at(const struct seccomp_notif *request, int argument, char *text)
{
    uint64_t address = request->data.args[argument];
    size_t room = PATH_ROOM - (address & (PATH_ROOM - 1));
    struct iovec mine = {text, room}, theirs = {(void *)(uintptr_t)address, room};
    return process_vm_readv((pid_t)request->pid, &mine, 1, &theirs, 1, 0);
}
#endif
