/* One thread makes a call again and again, another one exchanges the structure or the descriptor that it is about.
 *
 *   struct_racer KIND TRIES [ALLOWED OTHER]
 *
 * nice     sched_setattr of nice -5, or of -15
 * policy   sched_setattr of nice -5, or of SCHED_FIFO
 * event    perf_event_open of an event that counts nothing, or of page faults
 * program  bpf: a device program that compares, or one that calls something
 * flags    FS_IOC_SETFLAGS of immutable, or of append-only, of the file ALLOWED
 * file     FS_IOC_SETFLAGS of immutable of a descriptor of the file ALLOWED, or of OTHER
 * path     file_setattr of immutable of a link to ALLOWED, or to OTHER
 *
 * Says "won" where the other one was had; that of file and path is seen from outside.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { HIGH = 100 };
struct attr {
    unsigned size, policy;
    unsigned long long flags;
    int nice;
    unsigned priority;
    unsigned long long more[3];
};
struct event {
    unsigned type, size;
    unsigned long long config, more[14];
};
struct instruction {
    unsigned char code, registers;
    short offset;
    int value;
};
static const struct attr nices[2] = {{.size = 48, .nice = -5}, {.size = 48, .nice = -15}};
static const struct attr policies[2] = {{.size = 48, .nice = -5}, {.size = 48, .policy = 1, .priority = 1}};
static const struct event events[2] = {{1, 128, 9, {0}}, {1, 128, 2, {0}}};
static const struct instruction programs[2][2] = {
    {{0xb7, 0, 0, 1}, {0x95, 0, 0, 0}},
    {{0x85, 0, 0, 7}, {0x95, 0, 0, 0}},
};
static const unsigned flags[2] = {0x10, 0x20};

static char shared[256];
static const void *both[2];
static size_t size;
static int fds[2];
static const char *by_link;
static atomic_int over;

static void *exchange(void *unused)
{
    (void)unused;
    for (unsigned i = 0; !over; i++) {
        if (by_link != NULL) {
            unlink("spare");
            if (symlink(both[i & 1], "spare") == 0)
                rename("spare", by_link);
        } else if (size != 0) {
            memcpy(shared, both[i & 1], size);
        } else {
            dup2(fds[i & 1], HIGH);
        }
    }
    return NULL;
}

static void choose(const void *one, const void *other, size_t length)
{
    both[0] = one;
    both[1] = other;
    size = length;
}

static void tag(int fd, char *into)
{
    char path[64], line[256];
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
    FILE *file = fopen(path, "r");
    while (file != NULL && fgets(line, sizeof line, file))
        if (sscanf(line, "prog_tag: %63s", into) == 1)
            break;
    if (file != NULL)
        fclose(file);
}

static int set_priority(void)
{
    if (syscall(SYS_sched_setattr, 0, shared, 0) != 0)
        return -1;
    if (getpriority(PRIO_PROCESS, 0) < -5 || syscall(SYS_sched_getscheduler, 0) != 0)
        puts("won");
    static const struct attr plain = {.size = 48};
    return (int)syscall(SYS_sched_setattr, 0, &plain, 0);
}

static int count_events(void)
{
    unsigned long long seen = 0;
    int fd = (int)syscall(SYS_perf_event_open, shared, 0, -1, -1, 0);
    if (fd < 0)
        return -1;
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    *page = 1;
    munmap(page, 4096);
    if (read(fd, &seen, sizeof seen) != sizeof seen || seen != 0)
        puts("won");
    return close(fd);
}

static int load(void)
{
    static char right[64];
    unsigned long long attr[16] = {15 | 2ULL << 32, (unsigned long)shared, (unsigned long)"GPL"};
    int fd = (int)syscall(SYS_bpf, 5, attr, sizeof attr);
    if (fd < 0)
        return -1;
    char found[64] = "";
    tag(fd, found);
    if (right[0] == 0)
        strcpy(right, found); /* the first is made before there is another thread */
    if (strcmp(right, found) != 0)
        puts("won");
    return close(fd);
}

static int set_flags(int fd, unsigned *wanted)
{
    unsigned seen = 0, none = 0;
    if (ioctl(fd, 0x40086602, wanted) != 0)
        return -1;
    if (ioctl(fds[0], 0x80086601, &seen) == 0 && seen & flags[1])
        puts("won");
    ioctl(fds[0], 0x40086602, &none);
    return 0;
}

static int set_by_path(void)
{
    unsigned long long attr[3] = {8, 0, 0};
    unsigned none = 0;
    int failed = (int)syscall(469, AT_FDCWD, by_link, attr, sizeof attr, 0);
    ioctl(fds[0], 0x40086602, &none);
    return failed;
}

int main(int count, char **v)
{
    if (count < 3)
        return 2;
    const char *kind = v[1];
    int tries = atoi(v[2]), made = 0;
    if (strcmp(kind, "nice") == 0)
        choose(&nices[0], &nices[1], sizeof nices[0]);
    else if (strcmp(kind, "policy") == 0)
        choose(&policies[0], &policies[1], sizeof policies[0]);
    else if (strcmp(kind, "event") == 0)
        choose(&events[0], &events[1], sizeof events[0]);
    else if (strcmp(kind, "program") == 0)
        choose(programs[0], programs[1], sizeof programs[0]);
    else if (strcmp(kind, "flags") == 0)
        choose(&flags[0], &flags[1], sizeof flags[0]);
    else if (count == 5 && strcmp(kind, "path") == 0)
        choose(v[3], v[4], 0);
    for (int i = 3; i < count; i++)
        if ((fds[i - 3] = open(v[i], O_RDONLY)) < 0)
            return 3;
    if (strcmp(kind, "path") == 0)
        by_link = "link";
    if (size != 0)
        memcpy(shared, both[0], size);
    if (strcmp(kind, "program") == 0 && load() != 0)
        return 4;
    pthread_t other;
    pthread_create(&other, NULL, exchange, NULL);
    for (int i = 0; i <= tries; i++) {
        int failed;
        if (i == tries) { /* the last one alone, so that it is seen that calls are made at all */
            over = 1;
            pthread_join(other, NULL);
            if (size != 0)
                memcpy(shared, both[0], size);
            dup2(fds[0], HIGH);
            unlink("link");
            if (by_link != NULL && symlink(both[0], by_link) != 0)
                return 5;
        }
        unsigned immutable = flags[0];
        if (strcmp(kind, "event") == 0)
            failed = count_events();
        else if (strcmp(kind, "program") == 0)
            failed = load();
        else if (strcmp(kind, "flags") == 0)
            failed = set_flags(fds[0], (unsigned *)shared);
        else if (strcmp(kind, "file") == 0)
            failed = set_flags(HIGH, &immutable);
        else if (by_link != NULL)
            failed = set_by_path();
        else
            failed = set_priority();
        made += failed == 0;
    }
    printf("made %d\n", made);
    return 0;
}
