"""A quick look in a process that has drawn nothing yet: what comes before the first picture is a few steps over the coarsest patches."""

import json
import subprocess
import sys

SCRIPT = """
import json, sys
import torch
from dit_blocks.standalone import pack
pack.load()
from dit_blocks.nodes.comfyui import host
from dit_blocks.nodes.denoise import Denoise
from dit_blocks.nodes.load import LoadEmbedded

class Seen(Exception):
    pass

def see(done, of, picture):
    raise Seen(done, picture.size)

host.listen(see)
with torch.inference_mode():
    dit, clip, _ = LoadEmbedded.execute().result
    asked = []
    dit.model.register_forward_pre_hook(lambda model, given: asked.append(list(given[0].shape[:2])))
    positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("a large red circle", ""))
    sigmas = dit.schedule(20)
    tokens, _ = dit.add_noise(dit.fold({"samples": torch.zeros(1, dit.channels, 32, 32)}), sigmas, 0, 7)
    try:
        Denoise.execute(dit, tokens, sigmas, 0, 10000, positive, 3.0, "euler", negative, quick_look=True)
    except Seen as seen:
        done, size = seen.args
slow = [name for name in ("torch._dynamo", "diffusers", "transformers") if name in sys.modules]
print(json.dumps({"done": done, "size": size, "asked": asked, "slow": slow}))
"""


def test_the_first_picture_comes_after_four_coarse_steps_and_nothing_slow_is_imported():
    told = json.loads(subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout)
    assert told == {"done": 0, "size": [256, 256], "asked": [[2, 16]] * 4, "slow": []}
