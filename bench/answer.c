/* Answers every call of the listener on descriptor 0 by letting it run: what a monitor costs at least.
 * cc -O2 -o answer answer.c */
#include <linux/seccomp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS SECCOMP_IOW(4, __u64)
#define SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP (1UL << 0)
#endif

int main(void)
{
	struct pollfd waiting = {.fd = 0, .events = POLLIN};

	ioctl(0, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP);
	while (poll(&waiting, 1, -1) > 0 && waiting.revents & POLLIN) {
		struct seccomp_notif call;
		struct seccomp_notif_resp answer = {0};

		memset(&call, 0, sizeof(call));
		if (ioctl(0, SECCOMP_IOCTL_NOTIF_RECV, &call) < 0)
			continue;
		answer.id = call.id;
		answer.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
		ioctl(0, SECCOMP_IOCTL_NOTIF_SEND, &answer);
	}
	return 0;
}
