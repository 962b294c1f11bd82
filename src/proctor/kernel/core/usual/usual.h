/* What is known of usual calls, and by whom: shared by usual/sheets.c, which learns it, and usual/usual.c, which goes by
 * it.  All of it is guarded by the GIL. */
#pragma once
#include <time.h>
#include "loop/route.h"
#include "callers/acting.h"

enum { WORDS = 6, BUCKETS = 64, OUTCOMES = 256 };
/* Who is told of an outcome: nobody, the log, all who want; or it is to be performed, and what becomes of that is told; or
 * one who counts those by himself that are like others of which he was told. */
enum { PLAIN, LOGGED, AT_LENGTH, PERFORMED, COUNTED };
enum { FIRST, SECOND, LAST, NAMED, PIECES };

struct test { /* one rule: its patterns, and what it comes to */
    bool text, when_nowhere; /* about the text as it was passed; decides where nothing can be found */
    int outcome;
    PyObject *programs; /* a tuple */
};

typedef struct Sheet {
    struct Sheet *next;
    int references;
    uint64_t key[WORDS];
    int dirfd, count, otherwise; /* otherwise: -1 if nothing is decided here */
    bool performs; /* what is allowed */
    bool follow, entry, path, shown, looks; /* looks: where the path leads may decide */
    PyObject *held; /* what the rest points into */
    struct text pieces[PIECES];
    struct test tests[];
} Sheet;

struct outcome {
    int how;
    int64_t value;
    int32_t error;
    uint32_t flags;
    PyObject *wire, *cell, *delivered, *gone; /* how it is counted, and what the log says of it */
};

typedef struct {
    HOLDS(22, ROUTE, *learn, *told, *container, *labels, *log, *callers, *head, *middle,
          *port,                      /* whose number is `listener`, while it is open */
          *alikes,                    /* by thread: those that are what we are, as far as that is known */
          *meet,                      /* asked of whom we do not know whether they are what we are; None: nobody is */
          *lend, *took_back,          /* who looks for others; None: nobody */
          *find, *performer, *given,  /* who finds a Short, the Short, who gives */
          *became, *known,            /* who says what is told of what is performed, and what was said */
          *counts);                   /* by what calls are known by: where they are counted */
    int listener, reg, sheets, count;
    bool groups, rooted; /* whether their groups decide anything; their root is_first */
    unsigned int registers;
    uint64_t mask;
    Sheet *buckets[BUCKETS];
    struct outcome outcomes[OUTCOMES];
} Usual;

/* What is known of calls like this one, which is learnt if it is not; NULL with an exception, or if nothing
 * is.  The reference is the caller's. */
Sheet *sheet_of(Usual *self, PyObject *notification, const struct seccomp_notif *raw);
void sheet_let_go(Sheet *sheet);
void sheets_forget(Usual *self);
PyObject *usual_learn(PyObject *me, PyObject *args);

/* What was seen of a call. */
struct seen {
    char *text;
    size_t length;
    int leads;  /* as leads_to(); -1: nobody asked */
    char *name; /* PLACE_SIZE bytes: not worth clearing for each call */
};

/* usual/deciding.c: whether one of these patterns matches; read the path, without the GIL. */
bool one_matches(PyObject *programs, const char *text, size_t length);
bool read_text(const Usual *self, const struct seccomp_notif *raw, struct seen *seen);
/* Look at a call, and decide it: the number of what it comes to; -1, with nothing decided, for what is out of the ordinary. */
int usual_decided(Usual *self, const Sheet *sheet, const struct seccomp_notif *raw, struct seen *seen);

/* usual/telling.c: by a clock, in seconds; count in a cell, which may be None. */
double seconds(clockid_t clock);
void count(PyObject *cell);
/* Whether whoever counts such calls by himself need not be told of one more now, and that there was one: his cell has how
 * many there were, and when the last was, in seconds since the epoch. */
bool is_known(PyObject *cell);
void known_again(PyObject *cell);
/* Whether a line of a call can be made here, as far as that is for what was seen. */
bool is_shown(const Sheet *sheet, const struct seen *seen);
/* Who calls, as a line has it, while it waits: text; NULL without an exception if its line is not made here. */
PyObject *told_of(Usual *self, const struct seccomp_notif *raw);
void write_down(Usual *self, const struct seccomp_notif *raw, const Sheet *sheet, const struct seen *seen, PyObject *who,
                PyObject *became, double received);
/* Answer, and write it down; false, before anything was done, for what is told at length. */
bool conclude(Usual *self, const struct seccomp_notif *raw, const Sheet *sheet, int index, const struct seen *seen,
              double received);

/* usual/ruling.c: perform a call as rules about its path say.  True: it is answered; NULL without an exception: nothing has
 * happened. */
PyObject *usual_perform(Usual *self, PyObject *notification, const struct seccomp_notif *raw, const Sheet *sheet,
                        double received);
bool deciding_ready(void);
bool telling_ready(void);

/* Somebody who looks as a caller does, for one call; that is the asker's to return. */
struct lent;
/* NULL if that is nobody. */
struct lent *borrow(const Usual *self, const Sheet *sheet, const struct seccomp_notif *raw);
void return_lent(const Usual *self, struct lent *lent);
/* Without the GIL: as leads_to(). */
int led_by(struct lent *lent, const char *path, size_t length, char *name);
