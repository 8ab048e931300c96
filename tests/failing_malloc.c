/* Loaded before all else: lets the n-th allocation fail from when it is told to, for tests/test_atomic.py. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>

static atomic_long count, fails_at; /* allocations since `arm`, and the one that fails; 0 for none */

long allocations(void) {
    return atomic_load(&count);
}

void arm(long at) {
    atomic_store(&count, 0);
    atomic_store(&fails_at, at);
}

static int fails(void) {
    const long at = atomic_load(&fails_at);
    return at != 0 && atomic_fetch_add(&count, 1) + 1 == at;
}

extern void* __libc_malloc(size_t);
extern void* __libc_calloc(size_t, size_t);
extern void* __libc_realloc(void*, size_t);
extern void* __libc_memalign(size_t, size_t);

static void* none(void) {
    errno = ENOMEM;
    return NULL;
}

void* malloc(size_t size) {
    return fails() ? none() : __libc_malloc(size);
}

void* calloc(size_t number, size_t size) {
    return fails() ? none() : __libc_calloc(number, size);
}

void* realloc(void* old, size_t size) {
    return fails() ? none() : __libc_realloc(old, size);
}

void* aligned_alloc(size_t alignment, size_t size) {
    return fails() ? none() : __libc_memalign(alignment, size);
}

int posix_memalign(void** to, size_t alignment, size_t size) {
    if (fails()) return ENOMEM;
    *to = __libc_memalign(alignment, size);
    return *to ? 0 : ENOMEM;
}
