/* What a step can do, as seen from within: one command per line of the tests. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
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
    } else if (!strcmp(command, "ids")) {
        printf("%d %d %d %d\n", getuid(), geteuid(), getgid(), getegid());
    } else if (!strcmp(command, "setcap")) {
        /* struct vfs_cap_data, version 2: cap_net_raw=ep */
        unsigned data[5] = {0x02000001, 1 << 13, 0, 0, 0};
        int r = setxattr(argv[2], "security.capability", data, sizeof data, 0);
        printf("%d\n", r == -1 ? errno : 0);
    } else if (!strcmp(command, "getcap")) {
        unsigned data[6] = {0};
        int r = getxattr(argv[2], "security.capability", data, sizeof data);
        printf("%d bytes, %#x %#x\n", r, data[0], data[1]);
    } else if (!strcmp(command, "bind")) {
        struct sockaddr_in at = {AF_INET, htons(atoi(argv[2])), {htonl(INADDR_LOOPBACK)}};
        int r = bind(socket(AF_INET, SOCK_STREAM, 0), (void *)&at, sizeof at);
        printf("%d\n", r == -1 ? errno : 0);
    } else if (!strcmp(command, "ping")) {
        printf("%d\n", socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP) == -1 ? errno : 0);
    } else if (!strcmp(command, "daemon")) {
        if (fork() == 0) { setsid(); sleep(1000); }
    }
    return 0;
}
