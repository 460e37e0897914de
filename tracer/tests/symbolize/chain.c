// A known chain of calls that ends in a stop: main > handle > load_user > (take) > hold > tgkill.
// Prints the id of the thread it stops in. With an argument the chain runs in a second thread.
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

volatile int sink;

__attribute__((noinline)) void hold(void) {
    printf("%d\n", (int)gettid());
    fflush(stdout);
    tgkill(getpid(), gettid(), SIGSTOP); // line: hold
    sink++;
}

static inline __attribute__((always_inline)) void take(void) {
    hold(); // line: take
    sink++;
}

__attribute__((noinline)) void load_user(int id) {
    sink += id;
    take(); // line: load_user
    sink++;
}

__attribute__((noinline)) void *handle(void *argument) {
    volatile char page[PAGE_BYTES];
    page[0] = page[PAGE_BYTES - 1] = 0;
    load_user(7); // line: handle
    sink += page[0];
    return argument;
}

int main(int argc, char **argv) {
    (void)argv;
    if (argc > 1) {
        pthread_t thread;
        pthread_create(&thread, NULL, handle, NULL);
        pthread_join(thread, NULL);
    } else {
        handle(NULL); // line: main
    }
    return sink;
}
