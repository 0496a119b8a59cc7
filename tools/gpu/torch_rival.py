"""The same work in PyTorch on the same card, for tools/gpu/report.mjs. Reads one JSON request a line from standard input and
answers each with one line of JSON: {"milliseconds": ...} (the median over repeats, by CUDA events, after warm-up) or
{"error": "..."}. `--device cpu` is for trying every line of this where there is no card: it times by the clock, and traces what
is to be compiled without compiling it.

  {"do": "about"}                                                       versions and the card
  {"do": "ceilings", "size"}                                            bf16 and fp32 matrix rates, copy rate
  {"do": "lookup", "n", "k", "d", "way": "cdist" | "matmul", "compiled", "tf32"}
  {"do": "graph", "graph": {...}, "precision": "f32" | "bf16", "compiled"}   a graph of lib/graph/ops.ts, random weights
"""
import argparse
import json
import math
import sys
import time

import torch
import torch.nn.functional as F

parser = argparse.ArgumentParser()
parser.add_argument("--device", default="cuda:0")
DEVICE = torch.device(parser.parse_args().device)
if DEVICE.type == "cuda":
    torch.cuda.set_device(DEVICE)


def compiled(work):
    return torch.compile(work, backend="inductor" if DEVICE.type == "cuda" else "eager")


def median_milliseconds(work, repeats=20, warm=5):
    if DEVICE.type == "cpu":
        work()
        start = time.perf_counter()
        work()
        return (time.perf_counter() - start) * 1000
    for _ in range(warm):
        work()
    times = []
    for _ in range(repeats):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        work()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop))
    return sorted(times)[len(times) // 2]


def ceilings(request):
    size = request["size"]
    result = {}
    for name, dtype in (("bf16", torch.bfloat16), ("f32", torch.float32)):
        torch.backends.cuda.matmul.allow_tf32 = False
        a, b = (torch.randn(size, size, device=DEVICE, dtype=dtype) for _ in range(2))
        result[name + "Tflops"] = 2 * size**3 / median_milliseconds(lambda: a @ b) / 1e9
    x = torch.empty(16 * size * size, device=DEVICE, dtype=torch.uint8)
    y = torch.empty_like(x)
    result["copyGBps"] = 2 * x.numel() / median_milliseconds(lambda: y.copy_(x)) / 1e6
    return result


def lookup(request):
    torch.backends.cuda.matmul.allow_tf32 = request["tf32"]
    x = F.normalize(torch.randn(request["n"], request["d"], device=DEVICE))
    codes = F.normalize(torch.randn(request["k"], request["d"], device=DEVICE))

    def cdist():
        return torch.cdist(x, codes).argmin(1)

    def matmul():
        return (x @ codes.T).argmax(1)

    work = cdist if request["way"] == "cdist" else matmul
    return {"milliseconds": median_milliseconds(compiled(work) if request["compiled"] else work)}


ACTIVATIONS = {
    None: lambda x: x,
    "none": lambda x: x,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "swish": F.silu,
}


class GraphModel(torch.nn.Module):
    """Maps are NCHW tensors in channels-last memory, token lists [B, L, C]. The quantiser is left out: its input is passed on,
    so that only layers are compared."""

    def __init__(self, graph):
        super().__init__()
        self.graph = graph
        self.shapes = [value["shape"] for value in graph["values"]]
        self.weights = torch.nn.ParameterDict()

    def weight(self, name, shape):
        key = name.replace(".", "/")
        if key not in self.weights:
            fan = math.prod(shape[1:]) if len(shape) > 1 else 1e4
            offset = 1.0 if len(shape) == 1 and name.endswith("weight") else 0.0
            self.weights[key] = torch.nn.Parameter(torch.randn(shape) / math.sqrt(fan) + offset, requires_grad=False)
        return self.weights[key]

    def parts(self, reference, shape):
        names = [reference] if isinstance(reference, str) else reference
        each = [shape[0] // len(names), *shape[1:]]
        made = [None if name is None else self.weight(name, each) for name in names]
        like = next(tensor for tensor in made if tensor is not None)
        return torch.cat([torch.zeros(each, dtype=like.dtype, device=like.device) if t is None else t for t in made])

    def prepare(self):
        """Makes every weight, before the model moves to a device or a type."""
        for op in self.graph["ops"]:
            y = self.shapes[op.get("y", op.get("sum", 0))]
            if op["op"] == "conv2d":
                self.weight(op["weight"], [y[3], self.shapes[op["x"]][3], op["kernel"], op["kernel"]])
                if op.get("bias"):
                    self.weight(op["bias"], [y[3]])
            elif op["op"] == "linear":
                self.parts(op["weight"], [y[-1], self.shapes[op["x"]][-1]])
                if op.get("bias"):
                    self.parts(op["bias"], [y[-1]])
            elif op["op"] in ("group_norm", "layer_norm"):
                self.weight(op["weight"], [y[-1]])
                self.weight(op["bias"], [y[-1]])
            elif op["op"] == "prepend_token":
                self.weight(op["token"], [y[-1]])
            elif op["op"] == "add_table":
                self.weight(op["table"], y[1:])
            elif op["op"] == "scale_input":
                self.weight(op["shift"], [3])
                self.weight(op["scale"], [3])

    def forward(self, inputs):
        values = dict(inputs)
        dtype = next(iter(self.weights.values())).dtype
        last = lambda x: x.permute(0, 2, 3, 1) if x.dim() == 4 else x
        first = lambda x: x.permute(0, 3, 1, 2) if x.dim() == 4 else x
        for op in self.graph["ops"]:
            kind, x = op["op"], values.get(op.get("x"))
            y_shape = self.shapes[op["y"]] if "y" in op else None
            if kind == "pixels_to_float":
                y = x.to(dtype) / 127.5 - 1
            elif kind == "float_to_pixels":
                y = (127.5 * x + 128).clamp(0, 255).to(torch.uint8)
            elif kind == "scale_input":
                scale, shift = (self.weight(op[name], [3]).view(3, 1, 1) for name in ("scale", "shift"))
                y = (((x + 1) * 127.5).clamp(0, 255) / 255 - shift) / scale
            elif kind == "conv2d":
                if op.get("upsample", 1) == 2:
                    x = F.interpolate(x, scale_factor=2, mode="nearest")
                top, left, bottom, right = op["padding"]
                padding = (top, left) if top == bottom and left == right else None
                if padding is None:
                    x = F.pad(x, (left, right, top, bottom))
                weight = self.weight(op["weight"], [y_shape[3], x.shape[1], op["kernel"], op["kernel"]])
                bias = self.weight(op["bias"], [y_shape[3]]) if op.get("bias") else None
                y = ACTIVATIONS[op.get("activation")](F.conv2d(x, weight, bias, op["stride"], padding or 0))
            elif kind == "linear":
                weight = self.parts(op["weight"], [y_shape[-1], self.shapes[op["x"]][-1]])
                bias = self.parts(op["bias"], [y_shape[-1]]) if op.get("bias") else None
                y = first(ACTIVATIONS[op.get("activation")](F.linear(last(x), weight, bias)))
            elif kind == "group_norm":
                channels = y_shape[-1]
                turned = x if x.dim() == 4 else x.transpose(1, 2)
                y = F.group_norm(turned, op["groups"], self.weight(op["weight"], [channels]),
                                 self.weight(op["bias"], [channels]), op["epsilon"])
                y = y if x.dim() == 4 else y.transpose(1, 2)
                y = F.silu(y) if op["swish"] else y
            elif kind == "layer_norm":
                channels = y_shape[-1]
                y = first(F.layer_norm(last(x), [channels], self.weight(op["weight"], [channels]),
                                       self.weight(op["bias"], [channels]), op["epsilon"]))
            elif kind == "attention":
                batch, length, width = y_shape
                q, k, v = x.view(batch, length, 3, op["heads"], width // op["heads"]).permute(2, 0, 3, 1, 4)
                y = F.scaled_dot_product_attention(q, k, v, scale=op["scale"]).transpose(1, 2).reshape(y_shape)
            elif kind == "prepend_token":
                token = self.weight(op["token"], [y_shape[-1]]).expand(y_shape[0], 1, -1)
                y = torch.cat([token, x], 1)
            elif kind == "add_table":
                y = x + self.weight(op["table"], y_shape[1:])
            elif kind == "slice_tokens":
                y = x[:, op["start"] : op["start"] + op["count"]]
            elif kind == "slice_channels":
                y = first(last(x)[..., op["start"] : op["start"] + op["count"]])
            elif kind == "concat_channels":
                y = first(torch.cat([last(values[one]) for one in op["xs"]], -1))
            elif kind == "reshape":
                y = first(last(x).reshape(y_shape))
            elif kind == "resize_bicubic":
                y = F.interpolate(x, size=(op["height"], op["width"]), mode="bicubic")
            elif kind == "multiscale_encode":
                values[op["sum"]] = x
                values[op["tokens"]] = torch.zeros(self.shapes[op["tokens"]], dtype=torch.int32, device=x.device)
                continue
            elif kind == "multiscale_decode":
                y = torch.zeros(y_shape, dtype=dtype, device=DEVICE).permute(0, 3, 1, 2)
            else:
                raise ValueError(f"no such op: {kind}")
            if op.get("residual") is not None:
                y = y + values[op["residual"]]
            values[op["y"]] = y
        return [values[id] for id in self.graph["outputs"].values()]


def run_graph(request):
    torch.manual_seed(1)
    graph = request["graph"]
    model = GraphModel(graph)
    model.prepare()
    dtype = torch.bfloat16 if request["precision"] == "bf16" else torch.float32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    model = model.to(DEVICE, dtype, memory_format=torch.channels_last)
    torch.backends.cudnn.benchmark = True
    inputs = {}
    for id in graph["inputs"].values():
        value = graph["values"][id]
        shape = value["shape"]
        if value["dtype"] == "u8":
            tensor = torch.randint(0, 256, shape, dtype=torch.uint8, device=DEVICE)
        elif value["dtype"] == "i32":
            tensor = torch.zeros(shape, dtype=torch.int32, device=DEVICE)
        else:
            tensor = torch.randn(shape, device=DEVICE, dtype=dtype)
        inputs[id] = tensor.permute(0, 3, 1, 2) if len(shape) == 4 else tensor  # channels-last memory
    with torch.inference_mode():
        work = compiled(model) if request["compiled"] else model
        return {"milliseconds": median_milliseconds(lambda: work(inputs))}


def answer(request):
    if request["do"] == "about":
        card = torch.cuda.get_device_name(DEVICE) if DEVICE.type == "cuda" else None
        return {"torch": torch.__version__, "cuda": torch.version.cuda, "card": card}
    if request["do"] == "ceilings":
        return ceilings(request)
    return lookup(request) if request["do"] == "lookup" else run_graph(request)


for line in sys.stdin:
    try:
        result = answer(json.loads(line))
    except Exception as error:  # the report names what PyTorch could not do, and goes on
        result = {"error": f"{type(error).__name__}: {str(error)[:200]}"}
    print(json.dumps(result), flush=True)
