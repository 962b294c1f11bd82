/* What the sources share that act for a caller: who it is, and what a struct statx has where. */
#pragma once
#include <linux/capability.h>

/* Younger than the oldest headers we build with; numbers and layouts are ABI. */
#ifndef PIDFD_GET_INFO
#define PIDFD_GET_INFO _IOC(_IOC_READ | _IOC_WRITE, 0xFF, 11, 64) /* Linux 6.13 */
#endif
#ifndef STATX_MNT_ID_UNIQUE
#define STATX_MNT_ID_UNIQUE 0x4000U                     /* Linux 6.8 */
#endif

enum { STATX_INODE = 32, STATX_SIZE_AT = 40, STATX_DEVICE = 136, STATX_MOUNT = 144 };

struct standing { /* its other side is proctor.kernel.standing */
    uint32_t uids[4], gids[4];              /* real, effective, saved, of the file system */
    struct __user_cap_data_struct caps[2];
    uint64_t root[3];                       /* device, inode, mount */
    uint64_t cgroup;                        /* of version 2; 0 where that is not told */
    char user[24];                          /* as user:[4026531837] */
};

typedef struct { /* a thread, through descriptors that somebody keeps open, and who it was */
    PyObject_HEAD
    int tid; /* 0: nobody any more */
    int pidfd, proc, user, status, label, cgroup;
    bool settled; /* whether its groups cannot change unseen, so that status need not be read for them */
    struct standing rights;
    PyObject *identity, *labelled, *cgroups, *mounts; /* bytes: pieces of status; the label; the text of `cgroup`; of `ns/mnt` */
} Known;

/* Whether its ids, capabilities and root directory are what they were; and all the rest, which costs more: the text
 * of status, if that was read, is in here or malloced.  Without the GIL. */
bool looks_same(const Known *self);
bool is_same(const Known *self, bool groups, char *here, size_t size, char **text, ssize_t *length);
/* Whether it is who it was, as far as that decides what no file is looked for: without its groups and its root directory.
 * Without the GIL. */
bool acts_the_same(const Known *self);
/* Whether its cgroups are what they were, those of version 1, too.  Without the GIL. */
bool in_its_cgroups(const Known *self);
/* Whether it is in the mount namespace that it was in; asked of who can change that and keep its root directory (chroot(2), by a
 * descriptor of before).  Without the GIL. */
bool in_its_mounts(const Known *self);
/* Whether it is who it was, and we are ours (unless NULL).  Without the GIL; the text of status, if it was
 * read, is in here or malloced.  That the thread lives is asked last. */
bool unchanged(const Known *self, bool groups, const struct standing *ours, char *here, size_t size,
               char **text, ssize_t *length);
/* Whether this thread is who ours says; also whether its root is. */
bool same_as(const struct standing *ours, bool root);
/* A struct standing in a bytes object, NULL in an empty one: whether it is one. */
bool standing_in(PyObject *bytes, const struct standing **made);
/* The object, if it is a Known; else NULL, and an exception. */
Known *known_from(PyObject *object);
/* Whether a thread's table takes one more descriptor, as far as their number (since Linux 6.2) tells, or the
 * size of the table in the text of its status, if that was read. */
bool has_room(const Known *caller);
bool has_room_by(const Known *caller, const char *text, size_t length);
/* The umask of a thread, by the text of its status, which is read if it was not (length 0); -1 if there is none. */
int mask_of(const Known *caller, const char *text, size_t length);
/* An O_PATH descriptor of where a relative path of a thread starts: its working directory, or what it has
 * open; -1 if that is nothing. */
int place_of(const Known *caller, int dirfd);

enum { LEFT = INT32_MIN }; /* what is left to a longer way, and nothing has happened */

/* openat2(2), closing on exec: a descriptor, or minus an errno. */
int open_with(int at, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve);

/* Pin what a path leads to, as far as nobody has to be waited for: an O_PATH descriptor of a regular file or a directory on a file
 * system of these kinds, minus the errno that it ends with (-ELOOP: a link, with O_NOFOLLOW), or LEFT.  Without the GIL.
 *
 * flags: O_DIRECTORY, O_NOFOLLOW; resolve: as of openat2(2). */
int pin(int at, const char *path, uint64_t flags, uint64_t resolve, const uint32_t *kinds, size_t count);

/* Who makes files: nobody has it but by a capsule, which is held meanwhile. */
struct maker;
struct maker *maker_from(PyObject *capsule);

struct making {
    int directory, mask; /* the caller's umask */
    const char *name;
    bool nested; /* a directory is made in it, and nothing is opened */
    uint64_t flags, mode;
    const struct standing *ours; /* who we are to be; NULL: whoever we are */
};
/* Open one name in a directory, or make a directory of that name there (0), with a caller's umask: a descriptor, minus an errno, or
 * LEFT.  Without the GIL. */
int make(struct maker *maker, const struct making *what);

/* What is done to what paths lead to, for a caller that is what we are: values, then paths, as a plan has them. */
enum { BY_EXECUTORS, MKDIR, UNLINK, RENAME, LINK, SYMLINK, CHMOD, CHOWN, STAT, STATX, ACCESS };
enum { LARGEST_STATUS = 256 }; /* struct statx */

struct value;
struct ourselves {
    int what, root, table; /* our root, where absolute paths start and stay; our own descriptors as links */
    bool nofollow;         /* of a path that is no entry of a directory */
    const struct standing *ours;
    const uint32_t *kinds; /* of file systems that ask nobody */
    size_t count;
    struct maker *maker;
    int listener; /* where it is asked once more whether the caller waits */
    uint64_t id;
    const struct value *values;
    const int *dirfds; /* where relative paths start */
    int paths;
    char *found; /* what STAT and STATX find: LARGEST_STATUS bytes */
};
/* Do it, if that has nobody wait: the errno that came of it, 0 for none; LEFT, and nothing has happened.  Without the GIL. */
int do_ourselves(const Known *caller, const struct ourselves *us);

#define TMPFILE ((uint64_t)(O_TMPFILE & ~O_DIRECTORY))

/* Whether rules allow what a path leads to, by its name, before anything happens; or what is to be made there.  Asked
 * first without a name: UNDECIDED until there is one. */
enum { REFUSED, ALLOWED, UNDECIDED };
typedef int allows(void *rules, const char *path, const char *name);

/* What is opened for a caller that is what we are, and how. */
struct opening {
    int at, table;  /* where it starts: a directory of ours, our root with RESOLVE_IN_ROOT, or (-1) the caller's own */
    int dirfd;      /* which of those */
    uint64_t flags, mode, resolve;
    const char *path;
    const uint32_t *kinds;
    size_t count;
    /* for what is to be made; NULL: nothing is */
    struct maker *maker;
    const struct standing *ours;
    const char *text; /* of the caller's status, if that was read */
    size_t length;
    int listener; /* where it is asked once more whether the caller waits; -1: nowhere */
    uint64_t id;
    allows *allows; /* NULL: nobody is asked */
    void *rules;
};
/* Open a regular file or a directory of these kinds of file systems, as core.open_for(): a descriptor, minus an errno,
 * or LEFT.  An absolute path starts at root, and stays there. */
int open_plainly(const Known *caller, int root, struct opening *opening);
