# pyright: basic, reportMissingImports=false
# Runs under Python 3.12 in an environment of its own, where stream_mla is not installed and Stream has no type stubs.
"""One block through Stream: JSON in by stdin, one line of JSON out, after the word RESULT.

The block is written as ONNX, bf16, as one would export it: a projection per head is a MatMul of (heads, K, N) weights,
heads merge by Transpose and Reshape, scores of the no-position and the rotary part are added. The latent is given
twice, as (c, k) and as (k, c): the released front end reads a transposed input as a tensor of its own anyway.
Automatic mapping, the default solver (GSCIP), no artifacts, 30 s for each solve.
"""

import json
import math
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

import onnx
import stream
from onnx import TensorProto, helper
from stream.api import SolveOptions, evaluate_mapping
from stream.stages.context import StageContext

TYPE = TensorProto.BFLOAT16
SOLVE_S = 30


class Network:
    """ONNX nodes under way; each method adds one and returns its result's name."""

    def __init__(self) -> None:
        self.inputs, self.nodes, self.shapes = [], [], []

    def given(self, name: str, *shape: int) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, TYPE, shape))
        return name

    def add(self, kind: str, name: str, *inputs: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=f"{name}_{kind.lower()}", **attributes))
        return name

    def product(self, name: str, first: str, second: str) -> str:
        return self.add("MatMul", name, first, second)

    def reshape(self, name: str, source: str, *shape: int) -> str:
        self.shapes.append(helper.make_tensor(f"{name}_shape", TensorProto.INT64, [len(shape)], shape))
        return self.add("Reshape", name, source, f"{name}_shape")

    def model(self, result: str, *shape: int) -> onnx.ModelProto:
        out = helper.make_tensor_value_info(result, TYPE, shape)
        graph = helper.make_graph(self.nodes, "block", self.inputs, [out], self.shapes)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
        return onnx.shape_inference.infer_shapes(model)


def multi_head(net: Network, size: dict[str, int], core_only: bool) -> onnx.ModelProto:
    """MHA with given keys and values."""
    h, q, k, n, v = (size[index] for index in "hqknv")
    if core_only:
        query = net.given("query", h, q, n)
    else:
        query = net.product("query", net.given("x", 1, q, size["d"]), net.given("w_q", h, size["d"], n))
    context = attend(net, net.product("scores", query, net.given("keys", h, n, k)), net.given("values", h, k, v))
    return net.model("context", h, q, v) if core_only else output(net, size, context)


def latent(net: Network, size: dict[str, int], absorbed: bool) -> onnx.ModelProto:
    """MLA, absorbed or with keys and values expanded from the latent."""
    h, q, k, r, c, n, p, v = (size[index] for index in "hqkrcnpv")
    query_latent = net.product("q_latent", net.given("x", 1, q, size["d"]), net.given("w_dq", size["d"], r))
    query = net.product("query", query_latent, net.given("w_uq", h, r, n))
    query_rope = net.product("query_rope", query_latent, net.given("w_qr", h, r, p))
    across, down = net.given("latent_t", 1, c, k), net.given("latent", 1, k, c)
    w_uk, w_uv = net.given("w_uk", h, n, c), net.given("w_uv", h, c, v)
    if absorbed:
        scores = net.product("scores_nope", net.product("query_absorbed", query, w_uk), across)
    else:
        scores = net.product("scores_nope", query, net.product("keys", w_uk, across))
    rope = net.product("scores_rope", query_rope, net.given("key_rope", 1, p, k))
    scores = net.add("Add", "scores", scores, rope)
    if absorbed:
        context = net.product("head_out", attend(net, scores, down), w_uv)
    else:
        context = attend(net, scores, net.product("values", down, w_uv))
    return output(net, size, context)


def attend(net: Network, scores: str, values: str) -> str:
    """Softmax over keys, and the product with the values."""
    return net.product("context", net.add("Softmax", "probs", scores, axis=-1), values)


def output(net: Network, size: dict[str, int], context: str) -> onnx.ModelProto:
    """Merge the heads and project to the model dimension."""
    h, q, v, d = (size[index] for index in "hqvd")
    rows = net.add("Transpose", "context_by_token", context, perm=[1, 0, 2])
    merged = net.reshape("context_merged", rows, 1, q, h * v)
    net.product("y", merged, net.given("w_o", h * v, d))
    return net.model("y", 1, q, d)


def macs(model: onnx.ModelProto) -> int:
    """Multiply-accumulates of all products."""
    values = [*model.graph.input, *model.graph.value_info, *model.graph.output]
    shape = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values}
    products = (node for node in model.graph.node if node.op_type == "MatMul")
    return sum(math.prod(shape[node.output[0]]) * shape[node.input[0]][-1] for node in products)


def groups(context: StageContext) -> list[dict[str, object]]:
    """Cycles of each fused group, and the bits it moves at the port of the DRAM."""
    found: list[dict[str, object]] = []
    cycles, accesses = context.get("group_cycles"), context.get("group_memory_accesses")
    for number, workload in enumerate(context.get("sub_workloads")):
        dram = [core for core in (accesses[number] or {"cores": []})["cores"] if core["is_offchip"]]
        found.append(
            {
                "operators": [node.name for node in workload.get_computation_nodes()],
                "cycles": cycles[number],
                "dram_read_bits": sum(core["read"] * core["read_bandwidth"] for core in dram),
                "dram_write_bits": sum(core["write"] * core["write_bandwidth"] for core in dram),
            }
        )
    return found


def main() -> None:
    """Read a task, run it, print what came out."""
    task = json.load(sys.stdin)
    size, net = task["sizes"], Network()
    if task["scheme"] == "mha":
        model = multi_head(net, size, task["core_only"])
    else:
        model = latent(net, size, task["scheme"] == "mla_absorbed")
    found: dict[str, object] = {"macs": macs(model), "versions": versions()}
    layers = {} if task["fused"] else {"fusion_cut_points": "per-layer"}
    options = SolveOptions(artifacts=False, time_limit_s=SOLVE_S, stage_options=layers)
    hardware = Path(next(iter(stream.__path__))) / "inputs" / "examples" / "hardware" / f"{task['machine']}.yaml"
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(model, f"{folder}/block.onnx")
        began = time.process_time()
        try:
            estimate = evaluate_mapping(str(hardware), f"{folder}/block.onnx", f"{folder}/out", options=options)
            found |= {"cycles": estimate.cycles, "groups": groups(estimate.context), "error": ""}
        except Exception as error:  # whatever it raises is its answer
            found |= {"cycles": None, "groups": [], "error": f"{type(error).__name__}: {error}"}
        found["cpu_s"] = time.process_time() - began
    print("RESULT", json.dumps(found))


def versions() -> dict[str, str]:
    """What ran."""
    packages = {name: metadata.version(name) for name in ("stream-dse", "zigzag-dse", "ortools", "onnx")}
    return {"python": sys.version.split()[0], **packages}


if __name__ == "__main__":
    main()
