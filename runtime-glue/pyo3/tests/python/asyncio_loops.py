"""Event loops of asyncio."""

import asyncio
import os
import sys
import threading
import time

import forkio_http
from support import check, end_of, in_child, in_thread, start_child, use_everything


async def ask(server, count=8):
    client = forkio_http.Client(server.port)
    answers = await asyncio.gather(*(client.get_async() for _ in range(count)))
    return {int(answer.split()[0]) for answer in answers}


def test_loop_in_child():
    """Each process runs loops of its own, before and after forks."""
    server = forkio_http.Server()
    server.start()
    parent = os.getpid()

    def child():
        check("the serving process", asyncio.run(ask(server)), {parent})
        in_child(lambda: check("the serving process", asyncio.run(ask(server)), {parent}))

    in_child(child)
    check("the serving process", asyncio.run(ask(server)), {parent})
    in_child(child)


def test_fork_in_coroutine():
    """A coroutine forks. The child runs another loop, and the parent's futures continue."""
    server = forkio_http.Server()
    server.start()
    parent = os.getpid()

    async def forks():
        pending = asyncio.ensure_future(forkio_http.pause_async(0.2))
        await asyncio.sleep(0)
        pid = start_child(lambda: check("the serving process", asyncio.run(ask(server)), {parent}))
        check("a future from before the fork", await pending, 0.2)
        check("the serving process", await ask(server), {parent})
        await asyncio.get_running_loop().run_in_executor(None, end_of, pid)

    asyncio.run(forks())


def test_callbacks():
    """Rust awaits coroutines, in both processes."""

    async def word():
        await forkio_http.pause_async(0.01)
        return "fork"

    async def raises():
        raise KeyError("on purpose")

    async def calls():
        check("twice", await forkio_http.twice(word), "forkfork")
        try:
            await forkio_http.twice(raises)
        except KeyError:
            return
        raise AssertionError("no error")

    def run():
        asyncio.run(calls())

    run()
    in_child(run)
    run()


def test_cancelled_and_panicked():
    """A cancelled awaitable drops its future. A panic raises an exception."""

    async def cancels(dropped):
        try:
            await asyncio.wait_for(forkio_http.pause_async(1000), 0.01)
        except asyncio.TimeoutError:
            pass
        while forkio_http.dropped() < dropped:
            await asyncio.sleep(0.001)

    async def panics():
        try:
            await forkio_http.panic_async()
        except Exception as error:
            check("exception", type(error).__name__, "RustPanic")
        else:
            raise AssertionError("no exception")

    for run in (lambda act: act(), in_child):
        run(lambda: asyncio.run(cancels(forkio_http.dropped() + 1)))
        run(lambda: asyncio.run(panics()))


def test_loop_in_thread_during_forks():
    """An event loop in another thread gets all answers while the main thread forks."""
    server = forkio_http.Server()
    server.start()

    async def asks():
        for _ in range(100):
            check("the serving process", await ask(server), {os.getpid()})

    join = in_thread(lambda: asyncio.run(asks()))
    for _ in range(20):
        in_child(lambda: use_everything(1))
    join()


def test_fork_during_the_first_use():
    """A fork waits for a thread that is in the middle of its first use of an event loop."""
    server = forkio_http.Server()
    server.start()
    importing, forking = threading.Event(), threading.Event()

    class SlowFinder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == "contextvars":
                importing.set()
                forking.wait()
                # A fork that does not wait for this thread would be over before the sleep ends.
                time.sleep(0.5)

    # The first use imports this module.
    del sys.modules["contextvars"]
    sys.meta_path.insert(0, SlowFinder)
    # Python calls the hook that was registered last first, so this hook runs before the extension module's.
    os.register_at_fork(before=forking.set)
    join = in_thread(lambda: asyncio.run(ask(server)))
    importing.wait()
    in_child(lambda: use_everything(1))
    join()
