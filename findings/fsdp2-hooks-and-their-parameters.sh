#!/usr/bin/env bash
# Hooks under FSDP2: what they see goes by when they were registered, and what they train is not reduced over the ranks.
#
# Expected   a forward hook sees the layer's weight as its forward did; a trainable parameter put on a sharded module is
#            kept equal on all ranks.
# Found      registered before fully_shard(layer), a forward hook sees the whole Parameter; registered after, it runs
#            after the layer was resharded and sees a DTensor, which plain tensors can't be combined with. A pre-hook
#            with prepend=True sees the shards. Where a block around the layer is sharded instead, hooks on the inner
#            layer see whole weights either way. A Parameter that a hook uses, even registered on the sharded module
#            after fully_shard, gets the gradient of its own rank's rows: no error, and the ranks train different
#            adapters.
# With       torch 2.13.0, two processes, gloo on CPU; 2026-11-27
# Matters    adapters on large frozen networks: two ranks that end with two sets of adapters, of which one is saved.
# Source     torch/distributed/fsdp/_fully_shard/_fsdp_state.py registers its own hooks (the pre-hook in front, the
#            other behind) when fully_shard is called, over the parameters of that moment.
# subsense   refuses sharded networks. If FSDP2 is served one day: register before sharding, and reduce the banks'
#            gradients oneself.

set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check "torch==2.13.0" "numpy==2.4.6"
cd "$dir"
cat > ranks.py <<'PY'
import os
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.fsdp import fully_shard


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Sequential(nn.Linear(4, 4)), nn.Sequential(nn.Linear(4, 4)))


def look(seen, name):
    return lambda module, *_: seen.update({name: type(module.weight).__name__})


def watched(by_layer, x):
    seen, model = {}, network()
    layer = model[0][0]
    layer.register_forward_hook(look(seen, "hook registered before"))
    for block in model:
        fully_shard(block[0] if by_layer else block)
    fully_shard(model)
    layer.register_forward_hook(look(seen, "hook registered after"))
    layer.register_forward_pre_hook(look(seen, "pre-hook registered after"))
    layer.register_forward_pre_hook(look(seen, "pre-hook with prepend=True"), prepend=True)
    model(x)
    return seen


def equal_on_ranks(x):
    model = network()
    for block in model:
        fully_shard(block)
    fully_shard(model)
    layer = model[0][0]
    layer.register_parameter("gain", nn.Parameter(torch.ones(4)))
    layer.register_forward_hook(lambda module, inputs, output: output * module.gain)
    model(x).sum().backward()
    grads = [torch.zeros(4) for _ in range(2)]
    dist.all_gather(grads, layer.gain.grad)
    return torch.equal(*grads)


def work(rank, file):
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    torch.manual_seed(rank)
    x = torch.randn(3, 4)
    by_layer, by_block, equal = watched(True, x), watched(False, x), equal_on_ranks(x)
    if rank == 0:
        for name in by_layer:
            print(f"{name:28} layer sharded: {by_layer[name]:10} block sharded: {by_block[name]}")
        print("gradients of the hook's parameter equal on both ranks:", equal)
    assert by_layer == {
        "hook registered before": "Parameter",
        "hook registered after": "DTensor",
        "pre-hook registered after": "Parameter",
        "pre-hook with prepend=True": "DTensor",
    }
    assert set(by_block.values()) == {"Parameter"}
    assert not equal
    dist.destroy_process_group()


if __name__ == "__main__":
    print("torch", torch.__version__)
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(work, (os.path.join(folder, "ranks"),), 2)
PY
"$dir/venv/bin/python" -W ignore ranks.py
