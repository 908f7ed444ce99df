"""Runs on a Ray cluster that is there already: the same command as anywhere, as a job of Ray's Jobs API.

A run is found by its metadata. Ray keeps every job's id for good, so each attempt has one of its own, NAME-1, NAME-2, …
"""

import os
import shlex
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from raystill.errors import RecipeError, ResourceError, StageError
from raystill.launch import follow
from raystill.launch.follow import Look
from raystill.reporting.gate import EXIT_CODES

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

T = TypeVar("T")
RUN = "raystill-run"
"""Key of a job's metadata: the run's name."""
ENDED = {"SUCCEEDED": "done", "FAILED": "failed", "STOPPED": "failed"}
PATIENCE_S = 120.0
"""How long a person waits for a dashboard that is away."""
AUTH = "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=…, as the cluster has it; or RAY_AUTH_TOKEN_PATH=FILE"


class RayJobs:
    """The jobs of one Ray cluster."""

    def __init__(self, client: "JobSubmissionClient") -> None:
        self.client = client
        self.address = client.get_address()
        self.where = f" --to ray --address {self.address}"

    def submit(self, name: str, recipe: str, compute: str | None) -> bool:
        """Start a run, or find it going; True when it was started. `recipe` and `compute` are addresses that follow content.

        Raises RecipeError when another recipe of this name is going.
        """
        command = ["raystill", "run", recipe, *(["--compute", compute] if compute else [])]
        entrypoint = shlex.join(command)
        while True:
            before = self._attempts(name)
            if before and before[-1].status.value not in ENDED:
                if before[-1].entrypoint == entrypoint:
                    return False
                raise RecipeError(follow.CHANGED.format(name=name))
            attempt = f"{name}-{_number(before[-1]) + 1 if before else 1}"
            try:
                self.client.submit_job(entrypoint=entrypoint, submission_id=attempt, metadata={RUN: name})
                return True
            except RuntimeError as e:
                if len(self._attempts(name)) == len(before):  # and nobody else was faster
                    raise StageError(f"Ray did not take the job: {e}") from None

    def look(self, name: str) -> Look:
        """The newest attempt."""
        job = self._newest(name)
        status = job.status.value
        lines = [f"{job.submission_id}  {status}  {job.message or ''}".rstrip()]
        # A gate that is missed or undecided is the run's answer, not its failure; its report says which.
        state = "done" if job.driver_exit_code in EXIT_CODES.values() else ENDED.get(status, "going")
        if state == "failed":
            return Look("failed", lines, why=(job.message or status).strip())
        return Look("done" if state == "done" else "going", lines)

    def log(self, name: str) -> Iterator[str]:
        """Whole lines that are new each time. Ray's own stream of a log was seen to end in silence."""
        told, attempt = 0, self._newest(name).submission_id
        while True:
            whole = _patiently(lambda: self.client.get_job_logs(attempt)).splitlines(keepends=True)
            lines = [line.rstrip("\n") for line in whole if line.endswith("\n")]
            yield from (line or " " for line in lines[told:])
            told = len(lines)
            yield ""
            time.sleep(follow.SILENCE_S)

    def cancel(self, name: str) -> str:
        """Stop the newest attempt and wait until it has."""
        job = self._newest(name)
        if not self.client.stop_job(job.submission_id):
            return f"'{name}' had ended already: {job.status.value}"
        while self._newest(name).status.value not in ENDED:
            time.sleep(1)
        return f"'{name}' is cancelled; what it had committed stays, and submitting again goes on from there"

    def _attempts(self, name: str) -> list["JobDetails"]:
        """Oldest first."""
        jobs = [job for job in self._jobs() if (job.metadata or {}).get(RUN) == name]
        return sorted(jobs, key=_number)

    def _jobs(self) -> list["JobDetails"]:
        """Those that were submitted, however long their dashboard is away."""
        return [job for job in _patiently(self.client.list_jobs) if job.submission_id]

    def _newest(self, name: str) -> "JobDetails":
        attempts = self._attempts(name)
        if not attempts:
            there = {(job.metadata or {}).get(RUN) for job in self._jobs()} - {None}
            known = ", ".join(sorted(map(str, there))) or "none"
            raise RecipeError(f"no run '{name}' on {self.address}; there are: {known}; another cluster: --address URL")
        return attempts[-1]


def _patiently(ask: Callable[[], T]) -> T:
    """The answer, asked for again while the dashboard is away. Raises ResourceError."""
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            return ask()
        except OSError as e:  # as requests' errors are
            if time.monotonic() > until:
                raise ResourceError(f"the Ray cluster has not answered for {PATIENCE_S:g} s: {e}") from None
            time.sleep(1)


def _number(job: "JobDetails") -> int:
    return int(str(job.submission_id).rpartition("-")[2])


def connect(address: str | None) -> RayJobs:
    """The cluster whose dashboard has this address; by default what RAY_API_SERVER_ADDRESS or RAY_ADDRESS says.

    Raises ResourceError when it does not answer, or refuses the token.
    """
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for variable in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        if address and os.environ.get(variable, address) != address:
            raise ResourceError(f"{variable} is set, and Ray takes it over --address; type: unset {variable}")
    where = address or "RAY_ADDRESS or on this machine"
    try:
        return RayJobs(JobSubmissionClient(address))
    except AuthenticationError:
        raise ResourceError(f"the Ray cluster at {where} wants a token; {AUTH}") from None
    except (ConnectionError, RuntimeError, ValueError) as e:
        raise ResourceError(f"no Ray cluster at {where}: {e}; type: --address http://HEAD:8265") from None
