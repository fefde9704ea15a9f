/* The parent makes an epoll instance before the fork. The child moves it to the inherited descriptor, replaces each stream
 * with a dead endpoint, and registers the endpoint. */
#include "raw.h"

static int fresh, dead;

static void prepare(void) {
    int ends[2];
    fresh = open_queue();
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == -1)
        fail("socketpair");
    dead = ends[0];
    close(ends[1]);
}

static void clean_up(void) {
    close(fresh);
    close(dead);
}

static void repair(void) {
    if (dup3(fresh, epoll, O_CLOEXEC) == -1)
        fail("dup3");
    for (int i = 0; i < registrations; i++) {
        if (dup3(dead, fds[i], O_CLOEXEC) == -1)
            fail("dup3");
        add(epoll, i);
    }
}

/* Whether the first event is the end of a stream. */
static int works(void) {
    struct epoll_event events[1];
    return epoll_wait(epoll, events, 1, 1000) == 1 && events[0].events & EPOLLRDHUP;
}

int main(int argc, char **argv) {
    struct peer peer = {register_all, prepare, clean_up, repair, works};
    return peer_main(argc, argv, &peer);
}
