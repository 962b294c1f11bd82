/* Exchanges what a program is executed with while that is done: exec_racer KIND TRIES GOOD BAD
 *
 * words: another thread exchanges the second word.  vm: a process that shares the memory does.  thread: a thread that
 * is not the first executes, and the first one exchanges.  link: another process exchanges where a link leads.
 * script: likewise, between two scripts.
 *
 * Called by another name it is the program: it ends with 7 if it is what may not run.  The last line says how many
 * ran, were refused, were killed, and won. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static char *volatile words[3];
static char *good, *bad;
static const char *program = "./program";

static void *exchange(void *unused)
{
	(void)unused;
	for (;;) {
		words[1] = good;
		words[1] = bad;
	}
	return NULL;
}

static void *execute(void *unused)
{
	(void)unused;
	for (volatile int wait = rand() % 2000; wait > 0; wait--)
		;
	execv(program, (char *const *)words);
	_exit(errno == EACCES ? 5 : 6);
}

static int sharing(void *unused)
{
	execute(unused);
	return 0;
}

int main(int argc, char **argv)
{
	pthread_t thread;
	int ran = 0, refused = 0, killed = 0, won = 0, other = 0;

	if (argc != 5) /* the program: words, or by what it is called */
		return argc > 1 && !strcmp(argv[1], "push") ? 7 : 0;
	const char *kind = argv[1];
	good = argv[3];
	bad = argv[4];
	srand(getpid());
	pid_t exchanger = 0;
	if (!strcmp(kind, "link") || !strcmp(kind, "script")) {
		exchanger = fork();
		if (!exchanger) {
			for (;;) {
				unlink("new"), symlink(good, "new"), rename("new", "link");
				unlink("new"), symlink(bad, "new"), rename("new", "link");
			}
		}
		program = "./link";
	}
	for (int tries = atoi(argv[2]); tries > 0; tries--) {
		int status;
		pid_t child = fork();
		if (!child) {
			words[0] = "program";
			words[1] = exchanger ? "status" : good;
			if (!strcmp(kind, "vm")) {
				char *stack = mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
				pid_t sharer = clone(sharing, stack + (1 << 16), CLONE_VM | SIGCHLD, NULL);
				pthread_create(&thread, NULL, exchange, NULL);
				waitpid(sharer, &status, 0);
				if (WIFSIGNALED(status))
					kill(getpid(), SIGKILL);
				_exit(WEXITSTATUS(status));
			}
			if (!strcmp(kind, "thread")) {
				pthread_create(&thread, NULL, execute, NULL);
				exchange(NULL);
			}
			if (!exchanger)
				pthread_create(&thread, NULL, exchange, NULL);
			execute(NULL);
		}
		waitpid(child, &status, 0);
		if (WIFSIGNALED(status))
			killed++;
		else if (WEXITSTATUS(status) == 7)
			won++;
		else if (WEXITSTATUS(status) == 5)
			refused++;
		else if (WEXITSTATUS(status))
			other++;
		else
			ran++;
	}
	if (exchanger)
		kill(exchanger, SIGKILL);
	printf("ran %d refused %d killed %d other %d won %d\n", ran, refused, killed, other, won);
	return 0;
}
