"""One attention layer on one machine: latency, energy, and how far from optimal the schedule can be."""

from stream_mla import Point, evaluate

point = Point.of("deepseek_v3", "flat_cloud", context=4096, scheme="mla_rc", bits=8)
outcome = evaluate(point)
print(outcome)
