"""ComfyUI's own code on the simulated device: its memory management believes in a GPU. Runs under ComfyUI's Python.

    install(dtype="bf16")                        # after host_models.start, before a model is loaded
    install(dtype="fp8", dynamic="some")         # dynamic VRAM: of the weights "all", "some", "none" or what "fits" stay on the device
"""

import itertools
import types
import weakref

from gpu import device
import torch

VRAM = 8 << 30
LEFT = 16 << 20  # bytes that ComfyUI may leave on a card whose models are all unloaded


def install(dtype: str = "bf16", dynamic: str = "", vram_state: str = "NORMAL_VRAM", gpu_only: bool = False, count: int = 1) -> None:
    """Turn a ComfyUI that was started with --cpu into one with GPUs as large as `device.on` says. dtype: what models compute in. count: of
    GPUs, one or two."""
    from comfy.cli_args import args
    import comfy.model_management as mm
    import comfy.multigpu
    torch.cuda._lazy_init = lambda: None
    torch.cuda.synchronize = lambda *_, **__: None
    torch.cuda.current_device, torch.cuda.set_device = device.PATCHED["current_device"], device.PATCHED["set_device"]
    torch.cuda.get_device_properties = lambda *_: types.SimpleNamespace(
        major=8, minor=6, total_memory=device.counts.total, name="simulated", multi_processor_count=80)
    torch.cuda.get_device_name = lambda *_: "simulated"
    args.cpu, args.gpu_only, args.disable_pinned_memory = False, gpu_only, True
    mm.cpu_state, mm.vram_state = mm.CPUState.GPU, getattr(mm.VRAMState, vram_state)
    mm.set_vram_to, mm.lowvram_available = mm.vram_state, True
    mm.get_torch_device = lambda: device.GPU
    mm.get_all_torch_devices = lambda *_, **__: [device.GPU, device.SECOND][:count]
    work = comfy.multigpu.MultiGPUThreadPool._worker_loop

    def in_thread(*args):
        with device.in_thread():
            work(*args)
    comfy.multigpu.MultiGPUThreadPool._worker_loop = in_thread

    def free(place=None, torch_free_too=False):
        there = (place or device.GPU).type == device.GPU.type
        left = device.counts.total - device.counts.live if there else 16 << 30
        return (left, left) if torch_free_too else left
    mm.get_free_memory = free
    mm.get_total_memory = lambda place=None, torch_total_too=False: (device.counts.total,) * 2 if torch_total_too else device.counts.total
    mm.should_use_bf16 = lambda *_, **__: dtype in ("bf16", "fp8")
    mm.should_use_fp16 = lambda *_, **__: dtype == "fp16"
    mm.supports_fp64 = lambda *_: device.counts.float64
    for name in ("fp8", "nvfp4", "mxfp8"):
        setattr(mm, f"supports_{name}_compute", lambda *_: False)
    mm.soft_empty_cache = lambda *_, **__: None
    mm.pin_memory = mm.unpin_memory = lambda *_: False
    try:
        import comfy_kitchen
        comfy_kitchen.registry.disable("cuda")
    except (ImportError, AttributeError, KeyError):
        pass
    if dynamic:
        _install_dynamic(dynamic)


class _Bar:
    """Where the weights of a model lie on the device, as comfy-aimdo's README says: pages that come and go. The later a bar was
    `prioritize`d and the lower a page's place in it, the more it matters. Where a page had to leave, none from there on comes back."""
    known: weakref.WeakSet = weakref.WeakSet()
    numbers = itertools.count()

    def __init__(self, size, place):
        self.max_size, self.offset, self.sizes, self.pages, self.signatures, self.pinned = size, 0, {}, {}, {}, set()
        self.prioritize()
        self.known.add(self)

    def alloc(self, size):
        first = self.offset
        self.offset += size
        self.sizes[first] = size
        return self, first, size

    def fault(self, first, resident):
        """A signature while a page is there; None where it can't be."""
        if resident == "none" or resident == "some" and first // 4096 % 2:
            return None
        if resident == "fits" and first not in self.pages and not self._fits(first):
            return None
        self.pinned.add(first)
        return self.signatures.setdefault(first, next(self.numbers).to_bytes(8))

    def _fits(self, first) -> bool:
        missing = device.counts.live + self.sizes[first] - device.counts.total
        if first < self.watermark and missing > _evict(missing, self, first):
            self.watermark = first
        return first < self.watermark

    def unpin(self, first, *_):
        self.pinned.discard(first)

    def tensor(self, first, size, place):
        if first not in self.pages:
            self.pages[first] = torch.empty(size, dtype=torch.uint8, device=place)
        return self.pages[first]

    def drop(self, first) -> int:
        """Take a page away, whatever refers to it."""
        del self.signatures[first]
        return device.forget(self.pages.pop(first))

    def loaded_size(self):
        return sum(page.numel() for page in self.pages.values())

    def free_memory(self, size):
        freed = 0
        for first in sorted(self.pages, reverse=True):
            freed += self.drop(first) if freed < size else 0
        return freed

    def prioritize(self, *_):
        self.rank, self.watermark = next(self.numbers), 1 << 60

    def set_watermark_limit(self, *_):
        pass
    deprioritize = set_watermark_limit


def _evict(missing: int, bar: _Bar | None = None, first: int = 0) -> int:
    """Free so many bytes of pages that matter less than this one, or of any: → how many it could."""
    freed = 0
    for one in sorted(_Bar.known, key=lambda one: one.rank):
        for place in sorted(one.pages, reverse=True):
            if freed < missing and place not in one.pinned and (one is not bar or place > first):
                one.watermark = min(one.watermark, place)
                freed += one.drop(place)
        if one is bar:
            break
    return freed


class _HostBuffer:
    """Pinned memory, of which there is none."""

    def __init__(self, *_, **__):
        self.size = 0

    def truncate(self, size, do_unregister=True):
        self.size = size

    def extend(self, *_, **__):
        raise RuntimeError("there is no pinned memory")

    def get_raw_address(self):
        return 0


class _Buffer:
    """Scratch memory that weights pass through."""

    def __init__(self, max_size, place):
        self.most = 0

    def size(self):
        return self.most

    def get(self, size, offset=0):
        self.most = max(self.most, size + offset)
        return self, offset, size


def _install_dynamic(resident: str) -> None:
    """ModelPatcherDynamic over stand-ins for comfy-aimdo's native parts."""
    import comfy.memory_management
    import comfy.model_patcher
    import comfy_aimdo.host_buffer
    import comfy_aimdo.model_vbar as bars
    import comfy_aimdo.torch
    import comfy_aimdo.vram_buffer
    bars.ModelVBAR = _Bar
    bars.vbar_fault = lambda place: place[0].fault(place[1], resident)
    bars.vbar_unpin = lambda place: place and place[0].unpin(*place[1:])
    bars.vbar_signature_compare = lambda a, b: a is not None and b is not None and bytes(a) == bytes(b)
    bars.vbars_reset_watermark_limits = lambda: None
    bars.vbars_analyze = lambda place=None: 0
    comfy_aimdo.torch.aimdo_to_tensor = lambda place, where: (
        place[0].tensor(*place[1:], where) if isinstance(place[0], _Bar) else torch.empty(place[2], dtype=torch.uint8, device=where))
    comfy_aimdo.host_buffer.HostBuffer, comfy_aimdo.vram_buffer.VRAMBuffer = _HostBuffer, _Buffer
    listed = comfy.model_patcher.ModelPatcher._load_list

    def load_list(self, for_dynamic=False, default_device=None):
        """Core sets `param.data`, which can't be simulated: a new parameter takes its place."""
        for _, module in self.model.named_modules() if default_device is not None else ():
            own = dict(module.named_parameters(recurse=False))
            if any(name not in own for name, _ in module.named_parameters()):
                for name, weight in own.items():
                    there = weight.to(device=default_device, dtype=getattr(module, name + "_comfy_model_dtype", None))
                    setattr(module, name, torch.nn.Parameter(there, requires_grad=False))
        return listed(self, for_dynamic)
    comfy.model_patcher.ModelPatcher._load_list = load_list
    comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcherDynamic
    comfy.memory_management.aimdo_enabled = True
    device.counts.short = _evict if resident == "fits" else None
