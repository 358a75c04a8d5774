"""Which scheme is fastest on a machine of one's own, and whether twice the DRAM bandwidth changes that."""

from dataclasses import replace

from stream_mla import Point, evaluate, load_accelerator

shipped = load_accelerator("flat_cloud")  # or the path of a file: load_accelerator("my_machine.yaml")
own = replace(
    shipped,
    name="my_machine",
    dram=replace(shipped.dram, bandwidth=2 * shipped.dram.bandwidth),
    links=tuple(
        replace(link, bandwidth=2 * link.bandwidth, port_bandwidth=2 * link.port_bandwidth) for link in shipped.links
    ),
)

for machine in (shipped, own):
    for scheme in ("mla_naive", "mla_absorbed", "mla_rc", "mla_ru"):
        result = evaluate(Point.of("deepseek_v3", machine, context=1024, scheme=scheme, bits=8, time_limit=0)).result
        print(
            f"{result.accelerator:12} {result.scheme:14} {result.latency_cycles:>10,} cycles"
            f" {result.energy_pj / 1e9:8.3f} mJ  bound by {result.binding_bound}"
        )
