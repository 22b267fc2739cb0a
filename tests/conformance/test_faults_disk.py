"""Killed at any moment, or out of space: what was whole stays whole, and a run that goes on ends in the same bits."""

import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

import subsense as ss
from networks import TOWERS, draw, make, only, with_sets
from subsense.evaluation.results import Results
from subsense.training.state import save_state
from training_examples import make_loader, make_robust, ordered_loader

KILLS = 20
INPUTS = only(draw(TOWERS), ["left"])


def work(folder: Path) -> ss.RobustModel:
    """Train, save and measure, again and again: most of the time something is being written."""
    robust = make_robust()
    ss.train(
        robust, make_loader(), loss=cross_entropy, epochs=6, folder=folder, resume=True, save_every=1, progress=False
    )
    for _ in range(10):
        ss.save(robust, folder / "robust")
        results = ss.evaluate(robust, ordered_loader(8), metric="accuracy", progress=False)  # intervals draw by place
        results.save(folder / "results.json")
    return robust


def read_all(folder: Path) -> None:
    """Read whatever is there by now; anything that is half written raises."""
    if (folder / "robust" / "manifest.json").exists():
        ss.load(folder / "robust", make_robust().detach())
    if (folder / "results.json").exists():
        Results.load(folder / "results.json")


def kill_once(folder: Path, delay: float) -> bool:
    """Work in another process that dies after so many seconds; say whether it was still at work."""
    process = multiprocessing.get_context("fork").Process(target=work, args=(folder,))
    process.start()
    time.sleep(delay)
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
def test_killed_twenty_times_it_ends_in_the_same_bits(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    start = time.monotonic()
    expected = work(tmp_path / "never stopped")
    duration, chance, killed = time.monotonic() - start, random.Random(0), 0
    folder = tmp_path / "killed"
    while killed < KILLS:
        if not kill_once(folder, chance.uniform(0, duration)):
            (folder / "training.safetensors").unlink()  # it got to the end: begin again, over what is there
        killed += 1
        read_all(folder)
    robust = work(folder)
    for name, parameter in expected.adapter_parameters().items():
        assert robust.adapter_parameters()[name].equal(parameter)
    assert names(folder) == names(tmp_path / "never stopped")
    assert Results.load(folder / "results.json").rows == Results.load(tmp_path / "never stopped" / "results.json").rows


def names(folder: Path) -> list[str]:
    """List the files that count; what a killed process was writing stands beside them under a hidden name."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(str(path) for path in found if not path.name.startswith("."))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True).returncode
    if mounted != 0:
        pytest.skip("a disk of 64 KiB can't be mounted here (needs root)")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a disk as Linux does it")
def test_a_full_disk_leaves_the_older_version(small_disk: Path) -> None:
    robust = with_sets(ss.adapt(make("towers")[0], TOWERS), seed=1)
    ss.save(robust, small_disk / "robust")
    expected = robust(INPUTS)
    (small_disk / "filler").write_bytes(b"x" * (52 << 10))
    large = with_sets(ss.adapt(make("towers")[0], TOWERS, method=["ssf", ss.LoRA(rank=64)]), seed=2)
    with pytest.raises(ss.WriteError, match=r"adapters-\w+\.safetensors: .* could not be written \(No space left"):
        ss.save(large, small_disk / "robust")
    assert ss.load(small_disk / "robust", make("towers")[0])(INPUTS).equal(expected)
    assert len(list((small_disk / "robust").iterdir())) == 2


@pytest.fixture
def small_files() -> Iterator[None]:
    """Let no file grow beyond 4 KiB, which fails as a full disk does, for everybody."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, ignored)


def test_a_file_that_cannot_grow_leaves_the_older_version(tmp_path: Path, small_files: None) -> None:
    save_state(tmp_path, {}, {"step": 1}, {"bank": torch.zeros(8)})
    before = (tmp_path / "training.safetensors").read_bytes()
    with pytest.raises(ss.WriteError, match=r"training\.safetensors: [\d,]+ bytes could not be written"):
        save_state(tmp_path, {}, {"step": 2}, {"bank": torch.zeros(8192)})
    assert (tmp_path / "training.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["training.safetensors"]


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    robust = with_sets(ss.adapt(make("towers")[0], TOWERS))
    with pytest.raises(ss.WriteError, match=r"file/robust: this folder could not be made"):
        ss.save(robust, tmp_path / "file" / "robust")
