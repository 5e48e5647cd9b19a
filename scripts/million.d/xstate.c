/* Loaded before libc into user-mode Linux (scripts/million), which hands a process's floating-point state to the host
 * in an area whose size was fixed when it was built. A host takes the whole state or none (EFAULT): with AMX it has 11 KB
 * instead of 2.7, and the guest's first process would not start. What is missing is state that nothing there uses: zeros. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

typedef long ptrace_call(enum __ptrace_request, ...);

long ptrace(enum __ptrace_request request, ...) {
    va_list arguments;
    va_start(arguments, request);
    int pid = va_arg(arguments, int);
    void *address = va_arg(arguments, void *);
    void *data = va_arg(arguments, void *);
    va_end(arguments);
    static ptrace_call *call;
    static char state[1 << 18];
    static size_t size;
    if (!call)
        call = (ptrace_call *)dlsym(RTLD_NEXT, "ptrace");
    if (request != PTRACE_SETREGSET || address != (void *)NT_X86_XSTATE)
        return call(request, pid, address, data);
    struct iovec *given = data, whole = {state, sizeof state};
    if (!size) {
        long failed = call(PTRACE_GETREGSET, pid, address, &whole);
        if (failed)
            return failed;
        size = whole.iov_len;
        memset(state, 0, size);
    }
    if (given->iov_len >= size)
        return call(request, pid, address, data);
    memcpy(state, given->iov_base, given->iov_len);
    whole.iov_len = size;
    return call(request, pid, address, &whole);
}
