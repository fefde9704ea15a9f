"""gunicorn with --preload."""

import os
import signal
import socket
import subprocess
import sys
import urllib.request

from support import LIMIT, check, wait_until


def ask(port, path="/"):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=LIMIT) as response:
        return tuple(map(int, response.read().split()))


def serve(*options):
    """Runs gunicorn with the application, which uses the runtime before the fork and after it. Checks the answers, and that
    gunicorn replaces a worker that crashes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        command = [sys.executable, "-m", "gunicorn", "--preload", "--workers", "2", "--timeout", str(LIMIT), *options]
        environment = dict(os.environ, GUNICORN_FD=str(listener.fileno()))
        gunicorn = subprocess.Popen(
            [*command, "--bind", f"fd://{listener.fileno()}", "wsgi_app:app"],
            cwd=os.path.dirname(os.path.abspath(__file__)),
            env=environment,
            pass_fds=[listener.fileno()],
        )
    try:
        for _ in range(10):
            pid, master, generation = ask(port, "/everything")
            check("the process that serves the inner request", master, gunicorn.pid)
            check("generation", generation, 1)
            assert pid != gunicorn.pid
        pids = set()
        wait_until("two workers", lambda: pids.add(ask(port)[0]) or len(pids) == 2)
        victim = pids.pop()
        os.kill(victim, signal.SIGKILL)
        fresh = set()
        wait_until("a new worker", lambda: fresh.add(ask(port)[0]) or len(fresh - {victim}) == 2)
    finally:
        gunicorn.terminate()
        check("exit code", gunicorn.wait(LIMIT), 0)


def test_gunicorn_sync():
    serve()


def test_gunicorn_threads():
    serve("--threads", "4")
