/* Where a path leads for a caller, in the usual case, in a few system calls.  The manual is _core.pyi.
 *
 * The kernel walks, from the caller's root and directory, which are held meanwhile; the pin is asked for
 * its name, and the name is walked once more to see that it leads there.  Only what comes out the same
 * whoever looks is told: what meets a magic link or ends on a procfs, where "self" would be us, what is
 * relative to a directory above the caller's root, and every error but a missing last name is left to
 * whoever goes step by step. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "core.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { NO_MAGICLINKS = 2, NO_SYMLINKS = 4, BENEATH = 8, IN_ROOT = 16 };
enum { PIN = O_PATH | O_CLOEXEC, ENTER = PIN | O_DIRECTORY, LOOK = PIN | O_NOFOLLOW };
enum { PROC_SUPER = 0x9FA0, STATX_MOUNT = 0x1000 };

struct how_to_open {
    uint64_t flags, mode, resolve;
};

struct identity {
    uint64_t inode, mount;
    uint32_t major, minor;
};

struct search {
    int root, base;       /* base: -1 for the root */
    bool ours, close_base; /* the root is our own: then it need not be open */
    bool first;            /* it is the one that is held for ever, perhaps our own */
    bool nowhere;          /* a directory on the way is not there, whoever looks */
    int pin, parent;
    char *name;            /* PLACE_SIZE bytes, which nobody clears */
};

static bool identify(int fd, const char *path, int flags, struct identity *into) {
    struct statx found;
    if (statx(fd, path, flags | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC, STATX_INO | STATX_MOUNT,
              &found) < 0)
        return false;
    memcpy(&into->mount, (char *)&found + 0x90, sizeof into->mount); /* stx_mnt_id, Linux 5.8 */
    into->inode = found.stx_ino;
    into->major = found.stx_dev_major;
    into->minor = found.stx_dev_minor;
    return (found.stx_mask & STATX_MOUNT) != 0;
}

static bool same(const struct identity *one, const struct identity *other) {
    return one->inode == other->inode && one->mount == other->mount && one->major == other->major
           && one->minor == other->minor;
}

static void let_go(int *fd) {
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* Our own root as it was at first, held for ever: most callers have it, and to see that takes half as long
 * as to see what our own is by now. */
static struct {
    int fd;
    struct identity at;
} first = {.fd = -1};

void path_ready(void) {
    int fd = open("/", PIN);
    if (fd >= 0 && identify(fd, "", AT_EMPTY_PATH, &first.at))
        first.fd = fd;
    else
        let_go(&fd);
}

bool is_first(const uint64_t root[3]) {
    uint64_t own[3];
    return first.fd >= 0 && root_of(first.fd, "", own) == 0 && memcmp(own, root, sizeof own) == 0;
}

/* Whether that still is our own is asked where it matters. */
static void settle(struct search *self) {
    struct identity mine;
    if (self->first && !self->ours)
        self->ours = identify(AT_FDCWD, "/", 0, &mine) && same(&mine, &first.at);
}

static int walk(int from, const char *path, uint64_t flags, uint64_t resolve) {
    struct how_to_open how = {flags, 0, resolve | NO_MAGICLINKS};
    return (int)syscall(437 /* openat2 */, from, path, &how, sizeof how);
}

/* The same from the caller's root, also for a path without its first slash. */
static int from_root(const struct search *self, const char *path, uint64_t flags, uint64_t resolve) {
    return walk(self->ours ? AT_FDCWD : self->root, path, flags, resolve | (self->ours ? 0 : IN_ROOT));
}

/* The kernel's name for something held, without an end; its length, 0 for none. */
static size_t kernel_name(int fd, char *into, size_t size) {
    char link[32];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t got = readlink(link, into, size - 1);
    if (got <= 0 || (size_t)got >= size - 1 || into[0] != '/')
        return 0;
    into[got] = 0;
    return (size_t)got;
}

/* How the caller's root calls what is held, which is `at`: false if nothing leads there. */
static bool call_it(const struct search *self, int fd, const struct identity *at, char *into,
                    size_t size) {
    char base[PATH_MAX + 1];
    size_t skip = 0;
    if (kernel_name(fd, into, size) == 0)
        return false;
    if (!self->ours) {
        skip = kernel_name(self->root, base, sizeof base);
        if (skip == 0)
            return false;
        skip -= skip == 1; /* "/" */
        if (strncmp(into, base, skip) != 0 || (into[skip] != '/' && into[skip] != 0))
            return false;
        memmove(into, into + skip, strlen(into + skip) + 1);
        if (into[0] == 0)
            strcpy(into, "/");
    }
    struct identity again;
    int there = from_root(self, into, LOOK, NO_SYMLINKS);
    bool right = there >= 0 && identify(there, "", AT_EMPTY_PATH, &again) && same(&again, at);
    let_go(&there);
    return right;
}

/* Whether it is on a procfs, or that cannot be told. */
static bool on_procfs(int fd, const struct identity *at) {
    uint32_t kind;
    return at->major == 0 && ((kind = kind_of(fd)) == 0 || kind == PROC_SUPER);
}

bool is_own_name(const char *path, size_t length) {
    const char *end = path + length;
    if (length < 2 || path[0] != '/')
        return false;
    for (const char *at = path; at < end;) {
        const char *name = at + 1, *slash = memchr(name, '/', (size_t)(end - name));
        size_t size = (size_t)((slash != NULL ? slash : end) - name);
        if (size == 0 || (name[0] == '.' && (size == 1 || (size == 2 && name[1] == '.'))))
            return false;
        at = name + size;
    }
    return true;
}

/* The same from where the path starts. */
static int from_start(const struct search *self, const char *path, uint64_t flags) {
    if (self->base < 0)
        return from_root(self, path, flags, 0);
    return walk(self->base, path, flags, self->ours ? 0 : BENEATH);
}

/* Something that is there, and its name: a descriptor, or -1 with errno, which is ECANCELED for what is
 * left to others.  What needs no link is called so by everybody, on a procfs too: there it matters only if
 * something is to be looked for in it (`within`). */
static int find(struct search *self, const char *path, uint64_t flags, bool within, char *name,
                size_t size) {
    struct identity at;
    int fd = -1;
    bool named = false;
    if (self->base < 0 && is_own_name(path, strlen(path))) {
        fd = from_root(self, path, flags, NO_SYMLINKS);
        named = fd >= 0;
        if (fd < 0 && errno != ELOOP)
            return -1;
    }
    if (fd < 0)
        settle(self);
    if (fd < 0 && (fd = from_start(self, path, flags)) < 0)
        return -1;
    bool asked = within || !named;
    if ((asked && (!identify(fd, "", AT_EMPTY_PATH, &at) || on_procfs(fd, &at)))
        || !(named || call_it(self, fd, &at, name, size))) {
        let_go(&fd);
        errno = ECANCELED;
        return -1;
    }
    if (named)
        memcpy(name, path, strlen(path) + 1);
    return fd;
}

/* The last name of a path, which is left without it: its head; NULL if it has no such name. */
static const char *split(char *path, const char **last) {
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/')
        path[--length] = 0;
    char *slash = strrchr(path, '/');
    *last = slash != NULL ? slash + 1 : path;
    if (**last == 0 || strcmp(*last, ".") == 0 || strcmp(*last, "..") == 0)
        return NULL;
    if (slash != NULL)
        *slash = 0;
    return slash == NULL ? "." : slash == path ? "/" : path;
}

/* Whether a directory that was not found is not there for anybody: a name on the way is missing in a
 * directory that shows everybody the same. */
static bool is_nowhere(struct search *self, char *path) {
    struct identity at;
    const char *last, *head;
    settle(self);
    for (int tries = 0; tries < 16 && (head = split(path, &last)) != NULL; tries++) {
        int above = from_start(self, head, ENTER);
        if (above < 0 && errno != ENOENT)
            return false;
        if (above < 0)
            continue;
        int there = -1;
        bool missing = identify(above, "", AT_EMPTY_PATH, &at) && !on_procfs(above, &at)
                       && (there = openat(above, last, LOOK)) < 0 && errno == ENOENT;
        let_go(&there);
        let_go(&above);
        return missing;
    }
    return false;
}

/* A name in its directory, and what is there. */
static bool find_entry(struct search *self, char *path) {
    struct identity at;
    const char *last, *head = split(path, &last);
    if (head == NULL)
        return false;
    self->parent = find(self, head, ENTER, true, self->name, PATH_MAX + 1);
    if (self->parent < 0) {
        self->nowhere = errno == ENOENT && head == path && is_nowhere(self, path);
        return false;
    }
    size_t length = strlen(self->name);
    length -= self->name[length - 1] == '/';
    snprintf(self->name + length, PLACE_SIZE - length, "/%s", last);
    self->pin = openat(self->parent, last, LOOK);
    if (self->pin < 0)
        return errno == ENOENT;
    return identify(self->pin, "", AT_EMPTY_PATH, &at) && !on_procfs(self->pin, &at);
}

static bool search(struct search *self, char *path, bool follow, bool entry) {
    if (entry)
        return find_entry(self, path);
    self->pin = find(self, path, follow ? PIN : LOOK, false, self->name, PLACE_SIZE);
    if (self->pin >= 0)
        return true;
    /* A name with a slash behind it is no place for a file, and a link that dangles names another. */
    return errno == ENOENT && path[strlen(path) - 1] != '/' && find_entry(self, path)
           && self->pin < 0;
}

/* How many of ".." a path begins with; *rest is what follows. */
static int ups(char *path, char **rest) {
    int count = 0;
    while (path[0] == '.' && path[1] == '.' && (path[2] == '/' || path[2] == 0)) {
        count++;
        path += 2;
        path += strspn(path, "/");
    }
    *rest = path;
    return count;
}

/* Start above, as far as that is below the root: what is held for a directory there, else -1. */
static int climb(const struct search *self, int count) {
    char way[PATH_MAX] = ".";
    int depth = 0;
    for (const char *at = self->name; self->name[1] != 0 && *at != 0; at++)
        depth += *at == '/';
    if (depth < count || (size_t)count * 3 + 2 > sizeof way)
        return -1;
    for (int i = 0; i < count; i++)
        memcpy(way + 1 + 3 * i, "/..", 4);
    return walk(self->base, way, ENTER, 0);
}

/* Hold the root, and the directory that the path starts in, of a thread; true without one: they are held. */
static bool hold(struct search *self, int tid, bool rooted, int dirfd, const char *path) {
    char place[48];
    struct identity theirs;
    if (tid == 0) {
        self->first = first.fd >= 0 && identify(self->root, "", AT_EMPTY_PATH, &theirs)
                      && same(&theirs, &first.at);
        settle(self);
        self->base = path[0] == '/' ? -1 : dirfd;
        return true;
    }
    snprintf(place, sizeof place, "/proc/%d/root", tid);
    self->first = rooted || (first.fd >= 0 && identify(AT_FDCWD, place, 0, &theirs) && same(&theirs, &first.at));
    self->root = self->first ? first.fd : open(place, PIN);
    if (self->root < 0)
        return false;
    if (path[0] == '/')
        return true;
    settle(self);
    if (dirfd == AT_FDCWD)
        snprintf(place, sizeof place, "/proc/%d/cwd", tid);
    else
        snprintf(place, sizeof place, "/proc/%d/fd/%d", tid, dirfd);
    self->base = open(place, PIN);
    self->close_base = true;
    return self->base >= 0;
}

/* The root, where ".." stops, must not be met on the way: start where the path needs no more of it. */
static bool enter(struct search *self, char **path) {
    struct identity at;
    if (self->base < 0 || self->ours)
        return true;
    if (!identify(self->base, "", AT_EMPTY_PATH, &at)
        || !call_it(self, self->base, &at, self->name, PLACE_SIZE))
        return false;
    int count = ups(*path, path);
    if (count == 0)
        return true;
    int above = climb(self, count);
    if (self->close_base)
        let_go(&self->base);
    self->base = above;
    self->close_base = true;
    if (**path == 0)
        *--*path = '.';
    return above >= 0;
}

static bool look_up(struct search *self, int tid, bool rooted, int dirfd, char *path, bool follow, bool entry) {
    bool found = hold(self, tid, rooted, dirfd, path) && enter(self, &path) && search(self, path, follow, entry);
    if (self->close_base)
        let_go(&self->base);
    if (tid != 0 && !self->first)
        let_go(&self->root);
    if (!found || tid != 0) {
        let_go(&self->pin);
        let_go(&self->parent);
    }
    return found;
}

int leads_to(int tid, bool rooted, int dirfd, char *path, bool follow, bool entry, char *name) {
    struct search self = {.root = -1, .base = -1, .pin = -1, .parent = -1, .name = name};
    if (look_up(&self, tid, rooted, dirfd, path, follow, entry))
        return 0;
    return self.nowhere ? ENOENT : ECANCELED;
}

bool found_at(int root, int dirfd, char *path, bool follow, bool entry, char *name, int *pin, int *parent) {
    struct search self = {.root = root, .base = -1, .pin = -1, .parent = -1, .name = name};
    bool found = look_up(&self, 0, false, dirfd, path, follow, entry);
    *pin = self.pin;
    *parent = self.parent;
    return found;
}
