/* Makes the calls of a table, each with the registers it says, none of which is carried out.
 *
 *   text_victim FILE          whoever supervises refuses the calls
 *   text_victim FILE sealed   a filter of its own refuses them (EPERM), all but exit_group
 *
 * FILE is mapped at a fixed address, so that pointers in it are the same in every run: a count, then
 * at ENTRIES eight 64-bit numbers a call (1 for int 0x80, the number, six registers).  getppid() says
 * that the table begins.
 */
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BASE 0x10000000ul
#define ENTRIES 4096
#define EDGE ((void *)0x20000000ul) /* one page of 'x', and nothing behind it */

static long call64(const uint64_t *r)
{
	long result;
	register uint64_t r10 asm("r10") = r[5], r8 asm("r8") = r[6], r9 asm("r9") = r[7];

	asm volatile("syscall"
		     : "=a"(result)
		     : "a"(r[1]), "D"(r[2]), "S"(r[3]), "d"(r[4]), "r"(r10), "r"(r8), "r"(r9)
		     : "rcx", "r11", "memory");
	return result;
}

static long call32(const uint64_t *r)
{
	long result;

	asm volatile("push %%rbp; mov %7, %%rbp; int $0x80; pop %%rbp"
		     : "=a"(result)
		     : "a"(r[1]), "b"(r[2]), "c"(r[3]), "d"(r[4]), "S"(r[5]), "D"(r[6]), "r"(r[7])
		     : "r8", "r9", "r10", "r11", "memory");
	return result;
}

int main(int argc, char **argv)
{
	struct sock_filter seal[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0, 2),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit_group, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof(seal) / sizeof(*seal), seal };
	const uint64_t *entry = (void *)(BASE + ENTRIES);
	struct stat info;
	uint64_t i;
	int fd = argc > 1 ? open(argv[1], O_RDONLY) : -1;

	if (mmap(EDGE, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
		 0) == MAP_FAILED) {
		perror("text_victim");
		return 1;
	}
	memset(EDGE, 'x', 4096);
	if (fd < 0 || fstat(fd, &info) ||
	    mmap((void *)BASE, info.st_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd,
		 0) == MAP_FAILED) {
		perror("text_victim");
		return 1;
	}
	if (argc > 2 && (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
			 prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))) {
		perror("text_victim: seccomp");
		return 1;
	}
	syscall(SYS_getppid);
	for (i = 0; i < *(uint64_t *)BASE; i++, entry += 8)
		if ((entry[0] ? call32 : call64)(entry) != -1)
			syscall(SYS_exit_group, 2);
	syscall(SYS_exit_group, 0);
}
