import json

import pytest

from cellfm.errors import ResumeError
from cellfm.train import list_checkpoints
from cellfm.train.state import write_json


@pytest.fixture
def run(job):
    """A run of two checkpoints, at steps 1 and 2."""
    job = job.changed("run", checkpoint_every=1)

    def go_on():
        return job.train("run", stop_after=1)

    go_on()
    go_on()
    return job.folder("run"), go_on


def test_keeps_the_newest(run):
    folder, go_on = run
    go_on()
    assert [path.name for path in list_checkpoints(folder)] == ["step-00000002", "step-00000003"]
    assert not list(folder.checkpoints.glob(".*"))


def test_an_interrupted_save_is_written_anew(job, monkeypatch):
    from cellfm.train import state

    whole, calls = state.save_file, []

    def interrupted(tensors, path):
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt
        whole(tensors, path)

    monkeypatch.setattr(state, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        job.train("run")
    # The first due checkpoint, at step 6, was cut short by Ctrl-C and written again before the run ended.
    assert job.newest("run").name == "step-00000006"
    assert len(list(job.newest("run").iterdir())) == 3
    assert not list(job.folder("run").checkpoints.glob(".*"))


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors"])
@pytest.mark.parametrize("how", ["cut", "gone"])
def test_damage(run, file, how):
    folder, go_on = run
    newest = list_checkpoints(folder)[-1]
    if how == "cut":
        (newest / file).write_bytes((newest / file).read_bytes()[:100])
    else:
        (newest / file).unlink()
    with pytest.raises(
        ResumeError,
        match=r"step-00000002 is damaged: .*Delete that folder to resume from the checkpoint before",
    ):
        go_on()
    for path in newest.iterdir():
        path.unlink()
    newest.rmdir()
    assert go_on().step == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"state.json cannot be read: "),
        ("[]", r"state.json holds list, not an object; it was not written by cellfm"),
        (
            '{"format": 2}',
            r"state.json is not of format 1; it was written by another version of cellfm. Use that one",
        ),
        ('{"format": 1, "step": 2}', r"step-00000002 is damaged: "),
    ],
)
def test_bad_state(run, text, message):
    folder, go_on = run
    (list_checkpoints(folder)[-1] / "state.json").write_text(text)
    with pytest.raises(ResumeError, match=message):
        go_on()


def test_checkpoint_of_another_run(run):
    folder, go_on = run
    state_file = list_checkpoints(folder)[-1] / "state.json"
    state = json.loads(state_file.read_text())
    state["config"]["run"]["seed"] = 99
    state_file.write_text(json.dumps(state))
    with pytest.raises(ResumeError, match=r"other settings: run.seed \(99 there, 5 now\)"):
        go_on()


def test_json_is_whole_or_old(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]
