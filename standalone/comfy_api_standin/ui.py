"""What a node can show of itself: the `ui` half of the V3 node interface."""

import random
import string

from .. import images
from ..folders import current


class PreviewText:
    """A text under the node."""

    def __init__(self, value: str, **_):
        self.value = value

    def as_dict(self) -> dict:
        return {"text": (self.value,)}


class PreviewImage:
    """Pictures [B, H, W, 3] saved in the temporary folder and shown on the node."""

    def __init__(self, image, animated: bool = False, cls=None, **_):
        prefix = "ComfyUI_temp_" + "".join(random.choices(string.ascii_lowercase, k=5))
        hidden = getattr(cls, "hidden", None)
        texts = images.metadata(hidden.prompt, hidden.extra_pnginfo) if hidden is not None else {}
        self.values = images.save_pngs(image, prefix, "temp", current().temp, texts, compress_level=1)
        self.animated = animated

    def as_dict(self) -> dict:
        return {"images": self.values, "animated": (self.animated,)}
