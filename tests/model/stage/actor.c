/* One thread that makes system calls it is told to make, and no others but read(2) of its pipe.
 *
 * Freestanding, so that every call a tracer could see is written here: after its start (or an
 * execve) one mmap, then for ever: read one byte, make the call that the slot asks for.  Orders and
 * results lie in memory shared with whoever drives it.  x86-64.
 */
#define SLOTS 16
#define SLOT_SIZE 65536UL
#define SHARED 0x100000000UL
#define SHARED_FD 250
#define FIRST_FD 100

typedef unsigned long word;

struct slot {
	volatile word pending; /* an order that was not taken yet */
	word nr;
	word args[6];
	word newborn;          /* the order is clone(2): the child plays this slot */
	volatile word done;    /* orders that were carried out */
	volatile long result;
	word page;             /* where the page lies that tracers may write to */
	word stacks;           /* where the stacks of newborn threads lie, one of a page each */
};

static char page[4096] __attribute__((aligned(4096)));
static char stacks[SLOTS][4096] __attribute__((aligned(16)));

static inline long call(word nr, word a, word b, word c, word d, word e, word f)
{
	long result;
	register word r10 __asm__("r10") = d;
	register word r8 __asm__("r8") = e;
	register word r9 __asm__("r9") = f;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}

static void play(word number) __attribute__((noreturn, used));

/* A child is who finds itself on the new stack, the second argument: a tracer may give the parent
 * any result.
 */
static long born(struct slot *s)
{
	word *top = (word *)s->args[1];
	long result;
	register word r10 __asm__("r10") = s->args[3];
	register word r8 __asm__("r8") = s->args[4];
	register word r9 __asm__("r9") = s->args[5];

	top[0] = s->newborn;
	__asm__ volatile("syscall\n\t"
			 "cmpq %%rsi, %%rsp\n\t"
			 "jne 1f\n\t"
			 "movq (%%rsp), %%rdi\n\t"
			 "xorl %%ebp, %%ebp\n\t"
			 "call play\n"
			 "1:"
			 : "=a"(result)
			 : "a"(s->nr), "D"(s->args[0]), "S"(top), "d"(s->args[2]), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}

static void play(word number)
{
	struct slot *s = (struct slot *)(SHARED + number * SLOT_SIZE);
	word empty = 0;

	for (;;) {
		char *byte = (char *)s + 4096;
		long got = call(0, FIRST_FD + number, (word)byte, 1, 0, 0, 0);

		if (!s->pending) {
			/* A tracer can make any value of it, but not so often: the driver is gone. */
			if (got == 0 && ++empty > 1000)
				call(231, 0, 0, 0, 0, 0, 0);
			continue;
		}
		empty = 0;
		s->pending = 0;
		if (s->newborn)
			s->result = born(s);
		else
			s->result = call(s->nr, s->args[0], s->args[1], s->args[2], s->args[3],
					 s->args[4], s->args[5]);
		s->done++;
	}
}

__attribute__((used)) static void begin(word *stack)
{
	const char *argument = (const char *)stack[2]; /* argv[1]: the slot, one letter */
	word number = (word)(argument[0] - 'a');
	struct slot *s = (struct slot *)(SHARED + number * SLOT_SIZE);

	call(9, SHARED, SLOTS * SLOT_SIZE, 3 /* READ|WRITE */, 0x11 /* SHARED|FIXED */, SHARED_FD, 0);
	s->page = (word)page;
	s->stacks = (word)stacks;
	play(number);
}

__asm__(".globl _start\n_start:\n\tmovq %rsp, %rdi\n\tandq $-16, %rsp\n\tcall begin\n");
