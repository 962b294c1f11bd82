/* What stat, access and readlink say about paths, by the calls of 64 and of 32 bits: looks PATH...
 *
 * One line a call: its number, what it returned, and what it filled in hexadecimal digits.  A path of "@N" is
 * descriptor N with no path at all. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static unsigned char *filled;
static char *low;

static long narrow(long number, long a, long b, long c, long d, long e)
{
	long result;
	asm volatile("push %%rbx; mov %2, %%rbx; int $0x80; pop %%rbx"
		     : "=a"(result) : "a"(number), "r"(a), "c"(b), "d"(c), "S"(d), "D"(e)
		     : "memory", "r8", "r9", "r10", "r11");
	return (int)result;
}

static void say(const char *what, int flags, long result, size_t size)
{
	if (result == -1 && what[0] == 'w') {
		extern int *__errno_location(void);
		result = -*__errno_location();
	}
	printf("%s %x %ld ", what, flags, result);
	for (size_t at = 0; result >= 0 && at < size; at++)
		printf("%02x", filled[at]);
	putchar('\n');
	memset(filled, 0, 4096);
}

int main(int argc, char **argv)
{
	static const int flags[] = { 0, AT_SYMLINK_NOFOLLOW, AT_EMPTY_PATH, AT_NO_AUTOMOUNT | 0x2000, 0x6000, 0x40 };
	static const int modes[] = { F_OK, R_OK, W_OK, X_OK, R_OK | W_OK, 8 };
	low = mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	filled = (unsigned char *)low + 8192;
	for (int each = 1; each < argc; each++) {
		int fd = AT_FDCWD;
		strcpy(low, argv[each]);
		if (low[0] == '@') {
			fd = atoi(low + 1);
			low[0] = 0;
		}
		printf("-- %s\n", argv[each]);
		say("wide stat", 0, syscall(SYS_stat, low, filled), 144);
		say("wide lstat", 0, syscall(SYS_lstat, low, filled), 144);
		say("wide readlink", 0, syscall(SYS_readlink, low, filled, 100), 100);
		say("wide readlinkat", 0, syscall(SYS_readlinkat, fd, low, filled, 3), 3);
		say("wide readlinkat", 0, syscall(SYS_readlinkat, fd, low, filled, 0), 0);
		for (int at = 0; at < 6; at++) {
			say("wide newfstatat", flags[at], syscall(SYS_newfstatat, fd, low, filled, flags[at]), 144);
			say("wide statx", flags[at], syscall(SYS_statx, fd, low, flags[at], 0x17ff, filled), 256);
			say("wide access", modes[at], syscall(SYS_access, low, modes[at]), 0);
			for (int one = 0; one < 6; one++) {
				int how = flags[one] == 0x40 ? AT_EACCESS : flags[one];
				say("wide faccessat2", how, syscall(SYS_faccessat2, fd, low, modes[at], how), 0);
			}
			say("narrow fstatat64", flags[at], narrow(300, fd, (long)low, (long)filled, flags[at], 0), 96);
			say("narrow statx", flags[at], narrow(383, fd, (long)low, flags[at], 0x7ff, (long)filled), 256);
			say("narrow access", modes[at], narrow(33, (long)low, modes[at], 0, 0, 0), 0);
		}
		say("narrow stat", 0, narrow(106, (long)low, (long)filled, 0, 0, 0), 64);
		say("narrow lstat", 0, narrow(107, (long)low, (long)filled, 0, 0, 0), 64);
		say("narrow stat64", 0, narrow(195, (long)low, (long)filled, 0, 0, 0), 96);
		say("narrow lstat64", 0, narrow(196, (long)low, (long)filled, 0, 0, 0), 96);
		say("narrow oldstat", 0, narrow(18, (long)low, (long)filled, 0, 0, 0), 32);
		say("narrow readlink", 0, narrow(85, (long)low, (long)filled, 100, 0, 0), 100);
		say("wide bad", 0, syscall(SYS_stat, low, 1), 0);
	}
	return 0;
}
