"""The same attention blocks through stream_mla and Stream 2.1.1, side by side.

    python -m benchmarks.peers                       # Stream too, where a Python 3.12 is found
    python -m benchmarks.peers --stream kept         # beside Stream's answers of the last whole run
    python -m benchmarks.peers --machines fusemax --blocks mla_decode_naive --tokens 1024

Stream runs in an environment of its own under ~/.cache/stream_mla, made from the package index at the first call; its
answers are kept there too (--again asks anew). Exit code 1 where a figure is missed; stderr names all of them.
"""

import argparse
import sys
from pathlib import Path

from benchmarks.peers import compare, ours, report, stream_tool
from benchmarks.peers.blocks import BLOCKS, Block
from benchmarks.peers.stream_tool import Theirs

MACHINES = {
    "tpu_like_quad_core": "tpu_like_quad_core",
    "tpu_like_quad_core_as_stream_computes": "tpu_like_quad_core",
    "fusemax": "fusemax",
    "tpu_v7_ironwood": "tpu_v7_ironwood",
}
"""Our machine, and the file of Stream's it stands for. Stream computes the last two as it declares them."""
RESULTS = Path(__file__).with_name("results")


def _arguments() -> argparse.Namespace:
    names = list(dict.fromkeys(block.name for block in BLOCKS))
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--machines", nargs="+", choices=MACHINES, default=list(MACHINES))
    parser.add_argument("--blocks", nargs="+", choices=names, default=names)
    parser.add_argument("--tokens", nargs="+", type=int, default=[1024, 4096, 16384])
    parser.add_argument("--time-limit", type=float, default=0.0, help="seconds of the solver (default 0)")
    parser.add_argument("--stream", choices=["auto", "kept"], default="auto", help="whether to run Stream")
    parser.add_argument("--again", action="store_true", help="ask Stream again what it answered before")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def _interpreter(arguments: argparse.Namespace) -> Path | None:
    if arguments.stream == "kept":
        return None
    python = stream_tool.find_python()
    if python is None:
        print("no Python 3.12 found: Stream is not run, its kept answers stand in", file=sys.stderr)
        return None
    return stream_tool.environment(python)


def _theirs(peer: str, block: Block, interpreter: Path | None, again: bool) -> dict[str, Theirs]:
    """Return Stream's answers, fused and layer by layer: run, or kept from an earlier run."""
    modes = {stream_tool.key(peer, block, fused=fused): fused for fused in (True, False)}
    if interpreter is None:
        answers = stream_tool.kept()
        return {name: answers[name] for name in modes if name in answers}
    return {name: stream_tool.run(interpreter, peer, block, fused=fused, again=again) for name, fused in modes.items()}


def _tell(row: compare.Row) -> None:
    found = report.cells(row)
    text = ", ".join(f"{name} {found[name]}" for name in ("cycles", "gap", "cpu_s") if name in found)
    stream = found.get("stream_cycles", "infeasible" if row.theirs or row.recorded else "not run")
    print(f"{row.title}: {text or row.ours.error}; Stream {stream}, CPU {found.get('stream_cpu_s', '-')} s", flush=True)


def main() -> int:
    """Run, save, judge."""
    arguments = _arguments()
    interpreter = _interpreter(arguments)
    chosen = [block for block in BLOCKS if block.name in arguments.blocks and block.tokens in arguments.tokens]
    whole = len(chosen) == len(BLOCKS) and len(arguments.machines) == len(MACHINES)
    rows: list[compare.Row] = []
    answers: dict[str, Theirs] = {}
    for machine in arguments.machines:
        peer = MACHINES[machine]
        for block in chosen:
            found = _theirs(peer, block, interpreter, arguments.again and machine == peer)
            answers |= found
            mine = ours.run(machine, block, arguments.time_limit)
            known = compare.recorded(peer, block)
            rows.append(
                compare.Row(machine=machine, block=block, ours=mine, theirs=list(found.values()), recorded=known)
            )
            _tell(rows[-1])
            report.save(rows, arguments.out, "peers" if whole else "part", arguments.time_limit)
    if interpreter is not None and whole:
        stream_tool.keep(answers)
    sentences = compare.missed(rows)
    for sentence in sentences:
        print(f"missed: {sentence}", file=sys.stderr)
    return 1 if sentences else 0


if __name__ == "__main__":
    sys.exit(main())
