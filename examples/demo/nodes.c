/* Makes character devices 1:3 under the given names, each from a thread of its own when built with
 * THREADS; prints what each mknod(2) returned.  The demonstration builds it static, and threaded. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

static void *make(void *path)
{
    int r = mknod(path, S_IFCHR | 0666, makedev(1, 3));
    return (void *)(long)(r == 0 ? 0 : errno);
}

int main(int argc, char **argv)
{
    pthread_t threads[64];
    int failed = 0;
    if (argc > 64)
        argc = 64;
    for (int i = 1; i < argc; i++)
        pthread_create(&threads[i], NULL, make, argv[i]);
    for (int i = 1; i < argc; i++) {
        void *error;
        pthread_join(threads[i], &error);
        printf("mknod(%s, S_IFCHR, 1:3) = %s\n", argv[i], error ? strerror((int)(long)error) : "0");
        failed |= error != NULL;
    }
    return failed;
}
