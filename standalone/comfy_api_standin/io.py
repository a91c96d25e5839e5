"""Schemas, sockets and results: the `io` half of the V3 node interface, and the /object_info that it makes."""

import copy
from dataclasses import dataclass, field
from enum import Enum
import inspect
from typing import Any


class Hidden(str, Enum):
    """What the executor can tell a node besides its inputs."""

    unique_id = "UNIQUE_ID"
    prompt = "PROMPT"
    extra_pnginfo = "EXTRA_PNGINFO"
    dynprompt = "DYNPROMPT"
    auth_token_comfy_org = "AUTH_TOKEN_COMFY_ORG"
    api_key_comfy_org = "API_KEY_COMFY_ORG"
    comfy_usage_source = "COMFY_USAGE_SOURCE"


class HiddenHolder:
    """A node's hidden values by name; one that it did not ask for is None."""

    def __init__(self, values: dict[str, Any] | None = None):
        for hidden in Hidden:
            setattr(self, hidden.name, (values or {}).get(hidden))

    def __getattr__(self, name: str) -> None:
        return None


class NumberDisplay(str, Enum):
    number = "number"
    slider = "slider"
    gradient_slider = "gradientslider"


class ControlAfterGenerate(str, Enum):
    fixed = "fixed"
    increment = "increment"
    decrement = "decrement"
    randomize = "randomize"


class FolderType(str, Enum):
    input = "input"
    output = "output"
    temp = "temp"


class UploadType(str, Enum):
    image = "image_upload"
    audio = "audio_upload"
    video = "video_upload"
    model = "file_upload"


# --- inputs and outputs ---------------------------------------------------------------------------------------------

_WIRE = "id display_name=None optional=False tooltip=None lazy=None {} extra_dict=None raw_link=None advanced=None"

# The parameters of each kind of input, between those that every input has.
_WIDGETS = {
    "BOOLEAN": "default=None label_on=None label_off=None socketless=None force_input=None",
    "INT": "default=None min=None max=None step=None control_after_generate=None display_mode=None socketless=None "
           "force_input=None",
    "FLOAT": "default=None min=None max=None step=None round=None display_mode=None gradient_stops=None "
             "socketless=None force_input=None",
    "STRING": "multiline=False placeholder=None default=None dynamic_prompts=None socketless=None force_input=None",
    "COMBO": "default=None control_after_generate=None upload=None image_folder=None remote=None socketless=None",
}

_JSON_NAMES = {"display_mode": "display", "force_input": "forceInput", "dynamic_prompts": "dynamicPrompts",
               "raw_link": "rawLink", "widget_type": "widgetType"}


def _signature(middle: str = "", first: str = "id") -> inspect.Signature:
    """Parameters written as `name=default`, in order."""
    parameters = []
    for word in _WIRE.replace("id", first, 1).format(middle).split():
        name, equals, default = word.partition("=")
        default = {"None": None, "False": False}[default] if equals else inspect.Parameter.empty
        parameters.append(inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default))
    return inspect.Signature(parameters)


class Input:
    """An input of a node: a wire, or a widget that can be one."""

    io_type = "*"
    signature = _signature()

    def __init__(self, *args, **kwargs):
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        self.__dict__.update(bound.arguments)
        self.extra_dict = self.extra_dict or {}

    def get_io_type(self) -> str:
        return self.io_type

    def as_dict(self) -> dict:
        """The options of this input in /object_info."""
        options = {_JSON_NAMES.get(name, name): _plain(value) for name, value in self.__dict__.items()
                   if value is not None and name not in ("id", "optional", "extra_dict")}
        return options | {name: value for name, value in self.extra_dict.items() if value is not None}


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value


class Output:
    """An output of a node."""

    io_type = "*"

    def __init__(self, id: str | None = None, display_name: str | None = None, tooltip: str | None = None,
                 is_output_list: bool = False):
        self.id, self.display_name = id, display_name or id
        self.tooltip, self.is_output_list = tooltip, is_output_list


class _ComboInput(Input):
    io_type = "COMBO"
    signature = _signature(_WIDGETS["COMBO"], "id options=None")

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if isinstance(self.options, type) and issubclass(self.options, Enum):
            self.options = [choice.value for choice in self.options]

    def as_dict(self) -> dict:
        options = super().as_dict()
        upload = {options.pop("upload"): True} if "upload" in options else {}
        return options | upload | {"multiselect": False}


class _ComboOutput(Output):
    io_type = "COMBO"

    def __init__(self, id=None, display_name=None, options=None, tooltip=None, is_output_list=False):
        super().__init__(id, display_name, tooltip, is_output_list)
        self.options = options or []


class _MultiTypeInput(Input):
    """An input that takes several types. If its id is an Input, it has that input's widget too."""

    signature = _signature(first="id types")

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._widget = copy.copy(self.id) if isinstance(self.id, Input) else None
        if self._widget is not None:
            for name in ("tooltip", "display_name", "lazy"):
                if getattr(self._widget, name) is not None:
                    setattr(self, name, getattr(self._widget, name))
            self.optional = self._widget.optional or self.optional
            self.id = self._widget.id
            if self._widget.io_type in _WIDGETS:
                self._widget.widget_type = self._widget.io_type

    def get_io_type(self) -> str:
        own = [self._widget.io_type] if self._widget is not None else []
        return ",".join(dict.fromkeys(own + [kind.io_type for kind in self.types]))

    def as_dict(self) -> dict:
        widget = self._widget.as_dict() if self._widget is not None else {}
        own = super().as_dict()
        own.pop("types", None)
        own.pop("_widget", None)
        return widget | own


def _kind(io_type: str, input: type[Input] | None = None, output: type[Output] | None = None) -> type:
    """A type of wire: a class with `Input` and `Output`."""
    signature = {"signature": _signature(_WIDGETS[io_type])} if io_type in _WIDGETS and input is None else {}
    return type(io_type, (), {
        "io_type": io_type,
        "Type": Any,
        "Input": input or type("Input", (Input,), {"io_type": io_type} | signature),
        "Output": output or type("Output", (Output,), {"io_type": io_type}),
    })


def Custom(io_type: str) -> type:
    """A type of wire of the pack's own."""
    return _kind(io_type)


Boolean, Int, Float, String = map(_kind, ("BOOLEAN", "INT", "FLOAT", "STRING"))
Combo = _kind("COMBO", _ComboInput, _ComboOutput)
Image, Mask, Latent, Conditioning = map(_kind, ("IMAGE", "MASK", "LATENT", "CONDITIONING"))
Model, Clip, Vae, Sigmas = map(_kind, ("MODEL", "CLIP", "VAE", "SIGMAS"))
Sampler, Noise, Guider, Audio = map(_kind, ("SAMPLER", "NOISE", "GUIDER", "AUDIO"))
AnyType = _kind("*")
MultiType = type("MultiType", (), {"Type": Any, "Input": _MultiTypeInput})


# --- nodes ----------------------------------------------------------------------------------------------------------

@dataclass
class Schema:
    """What a node is: its name, its sockets and how it is run."""

    node_id: str
    display_name: str | None = None
    category: str = "sd"
    inputs: list[Input] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    hidden: list[Hidden] = field(default_factory=list)
    description: str = ""
    search_aliases: list[str] = field(default_factory=list)
    is_input_list: bool = False
    is_output_node: bool = False
    is_deprecated: bool = False
    is_experimental: bool = False
    is_dev_only: bool = False
    is_api_node: bool = False
    price_badge: Any = None
    not_idempotent: bool = False
    enable_expand: bool = False
    accept_all_inputs: bool = False
    essentials_category: str | None = None
    has_intermediate_output: bool = False

    def finalize(self) -> None:
        """Add the hidden inputs that an output node needs; refuse sockets of one name."""
        self.hidden = list(self.hidden or [])
        if self.is_output_node:
            self.hidden += [wanted for wanted in (Hidden.prompt, Hidden.extra_pnginfo) if wanted not in self.hidden]
        self.inputs, self.outputs = list(self.inputs or []), list(self.outputs or [])
        for slot, output in enumerate(self.outputs):
            output.id = output.id or f"_{slot}_{output.io_type}_"
        for word, sockets in (("Input", self.inputs), ("Output", self.outputs)):
            ids = [socket.id for socket in sockets]
            twice = sorted({id for id in ids if ids.count(id) > 1})
            if twice:
                raise ValueError(f"{word} ids must be unique, but {twice} are not.")

    def object_info(self, python_module: str) -> dict:
        """The node's entry in /object_info."""
        inputs: dict[str, dict] = {"required": {}}
        for socket in self.inputs:
            group = inputs.setdefault("optional" if socket.optional else "required", {})
            group[socket.id] = (socket.get_io_type(), socket.as_dict())
        if self.hidden:
            inputs["hidden"] = {wanted.name: (wanted.value,) for wanted in self.hidden}
        return {
            "input": inputs,
            "input_order": {group: list(sockets) for group, sockets in inputs.items()},
            "is_input_list": self.is_input_list,
            "output": [output.io_type for output in self.outputs],
            "output_is_list": [output.is_output_list for output in self.outputs],
            "output_name": [output.display_name or output.io_type for output in self.outputs],
            "output_tooltips": [output.tooltip or None for output in self.outputs],
            "output_matchtypes": None,
            "name": self.node_id,
            "display_name": self.display_name,
            "description": self.description,
            "python_module": python_module,
            "category": self.category,
            "output_node": self.is_output_node,
            "deprecated": self.is_deprecated,
            "experimental": self.is_experimental,
            "dev_only": self.is_dev_only,
            "api_node": self.is_api_node,
            "price_badge": self.price_badge,
            "search_aliases": self.search_aliases or None,
            "essentials_category": self.essentials_category,
            "has_intermediate_output": self.has_intermediate_output,
        }


class NodeOutput:
    """A node's result: one value an output, what it shows, and a graph to put in its place."""

    def __init__(self, *args: Any, ui: Any = None, expand: dict | None = None, block_execution: str | None = None):
        self.args, self.ui, self.expand, self.block_execution = args, ui, expand, block_execution

    @property
    def result(self) -> tuple | None:
        return self.args or None

    def __getitem__(self, index: int) -> Any:
        return self.args[index]


class _Locked(type):
    """The class that a call gets. As in ComfyUI it is read-only, so that nodes keep no state on it."""

    def __setattr__(cls, name: str, value: Any) -> None:
        raise AttributeError(f"{cls.__name__}: a node's class cannot be written to while it runs ({name})")


class ComfyNode:
    """Base of every V3 node: `define_schema` and `execute`, both classmethods."""

    RELATIVE_PYTHON_MODULE = "nodes"
    SCHEMA: Schema | None = None  # as GET_SCHEMA last made it
    hidden = HiddenHolder()

    @classmethod
    def define_schema(cls) -> Schema:
        raise NotImplementedError(f"{cls.__name__} has no define_schema")

    @classmethod
    def execute(cls, **kwargs) -> NodeOutput:
        raise NotImplementedError(f"{cls.__name__} has no execute")

    @classmethod
    def validate_inputs(cls, **kwargs) -> bool | str:
        raise NotImplementedError

    @classmethod
    def fingerprint_inputs(cls, **kwargs) -> Any:
        raise NotImplementedError

    @classmethod
    def check_lazy_status(cls, **kwargs) -> list[str]:
        return [name for name, value in kwargs.items() if value is None]

    @classmethod
    def GET_BASE_CLASS(cls) -> type:
        return ComfyNode

    @classmethod
    def GET_SCHEMA(cls) -> Schema:
        schema = cls.define_schema()
        schema.finalize()
        cls.SCHEMA = schema
        return schema

    @classmethod
    def GET_NODE_INFO_V1(cls) -> dict:
        return cls.GET_SCHEMA().object_info(cls.RELATIVE_PYTHON_MODULE)

    @classmethod
    def PREPARE_CLASS_CLONE(cls, v3_data: dict | None) -> type:
        """The read-only class for one call, with the hidden values."""
        return _Locked(cls.__name__, (cls,), {"hidden": HiddenHolder((v3_data or {}).get("hidden_inputs"))})
