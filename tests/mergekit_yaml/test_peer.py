"""The same YAML through mergekit itself, where it is installed (marker ``peer``).

Compared with mergekit 0.1.5: ``pip install mergekit==0.1.5`` and ``pytest -m peer tests/mergekit_yaml``.
Every tensor agrees to one unit in the last place of the output's dtype, wherever the arithmetic is finer
than the output: float32 written as bfloat16, float64 written as float32. Where both are float32, the two
add up in different orders, and mergekit's own roundings are a few units; eight are allowed. A unit is at
least that of the tensor's mean magnitude: where terms nearly cancel, their own rounding shows.
"""

import pytest
import torch
import yaml

pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("ignore")]

THREE = """
base_model: base
models:
- {{model: a, parameters: {{weight: 0.6{0}}}}}
- {{model: b, parameters: {{weight: [0.2, 1.0, 0.4]{0}}}}}
- {{model: c, parameters: {{weight: {{filter: mlp, value: 0.3}}{0}}}}}
parameters: {{weight: 0.5{1}}}
"""
PAIR = "base_model: base\nmodels: [{model: base}, {model: a}]\nparameters: {%s}\n"
CASES = {
    "linear": "models:\n- {model: a, parameters: {weight: 1}}\n- {model: b, parameters: {weight: 3}}",
    "linear, with base, not normalized": "base_model: base\nmodels: [{model: a}, {model: b}]\n"
    "parameters: {weight: 0.4, normalize: false}",
    "slerp": PAIR % "t: [{filter: self_attn, value: [0, 0.5, 0.3, 1]}, {filter: mlp, value: 0.2}, "
    "{value: 0.5}]",
    "slerp, unlike": "base_model: deep\nmodels: [{model: deep}, {model: deep2}]\nparameters: {t: 0.3}",
    "nuslerp": THREE.split("- {{model: c")[0].format("", "") + "parameters: {weight: 0.5}",
    "nuslerp, rows": "models: [{model: a}, {model: b}]\n"
    "parameters: {weight: 0.5, nuslerp_flatten: false}",
    "nuslerp, columns": "base_model: base\nmodels: [{model: a}, {model: b}]\n"
    "parameters: {weight: 0.5, nuslerp_flatten: false, nuslerp_row_wise: true}",
    "multislerp": THREE.format("", ""),
    "multislerp, models": "models: [{model: a}, {model: b}, {model: base}]\nparameters: {weight: 0.7}",
    "karcher": "models: [{model: a}, {model: b}, {model: c}]\nparameters: {max_iter: 5}",
    "karcher, unlike": "models: [{model: deep}, {model: deep2}]",
    "task_arithmetic": THREE.format("", ", lambda: 0.7"),
    "task_arithmetic, normalized": THREE.format("", ", normalize: true"),
    "ties": THREE.format(", density: [0.3, 0.7]", ", int8_mask: true"),
    "ties, one density": THREE.format("", ", density: 0.4, normalize: false, lambda: 1.3"),
    "ties, tiny density": THREE.format(", density: 0.01", ""),
    "ties, rescaled": THREE.format(", density: 0.5", ", rescale: true"),
    "breadcrumbs": THREE.format(", density: 0.6, gamma: 0.05", ""),
    "breadcrumbs, crowded": THREE.format(", density: 0.97, gamma: 0.1", ""),
    "breadcrumbs_ties": THREE.format(", density: 0.5, gamma: 0.1", ", normalize: true"),
    "sce": "base_model: base\nmodels: [{model: a}, {model: b}, {model: c}]\n"
    "parameters: {select_topk: 0.3}",
    "sce, all": "base_model: base\nmodels: [{model: a}, {model: b}, {model: c}]",
    "ram": "base_model: base\nmodels: [{model: a}, {model: b}]\nparameters: {epsilon: 0.04}",
    "ramplus_tl": "base_model: base\nmodels: [{model: a}, {model: b}]\n"
    "parameters: {epsilon: 0.04, r: 0.5}",
    "model_stock": "base_model: base\nmodels: [{model: a}, {model: b}, {model: c}]",
    "model_stock, rows": "base_model: base\nmodels: [{model: a}, {model: b}]\n"
    "parameters: {filter_wise: true}",
    "nearswap": PAIR % "t: 0.02",
    "arcee_fusion": "base_model: base\nmodels: [{model: base}, {model: a}]",
    "passthrough": "slices:\n- sources: [{model: a, layer_range: [0, 2]}]\n"
    "- sources: [{model: deep, layer_range: [1, 4]}]",
    "passthrough, scaled": "slices:\n- sources:\n  - model: a\n    layer_range: [0, 2]\n"
    "    parameters: {scale: [{filter: o_proj, value: 0}, {filter: down_proj, value: [0.5, 1]}]}\n"
    "- sources: [{model: b, layer_range: [1, 3]}]",
    "linear, slices": "slices:\n- sources:\n"
    "  - {model: a, layer_range: [0, 2], parameters: {weight: 2}}\n"
    "  - {model: deep, layer_range: [2, 4], parameters: {weight: [1, 3]}}\n"
    "- sources: [{model: deep, layer_range: [0, 3]}]\nparameters: {weight: 1}",
    "slerp, slices": "base_model: base\nslices:\n- sources:\n  - {model: base, layer_range: [0, 3]}\n"
    "  - {model: deep, layer_range: [1, 4]}\n  parameters: {t: [0, 1]}",
    "linear, bert": "models: [{model: bert-a}, {model: bert-b}]\nparameters: {weight: [1, 2]}",
    "linear, one tied": "models:\n- {model: a, parameters: {weight: 1}}\n"
    "- {model: tied, parameters: {weight: 3}}",
}


@pytest.fixture(scope="module")
def deep2(zoo):
    from .conftest import llama

    return llama(zoo / "deep2", seed=9, layers=5)


def theirs(bench, path, out):
    """Run mergekit's merge of a file, in this process."""
    pytest.importorskip("mergekit", reason="mergekit is not installed")
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    config = MergeConfiguration.model_validate(yaml.safe_load(path.read_text()))
    options = MergeOptions(copy_tokenizer=False, quiet=True, allow_crimes=True)
    run_merge(config, str(bench.folder / out), options)
    return bench.tensors(bench.folder / out)


def units_apart(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest distance, in units in the last place of the larger, the tensor's mean size at least."""
    a64, b64 = a.double(), b.double()
    size = torch.maximum(a64.abs(), b64.abs()).clamp(min=float(a64.abs().mean()) + 1e-30)
    spacing = torch.finfo(a.dtype).eps * 2.0 ** torch.floor(torch.log2(size))
    return float(((a64 - b64).abs() / spacing).max())


@pytest.mark.parametrize(
    ("dtype", "out_dtype", "allowed"),
    [("float32", "bfloat16", 1), ("float64", "float32", 1), ("float32", "float32", 8)],
)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("deep2")
def test_every_tensor_agrees(bench, case, dtype, out_dtype, allowed):
    dtypes = f"dtype: {dtype}\nout_dtype: {out_dtype}\n"
    text = f"merge_method: {case.split(',')[0]}\n{CASES[case]}\n{dtypes}"
    path = bench.write(text)
    wanted = theirs(bench, path, "theirs")
    found = bench.merge(text)
    assert set(found) == set(wanted)
    apart = {name: units_apart(found[name], wanted[name]) for name in wanted}
    print(f"\n{case}: {dtype} to {out_dtype}: {max(apart.values()):.3f} units")
    assert all(found[n].dtype == wanted[n].dtype for n in wanted)
    assert {name: u for name, u in apart.items() if u > allowed} == {}
