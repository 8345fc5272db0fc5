"""task=ui: MLflow's own pages on this machine, with the settings that are fast and safe."""

import http.client
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from exp.errors import InputError, require
from exp.experiment import Experiment
from exp.run_folder import run_folders
from exp.tasks.base import Task
from exp.tracking.settings import SERVERS, database_file
from exp.tracking.view import experiment_link

HOST = "127.0.0.1"
READY_SECONDS = 120


@dataclass(kw_only=True)
class Ui(Task):
    """Serve the store on 127.0.0.1 and say which page to open; ends with Ctrl-C.

    One worker: MLflow's default of four answers seven times slower (Nagle's algorithm and delayed acknowledgements) and
    takes 2 GB. No job execution: it is a way to run code, and nothing here needs it.
    """

    port: int = 5000

    def __post_init__(self) -> None:
        require(1 <= self.port <= 65535, "port", self.port, "1 to 65535")

    def __call__(self, experiment: Experiment) -> int:
        address = experiment.tracker.address()
        if address is None:
            raise InputError(
                "tracker", experiment.choices["tracker"], "keeps nothing that MLflow could show; use tracker=mlflow"
            )
        page = _page(experiment, address["uri"])
        if address["uri"].partition(":")[0] in SERVERS:
            print(f"open {experiment_link(address['uri'], page)}", flush=True)
            return 0
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, self.port))
            except OSError as error:
                raise InputError("task.port", self.port, f"{error.strerror}; try task.port={self.port + 1}") from None
        server = self._serve(address["uri"])
        try:
            url = f"http://{HOST}:{self.port}"
            _wait_until_ready(server, self.port)
            print(f"open {experiment_link(url, page)} (Ctrl-C ends it)", flush=True)
            return server.wait()
        finally:
            server.terminate()
            server.wait()

    def _serve(self, uri: str) -> subprocess.Popen[bytes]:
        file = database_file(uri)
        artifacts = ["--artifacts-destination", str(file.parent / "mlartifacts")] if file else []
        command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(self.port), "--workers", "1"]
        safe = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        return subprocess.Popen(
            [*command, "--backend-store-uri", uri, *artifacts],
            env=os.environ | safe,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


def _page(experiment: Experiment, uri: str) -> str | None:
    """The id of the experiment in which the newest run of this store was recorded."""
    for folder in reversed(run_folders(Path(experiment.runs))):
        tracking = folder.status().get("tracking") or {}
        if tracking.get("uri") == uri and (known := folder.read_json("tracking.json").get("experiment")):
            return known
    return None


def _wait_until_ready(server: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise InputError("task", "ui", f"mlflow server ended with code {server.returncode}; run mlflow ui to see why")
        connection = http.client.HTTPConnection(HOST, port, timeout=1)  # no proxy of the environment
        try:
            connection.request("GET", "/health")
            if connection.getresponse().status == http.HTTPStatus.OK:
                return
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.1)
    raise InputError("task", "ui", f"mlflow server did not answer within {READY_SECONDS} s; run mlflow ui to see why")
