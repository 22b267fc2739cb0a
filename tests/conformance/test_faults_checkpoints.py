"""A thousand checkpoints with something wrong: refused by a clear error or read as they were, and always harmless."""

import json
import os
import random
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import nn

import subsense as ss
from networks import TOWERS, draw, make, snapshot, with_sets
from subsense.model.manifest import seal
from subsense.support.files import checksum_of_bytes

MUTATIONS = 1000
MORE_MEMORY = 200 << 20
INPUTS = draw(TOWERS)


def save_towers(folder: Path) -> nn.Module:
    robust = with_sets(ss.adapt(make("towers")[0], TOWERS, method=["ssf", "lora"], fill="learned"))
    ss.save(robust, folder)
    return make("towers")[0]


def files(folder: Path) -> tuple[Path, Path]:
    (tensors,) = folder.glob("*.safetensors")
    return folder / "manifest.json", tensors


def tell(folder: Path, network: nn.Module) -> list[Any]:
    """Load, and give all that there is to see of the model; detach it again."""
    robust = ss.load(folder, network)
    with torch.no_grad():
        outputs = [robust({name: INPUTS[name] for name in one}).tolist() for one in robust.combinations]
    told = [outputs, robust.router.untrained, robust.trained, robust.fill.kinds, robust.sharing, robust.call.spec]
    robust.detach()
    return told


# What happens to files by accident


def truncated(path: Path, chance: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: chance.randrange(len(data))])


def flipped(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(chance.choice((1, 1, 2, 8))):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def overwritten(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    start = chance.randrange(len(data))
    end = min(len(data), start + chance.randrange(1, 64))
    data[start:end] = chance.randbytes(end - start)
    path.write_bytes(data)


def grown(path: Path, chance: random.Random) -> None:
    path.write_bytes(path.read_bytes() + chance.randbytes(chance.randrange(1, 64)))


def moved(path: Path, chance: random.Random) -> None:
    data = path.read_bytes()
    cut = chance.randrange(1, len(data))
    path.write_bytes(data[cut:] + data[:cut])


ACCIDENTS = (truncated, flipped, overwritten, grown, moved)

# What somebody does on purpose, who makes every checksum fit


def reseal(folder: Path, **entries: Any) -> None:
    manifest, _ = files(folder)
    data = {**json.loads(manifest.read_text()), **entries}
    data.pop("checksum", None)
    manifest.write_bytes(seal(data))


def with_value(folder: Path, chance: random.Random) -> None:
    """Put junk in place of one value somewhere in the manifest."""
    manifest, _ = files(folder)
    data = json.loads(manifest.read_text())
    *above, last = chance.choice(list(places(data)))
    group = data
    for key in above:
        group = group[key]
    group[last] = chance.choice(JUNK)
    reseal(folder, **data)


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    entries = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in entries:
        if (*path, key) != ("checksum",):
            yield (*path, key)
            yield from places(value, (*path, key))


def with_tensors(change: Callable[[dict[str, Any], random.Random], None]) -> Callable[[Path, random.Random], None]:
    def apply(folder: Path, chance: random.Random) -> None:
        _, path = files(folder)
        tensors = load_file(path)
        change(tensors, chance)
        put_tensors(folder, to_bytes({name: tensor.contiguous() for name, tensor in tensors.items()}))

    return apply


def put_tensors(folder: Path, data: bytes) -> None:
    files(folder)[1].unlink()
    name = f"adapters-{checksum_of_bytes(data)}.safetensors"
    (folder / name).write_bytes(data)
    reseal(folder, tensors=name)


def swap(tensors: dict[str, Any], chance: random.Random) -> None:
    one, other = chance.sample([name for name in tensors if tensors[name].shape != tensors["head:ssf:scale"].shape], 2)
    if tensors[one].shape == tensors[other].shape:
        del tensors[one]
    else:
        tensors[one], tensors[other] = tensors[other], tensors[one]


def cast(tensors: dict[str, Any], chance: random.Random) -> None:
    name = chance.choice(list(tensors))
    tensors[name] = tensors[name].to(chance.choice((torch.float64, torch.float16, torch.bfloat16, torch.int64)))


def reshape(tensors: dict[str, Any], chance: random.Random) -> None:
    name = chance.choice(list(tensors))
    tensors[name] = chance.choice((tensors[name].flatten(), tensors[name][None], tensors[name][:0]))


def huge_header(folder: Path, chance: random.Random) -> None:
    put_tensors(folder, chance.randrange(1 << 24, 1 << 62).to_bytes(8, "little") + b"{}" * chance.randrange(100))


def huge_file(folder: Path, chance: random.Random) -> None:
    _, path = files(folder)
    os.truncate(path, chance.randrange(1 << 30, 1 << 36))  # sparse: takes no space


def huge_manifest(folder: Path, chance: random.Random) -> None:
    os.truncate(files(folder)[0], chance.randrange(1 << 30, 1 << 36))


def huge_declaration(folder: Path, chance: random.Random) -> None:
    size = chance.randrange(1 << 30, 1 << 40)
    reseal(folder, modalities={"left": f"{size} {size}", "right": str(size)})


def huge_rank(folder: Path, chance: random.Random) -> None:
    reseal(folder, method=[{"name": "ssf"}, {"name": "lora", "rank": chance.randrange(1 << 30, 1 << 60), "alpha": 1.0}])


def nested(folder: Path, chance: random.Random) -> None:
    depth = chance.randrange(10_000, 100_000)
    files(folder)[0].write_text(chance.choice(('{"a":', "[")) * depth)


def doubled(folder: Path, chance: random.Random) -> None:
    manifest, _ = files(folder)
    key, value = chance.choice(list(json.loads(manifest.read_text()).items()))
    text = manifest.read_text().rstrip().removesuffix("}")
    manifest.write_text(f"{text}, {json.dumps(key)}: {json.dumps(value)}}}")


def elsewhere(folder: Path, chance: random.Random) -> None:
    outside = folder.parent / "outside.safetensors"
    names = (
        "../outside.safetensors",
        str(outside),
        "/etc/passwd",
        "a/../../outside.safetensors",
        "..",
        "",
        "/dev/zero",
    )
    reseal(folder, tensors=chance.choice(names))


def linked(folder: Path, chance: random.Random) -> None:
    path = chance.choice(files(folder))
    target = folder.parent / path.name
    target.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(chance.choice((target, Path("/dev/zero"), Path("/etc/passwd"), folder)))


PURPOSES: tuple[Callable[[Path, random.Random], None], ...] = (
    with_value, with_value, with_value, with_value, with_tensors(swap), with_tensors(cast), with_tensors(reshape),
    huge_header, huge_file, huge_manifest, huge_declaration, huge_rank, nested, doubled, elsewhere, linked,
)  # fmt: skip
JUNK: tuple[Any, ...] = (
    None, True, -1, 0, 10**30, 1e300, float("nan"), "", "..", "/etc/passwd", "left+right", "x" * 1000, "\0", "é", [],
    {}, [[]], [None], {"a": {}}, ["left", "left"], "__import__('os').system('true')", "os:system", "left:0", "9" * 40,
)  # fmt: skip


@contextmanager
def watched(folder: Path) -> Iterator[list[str]]:
    """Take down what a load does that it must not: write, start something, compile code."""
    done: list[str] = []
    active = True

    def watch(event: str, args: tuple[Any, ...]) -> None:
        if not active:
            return
        writes = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")
        if writes or event in FORBIDDEN or event.startswith(("os.exec", "os.spawn", "os.posix_spawn", "pickle.")):
            done.append(f"{event} {args}")
        elif event == "open" and isinstance(args[0], str | bytes) and b"passwd" in os.fsencode(args[0]):
            done.append(f"reads outside: {args[0]!r}")

    sys.addaudithook(watch)
    try:
        yield done
    finally:
        active = False


FORBIDDEN = {"exec", "compile", "os.system", "subprocess.Popen", "os.remove", "os.rename", "os.mkdir", "os.truncate",
             "os.symlink", "os.link", "os.chmod", "shutil.rmtree", "socket.connect"}  # fmt: skip


def run_mutations(root: Path, count: int, seed: int) -> dict[str, int]:
    """Load mutated checkpoints; say how many were refused and how many read as they were."""
    original, folder = root / "original", root / "mutated" / "checkpoint"
    network = save_towers(original)
    expected, before, chance = tell(original, network), snapshot(network), random.Random(seed)
    counts = {"refused": 0, "the same": 0, "another": 0}
    limit_memory()
    for number in range(count):
        remake(original, folder)
        purpose = mutate(folder, chance)
        with watched(folder) as done:
            outcome = load_one(folder, network, expected, purpose, number)
        assert not done, f"mutation {number}: {done}"
        assert snapshot(network) == before, f"mutation {number}: the network has changed"
        counts[outcome] += 1
    return counts


def limit_memory() -> None:
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MORE_MEMORY, resource.RLIM_INFINITY))


def remake(original: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    for path in original.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())


def mutate(folder: Path, chance: random.Random) -> bool:
    """Change something; say whether on purpose, with every checksum made to fit."""
    if purpose := chance.random() < 0.5:
        chance.choice(PURPOSES)(folder, chance)
    else:
        chance.choice(ACCIDENTS)(chance.choice(files(folder)), chance)
    return purpose


def load_one(folder: Path, network: nn.Module, expected: list[Any], purpose: bool, number: int) -> str:
    try:
        told = tell(folder, network)
    except ss.SubsenseError as error:
        if len(str(error)) < 20:
            raise AssertionError(f"mutation {number}: {error!r} says nothing") from error
        return "refused"
    assert told == expected or purpose, f"mutation {number}: an accident was read as something else"
    return "the same" if told == expected else "another"


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is limited as Linux does it")
@pytest.mark.parametrize("count", [100, pytest.param(MUTATIONS, marks=pytest.mark.slow)])
def test_mutated_checkpoints_are_refused_or_read_as_they_were(tmp_path: Path, count: int) -> None:
    code = (
        f"import sys; sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1])]!r}\n"
        "from pathlib import Path; import test_faults_checkpoints as faults\n"
        f"print(faults.run_mutations(Path({str(tmp_path)!r}), {count}, seed={count}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mutated", "original"]
    print(done.stdout)


@pytest.mark.parametrize(
    "mutation", [elsewhere, linked, huge_file, huge_manifest, huge_header, huge_rank, nested, doubled]
)
def test_a_hostile_checkpoint_is_refused(tmp_path: Path, mutation: Callable[[Path, random.Random], None]) -> None:
    folder = tmp_path / "checkpoint"
    network = save_towers(folder)
    mutation(folder, random.Random(0))
    with pytest.raises(ss.CheckpointError, match=str(tmp_path)):
        ss.load(folder, network)


@pytest.mark.parametrize("which", [0, 1])
def test_a_link_that_leads_out_of_the_folder_is_refused(tmp_path: Path, which: int) -> None:
    folder = tmp_path / "checkpoint"
    network = save_towers(folder)
    path = files(folder)[which]
    outside = path.rename(tmp_path / path.name)
    path.symlink_to(outside)
    with pytest.raises(ss.CheckpointError, match=f"a link to {outside}, outside the folder; put the file itself there"):
        ss.load(folder, network)
