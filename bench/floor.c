/* The floor: what a notification costs at least.  A loop in C that receives and answers, and the
 * targets that bench/roundtrip.py measures.
 *
 *   floor serve MODE          answer descriptor 3 (a listener) until nobody is left
 *       MODE deny: EPERM for everything; path: read the path at args[1], check ID_VALID, EPERM
 *   floor calls NR N [PATH]   N times system call NR; prints nanoseconds per call
 */
#define _GNU_SOURCE
#include "listening.h"
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static int serve(int path)
{
    struct seccomp_notif request;
    while (receive(&request)) {
        struct seccomp_notif_resp reply = {.id = request.id, .error = -EPERM};
        if (path) {
            char text[PATH_ROOM];
            ssize_t got = text_at(&request, 1, text);
            if (got <= 0 || memchr(text, 0, (size_t)got) == NULL)
                reply.error = -EFAULT;
            if (!still_waits(&request))
                continue;
        }
        ioctl(LISTENER, SECCOMP_IOCTL_NOTIF_SEND, &reply);
    }
    return 0;
}

static int calls(long nr, long n, const char *path)
{
    uint64_t start = now();
    for (long i = 0; i < n; i++)
        syscall(nr, -100L, path, 0L, 0L);
    printf("%.1f\n", (double)(now() - start) / (double)n);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "serve") == 0)
        return serve(strcmp(argv[2], "path") == 0);
    if (argc >= 4 && strcmp(argv[1], "calls") == 0)
        return calls(atol(argv[2]), atol(argv[3]), argc > 4 ? argv[4] : NULL);
    fputs("floor serve deny|path; floor calls NR N [PATH]\n", stderr);
    return 2;
}
