import numpy as np
import pytest
import torch

from subsense.data.utd_mhad import utd_mhad
from subsense.errors import DataError


@pytest.fixture
def arrays():
    """Give six clips of subjects 1, 2, 3, 4, 1, 2, with the shapes of the real file."""
    draw = np.random.default_rng(0)
    return {
        "skeleton": draw.normal(size=(6, 50, 60)).astype(np.float32),
        "inertial": draw.normal(size=(6, 100, 6)).astype(np.float32),
        "depth_motion": draw.uniform(0, 1e4, size=(6, 3, 60, 80)).astype(np.float32),
        "action": np.arange(6, dtype=np.int16),
        "subject": np.array([1, 2, 3, 4, 1, 2], dtype=np.int16),
    }


@pytest.fixture
def write(tmp_path):
    def write_arrays(arrays):
        (tmp_path / "utd_mhad").mkdir(exist_ok=True)
        np.savez_compressed(tmp_path / "utd_mhad" / "utd_mhad.npz", **arrays)
        return tmp_path

    return write_arrays


def test_counts_and_subjects_of_the_real_data(shared):
    data = utd_mhad(shared / "data")
    assert (len(data.train), len(data.test), data.num_classes) == (431, 430, 27)
    assert set(data.train.groups) == {f"subject {number}" for number in (1, 3, 5, 7)}
    assert set(data.test.groups) == {f"subject {number}" for number in (2, 4, 6, 8)}


def test_odd_subjects_train(arrays, write):
    data = utd_mhad(write(arrays))
    assert data.train.targets.tolist() == [0, 2, 4]
    assert data.test.targets.tolist() == [1, 3, 5]


def test_standardisation_never_sees_the_test_subjects(arrays, write):
    before = utd_mhad(write(arrays)).train
    for name in ("skeleton", "inertial", "depth_motion"):
        arrays[name][arrays["subject"] % 2 == 0] *= 100
    after = utd_mhad(write(arrays)).train
    assert all(torch.equal(before.inputs[name], after.inputs[name]) for name in before.inputs)
    torch.testing.assert_close(before.inputs["skeleton"].mean((0, 1)), torch.zeros(60), atol=1e-5, rtol=0)
    torch.testing.assert_close(before.inputs["depth"].std((0, 2, 3)), torch.ones(3), atol=1e-4, rtol=0)


def test_accelerometer_is_the_first_half_of_the_inertial_sensor(arrays, write):
    before = utd_mhad(write(arrays)).train.inputs
    arrays["inertial"][:, :, 3:] = 0
    after = utd_mhad(write(arrays)).train.inputs
    assert torch.equal(before["accelerometer"], after["accelerometer"])
    assert not after["gyroscope"].any()


def test_absent_array_is_named(arrays, write):
    del arrays["skeleton"]
    with pytest.raises(DataError, match=r"utd-mhad: cannot read .*skeleton"):
        utd_mhad(write(arrays))


def test_wrong_shape_is_named(arrays, write):
    arrays["inertial"] = arrays["inertial"][:, :50]
    with pytest.raises(DataError, match=r"expected inertial of shape \(6, 100, 6\), but got \(6, 50, 6\)"):
        utd_mhad(write(arrays))


def _truncate(content):
    return content[:1000]


def _damage(content):
    return content[:100] + b"\xff" * 2000 + content[2100:]


def _replace(content):
    return b"an error page"


def _empty(content):
    return b""


@pytest.mark.parametrize("harm", [_truncate, _damage, _replace, _empty])
def test_harmed_file_is_refused(harm, arrays, write):
    path = write(arrays) / "utd_mhad" / "utd_mhad.npz"
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(DataError, match=r"utd-mhad: cannot read .*utd_mhad\.npz"):
        utd_mhad(path.parent.parent)
