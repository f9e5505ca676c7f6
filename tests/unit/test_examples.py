"""The examples keep the contracts that they are examples of."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, final

import pytest
import torch
from diffusers import ClassifierFreeZeroStarGuidance
from einops import rearrange
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from longtake import guidance as guidance_module
from longtake.api import load_module
from longtake.guidance import (
    CONDITIONAL,
    UNCONDITIONAL,
    Guidance,
    GuidanceSettings,
    GuidedStep,
)
from longtake.models import (
    AnyBackbone,
    AnyDecoder,
    AttentionKernel,
    BackboneSpec,
    ModelFolder,
    Placement,
    PromptStates,
    Sampler,
    SamplerSettings,
    family_of,
    open_folder,
)
from longtake.noise import NoiseInit, NoiseSource
from longtake.reuse import AccumulatedChange, FirstBlockCache, LayerReuse, ReuseStep
from longtake.schedulers import FifoQueue
from longtake.strategies import ParallelStrategy
from longtake.testing.contracts import (
    AttentionKernelContract,
    BackboneContract,
    GuidanceContract,
    LayerReuseContract,
    NoiseInitContract,
    ParallelStrategyContract,
    SamplerContract,
    VideoDecoderContract,
)
from longtake.testing.contracts.samplers import STEPS

EXAMPLES = Path(__file__).parents[2] / "examples"
CPU = torch.device("cpu")
PLACE = Placement(CPU, torch.float32)


# Under the names by which runs import them: loaded twice, a plug-in would be registered twice.
sys.path.insert(0, str(EXAMPLES))
sketch_dit = import_module("sketch_dit")
plug_in = import_module("plug_in_backbone")
subclass_strategy = import_module("subclass_strategy")
own_sampler = import_module("own_sampler")
own_noise = import_module("own_noise")
own_guidance = import_module("own_guidance")
own_attention = import_module("own_attention")
own_reuse = import_module("own_reuse")


@pytest.fixture(scope="module")
def sketch(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    path = tmp_path_factory.mktemp("models") / "sketch"
    sketch_dit.save_random(path)
    return open_folder(str(path))


class OnSketch:
    """Gives a contract suite the example's folder."""

    family = plug_in.SketchFamily()

    @pytest.fixture(autouse=True)
    def _folder(self, sketch: ModelFolder) -> None:
        self.folder = sketch

    def spec(self) -> BackboneSpec:
        spec: BackboneSpec = self.family.spec(self.folder)
        return spec


class TestSketchBackbone(OnSketch, BackboneContract):
    def load(self, layers: Collection[int] | None = None) -> AnyBackbone:
        backbone: AnyBackbone = self.family.load_backbone(
            self.folder,
            self.spec(),
            range(self.spec().layers) if layers is None else layers,
            PLACE,
        )
        return backbone

    def prompts(self) -> PromptStates:
        prompts: PromptStates = self.family.encode_text(
            self.folder, ["a bird", "noise in the south"], PLACE
        )
        return prompts

    def oracle(self, latents: Tensor, timestep: float, prompts: PromptStates) -> Tensor:
        dit = load_module(self.folder, "transformer", lambda c: sketch_dit.SketchDiT(**c), PLACE)
        x = dit.patch(rearrange(latents, "b c f h w -> b f h w c"))
        x = (x + dit.frame.weight[: x.shape[1], None, None]).flatten(1, 3)
        condition = dit.text(prompts["letters"]).mean(1, True) + dit.time(
            torch.tensor([timestep / 1000])
        )
        for layer in dit.layers:
            heads = "b s (t n d) -> t b n s d"
            qkv = rearrange(layer.qkv(layer.norm(x + condition)), heads, t=3, n=layer.heads)
            mixed = functional.scaled_dot_product_attention(*qkv)
            x = x + layer.out(rearrange(mixed, "b n s d -> b s (n d)"))
            x = x + layer.mlp(x + condition)
        out: Tensor = dit.head(x).transpose(1, 2)
        return torch.reshape(out, latents.shape)


class TestSketchDecoder(OnSketch, VideoDecoderContract):
    def decoder(self, dtype: torch.dtype) -> AnyDecoder:
        decoder: AnyDecoder = self.family.load_decoder(self.folder, CPU, dtype)
        return decoder

    def oracle(self, latents: Tensor) -> Tensor:
        pixels = load_module(
            self.folder, "vae", lambda _: sketch_dit.SketchVAE(), Placement(CPU, latents.dtype)
        ).pixels
        patches = (latents[0].permute(1, 2, 3, 0) @ pixels.weight.T + pixels.bias).clamp(-1, 1)
        video: Tensor = rearrange(patches, "f h w (c p q) -> f c (h p) (w q)", p=8, q=8)
        return video


class TestBranchByBranch(ParallelStrategyContract):
    impossible = (0, 2)
    # Batches of 1 instead of 2 sum in another order: about 1e-6 of a prediction, which guidance
    # 5 and the multi-step samplers amplify.
    tolerance = 1e-4

    def strategy(self) -> ParallelStrategy:
        strategy: ParallelStrategy = subclass_strategy.BranchByBranch()
        return strategy


def test_the_plug_in_runs_as_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    import_module("run_plug_in").main()
    assert capsys.readouterr().out == "(20, 48, 64, 3)\n"


def test_the_plug_in_is_short() -> None:
    lines = (EXAMPLES / "plug_in_backbone.py").read_text().splitlines()
    assert len(lines) <= 100


def test_the_plug_in_is_registered(sketch: ModelFolder) -> None:
    assert isinstance(family_of(sketch), plug_in.SketchFamily)


class TestChurnedEuler(SamplerContract):
    churn = 0.3

    def sampler(self) -> Sampler:
        settings = SamplerSettings(steps=STEPS, shift=3.0)
        sampler: Sampler = own_sampler.ChurnedEuler(settings, churn=self.churn)
        return sampler


class TestEuler(TestChurnedEuler):
    churn = 0.0


class TestDrifting(NoiseInitContract):
    def noise(self) -> NoiseInit:
        noise: NoiseInit = own_noise.Drifting(0.5)
        return noise


def test_noise_drifts_on_from_block_to_block() -> None:
    source = NoiseSource(seed=0, channels=4, height=64, width=64)
    blocks = own_noise.Drifting(0.5).blocks(source, FifoQueue(3, 2).blocks(14))
    frames = torch.cat(list(blocks), dim=2)[0].transpose(0, 1).flatten(1)
    # 16,384 numbers a frame: the deviation of a correlation is 0.008.
    for apart, likeness in ((1, 0.5), (2, 0.25)):
        products = (frames[apart:] * frames[:-apart]).mean(1)
        assert torch.allclose(products, torch.tensor(likeness), atol=0.05)


def test_the_page_shows_the_example_of_a_noise_as_it_is() -> None:
    page = (EXAMPLES.parent / "docs" / "new-method.md").read_text()
    code = (EXAMPLES / "own_noise.py").read_text()
    blocks = [part.split("```")[0] for part in page.split("```python\n")[1:]]
    shown = next(block for block in blocks if "        kept" in block)
    assert shown[shown.index("        kept") :] in code


class TestZeroStar(GuidanceContract):
    def guidance(self, settings: GuidanceSettings) -> Guidance:
        guidance: Guidance = own_guidance.ZeroStar(settings)
        return guidance


def test_the_example_of_a_guidance_is_diffusers_guider() -> None:
    generator = torch.Generator().manual_seed(0)
    prompt, negative = torch.randn(2, 1, 3, 2, 4, 4, generator=generator)
    guider = ClassifierFreeZeroStarGuidance(guidance_scale=4.0, zero_init_steps=0)
    guider.set_state(0, 1, torch.tensor(0))
    guidance = own_guidance.ZeroStar(GuidanceSettings(scales=(4.0,)))
    rows = {CONDITIONAL: prompt, UNCONDITIONAL: negative}
    guided, _ = guidance.combine(rows, GuidedStep(step=0, steps=1), {})
    assert torch.allclose(guided, guider.forward(prompt, negative).pred, rtol=1e-5, atol=1e-5)


def test_the_guidance_that_the_page_shows_keeps_the_contract() -> None:
    page = (EXAMPLES.parent / "docs" / "guidance.md").read_text()
    shown = page.split("```python\n")[1].split("```")[0]
    names = {**vars(guidance_module), "final": final, "Mapping": Mapping, "Tensor": Tensor}
    exec(shown, names)
    halfway = names["Halfway"]

    class TestHalfway(GuidanceContract):
        def guidance(self, settings: GuidanceSettings) -> Guidance:
            made: Guidance = halfway(settings)
            return made

    suite = TestHalfway()
    suite.test_branches_are_distinct_and_the_prompts_comes_first()
    suite.test_perturbed_layers_are_those_of_the_model()
    suite.test_branches_that_agree_are_not_steered()
    suite.test_predictions_keep_their_shape_and_are_finite(torch.float32)


class TestByChunks(AttentionKernelContract):
    def kernel(self) -> AttentionKernel:
        kernel: AttentionKernel = own_attention.ByChunks(7)
        return kernel


class TestScaledDotProduct(AttentionKernelContract):
    """torch's own, as the shortest kernel there is: the suite asks for no more."""

    def kernel(self) -> AttentionKernel:
        return ScaledDotProduct()


@final
class ScaledDotProduct(AttentionKernel):
    @override
    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)


class TestEverySecond(LayerReuseContract):
    def rule(self) -> LayerReuse:
        rule: LayerReuse = own_reuse.EverySecond(0.6)
        return rule


class TestFirstBlockCache(LayerReuseContract):
    def rule(self) -> LayerReuse:
        return FirstBlockCache(0.45)


class TestAccumulatedChange(LayerReuseContract):
    def rule(self) -> LayerReuse:
        return AccumulatedChange(1.0, [0.5, 0.8, 0.01])


def test_changes_add_up_until_all_layers_run() -> None:
    # 2 x 0.1 + 0.1 = 0.3 a step: 0.3, 0.6, 0.9 stay below 1; 1.2 does not, and it begins anew.
    rule, memory, words = AccumulatedChange(1.0, [2.0, 0.1]), 0.0, []
    for step in range(10):
        word, memory = rule.decide(0.1, ReuseStep(step=step, steps=10), memory)
        words.append(word)
    assert words == [False, True, True, True, False, True, True, True, False, False]


def shown(page: str, name: str) -> type:
    """Return the class that a page shows in its first block of code that has it."""
    text = (EXAMPLES.parent / "docs" / page).read_text()
    code = next(part.split("```")[0] for part in text.split("```python\n")[1:] if name in part)
    names: dict[str, Any] = {
        "final": final,
        "torch": torch,
        "Tensor": Tensor,
        "AttentionKernel": AttentionKernel,
    }
    names |= {"LayerReuse": LayerReuse, "ReuseStep": ReuseStep}
    exec(code, names)
    found: type = names[name]
    return found


class TestByEinsum(AttentionKernelContract):
    def kernel(self) -> AttentionKernel:
        kernel: AttentionKernel = shown("attention.md", "ByEinsum")()
        return kernel


class TestEveryThird(LayerReuseContract):
    def rule(self) -> LayerReuse:
        rule: LayerReuse = shown("layer-reuse.md", "EveryThird")()
        return rule
