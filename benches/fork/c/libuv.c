/* libuv repairs the child with uv_loop_fork, and registers everything again in the next turn of the loop. */
#include "peer.h"
#include <uv.h>

static uv_loop_t loop;
static int woken;

static void on_event(uv_poll_t *handle, int status, int events) {
    (void)handle, (void)status, (void)events;
    woken = 1;
    uv_stop(&loop);
}

static void register_all(void) {
    uv_poll_t *handles = calloc(registrations, sizeof *handles);
    if (!handles || uv_loop_init(&loop))
        fail("uv_loop_init");
    for (int i = 0; i < registrations; i++)
        if (uv_poll_init(&loop, handles + i, fds[i]) || uv_poll_start(handles + i, UV_READABLE, on_event))
            fail("uv_poll_start");
    uv_run(&loop, UV_RUN_NOWAIT);
}

static void repair(void) {
    if (uv_loop_fork(&loop))
        fail("uv_loop_fork");
    uv_run(&loop, UV_RUN_NOWAIT);
}

static int works(void) {
    write_byte();
    uv_run(&loop, UV_RUN_ONCE);
    return woken;
}

int main(int argc, char **argv) {
    struct peer peer = {register_all, NULL, NULL, repair, works};
    return peer_main(argc, argv, &peer);
}
