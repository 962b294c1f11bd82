/* A program that makes, moves and removes names while another thread exchanges what that is about.
 *
 *   name_racer GAME TRIES [node]       in the directory that test_name_races.py makes, which is its working directory
 *
 * What is made is a directory, or with "node" a device node. *
 * Each call is to be one call: its paths are read once, it is done once, and with the rights of that moment.  It says
 * "tried N made N"; what is otherwise is said with "won", and ends it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

enum { PLACE = 50, GOOD = 51, BAD = 52 }; /* descriptors */

static _Atomic uint64_t path; /* of seven characters, exchanged whole */
static uint64_t words[2];
static atomic_int over;
static int nodes;

static void fail(const char *what)
{
    fprintf(stderr, "name_racer: %s: %m\n", what);
    exit(2);
}

static void won(const char *what, int said)
{
    printf("won: %s, errno %d\n", what, said);
    exit(0);
}

static int make(int directory, const char *name)
{
    return nodes ? mknodat(directory, name, S_IFCHR | 0777, makedev(1, 3)) : mkdirat(directory, name, 0777);
}

static int drop(int directory, const char *name) { return unlinkat(directory, name, nodes ? 0 : AT_REMOVEDIR); }

static const char *text(void) { return (const char *)&path; }

/* What is exchanged. */
static void word(int good) { atomic_store(&path, words[good]); }
static void place(int good) { dup2(good ? GOOD : BAD, PLACE); }
static void here(int good) { if (fchdir(good ? GOOD : BAD)) fail("fchdir"); }
static void mask(int good) { umask(good ? 0 : 077); }
static void link_(int good)
{
    (void)good;
    syscall(SYS_renameat2, BAD, "../play/dir", BAD, "../play/dir-to-shut", 2 /* RENAME_EXCHANGE */);
}

static int is(int directory, const char *name)
{
    struct stat st;
    return fstatat(directory, name, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

/* What has been made in one of two places, by one call that said what failed: it is removed by one call, too. */
static int made_once(int failed, const char *one, const char *other)
{
    int first = is(GOOD, one), second = is(BAD, other);
    if (strcmp(one, other) && (is(GOOD, other) || is(BAD, one)))
        won("half of each path", failed);
    if (failed ? first + second != 0 : first + second != 1)
        won(failed ? "what failed was done" : "it was not done once", failed);
    if (!failed && drop(first ? GOOD : BAD, first ? one : other))
        won("it was not removed once", errno);
    return !failed;
}

/* How it is tried: whether something was made. */
static int makes(void)
{
    int failed = make(AT_FDCWD, text()) ? errno : 0;
    return failed ? (won("it was not made", failed), 0) : made_once(0, "one", "two");
}
static int moves(void)
{
    if (make(AT_FDCWD, "new"))
        won("what was moved is there", errno);
    int failed = rename("new", text()) ? errno : 0;
    if (failed || is(AT_FDCWD, "new"))
        won("it was not moved", failed);
    return made_once(0, "one", "two");
}
static int removes(void)
{
    if (make(AT_FDCWD, "yes/one") || make(AT_FDCWD, "not/two"))
        won("what was removed is there", errno);
    int failed = drop(AT_FDCWD, text()) ? errno : 0;
    int first = is(GOOD, "one"), second = is(BAD, "two");
    if (failed || first + second != 1)
        won("it was not removed once", failed);
    if (drop(AT_FDCWD, first ? "yes/one" : "not/two"))
        won("it was not removed", errno);
    return 1;
}
static int relative(void) { return made_once(make(PLACE, "x") ? errno : 0, "x", "x"); }
static int from_here(void) { return made_once(make(AT_FDCWD, "x") ? errno : 0, "x", "x"); }
static int masked(void)
{
    struct stat st;
    int failed = make(AT_FDCWD, "x") ? errno : 0;
    if (failed || stat("x", &st))
        won("it was not made", failed ? failed : errno);
    if ((st.st_mode & 0777) != 0777 && (st.st_mode & 0777) != 0700)
        won("another mode", st.st_mode);
    if (drop(AT_FDCWD, "x"))
        won("it was not removed", errno);
    return 1;
}
/* play/dir is a directory of ours, which is open, or leads to one where we may make nothing. */
static int linked(void)
{
    int failed = make(AT_FDCWD, "play/dir/x") ? errno : 0;
    if (failed && failed != EACCES)
        won("another errno", failed);
    if (is(AT_FDCWD, "shut/x"))
        won("it was made where it may not be", failed);
    if (failed && is(PLACE, "x"))
        won("what failed was done", failed);
    if (!failed && drop(PLACE, "x"))
        won("it was not made", errno);
    return !failed;
}
/* Its own rights change from call to call: nothing is exchanged by another thread. */
static int rights(void)
{
    setfsuid(1); /* and with that its rights over files */
    if (make(AT_FDCWD, "shut/x") == 0 || errno != EACCES)
        won("with the rights of before", errno);
    setfsuid(0);
    if (make(AT_FDCWD, "shut/x"))
        won("without the rights of now", errno);
    setfsuid(1);
    if (drop(AT_FDCWD, "shut/x") == 0 || errno != EACCES)
        won("with the rights of before", errno);
    setfsuid(0);
    if (drop(AT_FDCWD, "shut/x"))
        won("without the rights of now", errno);
    return 1;
}

static const struct game {
    const char *name, *words[2];
    void (*exchange)(int good);
    int (*try)(void);
} games[] = {
    {"made", {"not/two", "yes/one"}, word, makes}, {"moved", {"not/two", "yes/one"}, word, moves},
    {"removed", {"not/two", "yes/one"}, word, removes}, {"dirfd", {"", ""}, place, relative}, {"cwd", {"", ""}, here, from_here},
    {"umask", {"", ""}, mask, masked}, {"link", {"", ""}, link_, linked}, {"rights", {"", ""}, NULL, rights},
};

static void *exchanges(void *game)
{
    for (int good = 0; !over; good = !good) {
        ((const struct game *)game)->exchange(good);
        sched_yield();
    }
    return NULL;
}

int main(int argc, char **argv)
{
    const struct game *game = games, *end = games + sizeof games / sizeof *games;
    int tries = argc >= 3 ? atoi(argv[2]) : 0, made = 0;
    pthread_t other;
    while (game < end && (argc < 3 || strcmp(game->name, argv[1])))
        game++;
    if (game == end)
        return 2;
    nodes = argc == 4 && strcmp(argv[3], "node") == 0;
    umask(0);
    for (int i = 0; i < 2; i++) {
        int fd = open(i ? "yes" : "not", O_PATH | O_DIRECTORY);
        if (fd < 0 || dup2(fd, i ? GOOD : BAD) < 0 || dup2(fd, PLACE) < 0)
            fail("open");
        memcpy(&words[i], game->words[i], strlen(game->words[i]));
    }
    atomic_store(&path, words[1]);
    if (game->exchange == link_ && dup2(open("play/dir", O_PATH | O_DIRECTORY), PLACE) < 0)
        fail("open");
    if (game->exchange != NULL && game->exchange != word && game->exchange != link_)
        game->exchange(1);
    if (game->exchange != NULL && pthread_create(&other, NULL, exchanges, (void *)(uintptr_t)game))
        fail("pthread_create");
    for (int i = 0; i < tries; i++)
        made += game->try();
    over = 1;
    if (game->exchange != NULL)
        pthread_join(other, NULL);
    printf("tried %d made %d\n", tries, made);
    return 0;
}
