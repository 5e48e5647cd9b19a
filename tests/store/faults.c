// A disk that fails on demand, for the files of a store. Loaded before libc (LD_PRELOAD).
//
// The first byte of the file $RINGMQ_FAULTS says how:
//   n  as it should be
//   f  full: files cannot grow (ENOSPC)
//   e  writing and flushing fail (EIO)
//   s  what is flushed is copied to FILE.synced, which is what a power cut would leave
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
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

#define REAL(type, name, ...)                                   \
    static type (*real)(__VA_ARGS__);                           \
    if (real == NULL)                                           \
        real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    return refuses(fd, at + (off_t)count) ? -1 : real(fd, bytes, count, at);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at) {
    REAL(ssize_t, "pwrite", int, const void *, size_t, off_t);
    return refuses(fd, at + (off_t)count) ? -1 : real(fd, bytes, count, at);
}

ssize_t write(int fd, const void *bytes, size_t count) {
    REAL(ssize_t, "write", int, const void *, size_t);
    return refuses(fd, lseek(fd, 0, SEEK_CUR) + (off_t)count) ? -1 : real(fd, bytes, count);
}

static int flush(int fd, int (*real)(int)) {
    char path[4096], copy[4160], bytes[65536];
    char how = mode();
    if ((how != 'e' && how != 's') || !path_of(fd, path, sizeof path))
        return real(fd);
    if (how == 'e') {
        errno = EIO;
        return -1;
    }
    // Whole or not at all: the process may be killed in here.
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
    return rename(copy, synced);
}

int fsync(int fd) {
    REAL(int, "fsync", int);
    return flush(fd, real);
}

int fdatasync(int fd) {
    REAL(int, "fdatasync", int);
    return flush(fd, real);
}
