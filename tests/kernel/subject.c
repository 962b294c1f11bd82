/* What the tests of the native core launch: it says what it finds itself to be, or makes calls.
 *
 *   subject COMMAND [ARGUMENTS] [, COMMAND ...]      (see main)
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void list_fds(void)
{
    DIR *directory = opendir("/proc/self/fd");
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        char path[300], link[300] = "";
        if (entry->d_name[0] == '.' || atoi(entry->d_name) == dirfd(directory))
            continue;
        snprintf(path, sizeof path, "/proc/self/fd/%s", entry->d_name);
        if (readlink(path, link, sizeof link - 1) >= 0)
            printf("fd %s %s\n", entry->d_name, link);
    }
    closedir(directory);
}

static void identity(void)
{
    char line[400], directory[400];
    mode_t mask = umask(0);
    printf("pid %d\npgid %d\nsid %d\nforeground %d\n", getpid(), getpgrp(), getsid(0), tcgetpgrp(0));
    printf("uid %d %d\ngid %d %d\numask %o\n", getuid(), geteuid(), getgid(), getegid(), mask);
    printf("cwd %s\n", getcwd(directory, sizeof directory));
    gid_t groups[100];
    int count = getgroups(100, groups);
    printf("groups");
    for (int i = 0; i < count; i++)
        printf(" %d", groups[i]);
    int death = 0;
    prctl(PR_GET_PDEATHSIG, &death);
    printf("\npdeathsig %d\n", death);
    FILE *status = fopen("/proc/thread-self/status", "r");
    while (fgets(line, sizeof line, status) != NULL)
        if (strncmp(line, "Sig", 3) == 0 || strncmp(line, "NoNew", 5) == 0
            || strncmp(line, "Seccomp", 7) == 0)
            fputs(line, stdout);
    fclose(status);
}

static void *one_call(void *argument)
{
    return (void *)syscall(4242, argument);
}

/* Each of count threads makes call 4242 with its own number as argument. */
static void threads(int count)
{
    pthread_t made[512];
    for (long i = 0; i < count; i++)
        pthread_create(&made[i], NULL, one_call, (void *)i);
    for (int i = 0; i < count; i++) {
        void *value;
        pthread_join(made[i], &value);
        printf("%ld ", (long)value);
    }
    printf("\n");
}

/* count times: the call must return an open descriptor, which nobody else holds; prints how often not. */
static void descriptors(int count)
{
    int wrong = 0;
    for (int i = 0; i < count; i++) {
        struct stat found;
        long fd = syscall(4242, i);
        if (fd < 3 || fstat((int)fd, &found) != 0 || !S_ISFIFO(found.st_mode))
            wrong++;
        else
            close((int)fd);
    }
    printf("wrong %d\n", wrong);
}

int main(int count, char **arguments)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int i = 1; i < count; i++) {
        const char *command = arguments[i];
        int number = i + 1 < count ? atoi(arguments[i + 1]) : 0;
        if (strcmp(command, "fds") == 0) {
            list_fds();
        } else if (strcmp(command, "identity") == 0) {
            identity();
        } else if (strcmp(command, "hold") == 0) {
            puts("holding");
            pause();
        } else if (strcmp(command, "read") == 0) { /* until the end of standard input */
            char byte;
            while (read(0, &byte, 1) > 0)
                ;
        } else if (strcmp(command, "exit") == 0) {
            _exit(number);
        } else if (strcmp(command, "die") == 0) {
            raise(number);
        } else if (strcmp(command, "threads") == 0) {
            threads(number), i++;
        } else if (strcmp(command, "descriptors") == 0) {
            descriptors(number), i++;
        } else if (strcmp(command, "call") == 0) { /* call 4242 so many times, the results as text */
            for (long n = 0; n < number; n++) {
                long value = syscall(4242, n, "a path", arguments, 0, 0, -1L);
                printf("%ld %d\n", value, value < 0 ? errno : 0);
            }
            i++;
        } else if (strcmp(command, "flood") == 0) { /* the same without end, and nothing is said */
            for (;;)
                syscall(4242, 0L);
        } else if (strcmp(command, "undumpable") == 0) {
            prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
        } else if (strcmp(command, "fork") == 0) { /* the rest of the commands, in a child */
            pid_t child = fork();
            if (child != 0) {
                waitpid(child, NULL, 0);
                _exit(0);
            }
        } else {
            fprintf(stderr, "subject: no command %s\n", command);
            _exit(99);
        }
    }
    return 0;
}
