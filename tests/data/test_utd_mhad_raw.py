import numpy as np
import pytest
import torch
from scipy.io import savemat

from subsense.data.utd_mhad_raw import depth_motion, resample, utd_mhad_raw
from subsense.errors import DataError

CLIPS = [(1, 1, 1), (2, 2, 1), (27, 3, 4)]


@pytest.fixture
def root(tmp_path):
    """Write three clips of subjects 1, 2 and 3 in the published layout."""
    draw = np.random.default_rng(0)
    for number, (action, subject, trial) in enumerate(CLIPS):
        arrays = {
            "Depth": {"d_depth": draw.integers(0, 4000, (240, 320, 6 + number), dtype=np.uint16)},
            "Skeleton": {"d_skel": draw.normal(size=(20, 3, 6 + number))},
            "Inertial": {"d_iner": draw.normal(size=(16 + number, 6))},
        }
        for sensor, content in arrays.items():
            path = tmp_path / "utd_mhad/raw" / sensor / f"a{action}_s{subject}_t{trial}_{sensor.lower()}.mat"
            path.parent.mkdir(parents=True, exist_ok=True)
            savemat(path, content)
    return tmp_path


def test_reads_the_published_layout(root):
    data = utd_mhad_raw(root, complete=False)
    assert (data.name, data.num_classes) == ("utd-mhad-raw", 27)
    assert data.train.targets.tolist() == [0, 26]
    assert data.train.groups == ("subject 1", "subject 3")
    assert data.test.targets.tolist() == [1]
    shapes = {name: tuple(tensor.shape[1:]) for name, tensor in data.train.inputs.items()}
    assert shapes == {"skeleton": (50, 60), "accelerometer": (100, 3), "gyroscope": (100, 3), "depth": (3, 60, 80)}


def test_agrees_with_the_resampled_archive(shared, monkeypatch):
    """The archive's own preprocessing was not recorded; on the raw clips at hand it is this one."""
    archive = np.load(shared / "data/utd_mhad/utd_mhad.npz")
    found = {}
    monkeypatch.setattr(
        "subsense.data.utd_mhad_raw.utd_mhad.make", lambda description, arrays, *_: found.update(arrays)
    )
    utd_mhad_raw(shared / "data", complete=False)
    assert len(found["action"]) == 8
    trial = [1, 2] * 4
    for row in range(8):
        same = (archive["action"] == found["action"][row].item()) & (archive["trial"] == trial[row])
        [place] = np.flatnonzero(same & (archive["subject"] == found["subject"][row].item()))
        assert np.array_equal(found["depth_motion"][row], archive["depth_motion"][place])
        np.testing.assert_allclose(found["skeleton"][row], archive["skeleton"][place], atol=2e-7)
        np.testing.assert_allclose(found["inertial"][row], archive["inertial"][place], atol=2e-5)


def test_fewer_clips_than_published_have_to_be_wanted(root):
    with pytest.raises(DataError, match=r"expected 861 clips, but found 3\. Pass complete=False"):
        utd_mhad_raw(root)


def test_without_a_subject_to_test_on_there_is_no_split(root):
    for path in (root / "utd_mhad/raw").glob("*/a2_s2_t1_*.mat"):
        path.unlink()
    with pytest.raises(DataError, match="expected clips of odd subjects, who train, and of even ones"):
        utd_mhad_raw(root, complete=False)


@pytest.mark.parametrize("file", ["Depth/a2_s2_t1_depth.mat", "Inertial/a27_s3_t4_inertial.mat"])
def test_a_missing_file_is_named(root, file):
    (root / "utd_mhad/raw" / file).unlink()
    with pytest.raises(DataError, match=rf"expected the file .*utd_mhad/raw/{file}, but there is none.*utdallas"):
        utd_mhad_raw(root, complete=False)


def test_a_file_of_another_kind_is_named(root):
    path = root / "utd_mhad/raw/Skeleton/a2_s2_t1_skeleton.mat"
    savemat(path, {"d_skel": np.zeros((25, 3, 6))})
    with pytest.raises(DataError, match=r"a2_s2_t1_skeleton\.mat: expected d_skel of shape \(20, 3, time\)"):
        utd_mhad_raw(root, complete=False)
    savemat(path, {"skel": np.zeros((20, 3, 6))})
    with pytest.raises(DataError, match="expected an array 'd_skel', but there is none"):
        utd_mhad_raw(root, complete=False)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match=r"cannot read .*a2_s2_t1_skeleton\.mat"):
        utd_mhad_raw(root, complete=False)


def test_resampling_is_scipys():
    from scipy.interpolate import interp1d

    signal = np.random.default_rng(0).normal(size=(23, 4))
    expected = interp1d(np.linspace(0, 1, 23), signal, axis=0)(np.linspace(0, 1, 50))
    np.testing.assert_allclose(resample(signal, 50), expected, atol=1e-6)


def test_motion_is_where_and_when_something_moves():
    frames = np.zeros((7, 8, 8))
    frames[3:, :4, 4:] = 5.0  # one block jumps once, in the second third
    maps = torch.from_numpy(depth_motion(frames))
    assert maps.nonzero().tolist() == [[1, 0, 1]]
    assert maps[1, 0, 1] == 5


def test_a_clip_may_lack_a_sensor(root):
    (lost,) = (root / "utd_mhad/raw/Inertial").glob("*_s1_*")
    whole = utd_mhad_raw(root, complete=False)
    lost.unlink()
    data = utd_mhad_raw(root, complete=False, missing="present")
    assert data.notes == ("train: 1 of 2 samples lack inertial.",)
    row = data.train.groups.index("subject 1")
    assert list(data.train[row][0]) == ["skeleton", "depth"]
    assert torch.equal(data.train[row][0]["depth"], whole.train[row][0]["depth"])
    other = data.train[1 - row][0]["gyroscope"]
    torch.testing.assert_close(other.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    for path in (root / "utd_mhad/raw/Inertial").glob("*_s3_*"):
        path.unlink()
    with pytest.raises(DataError, match="expected training samples that have each modality"):
        utd_mhad_raw(root, complete=False, missing="present")
