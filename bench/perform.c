/* Floors of performing: what an open on somebody's behalf costs at least, done by loops in C.
 *
 *   perform serve own       answer descriptor 3 (a listener): open the path at args[1] here, and hand it over
 *   perform serve waits     the same, but for the opens of a "fifo", which are never answered: a dot is printed for each
 *   perform serve hop       the same by another process: SEQPACKET there and back, the descriptor by SCM_RIGHTS
 *   perform serve twice     the same in two trips: O_PATH and readlink first, then opened by its own link
 *   perform serve exactly   as own, with all that it takes to do what the kernel would: who we are, and who calls, is looked
 *                           at; what is opened is pinned first, and the caller's alone when it goes on; so is the directory of a
 *                           name, and made is with the caller's umask
 *   perform serve exactly-hop  the same of names, by the other process; also the caller's groups are looked at
 *   perform serve MODE K    any of these by K threads
 *   perform open N PATH     N times openat and close; prints nanoseconds for each, in order of size: median, 99 %
 *   perform many K N PATH   K processes, N times openat and close each; prints nanoseconds by the clock for one of all,
 *                           and three zeros
 *   perform beside K N PATH FIFO  N times openat and close, then, once a byte comes, the same while K processes wait
 *                           in an open of FIFO; prints nanoseconds: both medians, and how many of these did not wait
 *   perform mkdir N DIR     N times mkdirat, and the directory is removed; likewise, of the first alone.  So are
 *   perform unlink N DIR    unlinkat of a file that is made, and
 *   perform rename N DIR    renameat2 of one from one name to another and back; these two and own and hop answer all three, too
 *   perform mknod N DIR     N times mknodat of the null device and unlink; likewise, without the unlink
 *   perform make N DIR      N times openat of a new file, close and unlink; likewise, without these two */
#define _GNU_SOURCE
#include "listening.h"
#include <fcntl.h>
#include <linux/capability.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

static int pass(int sock, const void *data, size_t size, int fd)
{
    char room[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec part = {(void *)(uintptr_t)data, size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (fd >= 0) {
        message.msg_control = room;
        message.msg_controllen = sizeof room;
        struct cmsghdr *head = CMSG_FIRSTHDR(&message);
        head->cmsg_level = SOL_SOCKET;
        head->cmsg_type = SCM_RIGHTS;
        head->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(head), &fd, sizeof fd);
    }
    return sendmsg(sock, &message, MSG_NOSIGNAL) < 0 ? -1 : 0;
}

static ssize_t take(int sock, void *data, size_t size, int *fd)
{
    char room[CMSG_SPACE(sizeof(int))];
    struct iovec part = {data, size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
    ssize_t got = recvmsg(sock, &message, MSG_CMSG_CLOEXEC);
    struct cmsghdr *head = got >= 0 ? CMSG_FIRSTHDR(&message) : NULL;
    *fd = -1;
    if (head != NULL && head->cmsg_type == SCM_RIGHTS)
        memcpy(fd, CMSG_DATA(head), sizeof *fd);
    return got;
}

/* A call that changes names, by its number and one path or two, one behind the other: 0, or minus an errno. */
static int changed(int number, const char *text)
{
    int failed = number == SYS_mkdirat    ? mkdir(text, 0777)
                 : number == SYS_unlinkat ? unlink(text)
                 : number == SYS_renameat2 ? rename(text, text + strlen(text) + 1)
                                           : rmdir(text);
    return failed ? -errno : 0;
}

/* The same by pinning the directory, which two names share here, and looking at what it is on; `at`: the root. */
static int changed_exactly(int at, int number, int mask, char *text)
{
    struct { uint64_t flags, mode, resolve; } how = {O_PATH | O_DIRECTORY | O_CLOEXEC, 0, 0x02 | 0x10 | 0x20};
    struct statfs system;
    char *last = strrchr(text, '/'), *other = text + strlen(text) + 1;
    *last = 0;
    int pin = (int)syscall(437, at, text, &how, sizeof how);
    how.resolve &= ~(uint64_t)0x20; /* somebody else changes names just then */
    if (pin < 0)
        pin = (int)syscall(437, at, text, &how, sizeof how);
    if (pin < 0 || fstatfs(pin, &system) != 0)
        return -EINVAL;
    if (number == SYS_mkdirat)
        umask((mode_t)mask);
    int failed = number == SYS_mkdirat     ? mkdirat(pin, last + 1, 0777)
                 : number == SYS_renameat2 ? renameat(pin, last + 1, pin, strrchr(other, '/') + 1)
                                           : unlinkat(pin, last + 1, number == SYS_unlinkat ? 0 : AT_REMOVEDIR);
    failed = failed ? -errno : 0;
    close(pin);
    return failed;
}

/* The same paths of a notified call behind its number: their length, or 0. */
static size_t names_of(const struct seccomp_notif *request, char *text)
{
    int number = request->data.nr == SYS_unlinkat && request->data.args[2] != 0 ? -1 : request->data.nr;
    ssize_t got = text_at(request, 1, text + sizeof number);
    size_t length = got <= 0 ? 0 : sizeof number + strlen(text + sizeof number) + 1;
    memcpy(text, &number, sizeof number);
    if (length > 0 && number == SYS_renameat2) {
        got = text_at(request, 3, text + length);
        length = got <= 0 ? 0 : length + strlen(text + length) + 1;
    }
    return length;
}

/* The other process: a call is made; a path is opened (first trip of two: pinned and named), a descriptor is reopened. */
static void other(int sock, int twice, int exactly)
{
    int root = open("/", O_PATH | O_CLOEXEC);
    char text[2 * PATH_ROOM + 104], link[64];
    for (;;) {
        int fd, made;
        ssize_t got = take(sock, text, sizeof text - 1, &fd);
        if (got <= 0)
            _exit(0);
        text[got] = 0;
        if (text[0] != '/' && fd < 0) {
            int number;
            memcpy(&number, text, sizeof number);
            number = exactly ? changed_exactly(root, number, 022, text + sizeof number) : changed(number, text + sizeof number);
            pass(sock, &number, sizeof number, -1);
            continue;
        }
        if (fd >= 0) {
            snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
            made = open(link, O_RDONLY | O_CLOEXEC);
            close(fd);
            pass(sock, text, 1, made);
        } else if (twice) {
            made = open(text, O_PATH | O_CLOEXEC);
            snprintf(link, sizeof link, "/proc/self/fd/%d", made);
            got = readlink(link, text, sizeof text);
            pass(sock, text, got > 0 ? (size_t)got : 1, made);
        } else {
            made = open(text, O_RDONLY | O_CLOEXEC);
            pass(sock, text, 1, made);
        }
        close(made);
    }
}

/* What proctor looks at: the same system calls, with nothing done about what they say. */
static _Thread_local int root, table;

static int looked_at(const struct seccomp_notif *request, int ours, int names, int text)
{
    static _Thread_local int caller, pidfd, proc, user, status;
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct caps[2];
    uint64_t info[8] = {7};
    uid_t ids[3];
    unsigned char known[256];
    char name[64], said[4096];
    if (caller != (int)request->pid) {
        caller = (int)request->pid;
        pidfd = (int)syscall(SYS_pidfd_open, caller, 0);
        snprintf(name, sizeof name, "/proc/%d", caller);
        proc = open(name, O_PATH | O_CLOEXEC);
        user = openat(proc, "ns/user", O_PATH | O_NOFOLLOW | O_CLOEXEC);
        status = openat(proc, "status", O_RDONLY | O_CLOEXEC);
        root = open("/", O_PATH | O_CLOEXEC);
        table = open("/proc/self/fd", O_PATH | O_CLOEXEC);
    }
    if (ours) {
        getresuid(&ids[0], &ids[1], &ids[2]);
        getresgid(&ids[0], &ids[1], &ids[2]);
        syscall(SYS_capget, &head, caps);
        setfsuid((uid_t)-1);
        setfsgid((gid_t)-1);
    }
    head.pid = caller;
    int seen = !text || pread(status, said, sizeof said, 0) > 0;
    seen = seen && (!names || readlinkat(proc, "ns/mnt", name, sizeof name) > 0);
    seen = seen && readlinkat(user, "", name, sizeof name) > 0;
    seen = seen && syscall(SYS_statx, proc, "root", AT_NO_AUTOMOUNT, STATX_INO, known) == 0;
    seen = seen && syscall(SYS_capget, &head, caps) == 0;
    ioctl(pidfd, _IOC(_IOC_READ | _IOC_WRITE, 0xFF, 11, 64), info);
    return seen;
}

/* How it opens. */
static int opened_exactly(const struct seccomp_notif *request, const char *text)
{
    struct { uint64_t flags, mode, resolve; } how = {O_PATH | O_CLOEXEC, 0, 0x02 | 0x10 | 0x20}, again = {O_NONBLOCK | O_CLOEXEC, 0, 0};
    struct statfs system;
    struct stat status;
    char name[64];
    int seen = looked_at(request, 1, 0, 0);
    int pin = seen ? (int)syscall(437, root, text, &how, sizeof how) : -1;
    if (fstat(pin, &status) != 0 || fstatfs(pin, &system) != 0)
        return -1;
    snprintf(name, sizeof name, "%d", pin);
    int fd = (int)syscall(437, table, name, &again, sizeof again);
    fcntl(fd, F_SETFL, 0);
    close(pin);
    return fd;
}

static int serve(const char *mode)
{
    int pair[2] = {-1, -1}, waits = strcmp(mode, "waits") == 0, exactly = strncmp(mode, "exactly", 7) == 0;
    int hop = strstr(mode, "hop") != NULL || strcmp(mode, "twice") == 0, twice = strcmp(mode, "twice") == 0;
    if (hop) {
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
            return 1;
        if (fork() == 0) {
            close(LISTENER);
            close(pair[0]);
            other(pair[1], twice, exactly);
        }
        close(pair[1]);
    }
    struct seccomp_notif request;
    while (receive(&request)) {
        char text[2 * PATH_ROOM + 104];
        if (request.data.nr != SYS_openat) {
            int fd, said = -EINVAL;
            size_t length = names_of(&request, text);
            if (length == 0)
                continue;
            int makes = request.data.nr == SYS_mkdirat;
            if (exactly && !looked_at(&request, !hop, !makes, hop || makes))
                continue;
            if (!still_waits(&request))
                continue;
            if (hop) {
                pass(pair[0], text, length, -1);
                take(pair[0], &said, sizeof said, &fd);
            } else {
                memcpy(&said, text, sizeof said);
                said = exactly ? changed_exactly(root, said, 022, text + sizeof said) : changed(said, text + sizeof said);
            }
            struct seccomp_notif_resp then = {.id = request.id, .error = said};
            ioctl(LISTENER, SECCOMP_IOCTL_NOTIF_SEND, &then);
            continue;
        }
        ssize_t got = text_at(&request, 1, text);
        if (got <= 0 || !still_waits(&request))
            continue;
        text[got] = 0;
        if (exactly) {
            int made = opened_exactly(&request, text);
            struct seccomp_notif_addfd first = {.id = request.id, .srcfd = (uint32_t)made};
            struct seccomp_notif_resp then = {.id = request.id, .val = ioctl(LISTENER, SECCOMP_IOCTL_NOTIF_ADDFD, &first)};
            close(made);
            ioctl(LISTENER, SECCOMP_IOCTL_NOTIF_SEND, &then);
            continue;
        }
        if (waits && strcmp(strrchr(text, '/') + 1, "fifo") == 0) {
            if (write(1, ".", 1) != 1)
                return 1;
            continue;
        }
        int fd = -1;
        if (!hop) {
            fd = open(text, O_RDONLY | O_CLOEXEC);
        } else {
            pass(pair[0], text, strlen(text), -1);
            take(pair[0], text, sizeof text, &fd);
            if (twice) {
                int pin = fd;
                pass(pair[0], "x", 1, pin);
                take(pair[0], text, sizeof text, &fd);
                close(pin);
            }
        }
        struct seccomp_notif_addfd add = {.id = request.id, .srcfd = (uint32_t)fd, .flags = SECCOMP_ADDFD_FLAG_SEND};
        ioctl(LISTENER, SECCOMP_IOCTL_NOTIF_ADDFD, &add);
        close(fd);
    }
    return 0;
}

static void *serves(void *mode)
{
    serve(mode);
    return NULL;
}

static int serve_by(char *mode, int threads)
{
    pthread_t one;
    while (--threads > 0)
        if (pthread_create(&one, NULL, serves, mode) != 0)
            return 1;
    return serve(mode);
}

static int calls(const char *what, size_t n, const char *path)
{
    int node = strcmp(what, "mknod") == 0, fresh = strcmp(what, "make") == 0;
    uint64_t *took = calloc(n, sizeof *took);
    char name[4200];
    int failed = 0;
    snprintf(name, sizeof name, "%s%s", path, node || fresh ? "/node" : "");
    for (size_t i = 0; i < n; i++) {
        uint64_t start = now();
        long made = node ? syscall(SYS_mknodat, AT_FDCWD, name, S_IFCHR | 0600, makedev(1, 3))
                         : syscall(SYS_openat, AT_FDCWD, name, fresh ? O_CREAT | O_EXCL | O_WRONLY : O_RDONLY, 0666);
        took[i] = now() - start;
        failed += made < 0;
        if (made >= 0 && !node)
            close((int)made);
        if (node || fresh)
            unlink(name);
    }
    uint64_t first = took[0];
    qsort(took, n, sizeof *took, ascending);
    printf("%llu %llu %llu %d\n", (unsigned long long)took[n / 2], (unsigned long long)took[n * 99 / 100],
           (unsigned long long)first, failed);
    free(took);
    return 0;
}

static int names(const char *what, size_t n, const char *path)
{
    int makes = strcmp(what, "mkdir") == 0, moves = strcmp(what, "rename") == 0;
    uint64_t *took = calloc(n, sizeof *took);
    static _Alignas(4096) char name[2][8192]; /* floors read no text that goes over the end of a page */
    int failed = 0;
    snprintf(name[0], sizeof name[0], "%s/one", path);
    snprintf(name[1], sizeof name[1], "%s/two", path);
    for (size_t i = 0; i < n; i++) {
        if (!makes && (!moves || i == 0))
            failed += syscall(SYS_mknodat, AT_FDCWD, name[0], S_IFREG | 0600, 0) != 0;
        uint64_t start = now();
        long said = makes   ? syscall(SYS_mkdirat, AT_FDCWD, name[0], 0777)
                    : moves ? syscall(SYS_renameat2, AT_FDCWD, name[i % 2], AT_FDCWD, name[1 - i % 2], 0)
                            : syscall(SYS_unlinkat, AT_FDCWD, name[0], 0);
        took[i] = now() - start;
        failed += said != 0;
        if (makes)
            failed += syscall(SYS_unlinkat, AT_FDCWD, name[0], AT_REMOVEDIR) != 0;
    }
    if (moves)
        failed += syscall(SYS_unlinkat, AT_FDCWD, name[n % 2], 0) != 0;
    uint64_t first = took[0];
    qsort(took, n, sizeof *took, ascending);
    printf("%llu %llu %llu %d\n", (unsigned long long)took[n / 2], (unsigned long long)took[n * 99 / 100],
           (unsigned long long)first, failed);
    free(took);
    return 0;
}

static int many(int callers, size_t n, const char *path)
{
    uint64_t start = now();
    for (int i = 0; i < callers; i++)
        if (fork() == 0) {
            for (size_t k = 0; k < n; k++)
                close((int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY, 0));
            _exit(0);
        }
    while (wait(NULL) > 0)
        ;
    printf("%llu 0 0 0\n", (unsigned long long)((now() - start) / (n * (size_t)callers)));
    return 0;
}

static uint64_t median(size_t n, const char *path)
{
    uint64_t *took = calloc(n, sizeof *took);
    for (size_t i = 0; i < n; i++) {
        uint64_t start = now();
        int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY, 0);
        took[i] = now() - start;
        if (fd < 0)
            exit(1);
        close(fd);
    }
    qsort(took, n, sizeof *took, ascending);
    uint64_t half = took[n / 2];
    free(took);
    return half;
}

static int beside(int waiting, size_t n, const char *path, const char *fifo)
{
    uint64_t before = median(n, path);
    pid_t *who = calloc((size_t)waiting, sizeof *who);
    for (int i = 0; i < waiting; i++)
        if ((who[i] = fork()) == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            _exit(syscall(SYS_openat, AT_FDCWD, fifo, O_RDONLY, 0) < 0);
        }
    if (getchar() == EOF) /* whoever serves us says when all wait */
        return 1;
    uint64_t meanwhile = median(n, path);
    int ended = 0;
    for (int i = 0; i < waiting; i++) {
        ended += waitpid(who[i], NULL, WNOHANG) != 0;
        kill(who[i], SIGKILL);
    }
    while (wait(NULL) > 0)
        ;
    printf("%llu %llu %d\n", (unsigned long long)before, (unsigned long long)meanwhile, ended);
    free(who);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 5 && strcmp(argv[1], "many") == 0)
        return many(atoi(argv[2]), (size_t)atol(argv[3]), argv[4]);
    if (argc == 6 && strcmp(argv[1], "beside") == 0)
        return beside(atoi(argv[2]), (size_t)atol(argv[3]), argv[4], argv[5]);
    if ((argc == 3 || argc == 4) && strcmp(argv[1], "serve") == 0)
        return serve_by(argv[2], argc == 4 ? atoi(argv[3]) : 1);
    if (argc == 4 && (strcmp(argv[1], "mkdir") == 0 || strcmp(argv[1], "unlink") == 0 || strcmp(argv[1], "rename") == 0))
        return names(argv[1], (size_t)atol(argv[2]), argv[3]);
    if (argc == 4)
        return calls(argv[1], (size_t)atol(argv[2]), argv[3]);
    fputs("perform serve own|exactly|waits|hop|twice [K]; perform open|mknod|make|mkdir|unlink|rename N PATH; perform many K N PATH; perform beside K N PATH FIFO\n", stderr);
    return 2;
}
