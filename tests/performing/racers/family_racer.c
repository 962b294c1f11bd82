/* One thread makes a call again and again, another one exchanges what it is about.
 *
 *   family_racer KIND TRIES ALLOWED OTHER PLACE WIDTH
 *
 * name    setxattr(PLACE, name): ALLOWED or OTHER by the exchange of one buffer
 * value   setxattr of one name, whose value is exchanged
 * path    setxattr by a path, whose link is exchanged: PLACE/link leads to ALLOWED or to OTHER
 * kind    mount(disk on PLACE) of a type, exchanged; undone at once
 * data    mount with ALLOWED or OTHER as options
 * target  mount on a directory, whose link is exchanged
 * stat, access, truncate, open
 *         of a path that is ALLOWED or OTHER by the exchange of one buffer; link-stat and so on: by that of a
 *         link.  OTHER has two bytes or more and begins with an s: whoever is told that, has won.
 *
 * WIDTH is 64, or 32: then the calls are those of i386 (int $0x80).
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static char shared[256];
static char link_path[512], spare[512], place[512];
/* all that calls point to is static: a program that is linked so has it where 32 bits reach */
static char name[] = "trusted.overlay.opaque", yes[] = "y", disk[] = "disk", ext4[] = "ext4";
static int narrow;
static const char *both[2];
static atomic_int over;
static int by_link;

static void *exchange(void *unused)
{
    (void)unused;
    for (unsigned i = 0; !over; i++) {
        if (by_link) {
            unlink(spare);
            if (symlink(both[i & 1], spare) == 0)
                rename(spare, link_path);
        } else {
            memcpy(shared, both[i & 1], strlen(both[i & 1]) + 1);
        }
    }
    return NULL;
}

/* 0 if the call was made. */
static int on_file(const char *kind, const char *path)
{
    struct stat found;
    char first = 0;
    if (strcmp(kind, "access") == 0)
        return access(path, R_OK); /* OTHER may be read: the rule alone is against it */
    if (strcmp(kind, "truncate") == 0)
        return truncate(path, 1);
    if (strcmp(kind, "stat") == 0) {
        int failed = stat(path, &found);
        if (failed == 0 && found.st_size > 1)
            puts("won");
        return failed;
    }
    int fd = open(path, O_RDONLY);
    if (fd < 0 || read(fd, &first, 1) != 1)
        return -1;
    close(fd);
    if (first == 's')
        puts("won");
    return 0;
}

static long call(long number, int number32, const void *a, const void *b, const void *c, long d, const void *e)
{
#ifdef __x86_64__
    if (narrow) {
        long result;
        __asm__ volatile("int $0x80"
                         : "=a"(result)
                         : "a"((long)number32), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e)
                         : "memory", "r8", "r9", "r10", "r11");
        return (int)result < 0 ? -1 : result;
    }
#endif
    return syscall(number, a, b, c, d, e);
}

static long set(const char *path, const char *attribute, const char *value, long size)
{
    return call(SYS_setxattr, 226, path, attribute, value, size, NULL);
}

static long mounts(const char *where, const char *kind, const char *data)
{
    return call(SYS_mount, 21, disk, where, kind, 0, data);
}

int main(int count, char **v)
{
    if (count != 7)
        return 2;
    const char *kind = v[1];
    snprintf(place, sizeof place, "%s", v[5]);
    narrow = atoi(v[6]) == 32;
    int tries = atoi(v[2]), made = 0;
    both[0] = v[3];
    both[1] = v[4];
    by_link = strcmp(kind, "path") == 0 || strcmp(kind, "target") == 0 || strncmp(kind, "link-", 5) == 0;
    snprintf(link_path, sizeof link_path, "%.500s/link", place);
    snprintf(spare, sizeof spare, "%.500s/spare", place);
    strcpy(shared, both[0]);
    if (by_link && symlink(both[0], link_path) != 0)
        return 3;
    pthread_t other;
    pthread_create(&other, NULL, exchange, NULL);
    for (int i = 0; i <= tries; i++) {
        long failed = -1;
        if (i == tries) { /* the last one alone, so that it is seen that calls are made at all */
            over = 1;
            pthread_join(other, NULL);
            strcpy(shared, both[0]);
            if (by_link && (unlink(link_path) != 0 || symlink(both[0], link_path) != 0))
                return 4;
        }
        if (strcmp(kind, "name") == 0)
            failed = set(place, shared, yes, 1);
        else if (strcmp(kind, "value") == 0)
            failed = set(place, name, shared, (long)strlen(both[0]));
        else if (strcmp(kind, "path") == 0)
            failed = set(link_path, name, yes, 1);
        else if (strcmp(kind, "kind") == 0)
            failed = mounts(place, shared, NULL);
        else if (strcmp(kind, "data") == 0)
            failed = mounts(place, ext4, shared);
        else if (strcmp(kind, "target") == 0)
            failed = mounts(link_path, ext4, NULL);
        else
            failed = on_file(by_link ? kind + 5 : kind, by_link ? link_path : shared);
        if (failed == 0)
            made++;
        if (failed == 0 && (strcmp(kind, "kind") == 0 || strcmp(kind, "data") == 0)) {
            FILE *mounts = fopen("/proc/self/mounts", "r");
            char line[4096];
            while (fgets(line, sizeof line, mounts))
                if (strstr(line, place) && (strstr(line, both[1]) != NULL))
                    printf("won: %s", line);
            fclose(mounts);
            umount2(place, 0);
        }
        if (failed == 0 && strcmp(kind, "target") == 0)
            umount2(both[0], 0);
    }
    printf("made %d\n", made);
    return 0;
}
