"""Folders in other toolkits' layouts as those toolkits read them, beside what hasten read; prints one line of JSON per folder.

    python -m venv readers
    readers/bin/python -m pip install torch transformers accelerate compressed-tensors bitsandbytes optimum datasets
    readers/bin/python -m pip install --no-build-isolation gptqmodel
    readers/bin/python -m pip install --no-build-isolation --no-deps autoawq

Takes a list of jobs as JSON on stdin: folder, and `ours`, a safetensors file with the values of each linear as hasten reads them (f32) and, where the model is to be
run too, `logits` and `ids`. Nothing of autoawq but its functions for packed words is used: it does not import beside a recent transformers.
"""

import importlib.metadata
import importlib.util
import json
import os
import sys

os.environ["TORCHDYNAMO_DISABLE"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from safetensors.torch import load_file

torch.set_grad_enabled(False)
torch.set_num_threads(1)


def version(package):
    return f"{package} {importlib.metadata.version(package)}"


def parts_of(tensors, suffix):
    """Prefixes `X.` of tensors `X.suffix`."""
    return [name[: -len(suffix)] for name in tensors if name.endswith("." + suffix)]


def bitsandbytes_values(tensors, _config):
    import bitsandbytes.functional as bnb

    for name in list(tensors):
        if ".quant_state.bitsandbytes__" in name:
            weight = name.split(".quant_state.")[0]
            parts = {k[len(weight) + 1 :]: v for k, v in tensors.items() if k.startswith(weight + ".")}
            state = bnb.QuantState.from_dict(parts, device=torch.device("cpu"))
            state.dtype = torch.float32
            yield weight, bnb.dequantize_4bit(tensors[weight], quant_state=state)
    for prefix in parts_of(tensors, "SCB"):
        yield prefix + "weight", bnb.int8_vectorwise_dequant(tensors[prefix + "weight"], tensors[prefix + "SCB"])


def compressed_values(tensors, config):
    from compressed_tensors.compressors import IntQuantizationCompressor, PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationScheme

    scheme = QuantizationScheme(**config["config_groups"]["group_0"])
    packed = config["format"] == "pack-quantized"
    compressor = PackedQuantizationCompressor if packed else IntQuantizationCompressor
    for prefix in parts_of(tensors, "weight_scale"):
        parts = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
        parts["weight_scale"] = parts["weight_scale"].float()
        yield prefix + "weight", compressor.decompress(parts, scheme)["weight"]


def gptq_values(tensors, config):
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.utils.model import convert_gptq_v1_to_v2_format_module

    bits = config["bits"]
    for prefix in parts_of(tensors, "qweight"):
        words, rows = tensors[prefix + "qweight"].shape
        layer = TorchLinear(
            bits=bits,
            group_size=config["group_size"],
            sym=config["sym"],
            desc_act=config["desc_act"],
            in_features=words * 32 // bits,
            out_features=rows,
            bias=False,
        )
        for part in ("qweight", "qzeros", "scales", "g_idx"):
            setattr(layer, part, tensors[prefix + part])
        if config["checkpoint_format"] == "gptq":
            convert_gptq_v1_to_v2_format_module(layer, bits, torch.int32)
        layer.post_init()
        layer.scales = layer.scales.float()
        yield prefix + "weight", layer.dequantize_weight().T


def awq_values(tensors, config):
    (folder,) = importlib.util.find_spec("awq").submodule_search_locations
    spec = importlib.util.spec_from_file_location("packing_utils", os.path.join(folder, "utils", "packing_utils.py"))
    awq = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(awq)
    for prefix in parts_of(tensors, "qweight"):
        qweight, qzeros, scales = (tensors[prefix + part] for part in ("qweight", "qzeros", "scales"))
        group = qweight.shape[0] // scales.shape[0]
        yield prefix + "weight", awq.dequantize_gemm(qweight, qzeros, scales.float(), config["bits"], group).T


READERS = {
    "bitsandbytes": ("bitsandbytes", bitsandbytes_values),
    "compressed-tensors": ("compressed-tensors", compressed_values),
    "gptq": ("gptqmodel", gptq_values),
    "awq": ("autoawq", awq_values),
}


def logits_of(folder, method, ids):
    """Of the whole model, run by transformers in f32 with whatever it takes for the layout."""
    from transformers import AutoModelForCausalLM, AwqConfig, GPTQConfig

    extra = {}
    if method == "gptq":  # Kernels that need no compiler.
        extra["quantization_config"] = GPTQConfig(bits=4, backend="gptq_torch")
    if method == "awq":
        extra["quantization_config"] = AwqConfig(bits=4, backend="torch_awq")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, device_map="cpu", **extra)
    return model.eval()(torch.tensor([ids])).logits[0].float()


def check(job):
    folder = job["folder"]
    with open(os.path.join(folder, "config.json")) as file:
        config = json.load(file)["quantization_config"]
    method = config["quant_method"]
    package, values_of = READERS[method]
    ours = load_file(job["ours"])
    row = {"reader": version(package), "tensors": 0, "values": 0, "differing": 0, "largest": 0.0}
    for name, theirs in values_of(load_file(os.path.join(folder, "model.safetensors")), config):
        own = ours.pop(name)
        difference = (theirs.float().reshape(own.shape) - own).abs()
        row["tensors"] += 1
        row["values"] += own.numel()
        row["differing"] += int((difference > 0).sum())
        row["largest"] = max(row["largest"], float(difference.max() / own.abs().max()))
    logits = ours.pop("logits", None)
    if ours:
        raise ValueError(f"not read: {', '.join(ours)}")
    if logits is not None:
        row["runner"] = version("transformers")
        try:
            theirs = logits_of(folder, method, job["ids"])[: logits.shape[0]]
            row["logits"] = float((theirs - logits).abs().max() / logits.abs().max())
            row["sameTop"] = float((theirs.argmax(-1) == logits.argmax(-1)).float().mean())
        except Exception as error:  # What a toolkit cannot run is a result, too.
            row["notRun"] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return row


for job in json.load(sys.stdin):
    print(json.dumps({"name": job["name"], **check(job)}), flush=True)
