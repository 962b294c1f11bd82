/* One thing opened without waiting for anybody.  The manual is _core.pyi. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "core.h"
#include "callers/acting.h"
#include "loop/loop.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Younger than the oldest headers we build with; numbers and layouts are ABI. */
#define SYS_openat2_ 437
#define RESOLVE_NO_XDEV 0x01
#define RESOLVE_NO_MAGICLINKS 0x02
#define RESOLVE_NO_SYMLINKS 0x04
#define RESOLVE_IN_ROOT 0x10
#define RESOLVE_CACHED 0x20                             /* Linux 5.12 */
#define PROC_SUPER_MAGIC 0x9fa0
#define OVERLAY 0x794c7630
enum { OVERFLOW = 65534 };                              /* the id of those who have none here */
#define STATX_OF_PIN 0x17ffU /* STATX_BASIC_STATS | STATX_MNT_ID */

struct how {
    uint64_t flags, mode, resolve;
};

int open_with(int at, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve) {
    struct how how = {flags | O_CLOEXEC, mode, resolve};
    int fd = (int)syscall(SYS_openat2_, at, path, &how, sizeof how);
    return fd < 0 ? -errno : fd;
}

static bool is_among(uint32_t kind, const uint32_t *kinds, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (kinds[i] == kind)
            return true;
    return false;
}

/* Whether no link of procfs was on a way that failed: then the errno is what anybody is told. */
static bool stands(int at, const char *path, uint64_t flags, uint64_t resolve, int failed) {
    int plain = open_with(at, path, flags, 0, resolve | RESOLVE_NO_SYMLINKS), near, start;
    if (plain >= 0)
        close(plain);
    if (plain >= 0 || (plain == failed && failed != -ELOOP))
        return true; /* it met no link; or, by now, there is something, and there was nothing */
    near = open_with(at, path, flags, 0, resolve | RESOLVE_NO_XDEV);
    if (near >= 0)
        close(near);
    if (near != failed || failed == -EXDEV)
        return false;
    if ((start = open_with(at, path[0] == '/' ? "/" : ".", O_PATH, 0, resolve & RESOLVE_IN_ROOT)) < 0)
        return false;
    uint32_t kind = kind_of(start);
    close(start);
    return kind != 0 && kind != PROC_SUPER_MAGIC;
}

/* Have the kernel look up the first name of a path that it has not in memory, if its directory is on a file system of
 * these kinds: how far the path is known then, 0 where nobody but whoever may have to wait can tell; or that it is not
 * there, which some file systems (tmpfs) forget at once.  Its directory was reached by no link of a procfs that is one of
 * ours: these are magic, or lead nowhere else. */
static size_t get_to_know(int at, const char *path, uint64_t resolve, const uint32_t *kinds, size_t count, bool *missing) {
    char head[PATH_MAX];
    size_t end = strlen(path), known = 0;
    if (end >= sizeof head)
        return 0;
    memcpy(head, path, end + 1);
    for (int directory = -EAGAIN; directory == -EAGAIN && end > 0;) {
        while (end > 0 && (head[end - 1] == '/' || (head[end - 1] == '.' && end > 1 && head[end - 2] == '/')))
            head[--end] = 0; /* a dot leads nowhere else */
        size_t from = end;
        while (from > 0 && head[from - 1] != '/')
            from--;
        const char *name = head + from;
        if (end == 0 || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
            return 0;
        if (from > 1)
            head[from - 1] = 0;
        directory = open_with(at, from == 0 ? "." : from == 1 ? "/" : head, O_PATH | O_DIRECTORY, 0, resolve);
        if (from > 1)
            head[from - 1] = '/';
        uint32_t kind = directory >= 0 ? kind_of(directory) : OVERLAY;
        if (kind != OVERLAY && is_among(kind, kinds, count)) {
            int there = open_with(directory, name, O_PATH | O_NOFOLLOW, 0, RESOLVE_NO_XDEV);
            if (there >= 0)
                close(there);
            known = there >= 0 ? end : 0;
            *missing = there == -ENOENT;
        }
        if (directory >= 0)
            close(directory);
        end = from;
    }
    return known;
}

int pin(int at, const char *path, uint64_t flags, uint64_t resolve, const uint32_t *kinds, size_t count) {
    uint16_t mode = 0;
    flags = O_PATH | (flags & (O_DIRECTORY | O_NOFOLLOW));
    resolve |= RESOLVE_NO_MAGICLINKS | RESOLVE_CACHED;
    int fd = open_with(at, path, flags, 0, resolve);
    bool missing = false;
    for (size_t known = 0, more;
         fd == -EAGAIN && (more = get_to_know(at, path, resolve, kinds, count, &missing)) > known; known = more)
        fd = open_with(at, path, flags, 0, resolve);
    if (missing)
        return -ENOENT;
    if (fd < 0)
        return (fd == -ENOENT || fd == -ENOTDIR || fd == -EACCES || fd == -ENAMETOOLONG || fd == -ELOOP)
                       && stands(at, path, flags, resolve, fd) ? fd : LEFT;
    bool local = is_among(kind_and_mode(fd, false, &mode), kinds, count);
    bool link = local && S_ISLNK(mode); /* with O_NOFOLLOW */
    local = link || (local && (S_ISREG(mode) || S_ISDIR(mode)));
    if (local && !link)
        return fd;
    close(fd);
    return local ? -ELOOP : LEFT;
}

/* Open what is pinned, by its link in table (/proc/self/fd).  What would wait (for a lease) is LEFT.
 * O_NOFOLLOW, which F_GETFL shows afterwards, is nothing that can be said of such a link: a directory is
 * opened by itself, whoever may search it, and all else is LEFT. */
static int reopen(int table, int pinned, uint64_t flags) {
    char name[16];
    snprintf(name, sizeof name, "%d", pinned);
    bool itself = (flags & O_NOFOLLOW) != 0;
    int fd = open_with(itself ? pinned : table, itself ? "." : name, flags | O_NONBLOCK, 0, 0);
    if (itself && (fd == -EACCES || fd == -ENOTDIR))
        return LEFT;
    if (fd >= 0 && !(flags & O_NONBLOCK) && fcntl(fd, F_SETFL, (int)flags) != 0) {
        close(fd);
        return LEFT;
    }
    bool wait = fd == -EAGAIN && !(flags & O_NONBLOCK);
    bool ours = fd == -EMFILE || fd == -ENFILE || fd == -ENOMEM || (fd == -ENOENT && !itself);
    return wait || ours ? LEFT : fd;
}

/* What a pin is called, where that is a path which leads back to it: its length, or -1. */
static ssize_t name_of(int table, int pinned, const char *path, const unsigned char *status, char *text,
                       size_t size) {
    char name[16];
    unsigned char again[256];
    snprintf(name, sizeof name, "%d", pinned);
    ssize_t length = readlinkat(table, name, text, size - 1);
    if (length <= 0 || text[0] != '/')
        return -1;
    text[length] = 0;
    bool gone = length > 10 && strcmp(text + length - 10, " (deleted)") == 0; /* or so called, as a link to it may be */
    if (!gone && strcmp(text, path) == 0) /* which it was found by */
        return length;
    int fd = open_with(AT_FDCWD, text, O_PATH | O_NOFOLLOW, 0, RESOLVE_NO_SYMLINKS | RESOLVE_CACHED);
    if (fd < 0)
        return -1;
    bool same = syscall(SYS_statx, fd, "", AT_EMPTY_PATH | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC, STATX_OF_PIN, again) == 0
                && memcmp(again + STATX_INODE, status + STATX_INODE, 8) == 0
                && memcmp(again + STATX_DEVICE, status + STATX_DEVICE, 8) == 0
                && memcmp(again + STATX_MOUNT, status + STATX_MOUNT, 8) == 0;
    close(fd);
    return same ? length : -1;
}

struct found {
    ssize_t length; /* of the name; -1: it was opened, not named */
    unsigned char status[256];
    char name[4200];
};

/* Flags, resolve, kinds, table; and a path, unless that is NULL: whether they are these. */
static bool asks(PyObject *const *args, PyObject *given, struct opening *opening) {
    char *path, *kinds;
    Py_ssize_t length, size;
    opening->flags = PyLong_AsUnsignedLongLongMask(args[0]);
    opening->resolve = PyLong_AsUnsignedLongLongMask(args[1]);
    opening->table = (int)PyLong_AsLong(args[3]);
    if (PyErr_Occurred() != NULL || PyBytes_AsStringAndSize(args[2], &kinds, &size) < 0)
        return false;
    opening->kinds = (const uint32_t *)(uintptr_t)kinds; /* bytes objects are aligned, and outlive the call */
    opening->count = (size_t)size / sizeof *opening->kinds;
    if (given == NULL)
        return true;
    if (PyBytes_AsStringAndSize(given, &path, &length) < 0)
        return false;
    if (length >= PATH_MAX || memchr(path, 0, (size_t)length) != NULL) {
        PyErr_SetString(PyExc_ValueError, "this is no path");
        return false;
    }
    opening->path = path;
    return true;
}

static PyObject *descriptor(int fd) {
    return fd == LEFT ? Py_NewRef(Py_None) : PyLong_FromLong(fd);
}

PyObject *core_reopen(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count) {
    if (count != 3)
        return PyErr_Format(PyExc_TypeError, "reopen() takes 3 arguments, not %zd", count);
    int table = (int)PyLong_AsLong(args[0]), pinned = (int)PyLong_AsLong(args[1]), fd;
    uint64_t flags = PyLong_AsUnsignedLongLongMask(args[2]);
    if (PyErr_Occurred() != NULL)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    fd = reopen(table, pinned, flags);
    Py_END_ALLOW_THREADS
    return descriptor(fd);
}

/* ---- All of it for a caller that is what we are, in one go ----------------------------------- */

/* Whether the kernel's rules about files of others in sticky directories (may_create_in_sticky of fs/namei.c), which
 * are about O_CREAT, have nothing to say. */
static bool is_free_of_rules(int directory, const struct stat *found) {
    struct stat status;
    uid_t own = (uid_t)setfsuid((uid_t)-1); /* no such id: nothing is changed */
    return fstat(directory, &status) == 0 && (!(status.st_mode & S_ISVTX) || (found->st_uid == own && own < OVERFLOW));
}

/* Whether rules allow what is pinned, which was found by a path (or: what a directory has by a name). */
static bool is_allowed(const struct opening *opening, int pinned, const char *path, const char *last) {
    struct found found;
    if (opening->allows == NULL)
        return true;
    if (syscall(SYS_statx, pinned, "", AT_EMPTY_PATH | AT_NO_AUTOMOUNT, STATX_OF_PIN, found.status) != 0
        || (found.length = name_of(opening->table, pinned, path, found.status, found.name, sizeof found.name)) < 0)
        return false;
    if (last != NULL) {
        size_t length = (size_t)found.length - (found.name[1] == 0), room = sizeof found.name - length;
        if ((size_t)snprintf(found.name + length, room, "/%s", last) >= room)
            return false;
    }
    return opening->allows(opening->rules, opening->path, found.name) == ALLOWED;
}

/* Open what is there under a name in a directory, where O_CREAT means nothing: -ENOENT if nothing is, as far as is
 * known without waiting; LEFT for all but regular files on the same mount. */
static int open_there(const struct opening *opening, int directory, const char *name) {
    struct stat status;
    int fd = LEFT, pinned = open_with(directory, name, O_PATH | O_NOFOLLOW, 0, RESOLVE_NO_XDEV | RESOLVE_CACHED);
    if (pinned < 0)
        return pinned == -ENOENT || pinned == -EAGAIN ? -ENOENT : LEFT;
    if (fstat(pinned, &status) == 0 && S_ISREG(status.st_mode) && is_free_of_rules(directory, &status)
        && is_allowed(opening, pinned, "", NULL))
        fd = reopen(opening->table, pinned, opening->flags & ~(uint64_t)O_CREAT);
    close(pinned);
    return fd == -ENOENT ? LEFT : fd;
}

/* Have it made, with the umask that its caller has, who still waits. */
static int make_in(const Known *caller, const struct opening *opening, int directory, const char *name, uint64_t more) {
    struct making what = {.directory = directory, .name = name, .flags = opening->flags | more, .mode = opening->mode,
                          .ours = opening->ours, .mask = mask_of(caller, opening->text, opening->length)};
    if (what.mask < 0 || (opening->listener >= 0 && id_valid(opening->listener, opening->id) != 0))
        return LEFT;
    return make(opening->maker, &what);
}

/* O_CREAT: the directory is pinned, and what is not in it is made there.  Of what then comes out nothing is said but
 * that something is there already; all else is for whoever does it all over, and nothing has happened. */
static int create(const Known *caller, const struct opening *opening) {
    char head[PATH_MAX];
    const char *last = strrchr(opening->path, '/');
    size_t length = last == NULL ? 0 : (size_t)(++last - opening->path);
    if (last == NULL)
        last = opening->path;
    if (last[0] == 0 || strcmp(last, ".") == 0 || strcmp(last, "..") == 0 || length >= sizeof head
        || opening->flags & (O_DIRECTORY | TMPFILE))
        return LEFT;
    while (length > 1 && opening->path[length - 1] == '/')
        length--;
    memcpy(head, length > 0 ? opening->path : ".", length > 0 ? length : 1);
    head[length > 0 ? length : 1] = 0;
    int directory = pin(opening->at, head, O_DIRECTORY, opening->resolve, opening->kinds, opening->count);
    if (directory < 0)
        return directory;
    bool alone = opening->flags & O_EXCL;
    int fd = alone ? -ENOENT : open_there(opening, directory, last);
    if (fd == -ENOENT && !is_allowed(opening, directory, head, last))
        fd = LEFT;
    if (fd == -ENOENT && (fd = make_in(caller, opening, directory, last, O_EXCL)) == -EEXIST && !alone)
        fd = open_there(opening, directory, last); /* it was not in the kernel's memory */
    close(directory);
    return fd >= 0 || (fd == -EEXIST && alone) ? fd : LEFT;
}

/* O_TMPFILE: a file that has no name, in a directory. */
static int create_unnamed(const Known *caller, const struct opening *opening) {
    if (!(opening->flags & O_DIRECTORY) || !(opening->flags & O_ACCMODE))
        return LEFT;
    int directory = pin(opening->at, opening->path, opening->flags, opening->resolve, opening->kinds, opening->count);
    if (directory < 0)
        return directory;
    int fd = is_allowed(opening, directory, opening->path, NULL) ? make_in(caller, opening, directory, ".", 0) : LEFT;
    close(directory);
    return fd >= 0 ? fd : LEFT;
}

/* Open, or pin and name, what the path of asked leads to from a caller's place: a descriptor,
 * minus the errno that it ends with, or LEFT. */
static int act(const Known *caller, struct opening *opening, bool named, struct found *found) {
    int fd = LEFT, start = -1;
    if ((named || opening->allows != NULL || opening->flags & (O_CREAT | TMPFILE | O_TRUNC))
        && !(opening->length > 0 ? has_room_by(caller, opening->text, opening->length) : has_room(caller)))
        return LEFT; /* nothing happens, and nobody is asked, before that is known */
    if (opening->path[0] == '/')
        opening->at = opening->resolve & RESOLVE_IN_ROOT ? opening->at : AT_FDCWD;
    else if (opening->at < 0 && (opening->at = start = place_of(caller, opening->dirfd)) < 0)
        return LEFT;
    if (opening->flags & (O_CREAT | TMPFILE)) {
        fd = named ? LEFT : opening->flags & O_CREAT ? create(caller, opening) : create_unnamed(caller, opening);
        if (start >= 0)
            close(start);
        return fd;
    }
    int pinned = fd = pin(opening->at, opening->path, opening->flags, opening->resolve, opening->kinds, opening->count);
    if (pinned >= 0 && !named)
        fd = is_allowed(opening, pinned, opening->path, NULL)
                 ? reopen(opening->table, pinned, opening->flags & ~(uint64_t)O_CREAT)
                 : LEFT;
    else if (pinned >= 0
             && (syscall(SYS_statx, pinned, "", AT_EMPTY_PATH | AT_NO_AUTOMOUNT, STATX_OF_PIN, found->status) != 0
                 || (found->length = name_of(opening->table, pinned, opening->path, found->status, found->name,
                                             sizeof found->name)) < 0))
        fd = LEFT;
    if (pinned >= 0 && fd != pinned)
        close(pinned);
    if (start >= 0)
        close(start);
    /* what comes first is EMFILE, before any path is looked at */
    return fd >= 0 || fd == LEFT || has_room(caller) ? fd : LEFT;
}

int open_plainly(const Known *caller, int root, struct opening *opening) {
    bool absolute = opening->path[0] == '/';
    opening->at = absolute ? root : -1;
    opening->resolve = absolute ? RESOLVE_IN_ROOT : 0;
    return act(caller, opening, false, NULL);
}

PyObject *core_open_for(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count) {
    if (count != 15)
        return PyErr_Format(PyExc_TypeError, "open_for() takes 15 arguments, not %zd", count);
    Known *caller = known_from(args[0]);
    const struct standing *ours;
    struct opening opening = {0};
    struct found found = {.length = -1};
    int groups = PyObject_IsTrue(args[1]), listener = (int)PyLong_AsLong(args[3]), fd = LEFT;
    uint64_t id = PyLong_AsUnsignedLongLongMask(args[4]), address = 0;
    int named = PyObject_IsTrue(args[12]);
    bool given = PyBytes_Check(args[7]), same;
    if (caller == NULL || !standing_in(args[2], &ours)
        || !asks(args + 8, given ? args[7] : NULL, &opening))
        return NULL;
    opening.at = (int)PyLong_AsLong(args[5]), opening.dirfd = (int)PyLong_AsLong(args[6]);
    opening.mode = PyLong_AsUnsignedLongMask(args[13]), opening.ours = ours;
    opening.maker = args[14] == Py_None ? NULL : maker_from(args[14]);
    if (!given)
        address = PyLong_AsUnsignedLongLongMask(args[7]);
    if (PyErr_Occurred() != NULL)
        return NULL;
    char here[4096], *text, *path = NULL;
    ssize_t length;
    size_t used = 0;
    Py_BEGIN_ALLOW_THREADS
    same = unchanged(caller, groups != 0, ours, here, sizeof here, &text, &length);
    opening.text = text, opening.length = (size_t)length, opening.listener = given ? -1 : listener, opening.id = id;
    if (same && !given) {
        given = gather(caller->tid, address, PATH_MAX, true, &path, &used) == 0 && id_valid(listener, id) == 0;
        opening.path = path;
    }
    if (same && given && opening.path[0] != 0)
        fd = act(caller, &opening, named != 0, &found);
    Py_END_ALLOW_THREADS
    if (text != here)
        free(text);
    PyObject *taken = !given ? Py_NewRef(Py_None)
                      : path == NULL ? Py_NewRef(args[7])
                                     : PyBytes_FromStringAndSize(path, (Py_ssize_t)used);
    free(path);
    if (!same) {
        Py_XDECREF(taken);
        return Py_NewRef(Py_None);
    }
    if (fd < 0 || !named)
        return Py_BuildValue("(NN)", taken, descriptor(fd));
    return Py_BuildValue("(NiNN)", taken, fd,
                         PyBytes_FromStringAndSize((char *)found.status, sizeof found.status),
                         PyBytes_FromStringAndSize(found.name, found.length));
}
