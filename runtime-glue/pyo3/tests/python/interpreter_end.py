"""The end of the interpreter, in parents and children."""

import os
import subprocess
import sys
import threading

import forkio_http
from support import check, end_of, in_thread, raises, use_everything


def leave_by_exit(act):
    """Forks. The child calls `act` and ends like a program, with `atexit` functions. Returns the child's id."""
    pid = os.fork()
    if pid == 0:
        act()
        sys.exit(0)
    return pid


def parent_and_child(act):
    """Calls `act` in a child, in this process, and in a child that is forked while `act` keeps the runtime busy.
    All three end."""
    end_of(leave_by_exit(act))
    act()
    end_of(leave_by_exit(act))


def test_busy_tasks():
    """Tasks use Python until the interpreter shuts down."""
    parent_and_child(lambda: forkio_http.use_python_forever(4))


def test_daemon_threads():
    """Daemon threads wait inside `block_on`, beside tasks that use Python."""

    def act():
        forkio_http.use_python_forever(2)
        inside = threading.Barrier(3)

        def wait():
            inside.wait()
            raises(RuntimeError, "shutting down", lambda: forkio_http.pause(1000))

        for _ in range(2):
            threading.Thread(target=wait, daemon=True).start()
        inside.wait()

    parent_and_child(act)


def test_daemon_loops():
    """Event loops of daemon threads have a pending awaitable, and awaitables that finish again and again."""
    import asyncio

    async def waits(started):
        pending = asyncio.ensure_future(forkio_http.pause_async(1000))
        try:
            while not pending.done():
                await forkio_http.pause_async(0)
                started.set()
        except RuntimeError as error:
            assert "shutting down" in str(error), error

    def act():
        started = threading.Event()
        threading.Thread(target=lambda: asyncio.run(waits(started)), daemon=True).start()
        started.wait()

    parent_and_child(act)


def test_blocked_thread():
    """In both processes, a thread of the runtime is blocked for longer than the interpreter waits when it shuts down."""
    # This test does not wait for the child. `run.py` does, and finds a crash in the output.
    leave_by_exit(lambda: forkio_http.block_a_thread(1000))
    forkio_http.block_a_thread(1000)


def test_no_runtime():
    """Neither process has used its runtime."""
    parent_and_child(lambda: None)


def test_unused_in_child():
    """The child inherits a busy runtime, and uses no runtime."""
    forkio_http.use_python_forever(4)
    end_of(leave_by_exit(lambda: None))


def output_of(program):
    """Runs a program in another interpreter, and returns its standard output."""
    environment = dict(os.environ, PYTHONPATH=os.path.dirname(os.path.abspath(__file__)))
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True, timeout=100, check=True
    ).stdout


def test_use_at_exit():
    """`atexit` functions that were registered after the import still use the runtime. Those registered before get an error."""
    program = """
import atexit, os

def before():
    for use in [lambda: forkio_http.pause(0), forkio_http.Server().start]:
        support.raises(RuntimeError, "shutting down", use)
    print("before", flush=True)

atexit.register(before)
import forkio_http, support

def after():
    support.use_everything(forkio_http.generation())
    print("after", flush=True)

atexit.register(after)
%s
"""
    check("output", output_of(program % ""), "after\nbefore\n")
    in_both = "pid = os.fork()\nif pid: support.end_of(pid)"
    check("output", output_of(program % in_both), "after\nbefore\n" * 2)


def test_shut_down():
    """A runtime that was shut down is built again. A call that waits in another thread raises an exception."""
    for _ in range(3):
        inside = in_thread(lambda: forkio_http.pause(1000))
        use_everything(0)
        forkio_http.shutdown(60)
        raises(RuntimeError, "shut down during the call", inside)
    check("dropped", forkio_http.dropped(), 3)
