"""Small V3 nodes that each use one thing of the node interface; `CALLS` says which ran, in order."""

from comfy_api.v0_0_2 import ComfyExtension, io, ui
from comfy_execution.graph_utils import GraphBuilder

CALLS: list = []


def node(node_id, inputs=(), outputs=(), **schema):
    """A V3 node out of one function (cls, **inputs); further methods come from `schema["methods"]`."""
    methods = schema.pop("methods", {})

    def make(function):
        def define_schema(cls):
            return io.Schema(node_id, inputs=list(inputs), outputs=list(outputs), **schema)

        def execute(cls, **kwargs):
            CALLS.append((node_id, kwargs))
            return function(cls, **kwargs)

        members = {"define_schema": define_schema, "execute": execute} | methods
        return type(node_id, (io.ComfyNode,), {name: classmethod(member) for name, member in members.items()})
    return make


@node("T_Kitchen", display_name="Kitchen sink", category="dummy/a", description="desc", search_aliases=["ks"],
      is_experimental=True, essentials_category="Basic",
      inputs=[
          io.Model.Input("model", optional=True, tooltip="a model"),
          io.Custom("DIT").Input("dit", optional=True),
          io.Int.Input("seed", default=0, min=0, max=0xffffffffffffffff, control_after_generate=True,
                       tooltip="the seed"),
          io.Int.Input("n", display_name="N", default=1, min=0, max=10, step=2,
                       display_mode=io.NumberDisplay.slider, advanced=True),
          io.Float.Input("scale", default=1.0, min=0.0, max=2.0, step=0.01, round=0.001),
          io.Combo.Input("mode", options=["a", "b"], default="a"),
          io.Combo.Input("seedmode", options=["x", "y"], control_after_generate=io.ControlAfterGenerate.increment),
          io.String.Input("text", multiline=True, placeholder="type", dynamic_prompts=True),
          io.String.Input("line", default=""),
          io.Boolean.Input("flag", default=False, label_on="yes", label_off="no"),
          io.Float.Input("forced", force_input=True, default=1.0, optional=True),
          io.Int.Input("sockless", default=3, socketless=True, optional=True),
          io.Int.Input("lazy", default=3, lazy=True, optional=True, extra_dict={"my_key": 1}),
          io.MultiType.Input("multi", [io.Int, io.Float], optional=True),
          io.AnyType.Input("any", optional=True),
      ],
      outputs=[io.Image.Output(), io.Custom("DIT").Output("dit_out", display_name="DiT", tooltip="tt"),
               io.Int.Output(display_name="ints", is_output_list=True)],
      hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo, io.Hidden.dynprompt])
def Kitchen(cls, **inputs):
    return io.NodeOutput(None, None, [1, 2, 3])


@node("T_Number", display_name="Number", inputs=[io.Int.Input("value", default=1, min=0, max=100)],
      outputs=[io.Int.Output()])
def Number(cls, value):
    return io.NodeOutput(value)


@node("T_Add", inputs=[io.Int.Input("a"), io.Int.Input("b", optional=True)], outputs=[io.Int.Output("sum")])
def Add(cls, a, b=1000):
    return io.NodeOutput(a + b)


@node("T_Show", display_name="Show", is_output_node=True, inputs=[io.AnyType.Input("value")])
def Show(cls, value):
    return io.NodeOutput(ui=ui.PreviewText(str(value)))


@node("T_Range", inputs=[io.Int.Input("count", default=3)],
      outputs=[io.Int.Output(is_output_list=True), io.Int.Output("pair", is_output_list=True)])
def Range(cls, count):
    return io.NodeOutput(list(range(count)), [100, 200])


@node("T_Whole", is_input_list=True, inputs=[io.Int.Input("values"), io.Int.Input("widget", default=7)],
      outputs=[io.String.Output()])
def Whole(cls, values, widget):
    return io.NodeOutput(f"{values} {widget}")


def _which(cls, flag, yes=None, no=None):
    return ["yes"] if flag and yes is None else ["no"] if not flag and no is None else []


@node("T_Switch", inputs=[io.Boolean.Input("flag"), io.Int.Input("yes", lazy=True), io.Int.Input("no", lazy=True)],
      outputs=[io.Int.Output()], methods={"check_lazy_status": _which})
def Switch(cls, flag, yes=None, no=None):
    return io.NodeOutput(yes if flag else no)


@node("T_Repeat", enable_expand=True, inputs=[io.Int.Input("value"), io.Int.Input("times", default=3)],
      outputs=[io.Int.Output()])
def Repeat(cls, value, times):
    graph = GraphBuilder()
    last = graph.node("T_Number", value=value)
    for _ in range(times):
        last = graph.node("T_Add", a=last.out(0), b=1)
    return io.NodeOutput(last.out(0), expand=graph.finalize())


@node("T_Fail", display_name="Failing", inputs=[io.Int.Input("value", default=0)], outputs=[io.Int.Output()])
def Fail(cls, value):
    raise ValueError(f"value {value} is not good\nand a second line")


STAMP = {"now": 0}


@node("T_Stamp", outputs=[io.Int.Output()], inputs=[io.Int.Input("value", default=0)],
      methods={"fingerprint_inputs": lambda cls, value: STAMP["now"]})
def Stamp(cls, value):
    return io.NodeOutput(STAMP["now"])


@node("T_Strict", is_output_node=True, inputs=[io.Int.Input("value", min=0, max=5)],
      methods={"validate_inputs": lambda cls, value: True if value != 13 else "thirteen is bad"})
def Strict(cls, value):
    return io.NodeOutput(ui=ui.PreviewText(str(value)))


@node("T_Hidden", is_output_node=True, hidden=[io.Hidden.unique_id])
def Hiding(cls):
    return io.NodeOutput(ui=ui.PreviewText(f"{cls.hidden.unique_id} {sorted(cls.hidden.prompt)} {cls.hidden.other}"))


@node("T_Async", outputs=[io.Int.Output()])
def Async(cls):
    async def later():
        return io.NodeOutput(5)
    return later()


@node("T_Writes", outputs=[io.Int.Output()])
def Writes(cls):
    cls.state = 1
    return io.NodeOutput(1)


@node("T_Picture", outputs=[io.Image.Output()],
      inputs=[io.Int.Input("width", default=6), io.Float.Input("level", default=0.5)])
def Picture(cls, width, level):
    import torch
    return io.NodeOutput(torch.full((1, 4, width, 3), level))


NODES = [Kitchen, Number, Add, Show, Range, Whole, Switch, Repeat, Fail, Stamp, Strict, Hiding, Async, Writes, Picture]


class Extension(ComfyExtension):
    async def get_node_list(self):
        return NODES


async def comfy_entrypoint():
    return Extension()
