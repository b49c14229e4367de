"""A web server on this machine that fails now and then."""

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Flaky:
    """What the server does. fault: of the number of a ranged GET (from 1), the name of what goes wrong with
    it: a status, "cut" (the connection ends in the middle), "short" (half of what was asked for,
    and a length that says so), "wait" (half a second before the answer),
    "stall" (nothing more after the headers, for ten seconds); None for nothing."""

    def __init__(self, folder: Path, fault: Callable[[int], str | None]) -> None:
        self.folder, self.fault = folder, fault
        self.asked, self.failed, self.methods = 0, 0, list[str]()
        self.failing_heads = 0
        self.lock = threading.Lock()
        self.url = ""

    def next_fault(self) -> str | None:
        with self.lock:
            self.asked += 1
            fault = self.fault(self.asked)
            self.failed += fault is not None
        return fault


@contextmanager
def served(folder: Path, fault: Callable[[int], str | None] = lambda number: None) -> Iterator[Flaky]:
    """A folder at `.url`."""
    state = Flaky(folder, fault)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            state.methods.append(self.command)
            if not body and state.failing_heads:
                state.failing_heads -= 1
                self._status("503")
                return
            path = state.folder / self.path.lstrip("/").partition("?")[0]
            if not path.is_file():
                self.send_error(404)
                return
            data = path.read_bytes()
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            begin, end = 0, len(data)
            if wanted is not None:
                begin, end = int(wanted[1]), min(len(data), int(wanted[2] or len(data)) + 1)
            fault = state.next_fault() if body else None
            if fault == "wait":
                time.sleep(0.5)
            elif fault is not None and fault.isdigit():
                self._status(fault)
                return
            if fault == "short":
                end = begin + max(1, (end - begin) // 2)
            self.send_response(206 if wanted else 200)
            if wanted:
                self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(data)}")
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("ETag", f'"{path.stat().st_mtime_ns}"')
            self.send_header("Content-Length", str(end - begin))
            self.end_headers()
            if not body:
                return
            if fault == "stall":
                time.sleep(10)
                self.close_connection = True
                return
            if fault == "cut":
                self.wfile.write(data[begin : begin + (end - begin) // 2])
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            self.wfile.write(data[begin:end])

        def _status(self, code: str) -> None:
            self.send_response(int(code))
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
