import torch
from sklearn.datasets import load_digits

from subsense.data.digits import digits


def test_counts_and_stratification():
    data = digits()
    assert (len(data.train), len(data.test)) == (1347, 450)
    share = data.train.targets.bincount() / (data.train.targets.bincount() + data.test.targets.bincount())
    assert ((share - 0.75).abs() < 0.005).all()


def test_the_four_quadrants_make_the_image_up():
    for samples in (data := digits()).train, data.test:
        rows = [int(group) for group in samples.groups]
        top = torch.cat([samples.inputs["nw"], samples.inputs["ne"]], dim=3)
        bottom = torch.cat([samples.inputs["sw"], samples.inputs["se"]], dim=3)
        images = torch.cat([top, bottom], dim=2).squeeze(1) * 16
        assert torch.equal(images, torch.from_numpy(load_digits().images[rows]).float())
        assert samples.targets.tolist() == load_digits().target[rows].tolist()


def test_the_seed_draws_the_split():
    assert digits(seed=1).test.groups != digits(seed=0).test.groups
    assert digits(seed=1).test.groups == digits(seed=1).test.groups
