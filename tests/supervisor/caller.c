/* A target that does what its arguments say, one after another:
 *
 *   call NR [A B C D]   make a system call; print "NR = value" or "NR = -errno"
 *   thread N NR         N threads make call NR with arguments (index, N); print them in order
 *   flood N NR          N threads make call NR with argument 0 again and again, while all goes on; "go" is
 *                       printed when they have begun
 *   loop N NR           N times call NR with argument i; print "ok", or the first wrong answer (!= i)
 *   fds N NR            N times call NR, each answer is a new descriptor: check and close it
 *   string TEXT NR      call NR with the address of TEXT
 *   wait                wait for a byte on standard input ("go" is printed first)
 *   alarm US            SIGALRM every US microseconds, with a handler and SA_RESTART
 *   interrupt           the same without SA_RESTART
 *   fork                fork; both go on, the parent waits for the child at its end
 *   stay                wait for a signal
 *   exit N              exit with N
 *   churn N NR          N children, one after another, make call NR; print "ok" when all are dead
 *   again NR            a child makes call NR; when it is dead, another one with the same thread id
 *                       (clone3 with set_tid: root) makes it, and prints what "call" does
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/sched.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct job {
    long nr, index, count, value;
};

static void *one(void *p)
{
    struct job *job = p;
    job->value = syscall(job->nr, job->index, job->count);
    if (job->value < 0)
        job->value = -errno;
    return NULL;
}

static void *floods(void *p)
{
    struct job *job = p;
    for (;;) {
        syscall(job->nr, 0L);
        __atomic_add_fetch(&job->count, 1, __ATOMIC_SEQ_CST);
    }
    return p;
}

static void flood(long count, long nr)
{
    static struct job job;
    pthread_t thread;
    job.nr = nr;
    for (long i = 0; i < count; i++)
        if (pthread_create(&thread, NULL, floods, &job) != 0)
            exit(2);
    while (__atomic_load_n(&job.count, __ATOMIC_SEQ_CST) < count)
        usleep(1000);
    printf("go\n");
    fflush(stdout);
}

static void on_signal(int n)
{
    (void)n;
}

static void timer(long us, int flags)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = flags};
    struct itimerval value = {{0, us}, {0, us}};
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &value, NULL);
}

static void say(long nr, long value)
{
    printf("%ld = %ld\n", nr, value < 0 ? -(long)errno : value);
    fflush(stdout);
}

/* A child makes a call, says what came of it and is waited for; with a thread id of our choice, if
 * that is not 0.  Returns the thread id. */
static pid_t one_child(pid_t tid, long nr)
{
    struct clone_args args = {.exit_signal = SIGCHLD, .set_tid = (unsigned long)&tid, .set_tid_size = 1};
    pid_t pid = tid == 0 ? fork() : (pid_t)syscall(SYS_clone3, &args, sizeof args);
    if (pid < 0) {
        perror("clone3");
        exit(9);
    }
    if (pid == 0) {
        errno = 0;
        say(nr, syscall(nr, (long)(tid != 0)));
        _exit(0);
    }
    waitpid(pid, NULL, 0);
    return pid;
}

/* The kernel tells times of birth in ticks: let three of them pass. */
static void let_ticks_pass(void)
{
    struct timespec from, now;
    clock_gettime(CLOCK_BOOTTIME, &from);
    do
        clock_gettime(CLOCK_BOOTTIME, &now);
    while ((now.tv_sec - from.tv_sec) * 1000000000L + now.tv_nsec - from.tv_nsec < 3 * (1000000000L / sysconf(_SC_CLK_TCK)));
}

int main(int argc, char **argv)
{
    pid_t child = 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int i = 1; i < argc; i++) {
        const char *what = argv[i];
        long a[6] = {0};
        int n = 0;
        if (strcmp(what, "string") == 0 && i + 2 < argc) {
            long nr = atol(argv[i + 2]);
            say(nr, syscall(nr, argv[i + 1]));
            i += 2;
            continue;
        }
        while (i + 1 < argc && n < 6 && (argv[i + 1][0] == '-' || (argv[i + 1][0] >= '0' && argv[i + 1][0] <= '9')))
            a[n++] = strtol(argv[++i], NULL, 0);
        if (strcmp(what, "call") == 0) {
            errno = 0;
            say(a[0], syscall(a[0], a[1], a[2], a[3], a[4], a[5]));
        } else if (strcmp(what, "thread") == 0) {
            struct job jobs[64];
            pthread_t threads[64];
            for (int t = 0; t < a[0] && t < 64; t++) {
                jobs[t] = (struct job){a[1], t, a[0], 0};
                pthread_create(&threads[t], NULL, one, &jobs[t]);
            }
            for (int t = 0; t < a[0] && t < 64; t++) {
                pthread_join(threads[t], NULL);
                printf("%ld\n", jobs[t].value);
            }
        } else if (strcmp(what, "stay") == 0) {
            pause();
        } else if (strcmp(what, "flood") == 0) {
            flood(a[0], a[1]);
        } else if (strcmp(what, "loop") == 0) {
            long at = 0, value = 0;
            for (; at < a[0]; at++)
                if ((value = syscall(a[1], at)) != at)
                    break;
            if (at == a[0])
                puts("ok");
            else
                printf("wrong at %ld: %ld errno %d\n", at, value, errno);
        } else if (strcmp(what, "values") == 0) {
            for (long at = 0; at < a[0]; at++)
                printf("%ld\n", syscall(a[1], at));
        } else if (strcmp(what, "fds") == 0) {
            long at = 0;
            for (; at < a[0]; at++) {
                char byte = 0;
                long fd = syscall(a[1], 0L);
                if (fd < 3 || pread((int)fd, &byte, 1, 0) != 1 || byte != 'x' || close((int)fd) != 0) {
                    printf("wrong at %ld: %ld errno %d\n", at, fd, errno);
                    break;
                }
            }
            if (at == a[0])
                puts("ok");
        } else if (strcmp(what, "wait") == 0) {
            char byte;
            puts("go");
            if (read(0, &byte, 1) != 1)
                return 9;
        } else if (strcmp(what, "alarm") == 0) {
            timer(a[0], SA_RESTART);
        } else if (strcmp(what, "interrupt") == 0) {
            timer(a[0], 0);
        } else if (strcmp(what, "fork") == 0) {
            child = fork();
        } else if (strcmp(what, "churn") == 0) {
            for (long at = 0; at < a[0]; at++)
                one_child(0, a[1]);
            puts("ok");
        } else if (strcmp(what, "again") == 0) {
            pid_t tid = one_child(0, a[0]);
            let_ticks_pass();
            one_child(tid, a[0]);
        } else if (strcmp(what, "exit") == 0) {
            if (child > 0)
                waitpid(child, NULL, 0);
            return (int)a[0];
        }
    }
    if (child > 0)
        waitpid(child, NULL, 0);
    return 0;
}
