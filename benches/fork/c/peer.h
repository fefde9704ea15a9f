/* What the C programs share: a process with many registrations forks on demand, and prints the cost of repairing the queue
 * in the child.
 *
 * usage: PEER REGISTRATIONS MEMORY
 *
 * The protocol is that of ../protocol: "ready", then one line of JSON for each line on standard input. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* The descriptors: both ends of each socket pair, next to each other. `registrations` is their number, and must be even. */
static int registrations;
static int *fds;

/* Where the child writes its figures. */
static struct report {
    long first_instruction, repair, faults;
} *report;

static void fail(const char *what) {
    fprintf(stderr, "%s: %s\n", what, errno ? strerror(errno) : "failed");
    _exit(1);
}

static long nanoseconds(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec * 1000000000L + time.tv_nsec;
}

static long now(void) {
    return nanoseconds(CLOCK_MONOTONIC);
}

/* Processor time of this thread: other threads and processes do not change it. */
static long spent(void) {
    return nanoseconds(CLOCK_THREAD_CPUTIME_ID);
}

static long faults(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_minflt;
}

static void open_descriptors(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == -1)
        fail("getrlimit");
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) == -1)
        fail("setrlimit");
    fds = malloc(registrations * sizeof *fds);
    if (!fds)
        fail("malloc");
    for (int i = 0; i < registrations; i += 2)
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds + i) == -1)
            fail("socketpair");
}

/* Makes this many mebibytes resident, in small pages like those of a heap that has grown gradually. "-huge" after the number
 * asks for huge pages. */
static void fill_memory(const char *memory_argument) {
    size_t length = (size_t)atoi(memory_argument) << 20;
    if (!length)
        return;
    char *memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        fail("mmap");
    madvise(memory, length, strchr(memory_argument, '-') ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    memset(memory, 1, length);
}

/* In the child: makes fds[1] readable. */
static inline void write_byte(void) {
    if (write(fds[0], "", 1) != 1)
        fail("write");
}

struct peer {
    void (*register_all)(void);
    /* In the parent, before each fork and after it; may be null. */
    void (*prepare)(void);
    void (*clean_up)(void);
    /* In the child: gives it a queue of its own; may be null. */
    void (*repair)(void);
    /* In the child: whether its queue reports the right events. */
    int (*works)(void);
};

static int peer_main(int argc, char **argv, const struct peer *peer) {
    if (argc != 3) {
        fprintf(stderr, "usage: %s REGISTRATIONS MEMORY\n", argv[0]);
        return 2;
    }
    registrations = atoi(argv[1]);
    open_descriptors();
    fill_memory(argv[2]);
    report = mmap(NULL, sizeof *report, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (report == MAP_FAILED)
        fail("mmap");
    peer->register_all();

    puts("ready");
    fflush(stdout);
    for (char line[16]; fgets(line, sizeof line, stdin);) {
        long begin = spent();
        if (peer->prepare)
            peer->prepare();
        long prepare = spent() - begin, start = now();
        pid_t child = fork();
        if (child == -1)
            fail("fork");
        if (child == 0) {
            report->first_instruction = now();
            /* Ends a child that waits for an event that never comes. */
            alarm(60);
            long faults_before = faults(), before = spent();
            if (peer->repair)
                peer->repair();
            long after = spent();
            report->faults = faults() - faults_before;
            report->repair = after - before;
            if (!peer->works())
                fail("the child's queue");
            /* The parent shares the socket: leave it empty. */
            char byte;
            while (read(fds[1], &byte, 1) == 1)
                ;
            _exit(0);
        }
        int status;
        if (waitpid(child, &status, 0) == -1)
            fail("waitpid");
        if (status)
            return 1;
        if (peer->clean_up)
            peer->clean_up();
        printf("{\"fork\":%ld", report->first_instruction - start);
        if (peer->prepare)
            printf(",\"prepare\":%ld", prepare);
        if (peer->repair)
            printf(",\"commit\":%ld,\"faults\":%ld", report->repair, report->faults);
        puts("}");
        fflush(stdout);
    }
    return 0;
}
