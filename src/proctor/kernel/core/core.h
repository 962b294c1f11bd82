/* What the sources of the native core share. */
#pragma once
#include <Python.h>
#include <linux/seccomp.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Numbers younger than the oldest headers we build with; they and the layouts are ABI. */
#define IOCTL_RECV 0xC0502100UL
#define KERNEL_SIGSET 8 /* size of the kernel's sigset_t, for raw calls */

struct slot;

/* Raises errno as it is given; NULL. */
PyObject *raise_errno(int number);
/* SEND: 0 or the errno.  EINTR never comes out. */
int answer(int fd, uint64_t id, int64_t value, int32_t error, uint32_t flags);
/* ADDFD, the answer, and our descriptor is closed: 0, or -1 if nobody waits any more; an errno if it could not be given,
 * and is kept.  Without the GIL.
 *
 * slot: the call's in a journal, or NULL: it says what was given, until it is answered. */
int give(int listener, uint64_t id, int fd, bool cloexec, bool waits, const uint32_t *at, struct slot *slot);
/* A journal's slot, in memory that is held (let go of with PyBuffer_Release); NULL, and nothing is held, where there is none.
 * With the GIL; an exception may be set. */
struct slot *slot_in(PyObject *journal, int slot, Py_buffer *held);
int notification_slot(PyObject *notification);
/* ID_VALID: 0, or the errno (ENOENT: not received, answered, or gone). */
int id_valid(int fd, uint64_t id);
/* Whether a listener is open still, under this number: a closed one's may be another's by now.  With the GIL. */
bool is_open(PyObject *listener, int number);
/* A Notification; slot: where the journal has it, -1 for nowhere. */
PyObject *notification_make(const struct seccomp_notif *raw, int slot);

/* The memory of a caller that waits, where one mapping that may be written to has so many bytes: a descriptor, or -1.  Without the GIL.
 *
 * proc: its directory in /proc; or -1, and its number leads there. */
int fillable(int proc, int pid, uint64_t address, size_t size, int listener, uint64_t id);
/* Write to it, if it is that; false where it is to be done in a longer way. */
bool write_plainly(int proc, int pid, uint64_t address, const char *data, size_t size, int listener, uint64_t id);
/* A thread's memory, malloced; a string up to its NUL.  0, or an errno.  Without the GIL. */
int gather(pid_t pid, uint64_t address, size_t limit, bool string, char **bytes, size_t *used);

/* What a name needs that leads somewhere, with its end. */
#define PLACE_SIZE (2 * PATH_MAX + 2)
/* Where a path leads for a thread that waits, written over: 0 and its name, ENOENT if a directory on the
 * way is not there, ECANCELED for all that is to be walked step by step.  Without the GIL.
 *
 * rooted: its root directory is known to be the first (is_first). */
int leads_to(int tid, bool rooted, int dirfd, char *path, bool follow, bool entry, char *name);
/* The root directory that a name leads to, or the descriptor itself: device, inode and mount.  0 or an errno. */
int root_of(int at, const char *name, uint64_t root[3]);
/* Whether our root directory, as it was at first, is this: device, inode and mount, as a struct standing has them. */
bool is_first(const uint64_t root[3]);
/* The same from a root and a directory that are held, and what it leads to: O_PATH descriptors, or -1, of what
 * is there and of its directory.  False for what is to be walked step by step. */
bool found_at(int root, int dirfd, char *path, bool follow, bool entry, char *name, int *pin, int *parent);
/* Whether a path from the root has no dots and empty names: it is its own name, where no link is on the way. */
bool is_own_name(const char *path, size_t length);
/* Whether a compiled pattern matches a text. */
bool matches(const uint8_t *program, size_t size, const char *text, size_t length);


/* The notification that an object is, if it is one of the kernel's; else NULL. */
const struct seccomp_notif *notification_of(PyObject *given);
/* Answer the call that this thread routes, with the GIL: 0, an errno, or -1 if it lost the role. */
int answer_routed(uint64_t id, int64_t value, int32_t error, uint32_t flags);
/* Have the answer of the call that this thread routes be its own, whoever takes the role: false if somebody has taken it,
 * and may answer.  Without the GIL.  Then it has to be answered. */
bool claim_routed(void);
/* What is readable once somebody else wants something of the loop for which this thread receives: THERE if he does now, NOBODY where it
 * receives for no one.  Without the GIL. */
enum { NOBODY = -1, THERE = -2 };
int others_wanting(void);
void notification_given(PyObject *notification);
/* loop/constant.c: answer a call whose route is a Constant, without an exception: as answer(), or -1 if it is to be routed. */
int constant_answers(PyObject *route, int listener, const struct seccomp_notif *raw);
/* Its slot in the journal is somebody else's to clear. */
void notification_left(PyObject *notification);
/* Claim the call that this thread routes, and leave it to another thread to give and answer, if others are there already
 * that want to be routed: whether that has it.  Without the GIL.  What it was given may be refused in the end: then its caller
 * gets the errno.
 *
 * held: the journal of its slot, which may be taken (its obj is NULL then). */
bool hand_routed(uint64_t id, int fd, bool cloexec, bool waits, struct slot *slot, Py_buffer *held);

/* A piece of a line, and lines that are gathered: false for want of memory. */
struct text {
    const char *at;
    size_t length;
};
bool gathered_put(PyObject *gathered, const struct text *parts, int count);
/* Who a caller is, as text that lives as long as nothing else is called; NULL where that cannot be known.
 * Whoever is met for the first time (`fresh`) may be another one than who called: see that it still
 * waits, or have it forgotten. */
PyObject *caller_told(PyObject *callers, int tid, bool *fresh);
void caller_forget(PyObject *callers, int tid);

PyObject *core_find(PyObject *module, PyObject *args);
PyObject *core_read(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *core_read_all(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *core_write(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *core_where(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *core_matches(PyObject *module, PyObject *args);
PyObject *core_launch(PyObject *module, PyObject *args);
/* The f_type of the file system that something is on, without waiting for that; 0 if it cannot be told. */
uint32_t kind_of(int fd);
/* The same, and the mode of what that is; waits: whether the file system may be asked where the mount cannot be. */
uint32_t kind_and_mode(int fd, bool waits, uint16_t *mode);
PyObject *core_kind_of(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *core_whereabouts(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *core_standing(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *core_open_for(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *core_ask_for(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *core_act_for(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *core_act_on(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *core_hear_closed(PyObject *module, PyObject *args);
PyObject *core_lend_for(PyObject *module, PyObject *args);
PyObject *core_claim_routed(PyObject *module, PyObject *none);
PyObject *core_maker(PyObject *module, PyObject *none);
PyObject *core_reopen(PyObject *module, PyObject *const *args, Py_ssize_t count);
/* Add a type: whether it could be. */
bool known_ready(PyObject *module);
bool request_ready(PyObject *module);
bool forms_ready(PyObject *module);
extern PyTypeObject *constant_type;
/* A thread of ours that lasts for itself: no signal is for it, and its stack is so large. */
bool thread_begins(void *(*does)(void *), void *given, size_t stack);
/* Names of attributes, kept for ever: whether there is memory for them. */
bool interned(PyObject **names, const char *const *texts, int many);
bool route_ready(void);
bool seen_ready(void);
bool doing_ready(void);
bool short_ready(void);
bool connect_ready(void);
bool books_ready(void);
bool usual_ready(void);
void path_ready(void);
extern PyType_Spec books_spec, callers_spec, constant_spec, connect_spec, doing_spec, gathered_spec, loop_spec, performed_spec, seen_spec,
    short_spec, usual_spec;
