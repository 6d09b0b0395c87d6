/* writer N - exactly N writes of one byte to stdout: N calls of WASI's fd_write. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    if (argc != 2) {
        fputs("usage: writer N\n", stderr);
        return 1;
    }
    for (unsigned long n = strtoul(argv[1], NULL, 10); n; n--)
        if (write(1, "x", 1) != 1) {
            perror("writer: write");
            return 1;
        }
    return 0;
}
