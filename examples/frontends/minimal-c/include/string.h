/* The part of <string.h> that generated bindings use; in runtime.c. */
#pragma once
#include <stddef.h>

size_t strlen(const char *text);
void *memcpy(void *to, const void *from, size_t size);
void *memset(void *to, int byte, size_t size);
