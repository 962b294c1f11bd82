/* One thread makes calls of sockets again and again, another one exchanges the address that they are given.
 *
 *   socket_racer KIND WIDTH TRIES ALLOWED OTHER
 *
 * connect   connect a new socket of TCP to 127.0.0.1, port ALLOWED or OTHER
 * length    the same, with an address whose length and family are exchanged, too (a bigger one is IPv6)
 * sendto    a datagram to one of the ports
 * sendmsg   the same, its header in memory that is exchanged
 * bind      bind to one of the ports, which is looked at afterwards
 * says      a message that says who sends it (its sender, or root) and passes a descriptor, and what the receiver is told
 *
 * WIDTH is 64, or 32: then the calls are those of i386 (int $0x80); 102: those of its socketcall, whose arguments
 * are in memory and are exchanged, too.  Prints how many calls were made. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <grp.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* all that calls point to is static: a program that is linked so has it where 32 bits reach */
static union {
    struct sockaddr_in four;
    struct sockaddr_in6 six;
    char bytes[128];
} shared, both[2];
static struct { uint32_t base, length; } vector32;
static struct { uint32_t name, namelen, iov, iovlen, control, controllen, flags; } header32;
static struct iovec vector;
static struct msghdr header;
static char text[] = "x";
static struct sockaddr_in fixed[2];
static uint32_t block[6];
static unsigned place; /* which of them is the address; 0: none */
static atomic_int over;
static int lengths;
static _Alignas(8) char control[128], controls[2][128]; /* of "says" */
static size_t control_length;

static void *exchange(void *unused)
{
    (void)unused;
    for (unsigned i = 0; !over; i++)
        if (control_length) {
            memcpy(control, controls[i & 1], control_length);
        } else if (place) {
            block[place] = (uint32_t)(uintptr_t)&fixed[i & 1];
        } else {
            memcpy(&shared, &both[i & 1], lengths ? sizeof shared : sizeof shared.four);
        }
    return NULL;
}

static long call(int narrow, long number, int number32, long a, long b, long c, long d, long e, long f)
{
#ifdef __x86_64__
    if (narrow == 102) {
        long values[] = {a, b, c, d, e, f};
        static const struct { int number, member; } members[] = {{361, 2}, {362, 3}, {369, 11}, {370, 16}};
        for (unsigned i = 0; i < 6; i++)
            if (!place || i != place || over)
                block[i] = (uint32_t)values[i];
        a = 0;
        for (unsigned i = 0; i < sizeof members / sizeof *members; i++)
            if (members[i].number == number32)
                a = members[i].member;
        b = (long)block;
        c = d = e = f = 0;
        number32 = 102;
    }
    if (narrow) {
        long result;
        __asm__ volatile("push %%rbp; mov %[f], %%rbp; int $0x80; pop %%rbp"
                         : "=a"(result)
                         : "a"((long)number32), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e), [f] "r"(f)
                         : "memory", "r8", "r9", "r10", "r11");
        return (int)result < 0 ? -1 : result;
    }
#endif
    return syscall(number, a, b, c, d, e, f);
}

static size_t put(int narrow, char *to, size_t at, int type, const void *data, size_t size)
{
    size_t word = narrow ? 4 : 8, length = word + 8 + size;
    memcpy(to + at, &length, word);
    memcpy(to + at + word, &(int){SOL_SOCKET}, 4);
    memcpy(to + at + word + 4, &type, 4);
    memcpy(to + at + word + 8, data, size);
    return at + ((length + word - 1) & ~(word - 1));
}

/* What may be said, and what may not, in another order. */
static void make_controls(int narrow)
{
    if (setgroups(0, NULL) != 0 || setresgid(1000, 1000, 1000) != 0 || setresuid(1000, 1000, 1000) != 0)
        _exit(4);
    struct ucred me = {getpid(), 1000, 1000}, root = {getpid(), 0, 1000};
    int passed = 2;
    put(narrow, controls[0], put(narrow, controls[0], 0, SCM_CREDENTIALS, &me, sizeof me), SCM_RIGHTS, &passed, sizeof passed);
    control_length = put(narrow, controls[1], put(narrow, controls[1], 0, SCM_RIGHTS, &passed, sizeof passed),
                         SCM_CREDENTIALS, &root, sizeof root);
    memcpy(control, controls[0], control_length);
    header32.name = header32.namelen = 0;
    header32.control = (uint32_t)(uintptr_t)control;
    header32.controllen = (uint32_t)control_length;
    header = (struct msghdr){NULL, 0, &vector, 1, control, control_length, 0};
}

static void told(int receiver)
{
    char data[8], room[256];
    struct iovec part = {data, sizeof data};
    struct msghdr said = {NULL, 0, &part, 1, room, sizeof room, 0};
    if (recvmsg(receiver, &said, MSG_DONTWAIT) != 1)
        printf("won: nothing has come\n");
    for (struct cmsghdr *one = CMSG_FIRSTHDR(&said); one; one = CMSG_NXTHDR(&said, one)) {
        struct ucred who;
        int passed;
        if (one->cmsg_type == SCM_CREDENTIALS) {
            memcpy(&who, CMSG_DATA(one), sizeof who);
            int unsaid = who.pid == 0; /* it was torn, and says nothing: by an executor, which is in no namespace of ours */
            if ((who.pid != getpid() && !unsaid) || who.uid != 1000 || who.gid != 1000)
                printf("won: sent by %d, of %u, %u\n", who.pid, who.uid, who.gid);
        } else {
            memcpy(&passed, CMSG_DATA(one), sizeof passed);
            close(passed);
        }
    }
}

int main(int count, char **v)
{
    if (count != 6)
        return 2;
    const char *kind = v[1];
    int narrow = atoi(v[2]) == 64 ? 0 : atoi(v[2]), tries = atoi(v[3]), made = 0;
    int udp = strncmp(kind, "send", 4) == 0;
    lengths = strcmp(kind, "length") == 0;
    for (int i = 0; i < 2; i++) {
        if (lengths && i == 1) {
            both[i].six.sin6_family = AF_INET6;
            both[i].six.sin6_port = htons((uint16_t)atoi(v[4 + i]));
            both[i].six.sin6_addr = in6addr_loopback;
        } else {
            both[i].four.sin_family = AF_INET;
            both[i].four.sin_port = htons((uint16_t)atoi(v[4 + i]));
            both[i].four.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        }
    }
    shared = both[0];
    fixed[0] = both[0].four;
    fixed[1] = both[1].four;
    if (narrow == 102 && !lengths && strcmp(kind, "sendmsg") != 0 && strcmp(kind, "says") != 0)
        place = strcmp(kind, "sendto") == 0 ? 4 : 1;
    block[place] = (uint32_t)(uintptr_t)&fixed[0];
    vector32.base = (uint32_t)(uintptr_t)text;
    vector32.length = 1;
    header32.name = (uint32_t)(uintptr_t)&shared;
    header32.namelen = sizeof shared.four;
    header32.iov = (uint32_t)(uintptr_t)&vector32;
    header32.iovlen = 1;
    vector.iov_base = text;
    vector.iov_len = 1;
    header = (struct msghdr){&shared, sizeof shared.four, &vector, 1, NULL, 0, 0};
    int says = strcmp(kind, "says") == 0;
    if (says)
        make_controls(narrow);
    pthread_t other;
    int began = 0;
    for (int i = 0; i <= tries; i++) {
        int ends[2] = {-1, -1};
        if (says && socketpair(AF_UNIX, SOCK_DGRAM, 0, ends) == 0)
            setsockopt(ends[1], SOL_SOCKET, SO_PASSCRED, &(int){1}, sizeof(int));
        int at = says ? ends[0] : socket(AF_INET, udp ? SOCK_DGRAM : SOCK_STREAM, 0);
        if (at < 0)
            return 3;
        if (!began && pthread_create(&other, NULL, exchange, NULL) == 0)
            began = 1;
        if (i == tries) { /* the last one alone, so that it is seen that calls are made at all */
            over = 1;
            pthread_join(other, NULL);
            shared = both[0];
            memcpy(control, controls[0], control_length);
        }
        long address = (long)&shared, size = lengths ? sizeof shared.six : sizeof shared.four;
        long failed = -1;
        if (strcmp(kind, "sendto") == 0)
            failed = call(narrow, SYS_sendto, 369, at, (long)text, 1, 0, address, size) != 1;
        else if (says || strcmp(kind, "sendmsg") == 0)
            failed = call(narrow, SYS_sendmsg, 370, at, narrow ? (long)&header32 : (long)&header, 0, 0, 0, 0) != 1;
        else if (strcmp(kind, "bind") == 0)
            failed = call(narrow, SYS_bind, 361, at, address, size, 0, 0, 0);
        else
            failed = call(narrow, SYS_connect, 362, at, address, size, 0, 0, 0);
        if (i == tries && failed != 0)
            perror(kind);
        if (failed == 0) {
            made++;
            struct sockaddr_in bound = {0};
            socklen_t length = sizeof bound;
            getsockname(at, (struct sockaddr *)&bound, &length);
            if (strcmp(kind, "bind") == 0 && bound.sin_port == both[1].four.sin_port)
                printf("won: bound to the other port\n");
        }
        if (says) {
            if (failed == 0)
                told(ends[1]);
            close(ends[1]);
        }
        struct linger abrupt = {1, 0}; /* or there are no ports left soon */
        if (!udp && !says)
            setsockopt(at, SOL_SOCKET, SO_LINGER, &abrupt, sizeof abrupt);
        close(at);
    }
    printf("made %d\n", made);
    return 0;
}
