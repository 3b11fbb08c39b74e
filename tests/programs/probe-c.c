/* A WASI program that steps on wasi/wasm run in the whole-program suites: a module of the first
   preview, in C. Copies a file to another one and ends with a code: probe-c FROM TO CODE */

#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: probe-c FROM TO CODE\n");
        return 2;
    }
    FILE *from = fopen(argv[1], "rb"), *to = fopen(argv[2], "wb");
    if (!from || !to) {
        perror("probe-c");
        return 1;
    }
    int byte, count = 0;
    while ((byte = fgetc(from)) != EOF) {
        fputc(byte, to);
        count++;
    }
    if (fclose(to) != 0) {
        perror("probe-c");
        return 1;
    }
    printf("%d bytes\n", count);
    return atoi(argv[3]);
}
