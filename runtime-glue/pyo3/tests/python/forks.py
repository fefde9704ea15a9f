"""os.fork()."""

import os
import signal
import socket
import threading

import forkio_http
from support import Gate, check, end_of, in_child, in_thread, raises, start_child, use_everything


def test_parent_and_child():
    """Parent, child and grandchild each have a runtime. The child does not use the parent's connection."""
    server = forkio_http.Server()
    server.start()
    client = forkio_http.Client(server.port)
    first = client.get()

    def child():
        # The parent answers: the child's runtime does not serve.
        answer = client.get()
        check("the serving process", answer.split()[0], str(os.getppid()))
        assert answer != first, "the child used its parent's connection"
        check("its own connection", client.get(), answer)
        use_everything(1)
        in_child(lambda: use_everything(2))
        use_everything(1)

    for _ in range(3):
        in_child(child)
        check("the parent's connection", client.get(), first)
    use_everything(0)


def test_inherited_listener():
    """A child serves on a listener that its parent has bound."""
    server = forkio_http.Server()
    gate, end = Gate(), Gate()

    def child():
        server.start()
        gate.open()
        end.wait()

    pid = start_child(child)
    gate.wait()
    check("the serving process", forkio_http.Client(server.port).get().split()[0], str(pid))
    end.open()
    end_of(pid)


def test_first_use_in_child():
    """A child uses the module before its parent does."""
    in_child(lambda: use_everything(1))
    use_everything(0)


def test_daemon():
    """A daemon forks twice and closes all descriptors except the standard ones, like the package `python-daemon`."""
    use_everything(0)

    def daemon():
        os.closerange(3, 1 << 16)
        use_everything(2)
        in_child(lambda: use_everything(3))
        use_everything(2)

    in_child(lambda: (os.setsid(), in_child(daemon)))
    use_everything(0)


def test_severed_connections():
    """When the parent closes a connection, the peer sees its end, even beside a child that does not use the runtime."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = forkio_http.Client(listener.getsockname()[1])
        answer = in_thread(client.get)
        peer = listener.accept()[0]
        peer.settimeout(60)
        peer.recv(1000)
        peer.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nyes")
        check("answer", answer(), "yes")
        started, end = Gate(), Gate()
        pid = start_child(lambda: (started.open(), end.wait()))
        # Without the patch, the child severs only connections that the parent still has when the child begins to run.
        started.wait()
        forkio_http.shutdown(60)
        check("end of the connection", peer.recv(1), b"")
        end.open()
        end_of(pid)


def test_many_forks_under_load():
    """Children inherit no lock that a busy thread of the runtime holds."""
    forkio_http.use_python_forever(4)
    server = forkio_http.Server()
    server.start()
    client = forkio_http.Client(server.port)

    def child():
        client.get()

    for _ in range(300):
        in_child(child)
    client.get()
    forkio_http.shutdown(60)


def test_fork_in_thread():
    """A thread forks while another one is inside `block_on`."""
    inside = in_thread(lambda: forkio_http.pause(1000))
    thread = in_thread(lambda: in_child(lambda: use_everything(1)))
    thread()
    # The child does not have the thread inside `block_on`, so its shutdown waits for no thread.
    in_child(lambda: (use_everything(1), forkio_http.shutdown(1000)))
    forkio_http.shutdown(60)
    raises(RuntimeError, "shut down", inside)


def test_signals():
    """Signal handlers run during `block_on`, and may call `block_on` themselves."""
    main = threading.main_thread().ident

    def interrupt():
        signal.pthread_kill(main, signal.SIGINT)

    def handler(*_):
        handled.append(forkio_http.pause(0.001))

    def interrupts():
        threading.Timer(0.1, interrupt).start()
        raises(KeyboardInterrupt, "", lambda: forkio_http.pause(1000))
        check("the future was dropped", forkio_http.dropped(), 1)

    # In a background job of a shell, SIGINT is ignored, so Python does not install its handler.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupts()
    # The child has inherited the count of its parent.
    in_child(lambda: raises(AssertionError, "2, not 1", interrupts))
    handled = []
    signal.signal(signal.SIGUSR1, handler)
    threading.Timer(0.1, lambda: signal.pthread_kill(main, signal.SIGUSR1)).start()
    # Even a timer that is late expires during the call.
    check("the call continues", forkio_http.pause(5), 5)
    check("the handler's call", handled, [0.001])


def test_fork_in_signal_handler():
    """If a signal handler forks inside `block_on`, `block_on` returns an error in the child."""
    main = threading.main_thread().ident
    children = []

    def handler(*_):
        children.append(os.fork())

    signal.signal(signal.SIGUSR1, handler)
    parent = os.getpid()
    threading.Timer(0.1, lambda: signal.pthread_kill(main, signal.SIGUSR1)).start()
    try:
        # Even a timer that is late expires during the call.
        check("the call continues", forkio_http.pause(5), 5)
        check("the parent", os.getpid(), parent)
    except RuntimeError as error:
        status = 1 if os.getpid() == parent or "forked" not in str(error) else 0
        use_everything(1)
        os._exit(status)
    end_of(children[0])
    check("forks", len(children), 1)
