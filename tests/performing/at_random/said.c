// What this program was given: words, environment, names, ids, descriptors.
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <fcntl.h>
#include <unistd.h>

int main(int count, char **words, char **env)
{
	char name[32] = {0};
	FILE *file = fopen("/proc/self/comm", "r");

	if (file != NULL && fgets(name, sizeof name, file) == NULL)
		name[0] = 0;
	name[strcspn(name, "\n")] = 0;
	printf("runs %d of %s, %s, %u %u %lu:", count, name, (const char *)getauxval(AT_EXECFN), getuid(), geteuid(),
	       getauxval(AT_SECURE));
	for (; *words != NULL; words++)
		printf(" [%.20s %zu]", *words, strlen(*words));
	for (count = 0; env[count] != NULL; count++)
		;
	printf(" and %d;", count);
	for (int fd = 3; fd < 100; fd++)
		if (fcntl(fd, F_GETFD) >= 0)
			printf(" %d", fd);
	puts("");
	return 0;
}
