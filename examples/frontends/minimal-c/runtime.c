/* All the C library that this frontend needs: memory that is only handed out. A frontend lives
 * for one request, so nothing is ever given back. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

extern unsigned char __heap_base;
static uintptr_t next = (uintptr_t)&__heap_base;

void *malloc(size_t size) {
    uintptr_t start = (next + 15) & ~(uintptr_t)15;
    uintptr_t end = start + size;
    uintptr_t have = __builtin_wasm_memory_size(0) * 65536;
    if (end < start) {
        abort();
    }
    if (end > have && __builtin_wasm_memory_grow(0, (end - have + 65535) / 65536) == (size_t)-1) {
        abort();
    }
    next = end;
    return (void *)start;
}

void *realloc(void *old, size_t size) {
    /* How long the old block was is not known; what follows it is memory all the same. */
    void *new = malloc(size);
    return old ? memcpy(new, old, size) : new;
}

void free(void *memory) {
    (void)memory;
}

void abort(void) {
    __builtin_trap();
}

size_t strlen(const char *text) {
    size_t length = 0;
    while (text[length]) {
        length++;
    }
    return length;
}

void *memcpy(void *to, const void *from, size_t size) {
    for (size_t i = 0; i < size; i++) {
        ((unsigned char *)to)[i] = ((const unsigned char *)from)[i];
    }
    return to;
}

void *memset(void *to, int byte, size_t size) {
    for (size_t i = 0; i < size; i++) {
        ((unsigned char *)to)[i] = (unsigned char)byte;
    }
    return to;
}

/* The bindings make sure that an object file with the world's type is linked in; here the
 * linker takes the type from the WIT itself. */
void __component_type_object_force_link_frontend(void);
void __component_type_object_force_link_frontend(void) {
}
