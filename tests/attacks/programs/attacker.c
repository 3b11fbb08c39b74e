/* What an attack does inside a step beyond what busybox can: built statically by the suite.
 *
 *   attacker swap A B STOP     exchanges two names, as fast as it can, until the file STOP is there;
 *                              prints how often it did
 *   attacker deep COUNT        makes directories in one another, deeper than any path can say
 *   attacker open PATH...      prints the error number of opening each path for writing
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define EXCHANGE 2 /* RENAME_EXCHANGE */

static int swap(const char *a, const char *b, const char *stop)
{
    long swapped = 0;
    do {
        for (int i = 0; i < 512; i++)
            if (syscall(SYS_renameat2, AT_FDCWD, a, AT_FDCWD, b, EXCHANGE) == 0)
                swapped++;
    } while (access(stop, F_OK) != 0);
    printf("swapped %ld times\n", swapped);
    return 0;
}

static int deep(long count)
{
    for (long i = 0; i < count; i++)
        if (mkdir("d", 0755) != 0 || chdir("d") != 0) {
            printf("ended at %ld: %s\n", i, strerror(errno));
            return 1;
        }
    printf("made %ld\n", count);
    return 0;
}

static int open_all(char **paths)
{
    for (; *paths; paths++) {
        int fd = open(*paths, O_WRONLY | O_CLOEXEC);
        printf("%s: %d\n", *paths, fd < 0 ? errno : 0);
        if (fd >= 0)
            close(fd);
    }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 5 && strcmp(argv[1], "swap") == 0)
        return swap(argv[2], argv[3], argv[4]);
    if (argc == 3 && strcmp(argv[1], "deep") == 0)
        return deep(atol(argv[2]));
    if (argc > 2 && strcmp(argv[1], "open") == 0)
        return open_all(argv + 2);
    return 2;
}
