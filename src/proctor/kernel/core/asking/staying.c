/* A question and its answer on one processor.
 *
 * Who waits for a packet is woken on another processor if one is idle that shares a cache (select_idle_sibling of
 * kernel/sched/fair.c; WF_CURRENT_CPU is for answers of seccomp alone).  An executor and who asks it never work at the same
 * time, and to wake a processor that sleeps takes as long, in a virtual machine, as the whole question.  So where an answer came from
 * another processor, who asks stays on its own for the next questions, each time until the answer is there, and the executor comes
 * to it (struct head of executor.h).  Where no other processor is idle answers come from the same one, and this costs nothing. */
#define _GNU_SOURCE
#include "asking/staying.h"
#include <sched.h>
#include <stddef.h>
#include <string.h>

enum { QUESTIONS = 32 }; /* before it is tried again where an answer comes from */
static _Thread_local int left;

void stay(struct staying *staying) {
    staying->stays = false;
    staying->cpu = sched_getcpu();
    if (left == 0 || staying->cpu < 0 || staying->cpu >= CPU_SETSIZE
        || sched_getaffinity(0, sizeof staying->before, &staying->before) != 0 || CPU_COUNT(&staying->before) == 1)
        return;
    cpu_set_t here;
    CPU_ZERO(&here);
    CPU_SET((size_t)staying->cpu, &here);
    staying->stays = sched_setaffinity(0, sizeof here, &here) == 0;
}

void move_on(const struct staying *staying, bool elsewhere) {
    if (!staying->stays) {
        left = elsewhere ? QUESTIONS : 0;
        return;
    }
    left--;
    if (sched_setaffinity(0, sizeof staying->before, &staying->before) != 0) {
        cpu_set_t all; /* its cpuset was changed meanwhile */
        memset(&all, 0xff, sizeof all);
        sched_setaffinity(0, sizeof all, &all);
    }
}
