/* Preloaded into a program: ends it when it detaches a thread that is ending. In glibc that is a read
   of memory which may be gone (sourceware bug 19951), and seldom seen. Of small stacks glibc keeps
   those that were used last; it is large ones that go. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int pthread_detach(pthread_t thread)
{
    int (*detach)(pthread_t) = (int (*)(pthread_t))dlsym(RTLD_NEXT, "pthread_detach");
    pthread_attr_t attributes;
    size_t stack = 0;
    if (pthread_getattr_np(thread, &attributes) == 0)
        pthread_attr_getstacksize(&attributes, &stack);
    if (stack > (16 << 20)) {
        usleep(20000);
        if (pthread_tryjoin_np(thread, NULL) == 0) {
            fputs("a thread was detached while it ended\n", stderr);
            abort();
        }
    }
    return detach(thread);
}
