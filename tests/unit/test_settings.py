"""Where files are kept."""

from pathlib import Path

import pytest

from cellfm.errors import ConfigError
from cellfm.settings import HUB, cache_dir, hub_endpoint, hub_takes_token, offline


def test_variable_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CELLFM_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path


@pytest.mark.parametrize(
    ("platform", "expected"),
    [
        ("linux", "home/.cache/cellfm"),
        ("darwin", "home/Library/Caches/cellfm"),
        ("win32", "home/.cache/cellfm"),
    ],
)
def test_platform_defaults(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, platform: str, expected: str
) -> None:
    for variable in ("CELLFM_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    assert cache_dir() == tmp_path / expected


def test_freedesktop_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CELLFM_CACHE", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "cellfm"


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for variable in ("CELLFM_HUB", "HF_ENDPOINT", "CELLFM_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("ours", "theirs", "expected", "token"),
    [
        ("", "", HUB, True),
        ("", "https://mirror.example/", "https://mirror.example", True),
        ("https://mirror.example", "", "https://mirror.example", False),
        ("https://mirror.example/hf/", "https://other.example", "https://mirror.example/hf", False),
        (HUB, "https://mirror.example", HUB, True),
        ("https://mirror.example", "https://mirror.example/", "https://mirror.example", True),
        ("", "http://mirror.example", "http://mirror.example", False),
        ("", "http://127.0.0.1:8000", "http://127.0.0.1:8000", True),
    ],
)
def test_hub(
    no_hub: pytest.MonkeyPatch, ours: str, theirs: str, expected: str, *, token: bool
) -> None:
    no_hub.setenv("CELLFM_HUB", ours)
    no_hub.setenv("HF_ENDPOINT", theirs)
    assert hub_endpoint() == expected
    assert hub_takes_token() is token


def test_what_is_no_hub(no_hub: pytest.MonkeyPatch) -> None:
    no_hub.setenv("HF_ENDPOINT", "mirror.example")
    with pytest.raises(ConfigError, match="HF_ENDPOINT is no address of a hub"):
        hub_endpoint()


@pytest.mark.parametrize(
    ("word", "expected"), [("1", True), ("Yes", True), ("0", False), ("", False)]
)
def test_offline(no_hub: pytest.MonkeyPatch, word: str, *, expected: bool) -> None:
    assert not offline()
    for variable in ("CELLFM_OFFLINE", "HF_HUB_OFFLINE"):
        no_hub.setenv(variable, word)
        assert offline() is expected
        no_hub.delenv(variable)
