"""Fingerprints are a public hash of what stands in the network, whatever its layout in memory."""

from collections.abc import Callable
from hashlib import blake2b
from typing import Any

import pytest
import torch
import xxhash
from torch import Tensor, nn

from subsense.model.fingerprint import fingerprint

TENSORS = {
    "image": torch.arange(24.0).view(1, 2, 3, 4),
    "halves": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "count": torch.tensor(7),
    "flags": torch.tensor([True, False, True]),
    "nothing": torch.zeros(0, 3),
    "doubles": torch.tensor([0.1], dtype=torch.float64),
}
KINDS = {"xxh3:": xxhash.xxh3_128, "": lambda data: blake2b(data, digest_size=16)}


class Holder(nn.Module):
    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_a_hash_of_names_shapes_dtypes_and_bytes(kind: str) -> None:
    told = b"".join(
        f"{name}:{tuple(tensor.shape)}:{tensor.dtype}".encode() + bytes(tensor.untyped_storage())
        for name, tensor in TENSORS.items()
    )
    digest: Any = KINDS[kind](told)
    assert fingerprint(Holder(TENSORS), like=kind) == kind + digest.hexdigest()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [name for name, tensor in TENSORS.items() if tensor.numel()])
def test_it_sees_every_byte(kind: str, name: str) -> None:
    before = fingerprint(Holder(TENSORS), kind)
    data = TENSORS[name].contiguous().flatten().view(torch.uint8)
    for place in range(len(data)):
        changed = data.clone()
        changed[place] ^= 1
        other = changed.view(TENSORS[name].dtype).view(TENSORS[name].shape)
        assert fingerprint(Holder(TENSORS | {name: other}), kind) != before


CHANGES: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {
    "another name": lambda held: {("picture" if name == "image" else name): held[name] for name in held},
    "another shape": lambda held: held | {"image": held["image"].view(2, 1, 3, 4)},
    "another dtype": lambda held: held | {"image": held["image"].view(torch.int32)},
    "one less": lambda held: {name: held[name] for name in held if name != "nothing"},
}


@pytest.mark.parametrize("change", CHANGES)
def test_it_sees_more_than_bytes(change: str) -> None:
    assert fingerprint(Holder(CHANGES[change](TENSORS))) != fingerprint(Holder(TENSORS))


def test_layout_in_memory_does_not_matter() -> None:
    strided = {
        "image": TENSORS["image"].contiguous(memory_format=torch.channels_last),
        "halves": torch.stack([TENSORS["halves"], TENSORS["halves"]], 1)[:, 0],
    }
    assert not any(tensor.is_contiguous() for tensor in strided.values())
    assert fingerprint(Holder(TENSORS | strided)) == fingerprint(Holder(TENSORS))


def test_an_unknown_algorithm_is_refused() -> None:
    with pytest.raises(ValueError, match="the fingerprint 'md5:00' is made by 'md5', which isn't known"):
        fingerprint(Holder({}), like="md5:00")
