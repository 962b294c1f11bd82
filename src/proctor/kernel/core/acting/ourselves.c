/* What paths lead to is changed by ourselves, for a caller that is what we are: nobody has to become anybody, and no process is
 * woken.
 *
 * As with what is opened (acting/opening.c), nothing happens before it is known that nobody has to be waited for: what the paths lead to
 * is pinned through what the kernel has in memory, on file systems that ask nobody.  What is then done to the pins is done by one system
 * call, of this thread's: so it may wait for whoever has that directory locked, as the caller would, and loses the role of receiving
 * meanwhile.  A directory is made by the thread that makes files, which has the caller's umask for it (acting/making.c); what
 * else is done here does not know of one. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "asking/posing.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define RESOLVE_IN_ROOT 0x10
#ifndef SYS_faccessat2
#define SYS_faccessat2 439 /* Linux 5.8; the same number on every architecture */
#endif
enum { MOST_PATHS = 2 };

/* Whether an errno is about us, or says that somebody is to be asked who may wait. */
static bool is_ours(int number) {
    return number == EMFILE || number == ENFILE || number == ENOMEM || number == ENOBUFS || number == EAGAIN || number == EINTR;
}

/* What a path leads to, pinned, from where it starts (-1: nowhere). */
static int pinned(const struct ourselves *us, const char *path, uint64_t flags, int at) {
    int fd = at < 0 ? LEFT : pin(at, path, flags, path[0] == '/' ? RESOLVE_IN_ROOT : 0, us->kinds, us->count);
    return fd == -ELOOP ? LEFT : fd; /* that may be a link, which has attributes and names, too */
}

static int changed(const struct ourselves *us, const int *pins) {
    const struct value *is = us->values;
    char link[16];
    struct making making = {.directory = pins[0], .nested = true, .ours = us->ours};
    snprintf(link, sizeof link, "%d", pins[0]);
    switch (us->what) {
    case MKDIR: /* the umask, the mode, the entry */
        making.mask = (int)is[0].number, making.mode = is[1].number, making.name = is[3].text;
        int made = make(us->maker, &making);
        return made < 0 && made != LEFT ? -made : made;
    case UNLINK:
        return unlinkat(pins[0], is[2].text, (int)is[0].number) == 0 ? 0 : errno;
    case RENAME: /* renameat2(2) with flags is nothing ordinary */
        return renameat(pins[0], is[2].text, pins[1], is[4].text) == 0 ? 0 : errno;
    case LINK: /* by our own link to what is pinned, which leads to the very thing */
        return linkat(us->table, link, pins[1], is[2].text, AT_SYMLINK_FOLLOW) == 0 ? 0 : errno;
    case SYMLINK:
        return symlinkat(is[0].text, pins[0], is[2].text) == 0 ? 0 : errno;
    case CHMOD:
        return fchmodat(us->table, link, (mode_t)is[0].number, 0) == 0 ? 0 : errno;
    case CHOWN:
        return fchownat(pins[0], "", (uid_t)is[0].number, (gid_t)is[1].number, AT_EMPTY_PATH) == 0 ? 0 : errno;
#ifdef SYS_newfstatat
    case STAT:
        return syscall(SYS_newfstatat, pins[0], "", us->found, AT_EMPTY_PATH) == 0 ? 0 : errno;
#endif
    case STATX:
        return syscall(SYS_statx, pins[0], "", AT_EMPTY_PATH, (unsigned int)is[0].number, us->found) == 0 ? 0 : errno;
    case ACCESS:
        return syscall(SYS_faccessat2, pins[0], "", (int)is[0].number, AT_EMPTY_PATH) == 0 ? 0 : errno;
    default:
        return LEFT;
    }
}

/* Where paths start: what is the same for both is looked at once. */
static void take_places(const Known *caller, const struct ourselves *us, const struct value *path, int step, int *places) {
    int relative = 0;
    for (int i = 0; i < us->paths; i++, path += step, step = 2) {
        if (path->text[0] == '/') {
            places[i] = us->root;
        } else {
            int from = us->dirfds[relative++];
            places[i] = relative > 1 && from == us->dirfds[0] ? places[0] : place_of(caller, from);
        }
    }
}

int do_ourselves(const Known *caller, const struct ourselves *us) {
    static const int numbers[] = {[MKDIR] = 2, [UNLINK] = 1, [RENAME] = 1, [LINK] = 0, [SYMLINK] = 1, [CHMOD] = 1, [CHOWN] = 2, [STAT] = 0, [STATX] = 1, [ACCESS] = 1};
    const struct value *path = us->values + numbers[us->what], *first = path;
    bool entry = us->what < CHMOD && us->what != LINK;
    int places[MOST_PATHS] = {-1, -1}, pins[MOST_PATHS] = {-1, -1}, failed = 0;
    take_places(caller, us, path, 1 + entry, places);
    for (int i = 0; failed == 0 && i < us->paths; i++, path += 1 + entry, entry = true) {
        bool again = i > 0 && entry && us->what == RENAME && places[1] == places[0] && strcmp(path->text, first->text) == 0;
        int fd = again ? pins[0] : pinned(us, path->text, entry ? O_DIRECTORY : us->nofollow ? O_NOFOLLOW : 0, places[i]);
        failed = fd >= 0 ? 0 : fd == LEFT ? LEFT : -fd;
        pins[i] = fd >= 0 ? fd : -1;
    }
    if (failed != LEFT && id_valid(us->listener, us->id) != 0)
        failed = LEFT; /* its number, and with that what was read, may be another's by now */
    if (failed == 0 && is_ours(failed = changed(us, pins)))
        failed = LEFT;
    for (int i = MOST_PATHS - 1; i >= 0; i--) {
        if (pins[i] >= 0 && (i == 0 || pins[i] != pins[0]))
            close(pins[i]);
        if (places[i] >= 0 && places[i] != us->root && (i == 0 || places[i] != places[0]))
            close(places[i]);
    }
    return failed;
}
