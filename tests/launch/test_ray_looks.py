"""What a job's status and exit code say of its run; the cluster is another test's."""

from types import SimpleNamespace

import pytest

from raystill.launch.ray_jobs import RUN, RayJobs


@pytest.mark.parametrize(
    ("status", "code", "state"),
    [
        ("PENDING", None, "going"),
        ("RUNNING", None, "going"),
        ("SUCCEEDED", 0, "done"),
        ("FAILED", 6, "done"),
        ("FAILED", 7, "done"),
        ("FAILED", 1, "failed"),
        ("FAILED", None, "failed"),
        ("STOPPED", -15, "failed"),
    ],
)
def test_a_gates_verdict_is_no_failure_of_its_run(status: str, code: int | None, state: str) -> None:
    job = SimpleNamespace(
        submission_id="ours-1", metadata={RUN: "ours"}, status=SimpleNamespace(value=status), message="said",
        driver_exit_code=code,
    )  # fmt: skip
    client = SimpleNamespace(get_address=lambda: "http://head:8265", list_jobs=lambda: [job])
    look = RayJobs(client).look("ours")  # type: ignore[arg-type]
    assert look.state == state and (look.why == "said") == (state == "failed")
