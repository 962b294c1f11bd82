/* One thread picks a mount and has it reconfigured again and again, another one exchanges what that is about.
 *
 *   pick_racer KIND TRIES OWN HOSTS PLAY WIDTH
 *
 * OWN is where "disk" is mounted for the container, HOSTS a mount of the host's; in PLAY is made what is needed.  Of OWN the option
 * commit may be set, and errors to continue; not so to panic.
 *
 * text      fspick(path): OWN or HOSTS by the exchange of one buffer
 * link      the same by that of a link
 * fd        fspick(fd, ""): by that of a descriptor
 * place     fspick(path), of which directories on the way are exchanged, also before the mount is reconfigured
 * over      HOSTS is mounted over what was picked, and gone again
 * context   fsconfig(fd): by the exchange of the contexts of both
 * key       fsconfig(errors or commit = panic)
 * value     fsconfig(errors = continue or panic)
 * remount   mount(link, MS_REMOUNT)
 *
 * WIDTH is 64, or 32: then the calls are those of i386 (int $0x80).
 */
#define _GNU_SOURCE
#include <errno.h>
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

enum { FSCONFIG = 431, FSPICK = 433, STRING = 1, RECONFIGURE_ = 7, EMPTY_ = 8, EXCHANGES = 2 };

/* all that calls point to is static: a program that is linked so has it where 32 bits reach */
static char shared[256], path_of[2][512], link_path[512], spare[512], own[600], hosts[512];
static char empty[] = "", commit[] = "commit", errors[] = "errors", nine[] = "9", panic[] = "panic", commit9[] = "commit=9";
static const char *kind, *both[2];
static int narrow, descriptors[2], exchanged = -1;
static atomic_int over;

static int is(const char *name)
{
    return strcmp(kind, name) == 0;
}

static long call(long number, long a, const void *b, const void *c, long d, long e)
{
#ifdef __x86_64__
    if (narrow) {
        long result;
        __asm__ volatile("int $0x80"
                         : "=a"(result)
                         : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e)
                         : "memory", "r8", "r9", "r10", "r11");
        return (int)result < 0 ? -1 : (int)result;
    }
#endif
    return syscall(number, a, b, c, d, e);
}

static int picks(int directory, const char *path, long flags)
{
    return (int)call(FSPICK, directory, path, (void *)flags, 0, 0);
}

static long configures(int fd, long command, const char *key, const char *value)
{
    return call(FSCONFIG, fd, (void *)command, key, (long)value, 0);
}

static void change(unsigned which)
{
    if (is("text") || is("key") || is("value")) {
        memcpy(shared, both[which], strlen(both[which]) + 1);
    } else if (is("link") || is("remount")) {
        unlink(spare);
        if (symlink(both[which], spare) == 0)
            rename(spare, link_path);
    } else if (is("fd") || is("context")) {
        dup2(descriptors[which], exchanged);
    } else if (is("place")) {
        syscall(SYS_renameat2, AT_FDCWD, path_of[0], AT_FDCWD, path_of[1], EXCHANGES);
    } else if (is("over")) {
        static int is_over; /* else it is what was picked that goes */
        if (which)
            is_over = mount(both[1], both[0], NULL, MS_BIND, NULL) == 0;
        else if (is_over)
            umount2(both[0], MNT_DETACH);
    }
}

static void *exchange(void *unused)
{
    (void)unused;
    unsigned i = 0;
    while (!over)
        change(++i & 1);
    if (i & 1) /* as it was */
        change(0);
    return NULL;
}

static int fails(const char *what)
{
    perror(what);
    exit(3);
}

static void prepare(const char *play)
{
    static char inner[2][600];
    snprintf(link_path, sizeof link_path, "%.400s/link", play);
    snprintf(spare, sizeof spare, "%.400s/spare", play);
    for (int i = 0; i < 2; i++) {
        snprintf(path_of[i], sizeof path_of[i], "%.400s/%d", play, i);
        snprintf(inner[i], sizeof inner[i], "%s/m", path_of[i]);
        descriptors[i] = is("context") ? picks(AT_FDCWD, both[i], 1) : open(both[i], O_PATH);
        if (descriptors[i] < 0)
            fails("descriptor");
        if (is("place") && (mkdir(path_of[i], 0777) != 0 || mkdir(inner[i], 0777) != 0 ||
                            (i == 1 && mount(both[1], inner[1], NULL, MS_BIND, NULL) != 0)))
            fails("place");
    }
    exchanged = fcntl(descriptors[0], F_DUPFD, 100);
    if (is("place") && (umount2(both[0], MNT_DETACH) != 0 || mount("disk", inner[0], "ext4", 0, NULL) != 0))
        fails("mounting");
    if (is("place"))
        strcpy(own, inner[0]);
    if (is("key"))
        both[0] = commit, both[1] = errors;
    if (is("value"))
        both[0] = "continue", both[1] = panic;
    change(0);
    if (is("place")) /* which exchanges whatever it is told */
        change(0);
}

/* Whether anything says panic. */
static void look(void)
{
    static char line[8192];
    FILE *mounts = fopen("/proc/self/mountinfo", "r");
    while (fgets(line, sizeof line, mounts))
        if (strstr(line, "errors=panic"))
            printf("won: %s", line);
    fclose(mounts);
}

/* 0 if something was reconfigured. */
static long try(void)
{
    if (is("remount"))
        return narrow ? call(21, 0, link_path, empty, MS_REMOUNT, (long)commit9)
                      : mount(NULL, link_path, NULL, MS_REMOUNT, commit9);
    int fd = is("text")                    ? picks(AT_FDCWD, shared, 1)
             : is("link")                  ? picks(AT_FDCWD, link_path, 1)
             : is("fd")                    ? picks(exchanged, empty, 1 | EMPTY_)
             : is("context")               ? exchanged
                                           : picks(AT_FDCWD, own, 1);
    if (fd < 0)
        return -1;
    long failed = configures(fd, STRING, is("key") ? shared : is("value") ? errors : commit,
                             is("value") ? shared : is("key") ? panic : nine);
    if (is("key") && configures(fd, STRING, commit, nine) != 0)
        failed = -1;
    else if (is("key"))
        failed = 0;
    if (!failed)
        failed = configures(fd, RECONFIGURE_, NULL, NULL);
    if (!is("context")) {
        close(fd);
    } else if (failed) { /* of no use any more */
        int fresh = picks(AT_FDCWD, own, 1);
        if (fresh >= 0) {
            dup2(fresh, descriptors[0]);
            close(fresh);
        }
    }
    return failed;
}

int main(int count, char **v)
{
    if (count != 7)
        return 2;
    kind = v[1];
    narrow = atoi(v[6]) == 32;
    int tries = atoi(v[2]), made = 0;
    snprintf(own, sizeof own, "%.500s", v[3]);
    snprintf(hosts, sizeof hosts, "%.500s", v[4]);
    both[0] = own;
    both[1] = hosts;
    if (mount("disk", own, "ext4", 0, NULL) != 0)
        fails("mount");
    prepare(v[5]);
    pthread_t other;
    pthread_create(&other, NULL, exchange, NULL);
    for (int i = 0; i <= tries; i++) {
        if (i == tries) { /* the last one alone, so that it is seen that calls are made at all */
            over = 1;
            pthread_join(other, NULL);
        }
        if (try() == 0) {
            made++;
            look();
        }
    }
    printf("made %d\n", made);
    return 0;
}
