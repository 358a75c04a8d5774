"""The part of the summary that goes beyond the letter."""

from collections.abc import Iterable, Mapping, Sequence

from stream_mla.experiments.letter.figures.counted import PLATFORMS
from stream_mla.experiments.letter.figures.extras import FOUR_SCHEMES
from stream_mla.experiments.letter.figures.platforms import MACHINES, platform_map
from stream_mla.experiments.letter.machine import BASELINE_MACS, compute_per_bandwidth
from stream_mla.experiments.letter.rows import Row
from stream_mla.experiments.letter.setup import Step, dram_bytes
from stream_mla.experiments.letter.text.conclusions import (
    LEVEL,
    at,
    by_context,
    crossing,
    energy_crossing,
    lines,
    throughput_crossings,
)
from stream_mla.experiments.letter.text.markdown import number, share, table

Rows = Mapping[str, Sequence[Row]]


THROUGHPUT_MODEL = """\
What the letter's runs do, read off its points, and what stands for it here:

- Machine: P MACs at 1 GHz, 400 GB/s, x = P / 400. **One rule for the array explains all 41 points**: a P within 5 %
  of a power of two is taken for it (x = 320, 341: 512 x 256; 632, 653, 674: 512 x 512), else the most square pair of
  factors up to 3 : 1 (277 x 192, 707 x 287, ...), else the largest square; the longer side lies along the 1536. With
  it, bytes / 400 GB/s + 128 heads x ceil(1536 / rows) ceil(512 / columns) x 128 cycles + attention fits mla_rc to
  0.2 % in the mean.
- Policy `letter`: fused stacks one after the other, and the array idles while the first operand of a product is loaded
  (W_uq of each head, 491 cycles); the second one (W_uk) is loaded behind the product.
- W_uv (8.4 MB) is not fetched, for mla_rc and mla_ru alike: their bytes in Fig 6 lack it while their operations
  contain it. What this is worth is in the section on W_uv.
- Not explained: mha_large at x = 8.19 is 2.7 % faster than its bytes allow at 400 GB/s; mha_scaled is 2 % slower than
  its bytes from x = 50 on."""


def sections(rows: Rows) -> list[str]:
    """Return the sections on the extras."""
    return [
        "## Beyond the letter",
        *_free(rows),
        *_w_uv(rows),
        *_schemes(rows),
        *_platforms(rows),
        *_settings(rows),
    ]


def _free(rows: Rows) -> Iterable[str]:
    free, held = rows["extra_fig5_free"], rows["extra_fig5_w_uv"]
    rc_free, rc_held = lines(free, "L1024")["mla_rc"], lines(held, "L1024")["mla_rc"]
    yield "### a. Prefetch and the scheduler's freedom\n\n![Fig 5, free](extra_fig5_free.png)"
    body = [
        [
            platform.name,
            f"{platform.operations_per_byte:g}",
            f"{at(rc_held, platform.operations_per_byte):.2f}",
            f"{at(rc_free, platform.operations_per_byte):.2f}",
            f"{at(rc_free, platform.operations_per_byte) / at(rc_held, platform.operations_per_byte):.2f}",
        ]
        for platform in PLATFORMS
    ]
    yield "mla_rc at L = 1024 with W_uv read, in both:"
    yield table(["", "x", "policy letter", "policy free", "gain"], body)
    found = {variant: throughput_crossings(some, variant) for variant, some in by_context(free).items()}
    yield table(
        ["policy free", f"mla_rc level with mla_ru (within {LEVEL:.0%})", "mla_rc passes mha_scaled"],
        [[variant, number(level), number(passes)] for variant, (level, passes) in found.items()],
    )
    yield _overlap(rows)


def _overlap(rows: Rows) -> str:
    """Say what is left of the sum of compute and DRAM time."""
    unit = dram_bytes(Step(series="mha_large", context=1024).graph) / 400
    graph = Step(series="mla_rc", context=1024).graph
    dram, compute = dram_bytes(graph) / 400, graph.total_macs / BASELINE_MACS
    x = compute_per_bandwidth(BASELINE_MACS)
    held = unit / at(lines(rows["extra_fig5_w_uv"], "L1024")["mla_rc"], x)
    free = unit / at(lines(rows["extra_fig5_free"], "L1024")["mla_rc"], x)
    return (
        "*The compute of the recomputation adds to the DRAM time*: only without prefetch. On the 256 x 256 array a\n"
        f"step of mla_rc needs {dram / 1e3:.0f}k cycles of DRAM and {compute / 1e3:.0f}k of compute. It takes "
        f"{held / 1e3:.0f}k under policy\n`letter` and {free / 1e3:.0f}k when free: the larger of the two."
    )


def _w_uv(rows: Rows) -> Iterable[str]:
    yield "### W_uv read or not\n\nPolicy `letter`, L = 1024: throughput with W_uv over throughput without."
    held, figure = lines(rows["extra_fig5_w_uv"], "L1024"), rows.get("fig5")
    if figure is not None:
        without = lines(figure, "L1024")
        body = [
            [
                series,
                *(
                    share(at(held[series], p.operations_per_byte) / at(without[series], p.operations_per_byte) - 1)
                    for p in PLATFORMS
                ),
            ]
            for series in ("mla_rc", "mla_ru")
        ]
        yield table(["", *(platform.name for platform in PLATFORMS)], body)


def _schemes(rows: Rows) -> Iterable[str]:
    yield "### b. The two schemes left out\n\n![Fig 4](extra_fig4.png)\n\n![Fig 5](extra_fig5_schemes.png)"
    yield "![Fig 6](extra_fig6.png)"
    free = [row for row in rows["extra_fig5_schemes"] if row.panel == FOUR_SCHEMES.panel]
    body: list[list[str]] = []
    for variant in ("L1024", "L4096"):
        found = lines(free, variant)
        for platform in PLATFORMS:
            values = {series: at(line, platform.operations_per_byte) for series, line in found.items()}
            order = sorted(values, key=lambda series: (-round(values[series], 2), series))
            body.append([variant, platform.name, *(f"{series} {values[series]:.2f}" for series in order)])
    yield "Throughput when free, best first:"
    yield table(["", "platform", "1st", "2nd", "3rd", "4th"], body)
    energy = rows["extra_fig6"]
    lowest = lines(energy, "L1024")
    cheapest = all(
        value <= other
        for name, line in lowest.items()
        if name.startswith("mla")
        for value, other in zip(lowest["mla_absorbed"][1], line[1], strict=True)
    )
    verdict = (
        "takes the least energy of the four schemes at every efficiency"
        if cheapest
        else "is not always the most frugal"
    )
    yield (
        "mla_absorbed (1-2-3) reads what mla_rc reads and computes less than mla_ru. It\n"
        f"{verdict}. With W_uv read and policy free, mla_rc takes less energy\n"
        f"than mla_ru from {number(energy_crossing(energy, 'L1024'))} TOPS/W."
    )


def _platforms(rows: Rows) -> Iterable[str]:
    cells = platform_map(rows["extra_platforms"])
    won = {name: sum(1 for cell in cells.values() if cell.best == name) for name in ("mla_rc", "mla_ru", "tie")}
    beaten = sum(1 for cell in cells.values() if cell.absorbed >= 1.05)
    never = all(cell.absorbed > 0.999 for cell in cells.values())
    least = "never slower" if never else "slower than the better one in some"
    yield "### c. Whole machines\n\n![map](extra_platforms.png)"
    yield (
        "By the bound that no tiling and no schedule can beat (every DRAM byte once, or all MACs at the arrays' 8-bit\n"
        f"peak), on {len(MACHINES)} machines, batch 1 and 32, 1k to 128k tokens: mla_rc is faster in {won['mla_rc']} "
        f"cells, mla_ru in {won['mla_ru']},\nneither by more than 1 % in {won['tie']}. mla_absorbed is at least 5 % "
        f"faster than both in {beaten} of {len(cells)}, and {least}.\nThe machines compute at their 8-bit peak, "
        "so mla_rc does better than at the corners of Fig 4."
    )


def _settings(rows: Rows) -> Iterable[str]:
    entries = rows["extra_rope_bits"]
    yield "### d. RoPE and 16 bit\n\n![settings](extra_rope_bits.png)"
    body: list[list[str]] = []
    for setting in dict.fromkeys(row.variant for row in entries):
        found = lines(entries, setting)
        level = crossing(found["mla_rc"], found["mla_ru"][1], LEVEL)
        passes = crossing(found["mla_rc"], found["mha_scaled"][1])
        top = {series: line[1][-1] for series, line in found.items()}
        body.append([setting, number(level), number(passes), f"{top['mla_rc']:.2f}", f"{top['mla_absorbed']:.2f}"])
    yield "Policy free, L = 1024, an array that does one product of the setting's width per element and cycle:"
    yield table(
        [
            "setting",
            "mla_rc level with mla_ru at x",
            "mla_rc passes mha_scaled at x",
            "mla_rc / mla_ru at x = 819",
            "mla_absorbed / mla_ru at x = 819",
        ],
        body,
    )
    yield (
        "16 bit doubles the bytes of a step and not its MACs, so mla_rc needs half the compute per byte. RoPE adds\n"
        "weights and cache to both schemes, so that mla_rc gains a little less. The order of the schemes stays."
    )
