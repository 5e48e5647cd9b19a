// A disk that fails on demand, for the files of a store. Loaded before libc (LD_PRELOAD).
//
// The first byte of the file $RINGMQ_FAULTS says how:
//   n  as it should be
//   f  full: files cannot grow (ENOSPC)
//   e  writing and flushing fail (EIO)
//   r  reading fails (EIO)
//   s  what is flushed is copied to FILE.synced, which is what a power cut would leave
//   l  the process is killed while it makes the log longer, in the middle of some write
//   c  the process is killed while it brings the log into the database, in the middle of some write or before a flush
//   L, C  the same, and what is flushed is copied as with s
// Who is killed so leaves a byte in $RINGMQ_FAULTS.hits.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static char mode(void) {
    const char *control = getenv("RINGMQ_FAULTS");
    char byte = 'n';
    if (control == NULL)
        return byte;
    int saved = errno, fd = open(control, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        if (read(fd, &byte, 1) != 1)
            byte = 'n';
        close(fd);
    }
    errno = saved;
    return byte;
}

static int path_of(int fd, char *path, size_t size) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = readlink(link, path, size - 1);
    if (len < 0)
        return 0;
    path[len] = 0;
    char *name = strrchr(path, '/');
    return name != NULL && strncmp(name, "/store.", 7) == 0;
}

static int refuses(int fd, off_t end) {
    char path[4096];
    struct stat found;
    char how = mode();
    if ((how != 'f' && how != 'e') || !path_of(fd, path, sizeof path))
        return 0;
    if (how == 'e') {
        errno = EIO;
        return 1;
    }
    if (fstat(fd, &found) == 0 && end <= found.st_size)
        return 0;
    errno = ENOSPC;
    return 1;
}

static int unreadable(int fd) {
    char path[4096];
    if (mode() != 'r' || !path_of(fd, path, sizeof path))
        return 0;
    errno = EIO;
    return 1;
}

static unsigned below(unsigned end) {
    unsigned random = 0;
    return syscall(SYS_getrandom, &random, sizeof random, 0) == sizeof random ? random % end : 0;
}

static void die(void) {
    char path[4160];
    snprintf(path, sizeof path, "%s.hits", getenv("RINGMQ_FAULTS"));
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0 || syscall(SYS_write, fd, "!", (size_t)1) != 1)
        abort();
    kill(getpid(), SIGKILL);
    pause();
}

// Whether the process is to die in calls for this file, in this mode.
static int kills(int fd, char how, const char *name) {
    char path[4096];
    return (mode() | 0x20) == how && path_of(fd, path, sizeof path) && strcmp(strrchr(path, '/') + 1, name) == 0;
}

#define REAL(type, name, ...)                                   \
    static type (*real)(__VA_ARGS__);                           \
    if (real == NULL)                                           \
        real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

ssize_t pread64(int fd, void *bytes, size_t count, off64_t at) {
    REAL(ssize_t, "pread64", int, void *, size_t, off64_t);
    return unreadable(fd) ? -1 : real(fd, bytes, count, at);
}

ssize_t pread(int fd, void *bytes, size_t count, off_t at) {
    REAL(ssize_t, "pread", int, void *, size_t, off_t);
    return unreadable(fd) ? -1 : real(fd, bytes, count, at);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    if (kills(fd, 'c', "store.db") && below(300) == 0) {
        real(fd, bytes, count / 2, at);
        die();
    }
    return refuses(fd, at + (off_t)count) ? -1 : real(fd, bytes, count, at);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at) {
    REAL(ssize_t, "pwrite", int, const void *, size_t, off_t);
    return refuses(fd, at + (off_t)count) ? -1 : real(fd, bytes, count, at);
}

ssize_t write(int fd, const void *bytes, size_t count) {
    REAL(ssize_t, "write", int, const void *, size_t);
    if (kills(fd, 'l', "store.db-wal")) {
        // One thread does this, in some thousand writes.
        static int left = -1;
        if (left < 0)
            left = (int)below(4000);
        if (left-- == 0) {
            real(fd, bytes, 1 + below((unsigned)count));
            die();
        }
    }
    return refuses(fd, lseek(fd, 0, SEEK_CUR) + (off_t)count) ? -1 : real(fd, bytes, count);
}

static int flush(int fd, int (*real)(int)) {
    char path[4096], copy[4160], bytes[65536];
    char how = mode();
    if (kills(fd, 'c', "store.db") && below(4) == 0)
        die();
    if ((how != 'e' && how != 's' && how != 'L' && how != 'C') || !path_of(fd, path, sizeof path))
        return real(fd);
    if (how == 'e') {
        errno = EIO;
        return -1;
    }
    // Whole or not at all: the process may be killed in here. One at a time: two threads may flush the log.
    static pthread_mutex_t copying = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&copying);
    snprintf(copy, sizeof copy, "%s.syncing", path);
    int from = open(path, O_RDONLY | O_CLOEXEC), to = open(copy, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    ssize_t count;
    while ((count = read(from, bytes, sizeof bytes)) > 0)
        if (syscall(SYS_write, to, bytes, (size_t)count) != count)
            abort();
    close(from);
    close(to);
    char synced[4160];
    snprintf(synced, sizeof synced, "%s.synced", path);
    int result = rename(copy, synced);
    pthread_mutex_unlock(&copying);
    return result;
}

int fsync(int fd) {
    REAL(int, "fsync", int);
    return flush(fd, real);
}

int fdatasync(int fd) {
    REAL(int, "fdatasync", int);
    return flush(fd, real);
}
