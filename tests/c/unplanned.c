/* A C library that makes unplanned forks: neither it nor the reactor knows of the other. */

#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

/* Forks. Returns the child's process id in the parent, and 0 in the child. */
int unplanned_fork(void) { return fork(); }

static int wait_for(pid_t child) {
    int status;
    while (waitpid(child, &status, 0) == -1) {
        if (errno != EINTR) return -1;
    }
    return status;
}

/* Runs a program to its end. Returns its status, as wait(2) gives it. */
int unplanned_run(char *const argv[]) {
    pid_t child = fork();
    if (child == 0) {
        execv(argv[0], argv);
        _exit(127);
    }
    return child == -1 ? -1 : wait_for(child);
}

/* Forks twice, with a new session in between, as a daemon does. Returns 0 in the daemon. Returns 1 in the caller once the
   process in between has exited with 0, or -1 on an error. */
int unplanned_daemon(void) {
    pid_t child = fork();
    if (child == -1) return -1;
    if (child > 0) {
        int status = wait_for(child);
        return status == 0 ? 1 : -1;
    }
    if (setsid() == -1) _exit(1);
    child = fork();
    if (child == -1) _exit(1);
    if (child > 0) _exit(0);
    return 0;
}

struct task {
    void (*in_child)(void *);
    void *argument;
    pid_t child;
};

static void *fork_for(void *argument) {
    struct task *task = argument;
    task->child = fork();
    if (task->child == 0) {
        task->in_child(task->argument);
        _exit(0);
    }
    return NULL;
}

/* Forks on a new thread. The child calls a function and exits. Returns the child's process id. */
int unplanned_fork_on_thread(void (*in_child)(void *), void *argument) {
    struct task task = {in_child, argument, -1};
    pthread_t thread;
    if (pthread_create(&thread, NULL, fork_for, &task) != 0) return -1;
    pthread_join(thread, NULL);
    return task.child;
}

static volatile sig_atomic_t forked_in_handler = -1;

static void fork_in_handler(int signal) {
    (void)signal;
    forked_in_handler = fork();
}

/* Makes the process fork when it receives the signal. Both processes then continue the interrupted code. */
int unplanned_fork_on_signal(int signal) {
    struct sigaction action = {0};
    action.sa_handler = fork_in_handler;
    action.sa_flags = SA_RESTART;
    return sigaction(signal, &action, NULL);
}

/* Returns the result of the last fork in the handler, or -1 if there was none. */
int unplanned_forked_in_handler(void) { return forked_in_handler; }
