/* answer - replies to each request on "questions" with the same and a "!", until those who ask have closed. A caller that
 * is gone is none of its business. */
#include <cwasi.h>
#include <stdio.h>

int main(void)
{
    char text[128];
    int32_t questions = cwasi_open("questions", 9, CWASI_RECEIVE), length;
    while ((length = cwasi_recv(questions, text, sizeof text - 1, -1)) >= 0) {
        text[length] = '!';
        int32_t error = cwasi_reply(text, (uint32_t)length + 1);
        if (error < 0 && error != -CWASI_EPIPE && error != -CWASI_ECONNRESET) {
            fprintf(stderr, "answer: reply: %d\n", error);
            return 1;
        }
    }
    if (length != -CWASI_EPIPE)
        fprintf(stderr, "answer: receive: %d\n", length);
    return length != -CWASI_EPIPE;
}
