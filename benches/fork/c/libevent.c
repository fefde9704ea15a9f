/* libevent repairs the child with event_reinit. */
#include "peer.h"
#include <event2/event.h>

static struct event_base *base;
static int woken;

static void on_event(evutil_socket_t fd, short what, void *argument) {
    (void)fd, (void)what, (void)argument;
    woken = 1;
    event_base_loopbreak(base);
}

static void register_all(void) {
    base = event_base_new();
    if (!base)
        fail("event_base_new");
    for (int i = 0; i < registrations; i++) {
        struct event *event = event_new(base, fds[i], EV_READ | EV_PERSIST | EV_ET, on_event, NULL);
        if (!event || event_add(event, NULL) == -1)
            fail("event_add");
    }
    if (event_base_loop(base, EVLOOP_NONBLOCK) == -1)
        fail("event_base_loop");
}

static void repair(void) {
    if (event_reinit(base) == -1)
        fail("event_reinit");
}

static int works(void) {
    write_byte();
    event_base_loop(base, EVLOOP_ONCE);
    return woken;
}

int main(int argc, char **argv) {
    struct peer peer = {register_all, NULL, NULL, repair, works};
    return peer_main(argc, argv, &peer);
}
