"""Runs scenarios: tests with a process of their own. `run.py` runs all scenarios, `run.py TEXT` the scenarios whose name
contains the text, and `run.py --one NAME` runs one in this process.

A scenario runs in a session of its own. It fails if it does not end with exit code 0 in time, or if it leaves a process behind.
"""

import faulthandler
import importlib
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

MODULES = ["asyncio_loops", "forks", "interpreter_end", "prefork_server", "process_pools"]
# The time limit of a scenario, in seconds. Scenarios take a few seconds.
LIMIT = 120


def scenarios():
    """Returns all scenarios, by name."""
    found = {}
    for module in map(importlib.import_module, MODULES):
        for name, value in vars(module).items():
            if name.startswith("test_"):
                found[f"{module.__name__}.{name[len('test_'):]}"] = value
    return found


def left_processes(session):
    """Returns the ids and command lines of a session's processes that have not ended."""
    left = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat", encoding="latin-1") as stat:
                state, _, _, its_session = stat.read().rpartition(")")[2].split()[:4]
            if int(its_session) == session and state not in "ZX":
                with open(f"/proc/{pid}/cmdline", encoding="latin-1") as command:
                    left.append((int(pid), command.read().replace("\0", " ")))
        except (FileNotFoundError, ProcessLookupError):
            pass
    return left


def run(name):
    """Runs a scenario. Returns why it failed, or None."""
    command = [sys.executable, os.path.abspath(__file__), "--one", name]
    end = time.monotonic() + LIMIT
    # The output is not a pipe, because a process that is left behind would hold it open.
    with open(os.path.join(os.environ["FORKIO_TEST_OUTPUT"], name), "w+b") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        why = None
        try:
            status = process.wait(LIMIT)
            if status != 0:
                why = f"exit status {status}"
        except subprocess.TimeoutExpired:
            why = f"no end within {LIMIT} seconds"
        # Helpers of multiprocessing end after the process that started them.
        while not why and left_processes(process.pid) and time.monotonic() < end:
            time.sleep(0.01)
        left = left_processes(process.pid)
        for pid, command in left:
            why = why or "a process was left behind"
            output.write(f"left: {pid} {command}\n".encode())
            output.flush()
            os.kill(pid, signal.SIGUSR2)
        if left:
            # At SIGUSR2 each process prints its stack, which shows where it hangs.
            time.sleep(1)
        for pid, _ in left_processes(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.wait()
        output.seek(0)
        text = output.read().decode(errors="replace")
        # While it shuts down, the interpreter prints exceptions and ignores them. So any output is a failure.
        if text and name.startswith("interpreter_end."):
            why = why or "unexpected output"
        return why and f": {why}\n{text}"


def main():
    if sys.argv[1:2] == ["--one"]:
        # `dump_traceback_later` would start a thread, and the end of a child's interpreter would wait for that thread.
        faulthandler.register(signal.SIGUSR2)
        faulthandler.enable()
        scenarios()[sys.argv[2]]()
        return
    names = [name for name in scenarios() if all(text in name for text in sys.argv[1:])]
    failed = []

    def run_and_print(name):
        start = time.monotonic()
        why = run(name)
        print(f"{name} ... {'FAILED' if why else 'ok'} ({time.monotonic() - start:.1f} s){why or ''}", flush=True)
        if why:
            failed.append(name)

    with ThreadPoolExecutor(os.cpu_count()) as workers:
        list(workers.map(run_and_print, names))
    print(f"{len(names) - len(failed)} passed, {len(failed)} failed")
    sys.exit(1 if failed or not names else 0)


if __name__ == "__main__":
    main()
