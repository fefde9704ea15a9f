/* Bare epoll. */
#include "peer.h"
#include <fcntl.h>
#include <sys/epoll.h>

static int epoll;

static int open_queue(void) {
    int fd = epoll_create1(EPOLL_CLOEXEC);
    if (fd == -1)
        fail("epoll_create1");
    return fd;
}

static void add(int queue, int i) {
    struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.u64 = i};
    if (epoll_ctl(queue, EPOLL_CTL_ADD, fds[i], &event) == -1)
        fail("epoll_ctl");
}

static void register_all(void) {
    epoll = open_queue();
    for (int i = 0; i < registrations; i++)
        add(epoll, i);
}

static inline int is_ready(int i) {
    struct epoll_event events[16];
    int count = epoll_wait(epoll, events, 16, 1000);
    for (int event = 0; event < count; event++)
        if (events[event].data.u64 == (unsigned)i)
            return 1;
    return 0;
}
