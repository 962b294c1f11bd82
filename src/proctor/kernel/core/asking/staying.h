/* Who waits for an answer stays on its processor: asking/staying.c. */
#pragma once
#include <sched.h>
#include <stdbool.h>

struct staying {
    bool stays;
    int cpu;
    cpu_set_t before; /* if it stays: where it may be else */
};
/* From here on until move_on(), for a moment, the calling thread stays where it is, if that pays.  Without the GIL: what is
 * begun meanwhile would stay with it. */
void stay(struct staying *staying);
/* elsewhere: whether the answer came from another processor. */
void move_on(const struct staying *staying, bool elsewhere);
