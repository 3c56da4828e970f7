/* A disk that takes long to sync: for LD_PRELOAD in a server that is about to be killed.
 *
 * Its main thread syncs nothing but its manifest, when it starts; the other one syncs what was written.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int slowly(const char *name, int file) {
    int (*sync)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    const char *ms = getenv("SLOW_SYNC_MS");
    if (ms && syscall(SYS_gettid) != getpid()) {
        struct timespec rest = {atol(ms) / 1000, atol(ms) % 1000 * 1000000};
        nanosleep(&rest, NULL);
    }
    return sync(file);
}

int fsync(int file) { return slowly("fsync", file); }
int fdatasync(int file) { return slowly("fdatasync", file); }
