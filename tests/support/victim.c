/*
 * A program that does what it is told, so that a test can be the system calls' other side.
 *
 * It is driven over pipes.  An *actor* is a thread or a process that reads commands, one a line,
 * from its own descriptor (FIRST_SLOT_FD + slot) and writes replies, one a line, to REPLY_FD.
 * The main thread is the actor in the slot given as argv[1]; `thread` and `fork` make more.  All
 * pipes exist from the start, so while one actor is blocked in a call every other still listens.
 *
 * Between commands an actor makes no system call but read(2) and write(2): a filter may notify
 * anything else without the victim tripping over it.  Nothing here sleeps or polls.
 *
 * A command is "SEQ VERB ARGUMENTS", a reply "SEQ KIND VALUES":
 *     s                 the call is about to be entered
 *     r VALUE ERRNO     what libc made of it; errno is 0 unless VALUE is -1
 *     m HEX             memory
 *     h PID TID SCRATCH SIZE MARKER
 *                       a program started: its numbers and where its scratch memory lies
 *     e TEXT            the command makes no sense
 * A signal handler that was asked to reports "- sig NUMBER TID".
 *
 * Numbers are decimal or 0x hexadecimal; -1 is all ones.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum {
	REPLY_FD = 199,
	FIRST_SLOT_FD = 200,
	SLOTS = 16,
	LINE = 1 << 17, /* a program of 4096 instructions in hexadecimal fits twice */
	SCRATCH = 1 << 20,
	PEEK_LIMIT = 1900, /* a reply must stay one atomic write to the pipe */
	ARGUMENTS = 8,
};

/* Memory for the harness to lay arguments in; the addresses are its own business. */
static char scratch[SCRATCH] __attribute__((aligned(4096)));

/* Read-only text that a test may try to change (FOLL_FORCE). */
__attribute__((noinline, noclone)) static int marker(void)
{
	__asm__ volatile("");
	return 0x2a2b2c2d;
}

static int (*volatile marker_pointer)(void) = marker;

static struct slot {
	size_t start, end;
	char buffer[LINE];
} slots[SLOTS];

static void put(const char *line, size_t length)
{
	while (write(REPLY_FD, line, length) < 0 && errno == EINTR)
		;
}

static void reply(unsigned long seq, const char *kind, long value, long error)
{
	char line[96];
	put(line, (size_t)snprintf(line, sizeof line, "%lu %s %ld %ld\n", seq, kind, value, error));
}

static void complain(unsigned long seq, const char *text)
{
	char line[160];
	put(line, (size_t)snprintf(line, sizeof line, "%lu e %s\n", seq, text));
}

static void hello(unsigned long seq)
{
	char line[160];
	put(line, (size_t)snprintf(line, sizeof line, "%lu h %d %ld %lu %d %lu\n", seq, getpid(),
				   syscall(SYS_gettid), (unsigned long)scratch, SCRATCH,
				   (unsigned long)marker));
}

/* The next command of a slot, without its newline.  No more commands: the test is over. */
static char *next_line(int number)
{
	struct slot *slot = &slots[number];
	for (;;) {
		char *begin = slot->buffer + slot->start;
		char *newline = memchr(begin, '\n', slot->end - slot->start);
		if (newline) {
			*newline = 0;
			slot->start = (size_t)(newline + 1 - slot->buffer);
			return begin;
		}
		memmove(slot->buffer, begin, slot->end - slot->start);
		slot->end -= slot->start;
		slot->start = 0;
		if (slot->end == LINE)
			_exit(125);
		ssize_t got = read(FIRST_SLOT_FD + number, slot->buffer + slot->end, LINE - slot->end);
		if (got > 0)
			slot->end += (size_t)got;
		else if (got == 0 || errno != EINTR)
			_exit(0);
	}
}

/* ---- signals -------------------------------------------------------------------------------- */

static volatile long counts[65];
static volatile char reports[65];

static void on_signal(int number)
{
	int saved = errno;
	counts[number]++;
	if (reports[number]) {
		char line[64];
		put(line, (size_t)snprintf(line, sizeof line, "- sig %d %ld\n", number,
					   syscall(SYS_gettid)));
	}
	errno = saved;
}

/* MODE: ignore | default | count | report, the last two with "-restart" for SA_RESTART. */
static void set_signal(unsigned long seq, int number, const char *mode)
{
	struct sigaction action = {.sa_handler = on_signal};
	if (number < 1 || number > 64) {
		complain(seq, "no such signal");
		return;
	}
	reports[number] = !strncmp(mode, "report", 6);
	counts[number] = 0;
	if (strstr(mode, "-restart"))
		action.sa_flags |= SA_RESTART;
	if (!strcmp(mode, "ignore"))
		action.sa_handler = SIG_IGN;
	if (!strcmp(mode, "default"))
		action.sa_handler = SIG_DFL;
	errno = 0;
	int result = sigaction(number, &action, NULL);
	reply(seq, "r", result, errno);
}

/* ---- more actors ---------------------------------------------------------------------------- */

struct start {
	int slot;
	unsigned long seq;
};

static void obey(int slot);

static void *thread_main(void *argument)
{
	struct start start = *(struct start *)argument;
	free(argument);
	reply(start.seq, "r", syscall(SYS_gettid), 0);
	obey(start.slot);
	return NULL;
}

static void make_thread(unsigned long seq, int slot)
{
	pthread_t thread;
	struct start *start = malloc(sizeof *start);
	if (!start) {
		complain(seq, "out of memory");
		return;
	}
	*start = (struct start){slot, seq};
	int error = pthread_create(&thread, NULL, thread_main, start);
	if (error) {
		free(start);
		reply(seq, "r", -1, error);
	} else {
		pthread_detach(thread);
	}
}

static void make_process(unsigned long seq, int slot, unsigned long flags)
{
	errno = 0;
	long pid = flags ? syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0) : fork();
	if (pid == 0) {
		obey(slot);
		_exit(0);
	}
	reply(seq, "r", pid, pid < 0 ? errno : 0);
}

static void exec_self(unsigned long seq, int slot)
{
	char slot_text[16], seq_text[24];
	snprintf(slot_text, sizeof slot_text, "%d", slot);
	snprintf(seq_text, sizeof seq_text, "%lu", seq);
	char *argv[] = {"victim", slot_text, seq_text, NULL};
	execve("/proc/self/exe", argv, environ);
	reply(seq, "r", -1, errno);
}

/* Install a filter, tell the value by shared memory alone, and exec: no call in between. */
static void install_and_exec(unsigned long seq, int slot, const unsigned long *a)
{
	char slot_text[16], seq_text[24];
	volatile long *shared = (volatile long *)a[2];
	snprintf(slot_text, sizeof slot_text, "%d", slot);
	snprintf(seq_text, sizeof seq_text, "%lu", seq);
	char *argv[] = {"victim", slot_text, seq_text, NULL};
	*shared = syscall(SYS_seccomp, 1, a[0], a[1]);
	execve("/proc/self/exe", argv, environ);
	_exit(126);
}

/* ---- calls ---------------------------------------------------------------------------------- */

static long libc_call(const unsigned long *a)
{
	return syscall((long)a[0], a[1], a[2], a[3], a[4], a[5], a[6]);
}

static void call(unsigned long seq, const unsigned long *a)
{
	errno = 0;
	long value = libc_call(a);
	reply(seq, "r", value, value == -1 ? errno : 0);
}

/* The i386 entry, from a 64-bit process; the raw value, errno left to the reader. */
static void call_i386(unsigned long seq, const unsigned long *a)
{
#ifdef __x86_64__
	long value = (long)a[0];
	__asm__ volatile("int $0x80"
			 : "+a"(value)
			 : "b"(a[1]), "c"(a[2]), "d"(a[3]), "S"(a[4]), "D"(a[5])
			 : "memory", "r8", "r9", "r10", "r11");
	reply(seq, "r", (int)value, 0);
#else
	(void)a;
	complain(seq, "no i386 entry here");
#endif
}

/* The same call N times or until it fails: how often it worked, and why it stopped. */
static void repeat(unsigned long seq, const unsigned long *a)
{
	unsigned long done = 0;
	errno = 0;
	while (done < a[0] && libc_call(a + 1) != -1)
		done++;
	reply(seq, "r", (long)done, done < a[0] ? errno : 0);
}

/*
 * A call that gives a descriptor, N times, with the round's number as sixth argument.
 * "f GOOD ZERO NOT-OPEN FAILED": how often it was an open descriptor (closed again), 0 (standard
 * input: nobody meant that), a number that is not open, an error.
 */
static void descriptors(unsigned long seq, const unsigned long *a)
{
	unsigned long good = 0, zero = 0, not_open = 0, failed = 0;
	char line[128];
	for (unsigned long round = 0; round < a[0]; round++) {
		long fd = syscall((long)a[1], a[2], a[3], a[4], a[5], a[6], round);
		if (fd < 0)
			failed++;
		else if (fd == 0)
			zero++;
		else if (close((int)fd) < 0)
			not_open++;
		else
			good++;
	}
	put(line, (size_t)snprintf(line, sizeof line, "%lu f %lu %lu %lu %lu\n", seq, good, zero,
				   not_open, failed));
}

static void send_descriptor(unsigned long seq, int socket, int fd)
{
	char byte = 'x';
	union {
		struct cmsghdr head;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = {0};
	struct iovec iov = {&byte, 1};
	struct msghdr message = {
	    .msg_iov = &iov,
	    .msg_iovlen = 1,
	    .msg_control = control.bytes,
	    .msg_controllen = sizeof control.bytes,
	};
	struct cmsghdr *part = CMSG_FIRSTHDR(&message);
	part->cmsg_level = SOL_SOCKET;
	part->cmsg_type = SCM_RIGHTS;
	part->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(part), &fd, sizeof fd);
	errno = 0;
	long value = sendmsg(socket, &message, 0);
	reply(seq, "r", value, value < 0 ? errno : 0);
}

/* The value is the descriptor that arrived, -2 if the message carried none. */
static void receive_descriptor(unsigned long seq, int socket, int flags)
{
	char byte;
	int fd = -2;
	union {
		struct cmsghdr head;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = {0};
	struct iovec iov = {&byte, 1};
	struct msghdr message = {
	    .msg_iov = &iov,
	    .msg_iovlen = 1,
	    .msg_control = control.bytes,
	    .msg_controllen = sizeof control.bytes,
	};
	errno = 0;
	if (recvmsg(socket, &message, flags) < 0) {
		reply(seq, "r", -1, errno);
		return;
	}
	struct cmsghdr *part = CMSG_FIRSTHDR(&message);
	if (part && part->cmsg_type == SCM_RIGHTS)
		memcpy(&fd, CMSG_DATA(part), sizeof fd);
	reply(seq, "r", fd, 0);
}

/* ---- memory --------------------------------------------------------------------------------- */

static int nibble(char c)
{
	return c <= '9' ? c - '0' : (c | 32) - 'a' + 10;
}

static void poke(unsigned long seq, unsigned long address, const char *hex)
{
	volatile char *to = (volatile char *)address;
	for (; hex[0] && hex[1]; hex += 2)
		*to++ = (char)(nibble(hex[0]) << 4 | nibble(hex[1]));
	reply(seq, "r", 0, 0);
}

static void peek(unsigned long seq, unsigned long address, unsigned long length)
{
	static const char digits[] = "0123456789abcdef";
	char line[2 * PEEK_LIMIT + 64];
	const volatile unsigned char *from = (const volatile unsigned char *)address;
	if (length > PEEK_LIMIT) {
		complain(seq, "too much to peek at once");
		return;
	}
	int fill = snprintf(line, sizeof line, "%lu m ", seq);
	while (length--) {
		line[fill++] = digits[*from >> 4];
		line[fill++] = digits[*from++ & 15];
	}
	line[fill++] = '\n';
	put(line, (size_t)fill);
}

/* ---- the command loop ----------------------------------------------------------------------- */

/* Up to `limit` numbers from text; the rest are zero.  Returns the first character not read. */
static char *numbers(char *text, unsigned long *into, int limit)
{
	memset(into, 0, (size_t)limit * sizeof *into);
	for (int i = 0; i < limit; i++) {
		char *end;
		unsigned long value = strtoul(text, &end, 0);
		if (end == text)
			break;
		into[i] = value;
		text = end;
	}
	while (*text == ' ')
		text++;
	return text;
}

static int valid_slot(unsigned long slot)
{
	return slot < SLOTS;
}

static void obey(int slot)
{
	for (;;) {
		unsigned long a[ARGUMENTS];
		char *rest, *verb = next_line(slot);
		unsigned long seq = strtoul(verb, &verb, 10);
		while (*verb == ' ')
			verb++;
		rest = strchr(verb, ' ');
		if (rest)
			*rest++ = 0;
		else
			rest = verb + strlen(verb);

		if (!strcmp(verb, "poke")) {
			rest = numbers(rest, a, 1);
			poke(seq, a[0], rest);
			continue;
		}
		if (!strcmp(verb, "sig")) {
			rest = numbers(rest, a, 1);
			set_signal(seq, (int)a[0], rest);
			continue;
		}
		numbers(rest, a, ARGUMENTS);
		if (!strcmp(verb, "call")) {
			call(seq, a);
		} else if (!strcmp(verb, "acall")) {
			reply(seq, "s", 0, 0);
			call(seq, a);
		} else if (!strcmp(verb, "call-i386")) {
			reply(seq, "s", 0, 0);
			call_i386(seq, a);
		} else if (!strcmp(verb, "repeat")) {
			repeat(seq, a);
		} else if (!strcmp(verb, "descriptors")) {
			descriptors(seq, a);
		} else if (!strcmp(verb, "peek")) {
			peek(seq, a[0], a[1]);
		} else if (!strcmp(verb, "send-fd")) {
			reply(seq, "s", 0, 0);
			send_descriptor(seq, (int)a[0], (int)a[1]);
		} else if (!strcmp(verb, "recv-fd")) {
			reply(seq, "s", 0, 0);
			receive_descriptor(seq, (int)a[0], (int)a[1]);
		} else if (!strcmp(verb, "count")) {
			reply(seq, "r", a[0] <= 64 ? counts[a[0]] : -1, 0);
		} else if (!strcmp(verb, "thread") && valid_slot(a[0])) {
			make_thread(seq, (int)a[0]);
		} else if (!strcmp(verb, "fork") && valid_slot(a[0])) {
			make_process(seq, (int)a[0], a[1]);
		} else if (!strcmp(verb, "exec")) {
			reply(seq, "s", 0, 0);
			exec_self(seq, slot);
		} else if (!strcmp(verb, "install-and-exec")) {
			install_and_exec(seq, slot, a);
		} else if (!strcmp(verb, "clock")) {
			/* libc's clock_gettime: the vDSO where there is one */
			struct timespec now;
			reply(seq, "s", 0, 0);
			reply(seq, "r", clock_gettime(CLOCK_MONOTONIC, &now), 0);
		} else if (!strcmp(verb, "marker")) {
			reply(seq, "r", marker_pointer(), 0);
		} else {
			complain(seq, verb);
		}
	}
}

int main(int argc, char **argv)
{
	if (argc != 3) {
		fprintf(stderr, "usage: victim SLOT SEQ (with pipes at %d and %d..)\n", REPLY_FD,
			FIRST_SLOT_FD);
		return 2;
	}
	int slot = atoi(argv[1]);
	if (slot < 0 || slot >= SLOTS)
		return 2;
	unsigned long seq = strtoul(argv[2], NULL, 10);
	if (seq == 0) /* a first start, not a re-exec: go when the harness goes */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	hello(seq);
	obey(slot);
}
