"""The driver's part of bench/cluster.py, in a process of its own: stages one after another, and what they cost it.

python bench/cluster_driver.py drive JOB RESULT
"""

import copy
import json
import sys
import threading
from pathlib import Path

import httpx
import psutil

from raystill.launch import api, drive
from raystill.launch.kubeconfig import bearer


class Quiet:
    """Progress that nobody sees."""

    def start(self, stage: str, total: int | None, unit: str) -> None:
        """A stage begins."""

    def advance(self, done: int = 1, **scalars: float) -> None:
        """So many more are done."""

    def say(self, text: str) -> None:
        """A line."""


def main() -> None:
    """Make the job's RayJob so many times under as many names; memory after each."""
    job = json.loads(Path(sys.argv[2]).read_text())
    api.POLL_S = job["poll_s"]
    process, rss_mb = psutil.Process(), []
    with httpx.Client(base_url=job["url"], verify=False, auth=bearer(lambda: str(job["token"]))) as client:
        server = api.Api(client, threading.Event())
        for stage in range(job["stages"]):
            doc = copy.deepcopy(job["rayjob"])
            doc["metadata"]["name"] = f"stage-{stage}"
            drive.make(server, doc, Quiet())
            rss_mb.append(process.memory_info().rss / 2**20)
    Path(sys.argv[3]).write_text(json.dumps(rss_mb))


if __name__ == "__main__":
    main()
