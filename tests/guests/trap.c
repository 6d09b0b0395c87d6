/* trap - receives one message on "in" if that was granted, then traps. */
#include <cwasi.h>

int main(void)
{
    static char message[65536];
    int32_t in = cwasi_open("in", 2, CWASI_RECEIVE);
    if (in >= 0)
        cwasi_recv(in, message, sizeof message, -1);
    __builtin_trap();
}
