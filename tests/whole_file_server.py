"""An HTTP server that ignores Range: it sends the whole file, whatever was asked for."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator

FILE_BYTES = 600_000_000
_PIECE = 1_000_000


@contextlib.contextmanager
def whole_file_server() -> Iterator[tuple[str, list[int]]]:
    """Run the server until the block ends: the URL of a file of FILE_BYTES zeros, and the sizes of what it has sent."""
    sent: list[int] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(FILE_BYTES))
            self.end_headers()
            with contextlib.suppress(OSError):
                while sum(sent) < FILE_BYTES:
                    sent.append(self.wfile.write(bytes(_PIECE)))

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/a.png", sent
        finally:
            server.shutdown()
