"""multiprocessing and concurrent.futures."""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import forkio_http
from support import check, use_everything


def serve_and_ask(generation, port, starter):
    """Runs in a worker. `starter` is the process that started the worker, and serves the port."""
    assert os.getpid() != starter
    use_everything(generation)
    check("the serving process", forkio_http.Client(port).get().split()[0], str(starter))


def start_server():
    server = forkio_http.Server()
    server.start()
    # The parent's runtime has connections, too.
    use_everything(0)
    return server


def processes(context, generation):
    server = start_server()
    workers = [context.Process(target=serve_and_ask, args=(generation, server.port, os.getpid())) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        check("exit code", worker.exitcode, 0)
    use_everything(0)


def pool(context, generation):
    server = start_server()
    with context.Pool(2) as workers:
        workers.starmap(serve_and_ask, [(generation, server.port, os.getpid())] * 8)
    use_everything(0)


def executor(context, generation):
    server = start_server()
    with ProcessPoolExecutor(2, mp_context=context) as workers:
        futures = [workers.submit(serve_and_ask, generation, server.port, os.getpid()) for _ in range(8)]
        for future in futures:
            future.result(60)
    use_everything(0)


def fork():
    return multiprocessing.get_context("fork"), 1


def forkserver():
    """The fork server imports the module before it forks."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["forkio_http"])
    return context, 1


def test_fork_processes():
    processes(*fork())


def test_fork_pool():
    pool(*fork())


def test_fork_executor():
    executor(*fork())


def test_forkserver_processes():
    processes(*forkserver())


def test_forkserver_pool():
    pool(*forkserver())


def test_forkserver_executor():
    executor(*forkserver())
