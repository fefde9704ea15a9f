/* Calls fork(2) and nothing else: the child shares its parent's epoll instance. */
#include "raw.h"

static int works(void) {
    write_byte();
    return is_ready(1);
}

int main(int argc, char **argv) {
    struct peer peer = {register_all, NULL, NULL, NULL, works};
    return peer_main(argc, argv, &peer);
}
