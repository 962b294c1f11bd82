/* What a notified connect costs at least: a program that connects to loopback, a server, and loops that
 * make its calls by pidfd_getfd(2).
 *
 *   sockets serve own|other   answer descriptor 3 (a listener): connect the caller's own socket, or one
 *                             made here, which takes its place
 *   sockets connects PORT N   N times: socket, connect (timed), close; prints the median in nanoseconds
 *   sockets peer              a server that accepts and closes; prints its port */
#define _GNU_SOURCE
#include "listening.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif
#define PIDFD_THREAD 0200

static int serve(int other)
{
    struct seccomp_notif request;
    while (receive(&request)) {
        struct seccomp_notif_resp reply = {.id = request.id};
        struct sockaddr_storage to;
        struct iovec mine = {&to, request.data.args[2]};
        struct iovec theirs = {(void *)(uintptr_t)request.data.args[1], request.data.args[2]};
        if (request.data.args[2] > sizeof to)
            return 1;
        ssize_t got = process_vm_readv((pid_t)request.pid, &mine, 1, &theirs, 1, 0);
        int process = (int)syscall(SYS_pidfd_open, request.pid, PIDFD_THREAD);
        int theirs_fd = (int)syscall(SYS_pidfd_getfd, process, (int)request.data.args[0], 0);
        int fd = other ? socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0) : theirs_fd;
        if (got > 0 && still_waits(&request)) {
            reply.error = connect(fd, (struct sockaddr *)&to, (socklen_t)got) ? -errno : 0;
            if (other && reply.error == 0) {
                struct seccomp_notif_addfd put = {
                    .id = request.id, .flags = SECCOMP_ADDFD_FLAG_SETFD, .srcfd = (uint32_t)fd,
                    .newfd = (uint32_t)request.data.args[0], .newfd_flags = 02000000,
                };
                ioctl(LISTENER, SECCOMP_IOCTL_NOTIF_ADDFD, &put);
            }
            ioctl(LISTENER, SECCOMP_IOCTL_NOTIF_SEND, &reply);
        }
        close(theirs_fd);
        close(process);
        if (other)
            close(fd);
    }
    return 0;
}

static int connects(int port, long n)
{
    uint64_t *took = calloc((size_t)n, sizeof *took);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct linger reset = {1, 0}; /* no port waits for late packets */
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (long i = 0; took != NULL && i < n; i++) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        uint64_t start = now();
        if (connect(fd, (struct sockaddr *)&to, sizeof to) != 0) {
            perror("connect");
            return 1;
        }
        took[i] = now() - start;
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        close(fd);
    }
    qsort(took, (size_t)n, sizeof *took, ascending);
    printf("%lu\n", (unsigned long)took[n / 2]);
    return 0;
}

static int peer(void)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in at = {.sin_family = AF_INET};
    socklen_t length = sizeof at;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(fd, (struct sockaddr *)&at, sizeof at) != 0 || listen(fd, 1000) != 0)
        return 1;
    getsockname(fd, (struct sockaddr *)&at, &length);
    printf("%d\n", ntohs(at.sin_port));
    fflush(stdout);
    for (;;)
        close(accept(fd, NULL, NULL));
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "serve") == 0)
        return serve(strcmp(argv[2], "other") == 0);
    if (argc == 4 && strcmp(argv[1], "connects") == 0)
        return connects(atoi(argv[2]), atol(argv[3]));
    if (argc == 2 && strcmp(argv[1], "peer") == 0)
        return peer();
    fputs("sockets serve own|other; sockets connects PORT N; sockets peer\n", stderr);
    return 2;
}
