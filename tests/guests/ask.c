/* ask COUNT WORD - asks COUNT questions on "questions", "WORD k" each, and wants what `answer` replies: the same with a
 * "!". Each third one it sends, and receives the answer later. */
#include <cwasi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void want(int32_t got, const char *answer, const char *question, int length)
{
    if (got == length + 1 && memcmp(answer, question, (size_t)length) == 0 && answer[length] == '!')
        return;
    fprintf(stderr, "ask: %s: %d, %.*s\n", question, got, got > 0 ? got : 0, answer);
    exit(1);
}

int main(int argc, char **argv)
{
    char question[128], answer[128];
    int32_t questions = cwasi_open("questions", 9, CWASI_SEND);
    int count = argc == 3 ? atoi(argv[1]) : -1;
    for (int k = 0; k < count; k++) {
        int length = snprintf(question, sizeof question, "%s %d", argv[2], k);
        int32_t got;
        if (k % 3 == 2 && (got = cwasi_send(questions, question, (uint32_t)length, -1)) == 0)
            got = cwasi_recv(questions, answer, sizeof answer, -1);
        else if (k % 3 < 2)
            got = cwasi_call(questions, question, (uint32_t)length, answer, sizeof answer, -1);
        want(got, answer, question, length);
    }
    fprintf(stderr, "ask: %d answers ok\n", count);
    return count < 0 || cwasi_close(questions) < 0;
}
