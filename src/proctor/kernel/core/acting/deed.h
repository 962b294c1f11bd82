/* What calls of one number are that are done by one plan, and one of them while it is done: see acting/doing.c. */
#pragma once
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "asking/lending.h"

enum { MOST_PATHS = 2, MOST_VALUES = 4, MOST_HOLES = 8, MOST_PLANS = 2 << MOST_PATHS, TEXTS = MOST_PATHS + MOST_VALUES };
enum { CONSTANT, REGISTER, UMASK, TEXT };

struct value_of { /* a number: itself, of a register, or the caller's umask; or a text */
    int how, reg;
    unsigned long long number; /* itself, or the register's bits */
};
struct path_of { /* registers; a directory of -1 is the working directory; entry: the last name is not walked to */
    int dirfd, address, entry;
};

/* What calls of a number are: see proctor.performing.short_ways.plans.Sketch. */
struct deed {
    int what, nofollow; /* of struct ourselves */
    const struct standing *ours;
    int paths, values, own, zero; /* zero: a register that is to be 0 but for these bits; -1: none */
    unsigned long long bits;
    int mounts;   /* whether it matters what is mounted where the caller is */
    bool flagged; /* whether there are other plans for when any of these is set */
    struct path_of path[MOST_PATHS];
    struct value_of value[MOST_VALUES];
    Request *plans[MOST_PLANS]; /* by which paths are relative, and whether it is flagged */
    int made[MOST_PLANS];       /* the step that acts */
    int takes[MOST_HOLES], takings; /* what goes into the loan: of values, and what goes into the plan of paths behind them */
    int fills, cut; /* registers: where the plan's one part is written to, and how much of it is wanted, which is the answer; -1: none */
    int within, least, most; /* a register, and between which numbers of 32 bits with a sign it is to be; -1: none */
    int itself; /* whether it is of a caller as whom access(2) looks, unless it is flagged */
    unsigned long long ignored; /* bits of `zero` that say nothing */
    int node;                       /* the register of a mode, before that of a number, as is_device() wants them; -1: none */
};

/* What is to be done for whom, and what became of it. */
struct doing {
    int listener, plan, table;
    bool was_asked;
    int value;          /* the answer, where nothing failed */
    int failed;         /* the errno that came of it, 0 for none; LEFT if that is not plain */
    struct loan *loan; /* NULL: nothing is lent */
    char *text[TEXTS], *head[MOST_PATHS], *packet, *lent; /* first those of values */
    size_t used[TEXTS];
    struct asked asked;
};

/* What they are, in objects that are held meanwhile; the rest is there already.  False if it cannot be, with an exception or without. */
bool deed_is_sound(struct deed *self, PyObject *paths, PyObject *values, PyObject *plans, PyObject *takes);
/* Whether a call is one of them. */
bool is_done_so(const struct deed *self, const struct seccomp_notif *raw);
/* Without the GIL, from here on.  Read what the caller has passed, before anybody is lent who would have to wait for that. */
bool read_texts(const struct deed *self, const struct seccomp_notif *raw, struct doing *doing);
/* Do it ourselves: the errno that came of it, 0 for none; LEFT, and nothing has happened. */
int by_us(const struct deed *self, const Known *caller, bool groups, const struct seccomp_notif *raw, struct ourselves *us, struct doing *doing);
/* See who calls, fill the plan, and ask. */
void do_it(const struct deed *self, const Known *caller, bool groups, const struct seccomp_notif *raw, struct doing *doing);
