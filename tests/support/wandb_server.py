"""A loopback stand-in for wandb's server: as much of it as the real client and `wandb sync` need."""

from __future__ import annotations

import gzip
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class WandbServer:
    """Answers on `port` (0: any free one); keeps the runs' names and every row of history."""

    def __init__(self, port: int = 0) -> None:
        self.runs: list[dict[str, Any]] = []  # variables of UpsertBucket
        self.history: list[dict[str, Any]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        self.port = self._server.server_port

    def __enter__(self) -> WandbServer:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, body: bytes) -> dict[str, Any]:
        if path.endswith("/file_stream"):
            rows = (
                json.loads(body).get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
            )
            self.history += map(json.loads, rows)
        if not path.startswith("/graphql"):
            return {}
        call = json.loads(body)
        name = re.search(r"(?:query|mutation)\s+(\w+)", call["query"])
        return {"data": self._graphql(name[1] if name else "", call.get("variables") or {})}

    def _graphql(self, name: str, variables: dict[str, Any]) -> dict[str, Any]:
        project = {"id": "cA", "name": "p", "entity": {"id": "ZQ", "name": "me"}}
        if name == "UpsertBucket":
            self.runs.append(variables)
            return {
                "upsertBucket": {
                    "inserted": True,
                    "bucket": {
                        "id": "cnVu",
                        "name": variables["name"],
                        "displayName": variables.get("displayName"),
                        "description": "",
                        "config": "{}",
                        "sweepName": None,
                        "project": project,
                        "historyLineCount": 0,
                    },
                }
            }
        files = [
            {"name": f, "uploadUrl": f"http://127.0.0.1:{self.port}/put/{f}"}
            for f in variables.get("files") or ()
        ]
        return {
            "Viewer": {
                "viewer": {
                    "id": "u",
                    "username": "me",
                    "entity": "me",
                    "flags": "{}",
                    "teams": {"edges": []},
                }
            },
            "ServerFeaturesQuery": {"serverInfo": {"features": []}},
            "RunResumeStatus": {"model": project | {"bucket": None}},
            "CreateRunFiles": {
                "createRunFiles": {"runID": "cnVu", "uploadHeaders": [], "files": files}
            },
        }.get(name, {})


def _handler(server: WandbServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            data = json.dumps(server.answer(self.path, body)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PUT = do_POST

        def log_message(self, *words: object) -> None: ...

    return Handler
