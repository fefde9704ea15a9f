/* fork(2) and nothing else: the child shares its parent's epoll. */
#include "raw.h"

static void repair(void) {
}

static int works(void) {
    write_byte();
    return is_ready(1);
}

int main(int argc, char **argv) {
    struct peer peer = {register_all, NULL, NULL, repair, works};
    return peer_main(argc, argv, &peer);
}
