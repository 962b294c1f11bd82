/* A program that tries to get at what it must not: while one thread makes a call, another one keeps
 * exchanging what the call is about.
 *
 *   racer GAME TRIES [first | both]     in the tree that test_races.py makes, which is its working directory
 *
 * It says "tried N got N refused N won N": how many calls gave what is allowed, were refused, or gave what
 * is forbidden.  With "first" it ends with the first win. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

enum { PLACE = 50, GOOD = 51, BAD = 52 }; /* descriptors */

static char top[PATH_MAX - 64], path[PATH_MAX];
static struct { uint64_t flags, mode, resolve; } how;
static volatile uint64_t device;
static dev_t terminal;
static atomic_int over;

static int fail(const char *what)
{
    fprintf(stderr, "racer: %s: %m\n", what);
    exit(2);
}

static void must(int result, const char *what)
{
    if (result < 0)
        fail(what);
}

/* An O_PATH descriptor, by a call that nobody notifies. */
static int pinned(const char *name) { return (int)syscall(SYS_open_tree, AT_FDCWD, name, 0); }

static void at(int number, const char *name)
{
    int fd = pinned(name);
    must(fd, name);
    must(dup2(fd, number), "dup2");
    close(fd);
}

/* What is exchanged: 1 is what a careful monitor allows. */
static void text(int good) { memcpy(path, good ? "yes" : "not", 3); }
static void whole_text(int good) { memcpy(path + strlen(top) + 1, good ? "yes" : "not", 3); }
static void exchange(const char *one, const char *other)
{
    syscall(SYS_renameat2, AT_FDCWD, one, AT_FDCWD, other, 2 /* RENAME_EXCHANGE */);
}
static void directory(int good) { (void)good, exchange("play/dir", "play/dir-to-not"); }
static void link_(int good) { (void)good, exchange("play/link", "play/link-to-not"); }
static void new_link(int good) { (void)good, exchange("play/new", "play/new-to-not"); }
static void above(int good)
{
    if (good)
        rename("not/deep", "play/deep/deep");
    else
        rename("play/deep/deep", "not/deep");
}
static void place(int good) { dup2(good ? GOOD : BAD, PLACE); }
static void standard(int good)
{
    for (int fd = 0; fd < 3; fd += 2) /* 1 is for what it says */
        dup2(good ? GOOD : BAD, fd);
}
static void here(int good) { if (fchdir(good ? GOOD : BAD)) fail("fchdir"); }
static void root(int good)
{
    char *where = good ? "yes" : "not";
    if (fchdir(PLACE) || chroot(where))
        fail("chroot");
}
static void flags(int good) { how.flags = good ? O_RDONLY : O_RDWR | O_TRUNC; }
static void scope(int good) { how.resolve = good ? 8 /* BENEATH */ : 0; }
static void number(int good) { device = good ? makedev(1, 3) : makedev(1, 5); }

/* How it is tried: a descriptor of what came of it, or -1. */
static int opens(void) { return open(path, O_RDONLY); }
static int relative(void) { return openat(PLACE, path, O_RDONLY); }
static int scoped(void) { return (int)syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof how); }
static int truncates(void) { return open(path, O_RDWR | O_TRUNC | O_NOFOLLOW); }
static int creates(void)
{
    int fd = open(path, O_CREAT | O_RDWR, 0600);
    unlink("yes/new"); /* what is made elsewhere is for the test to find, too */
    return fd;
}
static int makes(const char *name, mode_t mode, dev_t dev)
{
    if (mknod(name, mode, dev) < 0)
        return -1;
    int fd = pinned("yes/node");
    unlink("yes/node");
    return fd < 0 ? pinned("not/node") : fd;
}
static int node(void) { return makes("yes/node", S_IFCHR | 0600, (dev_t)device); }
static int named_node(void) { return makes(path, S_IFCHR | 0600, makedev(1, 3)); }
static int fifo(void) { return makes(path, S_IFIFO | 0600, 0); }

/* Whether what came of it is forbidden. */
static int by_text(int fd)
{
    char first = 0;
    return pread(fd, &first, 1, 0) == 1 && first == 'n';
}
static int by_access(int fd) { return (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDONLY; }
static int by_device(int fd, dev_t allowed)
{
    struct stat st;
    return fstat(fd, &st) < 0 || (S_ISCHR(st.st_mode) && st.st_rdev != allowed);
}
static int by_terminal(int fd) { return by_device(fd, terminal); }
static int by_name(int fd)
{
    char link[64], name[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, name, sizeof name - 1);
    if (length < 0)
        return 1;
    name[length] = 0;
    return strstr(name, "/not/") != NULL;
}
static int by_node(int fd) { return by_device(fd, makedev(1, 3)) || by_name(fd); }

static void nothing(void) {}
static void places(void) { at(GOOD, "yes"), at(BAD, "not"), at(PLACE, "yes"); }
static void files(void) { at(GOOD, "yes/file"), at(BAD, "not/file"), at(PLACE, "yes/file"); }
static void long_way(void) /* the longer a walk, the more happens meanwhile */
{
    char *end = stpcpy(path, "play/deep/deep/");
    for (int i = 0; i < 700; i++)
        end = stpcpy(end, "x/../");
    strcpy(end, "../../file");
}
static void roots(void) { at(PLACE, "."); }
static void terminals(void)
{
    struct stat st;
    int other = open("/dev/ptmx", O_RDWR | O_NOCTTY), ours = open("/dev/ptmx", O_RDWR | O_NOCTTY), no = 0;
    must(ours, "/dev/ptmx");
    must(other, "/dev/ptmx");
    must(setsid(), "setsid");
    for (int i = 0; i < 2; i++) {
        int master = i ? other : ours;
        must(ioctl(master, TIOCSPTLCK, &no), "TIOCSPTLCK");
        int fd = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY);
        must(fd, "TIOCGPTPEER");
        must(dup2(fd, i ? BAD : GOOD), "dup2");
    }
    must(ioctl(GOOD, TIOCSCTTY, 0), "TIOCSCTTY");
    must(fstat(GOOD, &st), "fstat");
    terminal = st.st_rdev;
}

static const struct game {
    const char *name, *path;
    void (*prepare)(void), (*swap)(int);
    int (*act)(void), (*won)(int);
} games[] = {
    {"path", "yes/file", nothing, text, opens, by_text},
    {"absolute-path", "//yes/file", nothing, whole_text, opens, by_text},
    {"directory", "play/dir/file", nothing, directory, opens, by_text},
    {"directory-truncated", "play/dir/file", nothing, directory, truncates, by_name},
    {"above", "", long_way, above, opens, by_text},
    {"link", "play/link", nothing, link_, opens, by_text},
    {"created-by-path", "yes/new", nothing, text, creates, by_name},
    {"created-by-link", "play/new", nothing, new_link, creates, by_name},
    {"dirfd", "file", places, place, relative, by_text},
    {"cwd", "file", places, here, opens, by_text},
    {"proc-cwd", "/proc/self/cwd/file", places, here, opens, by_text},
    {"proc-fd", "/proc/self/fd/50", files, place, opens, by_text},
    {"open_how-flags", "yes/file", nothing, flags, scoped, by_access},
    {"open_how-resolve", "//not/file", nothing, scope, scoped, by_text},
    {"mknod-device", "", nothing, number, node, by_node},
    {"mknod-path", "yes/node", nothing, text, named_node, by_node},
    {"fifo-path", "yes/node", nothing, text, fifo, by_node},
    {"root", "/file", roots, root, opens, by_text},
    {"terminal", "/dev/tty", terminals, standard, opens, by_terminal},
};

/* What was won, for whoever is to find out why. */
static void tell(int out, long tried, int fd)
{
    struct stat st = {0};
    char link[64], name[256] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    int failed = fstat(fd, &st) < 0 ? errno : 0;
    if (readlink(link, name, sizeof name - 1) < 0)
        name[0] = 0;
    dprintf(out, "won %ld: fd %d %s mode %o rdev %lx flags %o errno %d\n", tried, fd, name, st.st_mode,
            (unsigned long)st.st_rdev, fcntl(fd, F_GETFL), failed);
}

static void *swapper(void *argument)
{
    const struct game *game = argument;
    for (unsigned turn = 0; !atomic_load(&over); turn++) {
        game->swap(turn & 1);
        /* seldom in step with the other thread: sometimes at once, sometimes after a call's time */
        unsigned draw = turn * 2654435761u;
        for (unsigned wait = (draw >> 22) << (draw >> 13 & 7); wait > 0; wait--)
            atomic_signal_fence(memory_order_seq_cst);
    }
    return NULL;
}

int main(int count, char **words)
{
    const struct game *game = games;
    if (count < 3 || !getcwd(top, sizeof top))
        return 2;
    while (strcmp(game->name, words[1]) != 0)
        if (++game == games + sizeof games / sizeof *games)
            return 2;
    long tries = atol(words[2]), got = 0, refused = 0, won = 0, tried = 0;
    const char *until = count > 3 ? words[3] : "";
    int first = !strcmp(until, "first"), both = !strcmp(until, "both"), out = dup(1), told = dup(2);
    if (game->path[0] == '/' && game->path[1] == '/')
        snprintf(path, sizeof path, "%s%s", top, game->path + 1);
    else
        strcpy(path, game->path);
    umask(0);
    game->prepare();
    pthread_t thread;
    if (pthread_create(&thread, NULL, swapper, (void *)game) != 0)
        return 2;
    while ((tried < tries || (both && !(got && refused) && tried / 1000 < tries)) && !(first && won)) {
        int fd = game->act();
        tried++;
        if (fd < 0)
            refused++;
        else if (game->won(fd)) {
            tell(told, tried, fd);
            won++;
        }
        else
            got++;
        if (fd >= 0)
            close(fd);
    }
    atomic_store(&over, 1);
    pthread_join(thread, NULL);
    dprintf(out, "tried %ld got %ld refused %ld won %ld\n", tried, got, refused, won);
    return 0;
}
