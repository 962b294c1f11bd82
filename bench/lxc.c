/* For bench/lxc.py, linked statically.
 *
 * wait: a container's first program, which sleeps.
 * mknod N PATH: make a node of a device N times, and print the median time in microseconds, how often it failed, and
 * the errno of the last that did.
 * proxy SOCKET: answer LXC's questions at once, by EXDEV: what any proxy of LXC's costs. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* struct seccomp_notify_proxy_msg of LXC's src/lxc/lxcseccomp.h, up to its cookie */
struct question {
    uint64_t reserved;
    int32_t monitor, init;
    struct seccomp_notif_sizes sizes;
    uint64_t cookie;
    struct seccomp_notif notification;
    struct seccomp_notif_resp answer;
};

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e6 + (double)time.tv_nsec / 1e3;
}

static int make(int count, const char *path) {
    double *times = calloc((size_t)count, sizeof *times);
    int failed = 0, why = 0;
    for (int i = 0; i < count; i++) {
        double began = now();
        int made = mknod(path, S_IFCHR | 0666, makedev(1, 3));
        times[i] = now() - began;
        if (made == 0)
            unlink(path);
        else
            failed++, why = errno;
    }
    qsort(times, (size_t)count, sizeof *times, by_size);
    printf("%.1f %d %d\n", times[count / 2], failed, why);
    return 0;
}

static void *answer(void *given) {
    int connection = (int)(intptr_t)given;
    union {
        char room[CMSG_SPACE(3 * sizeof(int))];
        struct cmsghdr head;
    } control;
    struct {
        struct question question;
        char cookie[4096];
    } buffer;
    for (;;) {
        struct iovec piece = {&buffer, sizeof buffer};
        struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = &control,
                                 .msg_controllen = sizeof control};
        ssize_t length = recvmsg(connection, &message, MSG_CMSG_CLOEXEC);
        if (length < (ssize_t)sizeof buffer.question)
            break;
        struct cmsghdr *head = CMSG_FIRSTHDR(&message);
        size_t count = head == NULL ? 0 : (head->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        buffer.question.answer = (struct seccomp_notif_resp){.id = buffer.question.notification.id, .error = -EXDEV};
        if (send(connection, &buffer, sizeof buffer.question, MSG_NOSIGNAL) < 0)
            break;
        for (size_t i = 0; i < count; i++)
            close(((int *)CMSG_DATA(head))[i]);
    }
    close(connection);
    return NULL;
}

static int proxy(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int listening = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    if (bind(listening, (struct sockaddr *)&address, sizeof address) != 0 || listen(listening, 8) != 0)
        return perror(path), 1;
    puts("ready");
    fflush(stdout);
    for (;;) {
        pthread_t thread;
        int connection = accept4(listening, NULL, NULL, SOCK_CLOEXEC);
        if (connection < 0 || pthread_create(&thread, NULL, answer, (void *)(intptr_t)connection) != 0)
            return perror("accept"), 1;
        pthread_detach(thread);
    }
}

int main(int count, char **words) {
    if (count == 2 && strcmp(words[1], "wait") == 0)
        return pause();
    if (count == 4 && strcmp(words[1], "mknod") == 0)
        return make(atoi(words[2]), words[3]);
    if (count == 3 && strcmp(words[1], "proxy") == 0)
        return proxy(words[2]);
    return 2;
}
