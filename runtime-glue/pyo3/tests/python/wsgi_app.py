"""The application that gunicorn loads before it forks."""

import os

import forkio_http
from support import use_everything

# Gives the runtime of gunicorn's master a connection and a busy task.
MASTER = os.getpid()
SERVER = forkio_http.Server()
SERVER.start()
CLIENT = forkio_http.Client(SERVER.port)
assert CLIENT.get().split()[0] == str(MASTER)
forkio_http.use_python_forever(1)


def app(environ, start_response):
    """Answers with the ids of this process and of the master, which serves the inner request, and with the generation."""
    if environ["PATH_INFO"] == "/everything":
        use_everything(1)
    text = f"{os.getpid()} {CLIENT.get().split()[0]} {forkio_http.generation()}"
    start_response("200 OK", [("content-type", "text/plain"), ("connection", "close")])
    return [text.encode()]
