/* What a step can do, as seen from within: one command per line of the tests. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv) {
    const char *command = argc > 1 ? argv[1] : "";
    if (!strcmp(command, "syscall")) {
        long a[7] = {0};
        for (int i = 2; i < argc && i < 9; i++) a[i - 2] = strtol(argv[i], 0, 0);
        long r = syscall(a[0], a[1], a[2], a[3], a[4], a[5], a[6]);
        printf("%d\n", r == -1 ? errno : 0);
    } else if (!strcmp(command, "crash")) {
        *(volatile int *)8 = 1;
    } else if (!strcmp(command, "eat")) {
        for (size_t i = 0; i < 256; i++) memset(malloc(1 << 20), 1, 1 << 20);
    } else if (!strcmp(command, "fds")) {
        for (int i = 0; i < 1024; i++)
            if (fcntl(i, F_GETFD) != -1) printf("%d ", i);
        printf("\n");
    } else if (!strcmp(command, "open")) {
        int r = open(argv[2], strcmp(argv[3], "w") ? O_RDONLY : O_WRONLY);
        printf("%d\n", r == -1 ? errno : 0);
    } else if (!strcmp(command, "daemon")) {
        if (fork() == 0) { setsid(); sleep(1000); }
    }
    return 0;
}
