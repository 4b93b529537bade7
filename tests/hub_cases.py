"""Cases of weights by name: what is asked for, what the hub does, and how it must end."""

import json
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from huggingface_hub import constants

from cellfm.config.model import ModelConfig
from tests.hub import COMMIT, LARGE, Hub, Trouble

CONFIG = ModelConfig(n_genes=20, dim=16, n_layers=1, n_heads=2, value_bins=8)
NAME = "hf://lab/blood"
PINNED = f"{NAME}@{COMMIT}"
OTHER = "f" * 40
WRONG = "0" * 64
CHUNK = 1000
"""Bytes that the library writes at a time."""
CUT = 3 * CHUNK
"""Bytes after which a transfer is cut; the weights are longer."""


# ---- the table: case, what happens, message ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is asked for, what the hub does, and how it must end."""

    label: str
    name: str = NAME
    trouble: tuple[str, Trouble] | None = None
    prepare: Callable[[Hub, pytest.MonkeyPatch], object] = lambda *_: None
    loads: bool = False
    says: tuple[str, ...] = ()
    """What the message must hold; where the weights load, the name they have."""
    kept: int | None = None
    """Bytes of the weights that stay, to go on with."""
    requests: int | None = None
    retries: bool = False
    """Whether the library must go on by itself after a broken connection, as it does from version 2."""


def _variable(**variables: str) -> Callable[[Hub, pytest.MonkeyPatch], object]:
    def change(_: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return change


def _repository(**settings: object) -> Callable[[Hub, pytest.MonkeyPatch], object]:
    def change(server: Hub, _: pytest.MonkeyPatch) -> None:
        for name, value in settings.items():
            setattr(server.repositories["lab/blood"], name, value)

    return change


def _without(*names: str) -> Callable[[Hub, pytest.MonkeyPatch], object]:
    return lambda server, _: [server.repositories["lab/blood"].files.pop(name) for name in names]


def _replaced(name: str, change: Callable[[bytes], bytes]) -> Callable[[Hub, pytest.MonkeyPatch], object]:  # fmt: skip
    def prepare(server: Hub, _: pytest.MonkeyPatch) -> None:
        files = server.repositories["lab/blood"].files
        files[name] = change(files[name])

    return prepare


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def edited(**sections: object) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        content = json.loads(data)
        for name, section in sections.items():
            content[name] = {**content.get(name, {}), **section}
        return json.dumps(content).encode()

    return change


def _impatient(_: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.1)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)


def _send(**trouble: object) -> tuple[str, Trouble]:
    return LARGE, Trouble(**trouble)


CASES = [
    Case(label="good files", loads=True, says=(PINNED,)),
    Case(label="a tag", name=f"{NAME}@v1.0", loads=True, says=(PINNED,)),
    Case(label="a commit", name=PINNED, loads=True, says=(PINNED,)),
    Case(
        label="right hash in the name", name=f"{NAME}#sha256={{sha256}}", loads=True, says=(PINNED,)
    ),
    Case(label="no card", prepare=_without("README.md"), loads=True, says=(PINNED,)),
    Case(
        label="cut once, goes on by itself",
        trouble=_send(cut=CUT, times=1),
        retries=True,
        loads=True,
        says=(PINNED,),
    ),
    Case(
        label="busy (429), then not",
        trouble=("genes.tsv", Trouble(status=429, times=2)),
        loads=True,
        says=(PINNED,),
    ),
    Case(
        label="a length that nobody says",
        trouble=("config.json", Trouble(no_length=True)),
        loads=True,
        says=(PINNED,),
    ),
    Case(
        label="3 MB that nobody announces",
        trouble=("config.json", Trouble(no_length=True, body=b"huge")),
        says=("sends more than the 1,048,576 bytes", "Nothing of it is used"),
    ),
    Case(
        label="wrong hash: the user's pin",
        name=f"{NAME}#sha256={WRONG}",
        says=("SHA-256 is {sha256} (says the hub)", f"expected {WRONG}", "says you"),
        kept=0,
    ),
    Case(
        label="wrong hash: the hub's",
        trouble=_send(body=b"flipped"),
        says=("SHA-256 is", "expected {sha256} (says the hub)", "not used"),
        kept=0,
    ),
    Case(
        label="wrong hash: the list in config.json",
        prepare=_replaced("config.json", edited(files={"genes.tsv": WRONG})),
        says=("genes.tsv", f"expected {WRONG}", "says config.json"),
    ),
    Case(
        label="cut again and again",
        trouble=_send(cut=0),
        says=("could not be fetched", "Check the network"),
    ),
    Case(
        label="cut after every 3,000 bytes",
        retries=True,
        trouble=_send(cut=CUT),
        loads=True,
        says=(PINNED,),
    ),
    Case(
        label="cut once, then nothing more",
        trouble=_send(cut=CUT, times=1, then_nothing=True),
        says=("could not be fetched", "3,000 bytes have come and are kept"),
        kept=CUT,
    ),
    Case(
        label="more bytes than announced",
        trouble=_send(body=b"longer"),
        says=("sends more than the", "Nothing of it is used"),
        kept=0,
    ),
    Case(
        label="no such repository",
        name="hf://lab/other",
        says=("has no repository lab/other", "or it is private"),
    ),
    Case(
        label="no such revision", name=f"{NAME}@v9", says=("has no revision 'v9'", "/commits/main")
    ),
    Case(
        label="no such file",
        prepare=_without("genes.tsv"),
        says=("has no file genes.tsv", "Expected what"),
    ),
    Case(
        label="gated (401)",
        prepare=_repository(access="gated"),
        says=("is gated", "Accept their terms on http", "hf auth login"),
    ),
    Case(
        label="private (401)",
        prepare=_repository(access="private"),
        says=("has no repository lab/blood, or it is private", "hf auth login"),
    ),
    Case(
        label="forbidden (403)",
        trouble=("config.json", Trouble(status=403)),
        says=("does not let you at", "403"),
    ),
    Case(
        label="out of order (500)",
        trouble=("config.json", Trouble(status=500)),
        says=("answered status 500", "Try later"),
    ),
    Case(
        label="slow: no answer",
        trouble=("config.json", Trouble(hang=True)),
        prepare=_impatient,
        says=("could not be fetched", "ReadTimeout", "HF_HUB_DOWNLOAD_TIMEOUT"),
    ),
    Case(
        label="no server",
        prepare=_variable(CELLFM_HUB="http://127.0.0.1:9"),
        says=("could not be fetched from http://127.0.0.1:9", "ConnectError", "CELLFM_HUB"),
    ),
    Case(
        label="not a hub",
        trouble=("config.json", Trouble(commit="../../etc")),
        says=("does not answer as a hub does", "'../../etc'"),
    ),
    Case(
        label="another commit than asked for",
        name=PINNED,
        trouble=("config.json", Trouble(commit=OTHER)),
        says=(f"of commit {OTHER}", "another mirror"),
    ),
    Case(
        label="a gene list of other weights",
        prepare=_replaced("genes.tsv", lambda data: data.replace(b"GENE19", b"OTHER")),
        says=("holds no usable weights", "is not the gene list of these weights"),
    ),
    Case(
        label="tensors of another network",
        prepare=_replaced("config.json", edited(model={"n_layers": 2})),
        says=("holds no usable weights", "missing: layers.1"),
    ),
    Case(
        label="no safetensors file",
        prepare=_replaced(LARGE, lambda _: b"\x80\x04pickled" * 40),
        says=("holds no usable weights", "cannot be read as a safetensors file"),
    ),
    Case(
        label="a description that is none",
        prepare=_replaced("config.json", lambda _: b"[]"),
        says=("holds no usable weights", "expected an object"),
    ),
    Case(
        label="a description of 3 MB",
        prepare=_replaced("config.json", lambda _: b" " * 3_000_000),
        says=("expected at most 1,048,576", "nothing is downloaded"),
    ),
    Case(
        label="a disk that is full",
        trouble=_send(size=10**12),
        says=("needs 1,000,000,000,000 bytes more", "CELLFM_CACHE"),
    ),
    Case(
        label="offline, nothing here",
        prepare=_variable(CELLFM_OFFLINE="1"),
        says=("is not in the cache", "cellfm weights get hf://lab/blood", "unset the variable"),
        requests=0,
    ),
    Case(
        label="offline by the library's variable",
        name=PINNED,
        prepare=_variable(HF_HUB_OFFLINE="true"),
        says=("the network is off",),
        requests=0,
    ),
    *(
        Case(
            label=f"path trick: {name[:40]}",
            name=name,
            says=("is no name of weights on the hub", "Nothing was requested"),
            requests=0,
        )
        for name in (
            "hf://../blood",
            "hf://lab/..",
            "hf://lab/../../etc",
            "hf://lab/blood/../../x",
            "hf:///etc/passwd",
            "hf://lab\\blood",
            "hf://lab/blood@../main",
            "hf://lab/blood@a..b",
            "hf://lab/blood@feature/x",
            "hf://lab%2f..%2fx/blood",
            "hf://lab/blood%00",
            "hf://lab/blood\n",
            "hf://lab/blood?x=1",
            "hf://user:word@lab/blood",
            "hf://lab/blood--x",
            "hf://lab/.hidden",
            "hf://blood",
            "hf:lab/blood",
            "HF://lab/blood",
            "hf://lab/blood#sha256=abc",
            "hf://läb/blood",
            f"hf://lab/{'b' * 97}",
        )
    ),
]
