import json
import threading
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from cellfm.errors import ResumeError
from cellfm.train import World, checkpoint, list_checkpoints
from cellfm.train.parallel import first_row
from cellfm.train.state import checkpoint_path, write_json

SHARD = "shard-00000-of-00001.safetensors"


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


def full(tensors, path, metadata):
    raise OSError(28, "No space left on device", str(path))


def test_a_full_disk_ends_the_run_and_leaves_the_checkpoint_before(job, monkeypatch):
    job = job.changed("run", checkpoint_every=6)
    job.train("run", stop_after=6)
    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="No space left on device"):
        job.train("run")
    assert [path.name for path in list_checkpoints(job.folder("run"))] == ["step-00000006"]
    monkeypatch.undo()
    assert job.train("run") == replace(job.train("straight"), folder=job.root / "run")


def test_training_goes_on_while_a_checkpoint_is_written(job, monkeypatch):
    """The thread waits for the next step, which a writer that blocks would never let come."""
    whole, next_step, seen = checkpoint.save_file, threading.Event(), []

    def slow(*arguments, **options):
        assert next_step.wait(timeout=60)
        whole(*arguments, **options)

    def tell(now):
        seen.append((now.step, [path.name for path in list_checkpoints(job.folder("run"))]))
        if now.step == 8:
            next_step.set()

    monkeypatch.setattr(checkpoint, "save_file", slow)
    job.train("run", progress=tell, stop_after=8)
    assert (6, []) in seen
    assert (8, []) in seen
    monkeypatch.undo()
    names = [path.name for path in list_checkpoints(job.folder("run"))]
    assert names == ["step-00000006", "step-00000008"]
    # What was written is the state of step 6, not of the steps taken meanwhile.
    job.train("other", stop_after=6)
    one, two = (
        load_file(checkpoint_path(job.folder(name), 6) / SHARD) for name in ("run", "other")
    )
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def test_a_checkpoint_in_shares_is_read_by_one_process(job):
    """As two processes under fsdp would have written it."""
    job.train("run", stop_after=6)
    (whole,) = job.newest("run").glob("shard-*")
    tensors = load_file(whole)
    for rank in range(2):
        pieces, world = {}, World(rank=rank, size=2)
        for name, tensor in tensors.items():
            if tensor.ndim:
                start = first_row(tensor, world)
                stop = first_row(tensor, replace(world, rank=1)) if rank == 0 else len(tensor)
                offsets = (start, *[0] * (tensor.ndim - 1))
                if stop > start:
                    pieces[name] = checkpoint._Piece(tensor=tensor[start:stop], offsets=offsets)
            elif rank == 0:
                pieces[name] = checkpoint._Piece(tensor=tensor, offsets=())
        checkpoint._save(whole.with_name(checkpoint._file_name(rank, 2)), pieces)
    whole.unlink()
    state_file = whole.with_name("state.json")
    state_file.write_text(json.dumps({**json.loads(state_file.read_text()), "shards": 2}))
    assert job.train("run") == replace(job.train("straight"), folder=job.root / "run")


def test_a_missing_share(run):
    folder, go_on = run
    newest = list_checkpoints(folder)[-1]
    state = json.loads((newest / "state.json").read_text())
    (newest / "state.json").write_text(json.dumps({**state, "shards": 3}))
    with pytest.raises(
        ResumeError, match=r"3 of its 3 files are missing, first shard-00000-of-00003.safetensors"
    ):
        go_on()


def test_no_pickle_is_read(run, monkeypatch):
    _, go_on = run

    def refuse(*arguments, **options):
        pytest.fail("a pickle was loaded")

    monkeypatch.setattr("torch.load", refuse)
    monkeypatch.setattr("pickle.load", refuse)
    monkeypatch.setattr("pickle.loads", refuse)
    go_on()


@pytest.mark.parametrize(
    ("section", "changes"),
    [
        ("run", {"parallel": "fsdp", "activation_checkpointing": True, "keep_checkpoints": 1}),
        ("data", {"prefetch": 0}),
    ],
)
def test_how_a_run_is_computed_may_change(job, section, changes):
    job.train("run", stop_after=6)
    found = job.changed(section, **changes).train("run")
    assert found == replace(job.train("straight"), folder=job.root / "run")


@pytest.mark.parametrize("how", ["cut", "gone", "other tensors", "other shapes"])
def test_damage(run, how):
    folder, go_on = run
    newest = list_checkpoints(folder)[-1]
    file = newest / SHARD
    if how == "cut":
        file.write_bytes(file.read_bytes()[:-8])
    elif how == "gone":
        file.unlink()
    else:
        tensors = load_file(file)
        name = "model.cls"
        extra = {"model.clss": tensors[name]} if how == "other tensors" else {}
        tensors = {**tensors, **extra, name: tensors[name][:-1]}
        if extra:
            del tensors[name]
        pieces = {
            key: checkpoint._Piece(tensor=tensor, offsets=(0,) * tensor.ndim)
            for key, tensor in tensors.items()
        }
        checkpoint._save(file, pieces)
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
            '{"format": 1}',
            r"state.json is not of format 2; it was written by another version of cellfm. Use that one",
        ),
        ('{"format": 2, "step": 2}', r"step-00000002 is damaged: "),
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
