/* The child does what the libraries do: it makes an epoll instance, adds every registration, moves the instance to the
 * inherited descriptor, and polls once. */
#include "raw.h"

static void repair(void) {
    int fresh = open_queue();
    for (int i = 0; i < registrations; i++)
        add(fresh, i);
    if (dup3(fresh, epoll, O_CLOEXEC) == -1)
        fail("dup3");
    close(fresh);
    struct epoll_event events[16];
    if (epoll_wait(epoll, events, 16, 0) != 0)
        fail("epoll_wait");
}

static int works(void) {
    write_byte();
    return is_ready(1);
}

int main(int argc, char **argv) {
    struct peer peer = {register_all, NULL, NULL, repair, works};
    return peer_main(argc, argv, &peer);
}
