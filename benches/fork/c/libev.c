/* libev repairs the child with ev_loop_fork, and registers everything again in the next turn of the loop. */
#include "peer.h"
#include <ev.h>

static struct ev_loop *loop;
static int woken;

static void on_event(struct ev_loop *loop, ev_io *watcher, int events) {
    (void)watcher, (void)events;
    woken = 1;
    ev_break(loop, EVBREAK_ALL);
}

static void register_all(void) {
    ev_io *watchers = calloc(registrations, sizeof *watchers);
    loop = ev_loop_new(EVBACKEND_EPOLL);
    if (!watchers || !loop)
        fail("ev_loop_new");
    for (int i = 0; i < registrations; i++) {
        ev_io_init(watchers + i, on_event, fds[i], EV_READ);
        ev_io_start(loop, watchers + i);
    }
    ev_run(loop, EVRUN_NOWAIT);
}

static void repair(void) {
    ev_loop_fork(loop);
    ev_run(loop, EVRUN_NOWAIT);
}

static int works(void) {
    write_byte();
    ev_run(loop, EVRUN_ONCE);
    return woken;
}

int main(int argc, char **argv) {
    struct peer peer = {register_all, NULL, NULL, repair, works};
    return peer_main(argc, argv, &peer);
}
