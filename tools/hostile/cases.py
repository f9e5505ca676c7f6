"""Kinds of hostile input: each a function of a seeded generator, which writes its files."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, Final

import yaml

from hostile.runner import INPUTS, OUTPUT, Case
from hostile.values import INTEGERS, NAMES, TEXTS, deep, scalar, scratched, spliced, value
from hostile.weights import hostile_weights
from hostile.world import SMALL, World

Kind = Callable[[Random, World, Path], Case]
_TO: Final = ("--output", OUTPUT)
_OURS: Final = ("output", "actions")
"""Options that say where to write: what they name is written, wherever it is."""
_BOMB: Final = "a0: &a0 [x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 12)
)
"""Aliases of YAML that stand for 9 ** 11 values."""
_VARIABLES: Final = (
    *("SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS"),
    *("SLURM_NODEID", "SLURM_NNODES", "SLURM_JOB_ID", "SLURM_JOB_NAME", "SLURM_NODELIST"),
    *("SLURM_NTASKS_PER_NODE", "SLURM_STEP_TASKS_PER_NODE", "TORCHELASTIC_RUN_ID", "WORLD_SIZE"),
    *("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"),
    *("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "PMI_SIZE", "PMI_RANK", "NODE_RANK"),
    *("LONGTAKE_PARENT", "LONGTAKE_PLUGINS", "LONGTAKE_HUB_KERNELS", "CUDA_VISIBLE_DEVICES"),
    *("OMP_NUM_THREADS", "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_USE_AGENT_STORE"),
)


def commands(rng: Random, world: World, folder: Path) -> Case:
    """Return a command line with hostile values of some options."""
    words = ["--model.pipeline", str(world.model), "--data.prompts", "red shape", *_TO]
    for _ in range(rng.choice((1, 1, 2, 4))):
        option = rng.choice([option for option in world.options if option.name not in _OURS])
        name = option.name if rng.random() < 0.9 else option.name + rng.choice((".x", "+", "s"))
        held = value(rng)
        text = held if isinstance(held, str) else json.dumps(held)
        words += [f"--{name}={text}"] if rng.random() < 0.5 else [f"--{name}", text]
    if rng.random() < 0.1:
        words.insert(rng.randrange(len(words)), rng.choice(TEXTS))
    return Case([rng.choice(("predict", "predict", "plan")), *words], {})


def configs(rng: Random, world: World, folder: Path) -> Case:
    """Return a YAML file with hostile values in it."""
    tree: Any = world.config
    for _ in range(rng.choice((1, 1, 2, 5))):
        tree = spliced(rng, tree)
    if isinstance(tree, dict):
        tree = {**tree, "output": OUTPUT}
    file = folder / INPUTS / rng.choice(("c.yaml", "c.yml", "c.json", "c", "c.txt"))
    file.write_bytes(yaml.safe_dump(tree, allow_unicode=True).encode(errors="surrogatepass"))
    return Case([rng.choice(("predict", "predict", "plan")), "--config", str(file), *_TO], {})


def yaml_text(rng: Random, world: World, folder: Path) -> Case:
    """Return a file that is hardly YAML."""
    text = yaml.safe_dump(world.config).encode()
    content = rng.choice(
        (
            *(scratched(rng, text), scratched(rng, text), scratched(rng, text)),
            *(_BOMB.encode(), rng.randbytes(200), b"", b"\xff\xfe" + text, b"a:\n\t- b\n"),
            *(
                b"[" * 5000,
                b"{a: " * 3000,
                b"? " * 2000,
                b"- " * 3000,
                b"&x [*x]",
                b"a: &a {b: *a}",
            ),
            *(b"<<: [1, 2]", b"? {a: 1}\n: 2", b"? [1]\n: 2", b"1: 2", b"null: 1", b"--- a\n--- b"),
            *(b"model: !!python/object/apply:os.system ['touch stray']", b"=: 1", b"a: 2001-99-99"),
            *(
                b"model: {steps: " + b"9" * 5000 + b"}",
                b"data: 2020-01-01",
                b"model: 0x" + b"f" * 99,
            ),
        )
    )
    file = folder / INPUTS / "c.yaml"
    file.write_bytes(content)
    words = ["--config", str(file), "--model.pipeline", str(world.model), *_TO]
    first = rng.random() < 0.1  # before the subcommand
    return Case([*words[:2], "predict", *words[2:]] if first else ["predict", *words], {})


def prompts(rng: Random, world: World, folder: Path) -> Case:
    """Return a file of prompts."""
    ending = rng.choice(("txt", "jsonl"))
    file = folder / INPUTS / f"p.{ending}"
    if ending == "txt" or rng.random() < 0.3:
        file.write_bytes(scratched(rng, world.read(f"prompts.{ending}")))
    else:
        lines = []
        for _ in range(rng.randrange(4)):
            line: Any = {"prompt": "red", "seed": 3, "fps": 8, "start": None, "height": 32}
            line["prompt"] = rng.choice(("red", [{"at": 0, "text": "a"}], value(rng)))
            lines.append(json.dumps(spliced(rng, line)))
        lines.append(rng.choice(('{"prompt": ' + "[" * 5000, '{"prompt": "x"}', "NaN", "1" * 5000)))
        file.write_text("\n".join(lines), errors="surrogatepass")
    return Case(["predict", *SMALL, *_model(world), "--data.prompts", str(file), *_TO], {})


def starts(rng: Random, world: World, folder: Path) -> Case:
    """Return an image or a video to start from."""
    name = rng.choice(
        [*(f"picture.{end}" for end in ("png", "jpg", "webp", "gif", "bmp", "tif")), "video.mp4"]
    )
    other = rng.choice((name, name, "x.png", "x.mp4", "x"))
    file = folder / INPUTS / other
    file.write_bytes(scratched(rng, world.read(name)))
    words = ["--data.start", str(file), *_TO]
    if rng.random() < 0.3:
        words += ["--data.start_frames", str(rng.choice(INTEGERS[:16]))]
    return Case(["predict", *SMALL, *_model(world), *words], {}, makes=rng.random() < 0.3)


def models(rng: Random, world: World, folder: Path) -> Case:
    """Return a model's folder with one file broken, replaced, linked or taken away."""
    copy = folder / INPUTS / "model"
    shutil.copytree(world.model, copy, copy_function=os.link)
    files = sorted(file for file in copy.rglob("*") if file.is_file())
    file = rng.choice(files)
    content = file.read_bytes()
    file.unlink()
    match rng.randrange(10):
        case 0:
            _put_instead(rng, file)
        case 1:
            file.write_bytes(scratched(rng, content))
        case _ if file.suffix == ".safetensors":
            file.write_bytes(hostile_weights(rng, content))
        case _ if file.suffix == ".json":
            tree = json.loads(content)
            for _ in range(rng.choice((1, 1, 3))):
                tree = spliced(rng, tree)
            file.write_text(json.dumps(tree), errors="surrogatepass")
        case _:
            file.write_bytes(scratched(rng, content))
    words = ["--model.pipeline", str(copy), *_TO]
    return Case(["predict", *SMALL, *words], {}, makes=True)


def loras(rng: Random, world: World, folder: Path) -> Case:
    """Return a LoRA, or its settings beside it."""
    place = folder / INPUTS / "lora"
    place.mkdir()
    file = place / rng.choice(("x.safetensors", "adapter_model.safetensors", "x.bin", "x.pt"))
    good = rng.random() < 0.2
    content = world.read("lora.safetensors")
    file.write_bytes(content if good else hostile_weights(rng, content))
    if good or rng.random() < 0.1:
        tree = {"lora_alpha": 4, "r": 4, "alpha_pattern": {"a": 1}, "peft_type": "LORA"}
        (place / "adapter_config.json").write_text(json.dumps(spliced(rng, tree)))
    given = rng.choice((str(place), str(file), json.dumps({"path": str(file), "scale": 0.5})))
    if rng.random() < 0.3:
        given = json.dumps(
            {"path": str(file), rng.choice(NAMES): scalar(rng), "scale": scalar(rng)}
        )
    return Case(["predict", *SMALL, *_model(world), "--model.lora", given, *_TO], {}, makes=True)


def plans(rng: Random, world: World, folder: Path) -> Case:
    """Return a plan file."""
    text = world.read("plan.txt")
    lines = text.split(b"\n")
    for _ in range(rng.choice((1, 2, 5))):
        place = rng.randrange(len(lines))
        match rng.randrange(4):
            case 0:
                del lines[place : place + rng.choice((1, 1, 5))]
            case 1:
                lines.insert(place, lines[rng.randrange(len(lines))])
            case 2:
                words = lines[place].split(b" ")
                words[rng.randrange(len(words))] = str(scalar(rng)).encode(errors="replace")[:400]
                lines[place] = b" ".join(words)
            case _:
                lines[place] = scratched(rng, lines[place])
        lines = lines or [b""]
    file = folder / INPUTS / "plan.txt"
    file.write_bytes(b"\n".join(lines))
    makes = rng.random() < 0.5
    return Case(["predict", *SMALL, *_model(world), "--plan", str(file), *_TO], {}, makes=makes)


def launchers(rng: Random, world: World, folder: Path) -> Case:
    """Return variables of launchers that say nothing sensible."""
    names = rng.sample(_VARIABLES, rng.choice((1, 2, 4, 8)))
    texts = [text for text in TEXTS if "\0" not in text]
    good = ("0", "1", "2", "localhost", "bash")
    chosen = {
        name: rng.choice((rng.choice(texts), str(rng.choice(INTEGERS[:16])))) for name in names
    }
    for name in rng.sample(_VARIABLES, 6):
        chosen.setdefault(name, rng.choice(good))
    words = ["--trainer.devices", rng.choice(("1", "2"))]
    return Case(["predict", *SMALL, *_model(world), *words, *_TO], chosen)


def checkpoints(rng: Random, world: World, folder: Path) -> Case:
    """Return a pickle to convert."""
    file = folder / INPUTS / rng.choice(("x.pt", "x.bin", "x.ckpt", "x"))
    run = b"cos\nsystem\n(S'touch stray'\ntR."
    file.write_bytes(
        rng.choice((scratched(rng, world.read("checkpoint.pt")), run, b"\x80\x04" + run))
    )
    return Case(["convert", str(file), "--output", f"{INPUTS}/x.safetensors"], {}, makes=True)


def _model(world: World) -> tuple[str, str]:
    return "--model.pipeline", str(world.model)


def _put_instead(rng: Random, file: Path) -> None:
    """Put something in place of a file that is none, or nothing."""
    match rng.randrange(6):
        case 0:
            file.symlink_to(file)
        case 1:
            file.symlink_to("/dev/zero")
        case 2:
            os.mkfifo(file)
        case 3:
            file.mkdir()
        case 4:
            file.write_text(json.dumps(deep(rng)))
        case _:
            pass


KINDS: Final[dict[str, Kind]] = {
    "command lines": commands,
    "configs": configs,
    "yaml text": yaml_text,
    "prompt files": prompts,
    "start files": starts,
    "model folders": models,
    "loras": loras,
    "plan files": plans,
    "launchers": launchers,
    "checkpoints": checkpoints,
}
