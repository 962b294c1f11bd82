/* A right that is lent for one step upon what an executor has pinned. */
#pragma once
#include "asking/posing.h"

/* When it is lent. */
struct terms {
    int made;            /* the step that has come to this: */
    int64_t result;      /* minus an errno; 0: to no errno */
    int system;          /* which part is a struct statfs of one of these kinds, on which nodes work; -1: none is looked at */
    int owned;           /* whether what is pinned has its owners among these: first and how many, in turns */
    const uint32_t *kinds, *users, *groups;
    size_t kinds_count, users_count, groups_count;
};

/* What is lent for a call, and what came of that. */
struct loan {
    struct terms terms;
    Request *request;
    int made, retried, left; /* steps: what it is for, and the same with more, if that was made; the part that says what of it is left */
    int table;               /* of whoever lends; -1: that does not go along */
    bool was_asked;
    int pin, closed; /* what it works at, if there is no answer yet, or -1; 0 if who pinned that is known to have closed it */
    struct asked asked;
};

/* One that nothing is known of yet. */
void loan_begins(struct loan *loan);

/* As core.lend_for() is given them, in objects that are held meanwhile; false with an exception. */
bool terms_in(PyObject *tuple, struct terms *terms);
/* Without the GIL, from here on.  Whether a step has come to what is agreed upon, whatever else is. */
bool came_to(const struct terms *terms, int64_t made);
/* Whether the answer is such that it is lent, upon the one descriptor that came with it. */
bool agreed(const struct terms *terms, const Request *request, const struct asked *asked);
/* Ask whoever lends, upon that. */
void lend_upon(struct loan *loan, const struct asked *first);
/* The errno that came of it, 0 for none; LEFT if that is not plain. */
int came_of_loan(const struct loan *loan);
