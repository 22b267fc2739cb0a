"""What an earlier version wrote is read: adapter sets, a run's state, results."""

import json
from pathlib import Path

import pytest
import torch

import subsense as ss
from kept_files import KEPT, SPEC, VERSIONS, Kept, adapted, fit, only


@pytest.mark.parametrize("version", VERSIONS)
def test_adapter_sets_give_the_numbers_that_they_gave(version: str) -> None:
    robust = ss.load(KEPT / version / "adapters", Kept(), modalities=SPEC).eval()
    outputs = json.loads((KEPT / version / "outputs.json").read_text())
    assert sorted(outputs) == sorted(map(str, robust.combinations))
    for combination in robust.combinations:
        expected = torch.tensor(outputs[str(combination)])
        assert torch.allclose(robust(only(combination)), expected, atol=1e-5)
        assert not torch.allclose(robust.pretrained(only(combination)), expected, atol=1e-2)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_run_goes_on(version: str, tmp_path: Path) -> None:
    state = (KEPT / version / "run" / "training.safetensors").read_bytes()
    (tmp_path / "training.safetensors").write_bytes(state)
    report = fit(adapted(), tmp_path, resume=True)
    assert [epoch.epoch for epoch in report.history] == [1, 2]
    assert report.steps == 4


@pytest.mark.parametrize("version", VERSIONS)
def test_results_are_read(version: str) -> None:
    results = ss.Results.load(KEPT / version / "results.json")
    assert [row.combination for row in results.rows] == ["left", "right", "left+right"]
    assert "network   Kept, 131 parameters" in str(results)
