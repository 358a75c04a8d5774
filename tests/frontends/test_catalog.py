"""Files: every mistake of a file in one message, and every object back from its text."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_mla.errors import UNPRINTABLE, SpecError, quoted
from stream_mla.frontends.catalog import accelerator_names, check, dump, load_accelerator, load_model, model_names
from stream_mla.hardware.accelerator import Accelerator, Core, CoreType, Dram
from stream_mla.workload.spec import CAUSAL, NO_MASK, GroupedQueryAttention, LatentAttention, Mask, Model, Precision

CORE = """\
name: small_core
source: test
array:
  rows: 4
  columns: 8
  delivery: systolic
  dataflows: [output_stationary, weight_stationary]
  precisions:
  - {operand: 8 bit, macs_per_element: 1, mac_energy: 0.08 pJ/MAC}
vector: {operations_per_cycle: 16, operation_energy: 0.5 pJ/op}
registers: {capacity: 64 bit, read_energy: 0.01 pJ/bit, write_energy: 0.01 pJ/bit}
sram:
  capacity: 2 MiB
  read_bandwidth: 64 B/cycle
  write_bandwidth: 32 B/cycle
  read_energy: 1 pJ/bit
  write_energy: 1 pJ/bit
"""
SYSTEM = """\
name: small
source: test
clock: 2 GHz
cores:
- {name: core, file: cores/small.yaml, count: 2}
- {name: spare, file: cores/small.yaml, count: 1}
dram: {capacity: 1 GiB, bandwidth: 100 GB/s, latency: 50 ns, read_energy: 8 pJ/bit, write_energy: 8 pJ/bit}
links:
- {name: bus, kind: bus, ends: [dram, core, spare],
   bandwidth: 100 GB/s, port_bandwidth: 16 B/cycle, latency: 0 ns, energy: 0 pJ/bit}
- {name: wire, kind: link, ends: ["core[0]", "core[1]"],
   bandwidth: 8 B/cycle, port_bandwidth: 8 B/cycle, latency: 0 ns, energy: 0.1 pJ/bit}
"""
MODEL = """\
name: small_model
source: test
layers: 2
attention:
  kind: latent
  model_dim: 64
  heads: 4
  query_rank: null
  kv_rank: 16
  nope_dim: 8
  rope_dim: 4
  value_dim: 8
  latent_norms: true
precision: {weights: 8 bit, cache: 16 bit, activations: 16 bit, partials: 32 bit}
"""


def write(folder: Path, system: str = SYSTEM, core: str = CORE) -> str:
    """Write a system and its core file; return the path of the system."""
    (folder / "cores").mkdir(exist_ok=True)
    (folder / "cores" / "small.yaml").write_text(core)
    (folder / "small.yaml").write_text(system)
    return str(folder / "small.yaml")


def write_text(folder: Path, text: str) -> str:
    """Write one file; return its path."""
    (folder / "file.yaml").write_text(text, encoding="utf-8")
    return str(folder / "file.yaml")


def problems_of(path: str) -> list[str]:
    """Return the problems that `check` finds in a file."""
    with pytest.raises(SpecError) as error:
        check(path)
    assert error.value.where == path
    return list(error.value.problems)


def changed(text: str, *changes: tuple[str, str]) -> str:
    """Replace pieces of a text, each of which must be there once."""
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def test_model_is_read(tmp_path: Path):
    assert load_model(write_text(tmp_path, MODEL)) == Model(
        name="small_model",
        source="test",
        layers=2,
        attention=LatentAttention(
            model_dim=64, heads=4, query_rank=None, kv_rank=16, nope_dim=8, rope_dim=4, value_dim=8, latent_norms=True
        ),
        precision=Precision(weights=8, cache=16, activations=16, partials=32),
    )


def test_accelerator_is_read(tmp_path: Path):
    accelerator = load_accelerator(write(tmp_path))
    assert accelerator.clock == 2e9
    assert [core.name for core in accelerator.cores] == ["core[0]", "core[1]", "spare"]
    assert accelerator.cores[0].type == accelerator.cores[2].type
    assert accelerator.cores[0].type.sram.capacity == 2 * 2**20 * 8
    assert accelerator.dram.latency == 50e-9
    bus, wire = accelerator.links
    assert bus.ends == ("dram", "core[0]", "core[1]", "spare")
    assert bus.bandwidth == 100e9 * 8
    assert bus.port_bandwidth == 16 * 8 * 2e9  # 16 B/cycle at 2 GHz
    assert wire.ends == ("core[0]", "core[1]")


def test_vector_only_core_leaves_out_array_and_registers(tmp_path: Path):
    lines = CORE.splitlines(keepends=True)
    text = "".join(lines[:2] + [line for line in lines if line.startswith("vector")] + lines[-6:])
    core = check(write_text(tmp_path, text))
    assert isinstance(core, CoreType)
    assert core.array is None
    assert core.registers is None


def test_seven_mistakes_give_seven_messages(tmp_path: Path):
    system = changed(
        SYSTEM,
        ("clock: 2 GHz", "clock: 2000000000"),
        ("latency: 50 ns, ", ""),
        ("capacity: 1 GiB", "capacity: 1 GiB/s"),
        ("{name: bus, kind: bus", "{name: bus, kind: tree"),
        ('"core[1]"]', '"core[7]"]'),
    )
    core = changed(CORE, ("rows: 4", "rows: many"), ("  capacity: 2 MiB", "  capacty: 2 MiB"))
    path = write(tmp_path, system, core)
    with pytest.raises(SpecError) as error:
        load_accelerator(path)
    bits = "bit, kbit, Mbit, Gbit, Tbit, Kibit, Mibit, Gibit, Tibit, B, kB, MB, GB, TB, KiB, MiB, GiB, TiB"
    assert (
        str(error.value)
        == f"""\
{path}: 7 problems
  - 2000000000 has no unit: write a number and one of Hz, kHz, MHz, GHz @ clock
  - expected a whole number, got 'many': write digits alone, without unit or quotes @ cores/small.yaml: array.rows
  - unknown key 'capacty': did you mean 'capacity'? @ cores/small.yaml: sram.capacty
  - '1 GiB/s' is not a quantity in bit: write a number and one of {bits} @ dram.capacity
  - required key 'latency' is missing: add it @ dram.latency
  - 'tree' is not a link kind: use one of bus, link, multicast_bus, mesh @ links[0].kind
  - 'core[7]' is neither 'dram' nor a core nor a group of cores: did you mean 'core[1]'? @ links[1].ends[1]"""
    )


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("layers: 2", "layers: true", "expected a whole number, got True: {int} @ layers"),
        ("layers: 2", "layers: 2.0", "expected a whole number, got 2.0: {int} @ layers"),
        ("layers: 2", "layers: 0", "layers must be at least 1, got 0 @ top level"),
        ("name: small_model", "name: 7", "expected text, got 7: write it in quotes @ name"),
        (
            "latent_norms: true",
            "latent_norms: 1",
            "expected true or false, got 1: write one of the two, without quotes @ attention.latent_norms",
        ),
        (
            "kind: latent",
            "kind: linear",
            "'linear' is not a kind: use one of latent, grouped_query @ attention.kind",
        ),
        (
            "  kind: latent\n",
            "",
            "required key 'kind' is missing: add it, one of latent, grouped_query @ attention.kind",
        ),
        (
            "  query_rank: null\n",
            "",
            "required key 'query_rank' is missing: add it @ attention.query_rank",
        ),
        ("rope_dim: 4", "rope_dim: 3", "rope_dim must be even and not negative, got 3 @ attention"),
        (
            "layers: 2",
            "layers: 2\nzoo: 1",
            "unknown key 'zoo': remove it, or use one of name, source, layers, attention, precision, "
            "notes, mask, window, chunk @ zoo",
        ),
        (
            "  heads: 4",
            "  heads: 4\n  heads: 8",
            "key 'heads' is given on lines 7 and 8: keep one @ attention.heads",
        ),
        (
            "layers: 2",
            "layers: [2",
            "expected ',' or ']', but got ':': correct the YAML @ line 4, column 10",
        ),
    ],
)
def test_mistake_in_a_model(tmp_path: Path, old: str, new: str, problem: str):
    path = write_text(tmp_path, changed(MODEL, (old, new)))
    expected = problem.format(int="write digits alone, without unit or quotes")
    assert problems_of(path) == [expected]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("clock: 2 GHz", "clock: 0 GHz", "clock must be > 0, got 0 @ clock"),
        (
            "name: spare, file: cores/small.yaml, count: 1",
            "name: spare, count: 1",
            "got neither file nor type: give one of the two @ cores[1]",
        ),
        (
            "name: spare, file: cores/small.yaml, count: 1",
            "name: spare, file: cores/small.yaml, count: 0",
            "count must be from 1 to 510 (a system has at most 512 cores), got 0 @ cores[1].count",
        ),
        ("{name: spare", '{name: "core[1]"', "the name 'core[1]' is taken: use another @ cores[1].name"),
        ("{name: spare", "{name: dram", "the name 'dram' is taken: use another @ cores[1].name"),
        (
            "{name: spare, file: cores/small.yaml",
            "{name: spare, file: 3",
            "expected the path of a core file, got 3: write text @ cores[1].file",
        ),
        (
            "ends: [dram, core, spare]",
            "ends: [dram, core]",
            "no path of links joins core 'spare' with 'dram'; every core needs one @ top level",
        ),
        (
            '["core[0]", "core[1]"]',
            "[core, spare]",
            "a link has two ends, got 3: make it a bus @ links[1]",
        ),
        (
            "bandwidth: 8 B/cycle, port_bandwidth",
            "bandwidth: 0 B/cycle, port_bandwidth",
            "bandwidth must be > 0, got 0 @ links[1]",
        ),
        ("{name: wire", "{name: bus", "two links have the same name; a link is known by its name @ top level"),
        ("dram: {", "dram: 7 #", "expected a mapping with the keys {dram}, got 7 @ dram"),
    ],
)
def test_mistake_in_a_system(tmp_path: Path, old: str, new: str, problem: str):
    path = write(tmp_path, changed(SYSTEM, (old, new)))
    dram = "capacity, bandwidth, latency, read_energy, write_energy"
    # A group that cannot be read leaves the ends of links unchecked, rather than calling them unknown.
    assert problems_of(path) == [problem.replace("{dram}", dram)]


def test_wrong_link_bandwidth_lists_units_per_second_and_per_cycle(tmp_path: Path):
    path = write(tmp_path, changed(SYSTEM, ("bandwidth: 8 B/cycle, port_bandwidth", "bandwidth: 8, port_bandwidth")))
    (problem,) = problems_of(path)
    assert problem.startswith("8 has no unit: write a number and one of bit/s, kbit/s, ")
    assert problem.endswith(", GiB/cycle, TiB/cycle @ links[1].bandwidth")


def test_core_file_that_is_missing_is_one_problem(tmp_path: Path):
    system = SYSTEM.replace("cores/small.yaml", "cores/gone.yaml")
    gone = str(tmp_path / "cores" / "gone.yaml")
    assert problems_of(write(tmp_path, system)) == [
        f"file not found, {quoted(gone)}: check the path @ cores/gone.yaml: top level"
    ]


def test_empty_list_of_cores_is_one_problem(tmp_path: Path):
    lines = [line for line in SYSTEM.splitlines(keepends=True) if "cores/small.yaml" not in line]
    path = write(tmp_path, changed("".join(lines), ("cores:\n", "cores: []\n")))
    assert problems_of(path) == ["cores must name at least one core @ cores"]


def test_file_that_describes_nothing_known(tmp_path: Path):
    assert problems_of(write_text(tmp_path, "weather: fine\n")) == [
        "cannot tell what this file describes: give it the keys of one of layers, attention, precision (model); "
        "clock, cores, dram, links (accelerator); array, vector, registers, sram (core type) @ top level"
    ]


@pytest.mark.parametrize(
    "text", ["", "&a [*a]", "a: &a {b: *a}", "- 1\n- 2", "? [1]\n: 2", "\x00", "2024-13-45", "{a: 1"]
)
def test_broken_yaml_is_a_spec_error(tmp_path: Path, text: str):
    assert len(problems_of(write_text(tmp_path, text))) == 1


def test_file_that_is_not_text(tmp_path: Path):
    (tmp_path / "file.yaml").write_bytes(b"name: \xff")
    assert problems_of(str(tmp_path / "file.yaml")) == [
        "not UTF-8 text (invalid start byte, byte 6): save it as UTF-8 @ top level"
    ]


def test_unknown_name_lists_close_ones():
    with pytest.raises(SpecError) as error:
        load_model("deepseek_v3_lettre")
    (problem,) = error.value.problems
    assert problem.startswith("no shipped model has this name: did you mean deepseek_v3_letter")
    assert problem.endswith(" The path of a file is accepted too")


def test_path_that_is_missing():
    with pytest.raises(SpecError) as error:
        load_accelerator("no/such.yaml")
    assert str(error.value) == (
        "no/such.yaml: 1 problem\n  - file not found, 'no/such.yaml': check the path @ top level"
    )


def test_model_survives_writing(tmp_path: Path):
    latent = load_model(write_text(tmp_path, MODEL))
    grouped = replace(
        latent,
        name="yes",  # which YAML would read as true
        attention=GroupedQueryAttention(model_dim=64, heads=4, kv_heads=2, head_dim=16, rope_dim=0),
    )
    for model in (latent, grouped):
        assert load_model(write_text(tmp_path, dump(model))) == model


def test_accelerator_survives_writing(tmp_path: Path):
    accelerator = load_accelerator(write(tmp_path))
    assert "ends: [dram, core, spare]" in dump(accelerator)
    assert load_accelerator(write_text(tmp_path, dump(accelerator))) == accelerator


@pytest.mark.parametrize(
    "names",
    [
        ("core[0]", "core[1]", "core"),  # `core` cannot name the group
        ("core[1]", "core[0]"),  # not in the order that a group has
        ("core[0]",),  # a group of one would be called `core`
        ("a[0]", "a[1]", "b", "a[2]"),
        ("dram[0]", "dram[1]"),
    ],
)
def test_any_names_of_cores_survive_writing(tmp_path: Path, names: tuple[str, ...]):
    accelerator = load_accelerator(write(tmp_path))
    kind = accelerator.cores[0].type
    cores = tuple(Core(name=name, type=kind) for name in names)
    bus = replace(accelerator.links[0], ends=("dram", *names))
    renamed = replace(accelerator, cores=cores, links=(bus,))
    assert load_accelerator(write_text(tmp_path, dump(renamed))) == renamed


ENERGY = st.floats(min_value=1e-9, max_value=1e6) | st.just(0.0)
NAMES = st.text(min_size=1, max_size=200).filter(
    lambda name: not UNPRINTABLE.search(name) and name.strip() and not {*name} & {*"\t\n"}
)


@given(
    dram=st.builds(
        Dram,
        capacity=st.integers(min_value=1, max_value=8 * 10**18),
        bandwidth=st.floats(min_value=1e3, max_value=8e18),
        latency=st.floats(min_value=0, max_value=1),
        read_energy=ENERGY,
        write_energy=ENERGY,
    ),
    clock=st.floats(min_value=1e3, max_value=1e12),
    name=NAMES,
)
def test_any_numbers_and_names_survive_writing(
    tmp_path_factory: pytest.TempPathFactory, dram: Dram, clock: float, name: str
):
    folder = tmp_path_factory.getbasetemp()
    accelerator = replace(load_accelerator(write(folder)), dram=dram, clock=clock, name=name)
    assert load_accelerator(write_text(folder, dump(accelerator))) == accelerator


def test_core_type_survives_writing(tmp_path: Path):
    core = check(write_text(tmp_path, CORE))
    assert isinstance(core, CoreType)
    vector_only = replace(core, array=None, registers=None)
    for value in (core, vector_only):
        assert check(write_text(tmp_path, dump(value))) == value


@pytest.mark.parametrize("name", model_names())
def test_shipped_model_loads_and_survives_writing(tmp_path: Path, name: str):
    model = load_model(name)
    assert model.name == name
    assert load_model(write_text(tmp_path, dump(model))) == model


@pytest.mark.parametrize("name", accelerator_names())
def test_shipped_accelerator_loads_and_survives_writing(tmp_path: Path, name: str):
    accelerator = load_accelerator(name)
    assert accelerator.name == name
    written = load_accelerator(write_text(tmp_path, dump(accelerator)))
    assert isinstance(written, Accelerator)
    assert written == accelerator


KINDS_OF_LAYERS = """
name: mixed
source: test
layer: full
layer_kinds:
  - name: sliding
    layers: 5
    attention: {kind: grouped_query, model_dim: 64, heads: 4, kv_heads: 2, head_dim: 16, rope_dim: 8}
    window: 1024
  - name: full
    layers: 1
    attention: {kind: grouped_query, model_dim: 64, heads: 4, kv_heads: 2, head_dim: 32, value_dim: 16, rope_dim: 0}
    mask: causal
precision: {weights: 8 bit, cache: 8 bit, activations: 8 bit, partials: 32 bit}
notes: [soft capping left out]
"""


def test_kinds_of_layers_of_a_model_file(tmp_path: Path):
    model = load_model(write_text(tmp_path, KINDS_OF_LAYERS))
    assert (model.layers, model.layer, model.mask, model.notes) == (6, "full", CAUSAL, ("soft capping left out",))
    assert model.attention == model.kinds[1].attention
    sliding = model.with_layer("sliding")
    assert sliding.mask == Mask(causal=True, window=1024)
    # values are as wide as keys where the file does not say otherwise
    assert (sliding.attention.value_dim, sliding.attention.rope_dim) == (16, 8)
    for value in (model, sliding):
        assert load_model(write_text(tmp_path, dump(value))) == value
    with pytest.raises(ValueError, match="mixed has no layer kind 'other': use one of sliding, full"):
        model.with_layer("other")


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("mask: causal", "mask: diagonal", "'diagonal' is not a mask: use causal or none @ layer_kinds[1].mask"),
        ("window: 1024", "window: 0", "window must be at least 1, got 0 @ layer_kinds[0]"),
        ("window: 1024", "window: 1024\n    mask: none", "window needs a causal mask @ layer_kinds[0]"),
        ("layer: full", "layer: other", "'other' is no name of layer_kinds: use one of sliding, full @ layer"),
        ("name: full", "name: sliding", "'full' is no name of layer_kinds: use one of sliding, sliding @ layer"),
    ],
)
def test_problems_of_kinds_of_layers(tmp_path: Path, old: str, new: str, problem: str):
    assert problems_of(write_text(tmp_path, KINDS_OF_LAYERS.replace(old, new))) == [problem]


def test_masks_of_shipped_models():
    masks = {name: load_model(name).mask for name in model_names()}
    letter = {name for name, mask in masks.items() if mask == NO_MASK}
    assert letter == {"deepseek_v3_letter", "mha_large", "mha_scaled"}
    assert {mask for name, mask in masks.items() if name not in letter} == {CAUSAL}
