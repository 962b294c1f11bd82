/* The executor's reading of requests, fed with nonsense: random requests, mutilated ones, short ones.
 * System calls are made up; what they are given must lie in the request's space.
 *
 *   executor_fuzz SEED COUNT     prints how many were taken for requests, and how many ended in DIE */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define CALL made_up
static int64_t made_up(long number, const unsigned long *args);
static void gone(int status) __attribute__((noreturn));
#define _exit gone
#include "../../../src/proctor/performing/executing/executor_steps.c"

static uint64_t state;
static jmp_buf after;
static struct job job;

static uint64_t draw(uint64_t below)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return below ? state % below : state;
}

static void gone(int status)
{
    longjmp(after, status);
}

static int64_t made_up(long number, const unsigned long *args)
{
    (void)number;
    for (int k = 0; k < 6; k++) {
        uintptr_t place = args[k], start = (uintptr_t)request;
        if (place < start || place >= start + sizeof request)
            continue;
        if (place < (uintptr_t)job.space || place > (uintptr_t)job.space + job.size)
            abort();
        if (place < (uintptr_t)job.space + job.size)
            *(unsigned char *)place ^= 1;
    }
    switch (draw(6)) {
    case 0:
        return -(int64_t)draw(4096);
    case 1:
        return INT64_MIN;
    case 2:
        return (int64_t)draw(0);
    default:
        return (int64_t)draw(40);
    }
}

/* A number that is mostly in its bounds, sometimes at them, sometimes anything. */
static uint64_t about(uint64_t bound)
{
    switch (draw(120)) {
    case 0:
        return bound;
    case 1:
        return draw(0);
    case 2:
        return bound + draw(3);
    default:
        return bound ? draw(bound) : 0;
    }
}

static void put(size_t *at, const void *data, size_t size)
{
    if (*at + size <= sizeof request)
        memcpy(request + *at, data, size);
    *at += size;
}

static size_t random_request(size_t *sent)
{
    struct head head = {
        .steps = (uint16_t)draw(9), .fixes = (uint16_t)draw(6), .ranges = (uint16_t)draw(5),
        .given = (uint8_t)draw(9), .last = (uint8_t)draw(2), .bytes = (uint32_t)draw(300),
        .scratch = (uint32_t)(draw(20) ? draw(5000) : about(sizeof request)),
    };
    size_t at = 0;
    uint64_t size = (uint64_t)head.bytes + head.scratch;
    *sent = draw(4);
    put(&at, &head, sizeof head);
    for (unsigned i = 0; i < head.steps; i++) {
        struct step step = {
            .number = draw(9) ? (uint32_t)draw(500) : LOAD, .kinds = (uint16_t)draw(1 << 13), .good = (uint8_t)(draw(3) ? 0 : draw(256)),
            .bad = (uint8_t)(draw(3) ? 0 : draw(256)), .want = draw(30),
        };
        for (int k = 0; k < 6; k++) {
            unsigned kind = step.kinds >> 2 * k & 3;
            if (((kind == RESULT && i == 0) || (kind == SENT && *sent == 0)) && draw(50)) {
                step.kinds &= (uint16_t)~(3u << 2 * k);
                kind = VALUE;
            }
            step.args[k] = kind == PLACE ? about(size) : kind == SENT ? about(*sent) : kind == RESULT ? about(i) : draw(0);
        }
        if (draw(8) == 0) { /* two places of a length, mostly */
            step.number = COMPARE;
            step.args[0] = about(size), step.args[1] = about(size), step.args[2] = about(size);
            step.kinds = draw(10) ? (uint16_t)((step.kinds & ~0x3fu) | PLACE | PLACE << 2) : step.kinds;
        }
        put(&at, &step, sizeof step);
    }
    for (unsigned i = 0, step = 0; i < head.fixes; i++) {
        struct fix fix = {.offset = (uint32_t)about(size > 12 ? size - 12 : 0), .kind = (uint8_t)(1 + draw(draw(50) ? 4 : 200))};
        fix.width = fix.kind == PLACE || draw(2) ? 8 : 4;
        step = head.steps ? step + (unsigned)draw(head.steps - step) : 0;
        fix.step = (uint16_t)(draw(20) ? step : about(head.steps));
        if (((fix.kind >= RESULT && fix.step == 0) || (fix.kind == SENT && *sent == 0)) && draw(50))
            fix.kind = PLACE, fix.width = 8;
        fix.value = fix.kind == PLACE ? about(size) : fix.kind == SENT ? about(*sent) : about(fix.step);
        put(&at, &fix, sizeof fix);
    }
    for (unsigned i = 0; i < head.ranges; i++) {
        struct range range = {.offset = (uint32_t)about(size), .step = draw(2) ? NO_STEP : (uint32_t)about(head.steps)};
        range.length = (uint32_t)about(size > range.offset ? size - range.offset : 0);
        put(&at, &range, sizeof range);
    }
    for (unsigned i = 0; i < head.given; i++) {
        uint32_t step = (uint32_t)about(head.steps);
        put(&at, &step, sizeof step);
    }
    at = (at + 7) & ~(size_t)7;
    return at + head.bytes;
}

int main(int count, char **argv)
{
    static int64_t results[MOST_STEPS];
    int sent[MOST_SENT] = {8, 9, 10, 11}, fds[MOST_GIVEN];
    static volatile uint64_t n, total, sound_ones, died;
    total = count == 3 ? strtoull(argv[2], NULL, 10) : 0;
    state = count == 3 ? strtoull(argv[1], NULL, 10) * 2654435761u + 1 : 1;
    for (; n < total; n++) {
        size_t with, given, length = random_request(&with);
        if (length > sizeof request)
            length = sizeof request;
        if (draw(8) == 0) /* cut short, or with something behind it */
            length = about(length) % sizeof request;
        for (uint64_t flips = draw(8) ? 0 : draw(8); flips > 0 && length > 0; flips--)
            request[draw(length)] ^= (unsigned char)(1u << draw(8));
        if (!parse(length, sent, with, results, &job))
            continue;
        sound_ones++;
        if (setjmp(after) != 0) {
            died++;
            continue;
        }
        if (make_steps(&job))
            abort(); /* no signal comes */
        if (compose(&job, fds, &given) > sizeof answer || given > MOST_GIVEN)
            abort();
    }
    printf("%llu %llu\n", (unsigned long long)sound_ones, (unsigned long long)died);
    return 0;
}
