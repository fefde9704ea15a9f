"""Helpers for the scenarios."""

import os
import threading
import time

import forkio_http

# The time limit of a wait, in seconds.
LIMIT = 60


def check(what, left, right):
    assert left == right, f"in process {os.getpid()}: {what}: {left!r}, not {right!r}"


def raises(kind, text, act):
    """Calls `act`, which must raise an exception of this kind whose text contains `text`."""
    try:
        result = act()
    except kind as error:
        assert text in str(error), error
    else:
        raise AssertionError(f"{result!r}, not an exception")


def wait_until(what, condition):
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, f"waited for: {what}"
        time.sleep(0.001)


def start_child(act):
    """Forks. The child calls `act`, and ends without cleaning up."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            act()
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


def end_of(pid):
    """Waits for a child, which must exit with 0."""
    check(f"status of child {pid}", os.waitpid(pid, 0)[1], 0)


def in_child(act):
    end_of(start_child(act))


class Gate:
    """A gate that one process opens for another one."""

    def __init__(self):
        self.read, self.write = os.pipe()

    def open(self):
        os.write(self.write, b"x")

    def wait(self):
        check("gate", os.read(self.read, 1), b"x")


def use_everything(generation):
    """Uses a server, a client and an event loop of this process."""
    import asyncio

    check("generation", forkio_http.generation(), generation)
    server = forkio_http.Server()
    server.start()
    client = forkio_http.Client(server.port)
    first = client.get()
    check("the serving process", first.split()[0], str(os.getpid()))
    check("the same connection", client.get(), first)

    async def ask():
        return await asyncio.gather(*(forkio_http.Client(server.port).get_async() for _ in range(4)))

    for answer in asyncio.run(ask()):
        check("the serving process", answer.split()[0], str(os.getpid()))


def in_thread(act):
    """Calls `act` in a daemon thread. Returns a function that waits for `act`, and returns or raises its outcome."""
    outcome = []

    def run():
        try:
            outcome.append((act(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def join():
        thread.join(LIMIT)
        assert outcome, "the thread hangs"
        result, error = outcome[0]
        if error is not None:
            raise error
        return result

    return join
