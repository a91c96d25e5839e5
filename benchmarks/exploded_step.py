"""One step by its stages against the same step in one node, on the default model: `python -m benchmarks.exploded_step`.

Turn and turn about, median of 20, both in one run; p = 2, batch 2, with guidance. Processor time is all threads': it does not feel what else
the machine does.
"""

import statistics
import time

import torch

from dit_blocks.standalone import comfy_api_standin

comfy_api_standin.install()

from dit_blocks.dit_impl.sources.embedded import load_embedded  # noqa: E402
from dit_blocks.nodes.denoise import AddNoise, DenoiseStep  # noqa: E402
from dit_blocks.nodes.transformer import Condition, FinalLayer, Guidance, PatchEmbed, PositionEmbed, RunBlocks, SamplerStep  # noqa: E402

ROUNDS = 20


def main() -> None:
    dit, clip, _ = load_embedded()
    positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("a large red circle in the center", ""))
    sigmas = dit.schedule(20)
    tokens = dit.fold({"samples": torch.zeros(2, dit.channels, 32, 32)}, 2)
    tokens, _ = AddNoise.execute(dit=dit, tokens=tokens, sigmas=sigmas, step=0, seed=0).result

    def macro():
        return DenoiseStep.execute(dit=dit, tokens=tokens, sigmas=sigmas, step=0, positive=positive, negative=negative, cfg=3.0,
                                   solver="euler").result[0]

    def exploded():
        (hidden,) = Condition.execute(dit=dit, x=tokens, positive=positive, negative=negative, sigmas=sigmas, step=0).result
        (hidden,) = PatchEmbed.execute(dit=dit, x=hidden).result
        (hidden,) = PositionEmbed.execute(dit=dit, hidden=hidden, mode="model", seed=0).result
        (hidden,) = RunBlocks.execute(dit=dit, hidden=hidden, blocks="all", strength=1.0).result
        (prediction,) = FinalLayer.execute(dit=dit, hidden=hidden).result
        (prediction,) = Guidance.execute(prediction=prediction, cfg=3.0).result
        return SamplerStep.execute(dit=dit, tokens=tokens, prediction=prediction, sigmas=sigmas, step=0, solver="euler").result[0]

    def seconds(run) -> tuple[float, float]:
        began, used = time.perf_counter(), time.process_time()
        run()
        return time.perf_counter() - began, time.process_time() - used
    with torch.inference_mode():
        assert torch.equal(macro()["tokens"], exploded()["tokens"])
        for _ in range(3):
            seconds(macro), seconds(exploded)
        rounds = [(seconds(macro), seconds(exploded)) for _ in range(ROUNDS)]
    for kind, at in (("by the clock", 0), ("processor time", 1)):
        one, many = (statistics.median(times[at] for times in side) for side in zip(*rounds))
        print(f"{kind}: macro {one * 1000:.1f} ms, exploded {many * 1000:.1f} ms, ratio {many / one:.3f} "
              f"(median of {ROUNDS}, {torch.get_num_threads()} threads)")


if __name__ == "__main__":
    main()
