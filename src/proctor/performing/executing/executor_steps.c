/* Requests read, made and replied to; executor.h says what they are.
 *
 * Requests are trusted, as the memory they come from is.  They are checked all the same, so that
 * no mistake of the other side becomes one of memory here. */
#define _GNU_SOURCE
#include "executor.h"
#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static const int64_t SKIPPED = INT64_MIN;
/* Stands for the descriptor that a failed step did not give: no number that any call takes. */
static const int NOTHING = INT_MIN;

_Alignas(8) unsigned char request[ROOM];
_Alignas(8) unsigned char answer[ROOM];
static volatile sig_atomic_t interrupted, calling;
struct progress *progress;

/* One system call: its result, or minus its errno. */
#ifndef CALL
#ifdef __x86_64__
/* openat(2) as programs of 32 bits make it, whose flags the kernel leaves as they are (no O_LARGEFILE); its path
 * has to be where those have theirs. */
static int64_t open_as_32_bits(long number, const unsigned long *a)
{
    enum { LONGEST = 8192 };
    static char *low;
    if (low == NULL) {
        void *room = mmap(NULL, LONGEST, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
        if (room == MAP_FAILED)
            return -errno;
        low = room;
    }
    strncpy(low, (const char *)a[1], LONGEST - 1);
    int32_t made;
    __asm__ volatile("int $0x80"
                     : "=a"(made)
                     : "a"((uint32_t)number), "b"((uint32_t)a[0]), "c"((uint32_t)(uintptr_t)low), "d"((uint32_t)a[2]),
                       "S"((uint32_t)a[3])
                     : "memory", "r8", "r9", "r10", "r11");
    return made;
}
#endif

static int64_t CALL(long number, const unsigned long *a)
{
#ifdef __x86_64__
    if (number & AS_32_BITS)
        return open_as_32_bits(number & ~AS_32_BITS, a);
#endif
    errno = 0;
    long made = syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    return made == -1 && errno != 0 ? -errno : made;
}
#endif

static int failed(int64_t result)
{
    return result == SKIPPED || (result < 0 && result >= -4095);
}

/* Whether length bytes at offset lie in a space of this size. */
static int within(uint64_t size, uint64_t offset, uint64_t length)
{
    return length <= size && offset <= size - length;
}

/* The next item of a request that has so many of this size; NULL if they are not there. */
static const void *take(size_t *at, size_t length, size_t count, size_t size)
{
    const unsigned char *place = request + *at;
    if (count * size > length - *at)
        return NULL;
    *at += count * size;
    return place;
}

/* Whether a step that compares has two places, of a length that they have. */
static int comparable(const struct job *job, const struct step *step)
{
    return (step->kinds & 0x3f) == (PLACE | PLACE << 2 | VALUE << 4) &&
           within(job->size, step->args[0], step->args[2]) && within(job->size, step->args[1], step->args[2]);
}

static int sound(const struct job *job)
{
    const struct head *head = job->head;
    for (size_t i = 0; i < head->steps; i++) {
        for (int k = 0; k < 6; k++) {
            uint64_t value = job->steps[i].args[k];
            unsigned kind = job->steps[i].kinds >> 2 * k & 3;
            if ((kind == PLACE && value > job->size) || (kind == SENT && value >= job->count) ||
                (kind == RESULT && value >= i))
                return 0;
        }
        if (job->steps[i].number == LOAD &&
            ((job->steps[i].kinds & 3) != PLACE || !within(job->size, job->steps[i].args[0], sizeof(uint32_t))))
            return 0;
        if (job->steps[i].number == COMPARE && !comparable(job, &job->steps[i]))
            return 0;
    }
    for (size_t i = 0; i < head->fixes; i++) {
        const struct fix *fix = &job->fixes[i];
        size_t width = fix->kind == DECIMAL ? 12 : fix->width;
        if (!within(job->size, fix->offset, width) || fix->step >= head->steps ||
            (i > 0 && fix->step < fix[-1].step))
            return 0;
        if (fix->kind != DECIMAL && width != 4 && width != 8)
            return 0;
        if (fix->kind == PLACE ? fix->value > job->size || width != sizeof(void *)
            : fix->kind == SENT ? fix->value >= job->count
            : fix->kind == RESULT || fix->kind == DECIMAL ? fix->value >= fix->step : 1)
            return 0;
    }
    uint64_t total = sizeof(struct reply) + 8 * (uint64_t)head->steps;
    for (size_t i = 0; i < head->ranges; i++) {
        const struct range *range = &job->ranges[i];
        if (!within(job->size, range->offset, range->length) ||
            (range->step != NO_STEP && range->step >= head->steps))
            return 0;
        total += range->length;
    }
    for (size_t i = 0; i < head->given; i++)
        if (job->given[i] >= head->steps)
            return 0;
    return total <= ROOM && head->given <= MOST_GIVEN;
}

int parse(size_t length, const int *sent, size_t count, int64_t *results, struct job *job)
{
    size_t at = 0;
    const struct head *head = take(&at, length, 1, sizeof *head);
    if (head == NULL || head->steps > MOST_STEPS)
        return 0;
    job->head = head;
    job->steps = take(&at, length, head->steps, sizeof *job->steps);
    job->fixes = take(&at, length, head->fixes, sizeof *job->fixes);
    job->ranges = take(&at, length, head->ranges, sizeof *job->ranges);
    job->given = take(&at, length, head->given, sizeof *job->given);
    if (job->steps == NULL || job->fixes == NULL || job->ranges == NULL || job->given == NULL)
        return 0;
    at = (at + 7) & ~(size_t)7;
    if (at > length || head->bytes != length - at || !within(ROOM, length, head->scratch))
        return 0;
    job->space = request + at;
    job->size = (uint64_t)head->bytes + head->scratch;
    job->sent = sent;
    job->count = count;
    job->results = results;
    memset(request + length, 0, head->scratch);
    return sound(job);
}

/* The result of a step as an argument: what failed gave nothing. */
static uint64_t result_of(const struct job *job, uint64_t step)
{
    int64_t result = job->results[step];
    return failed(result) ? (uint64_t)(int64_t)NOTHING : (uint64_t)result;
}

static void apply(const struct job *job, const struct fix *fix)
{
    unsigned char *place = job->space + fix->offset;
    if (fix->kind == DECIMAL) { /* ten digits and a NUL are enough for a descriptor or a process */
        char digits[12];
        uint32_t left = (uint32_t)result_of(job, fix->value);
        int at = sizeof digits - 1;
        digits[at] = 0;
        do {
            digits[--at] = (char)('0' + left % 10);
            left /= 10;
        } while (left != 0);
        memcpy(place, digits + at, sizeof digits - (size_t)at);
        return;
    }
    uint64_t value = fix->kind == PLACE  ? (uint64_t)(uintptr_t)(job->space + fix->value)
                     : fix->kind == SENT ? (uint64_t)job->sent[fix->value]
                                         : result_of(job, fix->value);
    if (fix->width == 8) {
        memcpy(place, &value, 8);
    } else {
        uint32_t low = (uint32_t)value;
        memcpy(place, &low, 4);
    }
}

static int64_t compared(const unsigned long *args)
{
    return memcmp((const void *)args[0], (const void *)args[1], args[2]) == 0 ? 0 : -EINVAL;
}

static int64_t loaded(const unsigned char *place)
{
    uint32_t number;
    memcpy(&number, place, sizeof number);
    return number;
}

/* Of a context: where it goes on, and what a call returns; and the instructions by which calls are made. */
#if defined(__x86_64__)
#define GOES_ON(machine) (machine)->gregs[REG_RIP]
#define RETURNS(machine) (machine)->gregs[REG_RAX]
#define CALLS {{2, {0x0f, 0x05}}, {2, {0xcd, 0x80}}} /* syscall, int $0x80 */
#elif defined(__aarch64__)
#define GOES_ON(machine) (machine)->pc
#define RETURNS(machine) (machine)->regs[0]
#define CALLS {{4, {0x01, 0x00, 0x00, 0xd4}}} /* svc #0 */
#elif defined(__riscv)
#define GOES_ON(machine) (machine)->__gregs[REG_PC]
#define RETURNS(machine) (machine)->__gregs[REG_A0]
#define CALLS {{4, {0x73, 0x00, 0x00, 0x00}}} /* ecall */
#endif

/* Before a handler with SA_RESTART the kernel takes a call that is to be begun anew back to its instruction, where one is, too,
 * that was not made yet: both end here, with RESTARTS.  What ends with EINTR by itself (a FUSE server was told of the signal, and
 * says that) is behind it already. */
void interrupt(int number, siginfo_t *info, void *context)
{
    (void)number, (void)info, (void)context;
    interrupted = 1;
#ifdef CALLS
    static const struct {
        size_t length;
        unsigned char bytes[4];
    } calls[] = CALLS;
    mcontext_t *machine = &((ucontext_t *)context)->uc_mcontext;
    const void *at = (const void *)(uintptr_t)GOES_ON(machine);
    for (size_t i = 0; calling && i < sizeof calls / sizeof *calls; i++)
        if (memcmp(at, calls[i].bytes, calls[i].length) == 0) {
            GOES_ON(machine) += calls[i].length;
            RETURNS(machine) = -RESTARTS;
            return;
        }
#endif
}

/* What is said of a step that a signal ended.  What only waits for others is EINTR whenever it is, and no caller's call. */
static int ended_by(long number, int64_t result)
{
    int aside = number == SYS_ppoll || number == SYS_rt_sigtimedwait;
    return GOES_BACK && result == -EINTR && !aside ? EINTR : RESTARTS;
}

static void is_at(uint32_t state)
{
    if (progress != NULL)
        __atomic_store_n(&progress->state, state, __ATOMIC_RELEASE);
}

static void begins(const struct job *job)
{
    uint32_t state = NOTHING_DONE;
    if (progress == NULL)
        return;
    for (size_t i = 0; i < job->head->steps; i++)
        if (job->steps[i].kinds & (CHANGES | BEGINS))
            state = MAY_CHANGE;
    is_at(state);
    __atomic_store_n(&progress->serial, progress->serial + 1, __ATOMIC_RELEASE);
}

int make_steps(const struct job *job)
{
    size_t count = job->head->steps, fix = 0;
    int changed = 0, begun = 0;
    begins(job);
    for (size_t i = 0; i < count; i++)
        job->results[i] = SKIPPED;
    for (size_t i = 0; i < count; i++) {
        const struct step *step = &job->steps[i];
        for (; fix < job->head->fixes && job->fixes[fix].step <= i; fix++)
            if (job->fixes[fix].step == i)
                apply(job, &job->fixes[fix]);
        unsigned long args[6];
        for (int k = 0; k < 6; k++) {
            uint64_t value = step->args[k];
            switch (step->kinds >> 2 * k & 3) {
            case PLACE:
                args[k] = (unsigned long)(uintptr_t)(job->space + value);
                break;
            case SENT:
                args[k] = (unsigned long)job->sent[value];
                break;
            case RESULT:
                args[k] = (unsigned long)result_of(job, value);
                break;
            default:
                args[k] = (unsigned long)value;
            }
        }
        int64_t result;
        int changes = (step->kinds & CHANGES) != 0, half = (step->kinds & BEGINS) != 0;
        if ((changes || half) && !changed)
            is_at(AT_A_CHANGE);
        for (;;) {
            calling = 1;
            result = step->number == LOAD      ? loaded(job->space + step->args[0])
                     : step->number == COMPARE ? compared(args)
                                               : CALL((long)step->number, args);
            calling = 0;
            if (!interrupted || (result != -EINTR && result != -RESTARTS))
                break;
            if (!changed && !begun) {
                is_at(NOTHING_DONE);
                return ended_by((long)step->number, result);
            }
            sigset_t one; /* what is done is the answer; what is still to be seen of it is seen */
            sigemptyset(&one);
            sigaddset(&one, INTERRUPTS);
            sigprocmask(SIG_BLOCK, &one, NULL);
            interrupted = 0;
        }
        job->results[i] = result;
        int good = step->kinds & EXPECT ? result == (int64_t)step->want : !failed(result);
        unsigned next = good ? step->good : step->bad;
        int goes_on = result == -EINPROGRESS && !(step->kinds & EXPECT); /* a connect, and nothing waits for it */
        if (changes && (!failed(result) || goes_on)) {
            changed++;
            if (progress != NULL)
                __atomic_store_n(&progress->result, (int32_t)result, __ATOMIC_RELEASE);
        }
        begun |= half && !failed(result);
        if (changes || half)
            is_at(changed ? CHANGED : begun ? AT_A_CHANGE : MAY_CHANGE);
        if (next == DIE)
            _exit(3);
        if (next == END)
            break;
        i += next;
    }
    is_at(changed > 1 || (begun && !changed) ? SEVERAL_CHANGES : changed ? ONE_CHANGE : NOTHING_DONE);
    return 0;
}

size_t compose(const struct job *job, int *fds, size_t *given)
{
    struct reply *reply = (struct reply *)answer;
    size_t at = sizeof *reply, steps = job->head->steps;
    *given = 0;
    for (size_t i = 0; i < job->head->given; i++) {
        int64_t fd = job->results[job->given[i]];
        if (!failed(fd))
            fds[(*given)++] = (int)fd;
    }
    *reply = (struct reply){.state = DONE, .given = (uint16_t)*given, .error = sched_getcpu() + 1};
    memcpy(answer + at, job->results, 8 * steps);
    at += 8 * steps;
    for (size_t i = 0; i < job->head->ranges; i++) {
        const struct range *range = &job->ranges[i];
        size_t length = range->length;
        if (range->step != NO_STEP) {
            int64_t result = job->results[range->step];
            if (failed(result))
                length = 0;
            else if ((uint64_t)result < length)
                length = (size_t)result;
        }
        memcpy(answer + at, job->space + range->offset, length);
        at += length;
    }
    return at;
}
