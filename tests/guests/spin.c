/* spin - never ends and never calls the host. */
int main(void)
{
    for (volatile unsigned n = 0;; n++)
        ;
}
