import threading

import pytest

from cellfm.errors import DataError
from cellfm.view.jobs import Jobs


def ended(job) -> dict[str, object]:
    """Wait for its thread."""
    for thread in threading.enumerate():
        if thread.name == f"cellfm-view-{job.number}":
            thread.join(timeout=30)
    return job.described()


def test_a_job_says_how_far_it_is_and_what_it_made():
    jobs, seen = Jobs(), threading.Event()

    def work(job):
        job.stage_progress("counting")(3, 9)
        assert seen.wait(30)
        return {"file": 1}

    job = jobs.start("work", work)
    while jobs.get(0).described()["done"] != 3:
        assert job.described()["state"] == "running"
    seen.set()
    found = ended(job)
    assert (found["state"], found["result"], found["stage"]) == ("done", {"file": 1}, "counting")


def test_a_job_can_be_stopped():
    jobs, at_work = Jobs(), threading.Event()

    def work(job):
        while True:
            job.advance("turning", 0, 0)
            at_work.set()

    job = jobs.start("work", work)
    assert at_work.wait(30)
    job.stop()
    assert ended(job)["state"] == "stopped"
    jobs.stop_all(seconds=1.0)


def test_errors_are_told_in_full(caplog):
    jobs = Jobs()

    def refuse(job):
        error = DataError("There is no file /secret/folder/a.h5ad.")
        error.add_note("Give another.")
        raise error

    job = jobs.start("work", refuse, private="/secret/folder/")
    assert ended(job)["message"] == "There is no file a.h5ad.\nGive another."
    broken = jobs.start("work", lambda job: 1 // 0)
    found = ended(broken)
    assert found["state"] == "failed"
    assert "ZeroDivisionError" in found["message"]
    assert "1 // 0" in caplog.text
    with pytest.raises(DataError, match="There is no job 7"):
        jobs.get(7)
