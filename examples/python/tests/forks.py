"""os.fork() and multiprocessing with an extension module that holds a runtime. Run by tests/python.rs."""

import faulthandler
import multiprocessing
import os

import forkio_example

faulthandler.dump_traceback_later(100, exit=True)
SERVER = forkio_example.Server()


def check(what, left, right):
    assert left == right, f"in process {os.getpid()}: {what}: {left!r}, not {right!r}"


def serves(worker):
    """Runs in a worker of the pool. Its child serves one connection on the inherited runtime, and the worker connects."""
    pid = os.fork()
    if pid == 0:
        SERVER.serve(1)
        os._exit(0)
    answer = SERVER.ask(SERVER.port)
    check("the child's status", os.waitpid(pid, 0)[1], 0)
    return worker, forkio_example.generation(), answer > 0


def worker(count):
    check("generation", forkio_example.generation(), 1)
    SERVER.serve(count)


def test_fork():
    pid = os.fork()
    if pid == 0:
        check("generation", forkio_example.generation(), 1)
        SERVER.serve(2)
        os._exit(0)
    # Only the child accepts.
    check("the serving process", [SERVER.ask(SERVER.port) for _ in range(2)], [pid, pid])
    check("the child's status", os.waitpid(pid, 0)[1], 0)
    check("generation", forkio_example.generation(), 0)


def test_processes():
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=worker, args=(5,)) for _ in range(4)]
    for process in workers:
        process.start()
    pids = {SERVER.ask(SERVER.port) for _ in range(20)}
    for process in workers:
        process.join(60)
        check("exit code", process.exitcode, 0)
    assert pids <= {process.pid for process in workers}, pids


def test_pool():
    with multiprocessing.get_context("fork").Pool(1) as pool:
        check("the pool's answers", pool.map(serves, range(8)), [(number, 1, True) for number in range(8)])


if __name__ == "__main__":
    test_fork()
    test_processes()
    test_pool()
    # The parent continues.
    test_fork()
    print("survived")
