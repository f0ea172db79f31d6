/* Fails one system call of a real process, as a disk would: loaded before the C library (LD_PRELOAD) by tools/torture.py.
 *
 * Calls on files below one folder are counted, for each kind by itself. torture_arm names the folder and the call that
 * is to fail: its kind (an index of `kinds`), its number from 0, and the error; error 0 kills the process instead.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum kinds { OPEN, WRITE, FSYNC, CLOSE, RENAME, UNLINK, MKDIR, FCHMOD, FLOCK, KINDS };

static char folder[4096];
static int kind = -1, error;
static long number = -1, seen[KINDS];

void torture_arm(const char *where, int which, long count, int how) {
    snprintf(folder, sizeof folder, "%s/", where);
    kind = which, number = count, error = how;
    memset(seen, 0, sizeof seen);
}

long torture_seen(int which) { return seen[which]; }

static int path_fails(int which, const char *path) {
    if (!folder[0] || strncmp(path, folder, strlen(folder))) return 0;
    long now = __atomic_fetch_add(&seen[which], 1, __ATOMIC_SEQ_CST);
    if (which != kind || now != number) return 0;
    if (!error) kill(getpid(), SIGKILL), pause();
    errno = error;
    return 1;
}

static int handle_fails(int which, int handle) {
    char name[64], path[4096];
    if (!folder[0]) return 0;
    int before = errno;
    snprintf(name, sizeof name, "/proc/self/fd/%d", handle);
    ssize_t length = readlink(name, path, sizeof path - 2);
    errno = before;
    if (length < 0) return 0;
    strcpy(path + length, "/"); /* the folder itself is below the folder */
    return path_fails(which, path);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define OPENS(name)                                                       \
    int name(const char *path, int flags, ...) {                          \
        va_list rest;                                                     \
        va_start(rest, flags);                                            \
        mode_t mode = va_arg(rest, mode_t);                               \
        va_end(rest);                                                     \
        if ((flags & O_ACCMODE) != O_RDONLY && path_fails(OPEN, path)) return -1; \
        return REAL(name)(path, flags, mode);                             \
    }
OPENS(open)
OPENS(open64)

ssize_t write(int handle, const void *data, size_t size) {
    return handle_fails(WRITE, handle) ? -1 : REAL(write)(handle, data, size);
}
int fsync(int handle) { return handle_fails(FSYNC, handle) ? -1 : REAL(fsync)(handle); }
int close(int handle) {
    int failed = handle_fails(CLOSE, handle), was = errno, result = REAL(close)(handle);
    return failed ? (errno = was, -1) : result; /* it is closed all the same */
}
int rename(const char *source, const char *target) {
    return path_fails(RENAME, target) ? -1 : REAL(rename)(source, target);
}
int unlink(const char *path) { return path_fails(UNLINK, path) ? -1 : REAL(unlink)(path); }
int mkdir(const char *path, mode_t mode) { return path_fails(MKDIR, path) ? -1 : REAL(mkdir)(path, mode); }
int fchmod(int handle, mode_t mode) { return handle_fails(FCHMOD, handle) ? -1 : REAL(fchmod)(handle, mode); }
int flock(int handle, int how) { return handle_fails(FLOCK, handle) ? -1 : REAL(flock)(handle, how); }
