/* Whoever makes files: a thread of ours whose umask is its own.
 *
 * umask(2) is one for all threads that share a working directory (CLONE_FS), and anybody in this process may set
 * it at any time.  What is made for a caller is made with the caller's, so by a thread that shares none of that:
 * nobody else can change it.  It does nothing but that, for one call at a time, in a directory that is held. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "core.h"
#include "callers/acting.h"
#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { STACK = 256 << 10 };
static const char name_of_it[] = "proctor.kernel._core.maker";

struct maker {
    atomic_uint asked, done;      /* how many jobs */
    atomic_int busy; /* a truth: what is exchanged has a word's size, or riscv64 wants libatomic */
    atomic_bool over;
    atomic_int holders;
    pid_t process;                /* where the thread is; 0: nowhere yet */
    const struct making *what;
    int made;
};

static void wait_while(atomic_uint *word, unsigned int value) {
    while (atomic_load(word) == value)
        syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void tell(atomic_uint *word) {
    atomic_fetch_add(word, 1);
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void let_go(struct maker *maker) {
    if (atomic_fetch_sub(&maker->holders, 1) == 1)
        free(maker);
}

static void *makes(void *given) {
    struct maker *maker = given;
    bool alone = unshare(CLONE_FS) == 0; /* a seccomp filter of ours may forbid it */
    for (unsigned int seen = 0;; seen++) {
        wait_while(&maker->asked, seen);
        if (atomic_load(&maker->over))
            break;
        const struct making *what = maker->what;
        maker->made = LEFT;
        if (alone && (what->ours == NULL || same_as(what->ours, false))) {
            umask(what->mask);
            maker->made = !what->nested ? open_with(what->directory, what->name, what->flags, what->mode, 0)
                          : mkdirat(what->directory, what->name, (mode_t)what->mode) == 0 ? 0 : -errno;
        }
        tell(&maker->done);
    }
    let_go(maker);
    return NULL;
}

/* Whether the thread is there, in this process. */
static bool is_there(struct maker *maker) {
    if (maker->process != 0)
        return maker->process == getpid();
    atomic_fetch_add(&maker->holders, 1);
    if (!thread_begins(makes, maker, STACK)) {
        let_go(maker);
        return false;
    }
    maker->process = getpid();
    return true;
}

int make(struct maker *maker, const struct making *what) {
    int idle = false;
    int made = LEFT;
    if (maker == NULL || !atomic_compare_exchange_strong(&maker->busy, &idle, true))
        return LEFT; /* it may wait for a directory that somebody keeps locked */
    if (is_there(maker)) {
        unsigned int before = atomic_load(&maker->done);
        maker->what = what;
        tell(&maker->asked);
        wait_while(&maker->done, before);
        made = maker->made;
    }
    atomic_store(&maker->busy, false);
    return made;
}

struct maker *maker_from(PyObject *capsule) { return PyCapsule_GetPointer(capsule, name_of_it); }

static void maker_over(PyObject *capsule) {
    struct maker *maker = maker_from(capsule);
    atomic_store(&maker->over, true);
    tell(&maker->asked);
    let_go(maker);
}

PyObject *core_maker(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none)) {
    struct maker *maker = calloc(1, sizeof *maker);
    if (maker == NULL)
        return PyErr_NoMemory();
    atomic_store(&maker->holders, 1);
    PyObject *capsule = PyCapsule_New(maker, name_of_it, maker_over);
    if (capsule == NULL)
        free(maker);
    return capsule;
}
