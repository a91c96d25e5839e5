"""A picture of the user's through patches, as an API prompt: what is to run again when only the patch size changes."""

BEFORE = {  # VAE Encode, text and schedule
    "1": {"class_type": "DiTBlocksLoadEmbedded", "inputs": {}},
    "2": {"class_type": "LoadImage", "inputs": {"image": "example.png"}},
    "3": {"class_type": "DiTBlocksVAEEncode", "inputs": {"pixels": ["2", 0], "vae": ["1", 2]}},
    "4": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "a large red circle in the center"}},
    "5": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": ""}},
    "6": {"class_type": "DiTBlocksSchedule", "inputs": {"dit": ["1", 0], "steps": 2, "scheduler": "simple", "denoise": 0.5}},
}
AFTER = {
    "7": {"class_type": "DiTBlocksPatchify", "inputs": {"latent": ["3", 0], "dit": ["1", 0], "patch_size": 2}},
    "8": {"class_type": "DiTBlocksAddNoise", "inputs": {"dit": ["1", 0], "tokens": ["7", 0], "sigmas": ["6", 0], "step": 0, "seed": 1}},
    "9": {"class_type": "DiTBlocksDenoise", "inputs": {
        "dit": ["1", 0], "tokens": ["8", 0], "sigmas": ["6", 0], "start_step": 0, "end_step": 2, "positive": ["4", 0], "cfg": 2.0,
        "solver": "euler", "negative": ["5", 0]}},
    "10": {"class_type": "DiTBlocksUnpatchify", "inputs": {"tokens": ["9", 0]}},
    "11": {"class_type": "DiTBlocksVAEDecode", "inputs": {"latent": ["10", 0], "vae": ["1", 2]}},
    "12": {"class_type": "SaveImage", "inputs": {"images": ["11", 0], "filename_prefix": "swap"}},
}


def graph(patch_size: int) -> dict:
    patchify = {**AFTER["7"], "inputs": {**AFTER["7"]["inputs"], "patch_size": patch_size}}
    return {**BEFORE, **AFTER, "7": patchify}
