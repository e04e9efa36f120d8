"""Export well-known architectures to .onnx, for coverage.py and for timing.

    pip install torch torchvision timm onnx onnxscript      # torchvision with --no-deps will do
    python tests/benchmarks/export_models.py zoo/ts                             # the whole first wave
    python tests/benchmarks/export_models.py zoo/dyn --exporter dynamo resnet50 swin_t
    python tests/benchmarks/export_models.py zoo/timm timm                      # a family, see FAMILIES

The weights are random, and so are running statistics and affine parameters, so that no normalisation is the
identity; scales that start at (nearly) nothing are drawn anew, so that no branch is silent. What is there already
is skipped. Every model is exported by a process of its own with a time limit.

Left out, because the TorchScript exporter refuses them: halonet26t, sehalonet33ts, haloregnetz_b ("Unfold, input size
not accessible") and csatv2 (adaptive pooling to a size that is no factor). vit_small_patch16_rope_mixed_224 is exported
with an Expand that onnxruntime does not run. Left out for their size: pnasnet5large, senet154, most ViTs.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import re
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Entry:
    """One architecture. source: "torchvision", or "timm"; size: the input without the batch.

    options: for the builder; unpack: what to export of an answer that is not a tensor: an entry of a dictionary,
    "last" of a list, or "detections", every entry of the dictionary for the only image.
    """

    name: str
    size: tuple[int, ...]
    source: str = "torchvision"
    options: dict[str, Any] = field(default_factory=dict)
    unpack: str = ""
    inputs: int = 1  # of the same size
    batch: bool = True  # may it vary?
    keep: bool = False  # leave BatchNormalization where it is (TorchScript exporter only)
    save_as: str = ""


def _square(*names: str, side: int, **more: Any) -> list[Entry]:
    return [Entry(name, (3, side, side), **more) for name in names]


_timm = partial(_square, source="timm")
_PLAIN = {"weights_backbone": None}
_FEW = {"topk_candidates": 10, "detections_per_img": 10}
_detector = partial(
    _square, side=160, unpack="detections", batch=False, options=_PLAIN | {"min_size": 160, "max_size": 160}
)

FAMILIES: dict[str, list[Entry]] = {
    "classification": [
        *_square("resnet18", "resnet50", side=64),
        *_square("vgg11_bn", "vgg16", "alexnet", side=224),  # 7 x 7 before the adaptive pooling
        *_square("densenet121", "mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0", "squeezenet1_1", side=64),
        *_square("googlenet", "inception_v3", side=96, options={"init_weights": False, "transform_input": True}),
        *_square("shufflenet_v2_x1_0", "mnasnet1_0", "regnet_y_400mf", "resnext50_32x4d", "wide_resnet50_2", side=64),
        *_square("convnext_tiny", side=64),
        *_square("vit_b_16", side=112, options={"image_size": 112}),
        *_square("swin_t", "swin_v2_t", "maxvit_t", side=224),
    ],
    "more": [  # sizes of the above that are built of something else
        *_square("regnet_x_400mf", "shufflenet_v2_x0_5", "efficientnet_v2_s", "mobilenet_v3_small", side=64),
        *_square("squeezenet1_0", side=64),
    ],
    "segmentation": _square(
        "fcn_resnet50", "deeplabv3_mobilenet_v3_large", "deeplabv3_resnet50", "lraspp_mobilenet_v3_large", side=96,
        unpack="out", options=_PLAIN,
    ),
    "detection": [
        *_detector("fasterrcnn_mobilenet_v3_large_320_fpn", "fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2"),
        *_detector("maskrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn", "fcos_resnet50_fpn"),
        *_detector("retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2"),
        *_square("ssdlite320_mobilenet_v3_large", side=320, options=_PLAIN | _FEW, unpack="detections", batch=False),
        *_square("ssd300_vgg16", side=300, options=_PLAIN | _FEW, unpack="detections", batch=False),
    ],
    "video": [
        Entry("r3d_18", (3, 8, 64, 64)),
        Entry("mc3_18", (3, 8, 64, 64)),
        Entry("r2plus1d_18", (3, 8, 64, 64)),
        Entry("s3d", (3, 16, 224, 224)),
        Entry("mvit_v1_b", (3, 16, 224, 224)),
        Entry("mvit_v2_s", (3, 16, 224, 224)),
        Entry("swin3d_t", (3, 8, 112, 112)),
    ],
    "flow": _square("raft_small", "raft_large", side=128, unpack="last", inputs=2),
    "timm": [
        *_timm("convnextv2_atto", "efficientnetv2_rw_t", "mobilenetv4_conv_small", "repvgg_a0", side=64),
        *_timm("resnest14d", "res2net50_26w_4s", "hrnet_w18_small", "dla34", "ese_vovnet19b_slim", side=64),
        *_timm("ghostnet_100", "mobilevit_xxs", side=64),
        *_timm("efficientformer_l1", side=224),
        *_timm("poolformer_s12", side=64),
        *_timm("coatnet_nano_rw_224", side=224),
        *_timm("eva02_tiny_patch14_224", "deit_tiny_patch16_224", "beit_base_patch16_224", side=224),
        *_timm("nf_resnet26", "eca_nfnet_l0", "skresnet18", "cspresnet50", "cspdarknet53", "fbnetc_100", side=64),
        *_timm("tinynet_a", side=64),
        *_timm("levit_128s", "xcit_nano_12_p16_224", side=224),
        *_timm("mixer_s16_224", "resmlp_12_224", "gmlp_ti16_224", side=224),
        *_timm("focalnet_tiny_srf", side=224),
        *_timm("inception_next_tiny", "fastvit_t8", "edgenext_xx_small", "mixnet_s", "dpn48b", "dpn68", side=64),
        *_timm("botnet26t_256", side=256),
        *_timm("cait_xxs24_224", "coat_tiny", "convit_tiny", "davit_tiny", side=224),
        *_timm("fasternet_t0", "efficientvit_b0", side=64),
    ],
    "timm-convolutions": [
        *_timm("darknetaa53", "cs3darknet_focus_s", "cs3sedarknet_xdw", "cspnext_tiny", "convmixer_768_32", side=64),
        *_timm("convnext_atto_ols", "convnext_zepto_rms", "densenetblur121d", "dla46x_c", "dla60_res2next", side=64),
        *_timm("eca_resnext26ts", "ecaresnet26t", "efficientnet_b0_gn", "efficientnet_cc_b0_4e", side=64),
        *_timm("efficientnet_es", "eca_vovnet39b", "fbnetv3_b", "gcresnet33ts", "gernet_s", "ghostnetv2_100", side=64),
        *_timm("ghostnetv3_050", "hardcorenas_a", "hgnet_tiny", "hgnetv2_b0", side=64),
        *_timm("inception_v4", "inception_resnet_v2", side=96),
        *_timm("lcnet_050", "legacy_seresnet18", "legacy_xception", "mambaout_femto", "mobilenetv1_100", side=64),
        *_timm("mobilenetv4_conv_blur_medium", "mobilenetv4_hybrid_medium", "mobileone_s0", side=64),
        *_timm("nasnetalarge", side=96, options={"stem_size": 24, "num_features": 1056}),
        *_timm("nf_regnet_b0", "rdnet_tiny", "regnetz_b16", "regnetz_b16_evos", "repghostnet_050", side=64),
        *_timm("repvit_m0_9", "resnet26t", "resnet33ts", "resnet50_gn", "resnet51q", "resnetaa34d", side=64),
        *_timm("resnetblur18", "resnetv2_50", "resnetv2_50d_frn", "resnetv2_50x1_bit", "rexnet_100", side=64),
        *_timm("selecsls42b", "semnasnet_050", "starnet_s1", "tf_efficientnet_b0", "tresnet_m", side=64),
        *_timm("xception41", "xception41p", "poolformerv2_s12", side=64),
    ],
    "timm-attention": [
        *_timm("bat_resnext26ts", "lambda_resnet26t", "sebotnet33ts_256", side=256),
        *_timm("caformer_s18", "coat_lite_tiny", "coatnext_nano_rw_224", side=224),
        *_timm("coatnet_rmlp_nano_rw_224", side=224),
        *_timm("maxxvit_rmlp_nano_rw_256", "maxxvitv2_nano_rw_256", side=256),
        *_timm("crossvit_tiny_240", side=240),
        *_timm("deit3_small_patch16_224", "deit_tiny_distilled_patch16_224", "efficientformerv2_s0", side=224),
        *_timm("efficientvim_m1", "efficientvit_m0", "fastvit_sa12", "gcvit_xxtiny", "gmixer_12_224", side=224),
        *_timm("hiera_tiny_224", "iformer_t", "lowformer_b0", "mvitv2_tiny", "nest_tiny", "nextvit_small", side=224),
        *_timm("mobilevitv2_050", side=64),
        *_timm("pit_ti_224", "pvt_v2_b0", "resnet50_clip", "sequencer2d_s", "shvit_s1", "swiftformer_xs", side=224),
        *_timm("swin_s3_tiny_224", "swinv2_cr_tiny_224", "tiny_vit_5m_224", "tnt_s_patch16_224", side=224),
        *_timm("sam2_hiera_tiny", "swinv2_tiny_window8_256", side=256),
        *_timm("twins_svt_small", "twins_pcpvt_small", "visformer_tiny", "vit_tiny_patch16_224", side=224),
        *_timm("vit_tiny_r_s16_p8_224", "vit_relpos_small_patch16_224", "vit_srelpos_small_patch16_224", side=224),
        *_timm("vit_small_patch16_18x2_224", "vit_small_patch16_rope_224", side=224),
        *_timm("vit_tiny_patch16_dinov3_qkvb", side=224),
        *_timm("vit_small_patch14_dinov2", side=224, options={"img_size": 224}),
        *_timm("vitamin_small_224", "volo_d1_224", "focalnet_tiny_lrf", side=224),
    ],
    "bench": [
        *_square("resnet50", "mobilenet_v2", "vgg16", side=224),
        Entry("resnet50", (3, 224, 224), keep=True, save_as="resnet50_bn"),
    ],
    "dynamo": [  # for --exporter dynamo
        *_square("resnet18", "mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0", "densenet121", side=64),
        *_square("shufflenet_v2_x0_5", "squeezenet1_1", "regnet_x_400mf", "convnext_tiny", side=64),
        *_square("googlenet", side=96, options={"init_weights": False, "transform_input": True}),
        *_square("vit_b_16", side=112, options={"image_size": 112}),
        *_square("swin_t", "swin_v2_t", side=224),
        *_square("lraspp_mobilenet_v3_large", side=96, unpack="out", options=_PLAIN),
        *_timm("ghostnet_100", "hrnet_w18_small", "res2net50_26w_4s", "skresnet18", "resnest14d", side=64),
        *_timm("mobilevit_xxs", "fastvit_t8", "efficientvit_b0", side=64),
        *_timm("levit_128s", "deit_tiny_patch16_224", "eva02_tiny_patch14_224", "pvt_v2_b0", side=224),
    ],
}  # fmt: skip


# --- building -----------------------------------------------------------------------------------------------


def _import_torchvision() -> Any:
    """Import torchvision, also where its compiled half does not load: no operator of it is needed here."""
    import torch

    folder = Path(str(importlib.util.find_spec("torchvision").origin)).parent  # type: ignore[union-attr]
    try:
        for compiled in folder.glob("_C*.so"):
            torch.ops.load_library(compiled)
    except OSError:
        pass
    if hasattr(torch.ops.torchvision, "nms"):
        import torchvision

        return torchvision
    library = torch.library.Library("torchvision", "DEF")
    size = "SymInt pooled_height, SymInt pooled_width"
    for schema in (
        "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
        "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
        f"roi_align(Tensor input, Tensor rois, float spatial_scale, {size}, int sampling_ratio, bool aligned) -> Tensor",
    ):
        library.define(schema)
    globals()["_library"] = library  # its operators live as long as it does
    import torchvision

    library.impl("nms", _suppress, "CPU")
    pooling = torchvision.ops.roi_align.__globals__
    library.impl("roi_align", pooling["_roi_align"].__wrapped__, "CPU")  # the Python one, not compiled
    torchvision.extension._has_ops = pooling["_has_ops"] = _yes
    return torchvision


def _yes() -> bool:  # a function with a name, because torchvision scripts what calls it
    return True


def _suppress(boxes: Any, scores: Any, iou_threshold: float) -> Any:
    """Do what torchvision's non-maximum suppression does."""
    import torch
    from torchvision.ops import box_iou

    kept: list[int] = []
    gone = torch.zeros(len(boxes), dtype=torch.bool)
    for k in scores.argsort(descending=True).tolist():
        if not gone[k]:
            kept.append(k)
            gone |= box_iou(boxes[k : k + 1], boxes)[0] > iou_threshold
    return torch.tensor(kept, dtype=torch.int64)


def build(entry: Entry) -> nn.Module:
    """Build a model with random weights."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    torchvision = _import_torchvision()
    if entry.source == "timm":
        import timm

        model = timm.create_model(entry.name, pretrained=False, exportable=True, **entry.options)
    else:
        model = torchvision.models.get_model(entry.name, weights=None, **entry.options)
    model.eval()
    _randomise(model)
    if entry.unpack:
        model = _Unpacked(nn.ModuleList([model]), entry.unpack)
    return model.eval()


def _Unpacked(inner: Any, what: str) -> nn.Module:  # noqa: N802 - a class, made where torch is at hand
    """Return tensors, of a model that answers with something else."""
    from torch import nn

    class Unpacked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner[0]

        def forward(self, *x: Any) -> Any:
            if what == "last":
                return self.inner(*x)[-1]
            if what == "detections":
                return tuple(self.inner([x[0][0]])[0].values())
            return self.inner(*x)[what]

    return Unpacked()


def _randomise(model: nn.Module) -> None:
    """Give normalisations something to do, and wake what starts at nothing."""
    import torch

    generator = torch.Generator().manual_seed(1)

    def uniform(tensor: Any, low: float, high: float) -> None:
        tensor.copy_(low + (high - low) * torch.rand(tensor.shape, generator=generator))

    def normal(tensor: Any, std: float) -> None:
        tensor.copy_(std * torch.randn(tensor.shape, generator=generator))

    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                normal(buffer, 0.1)
            elif name.endswith("running_var"):
                uniform(buffer, 0.5, 1.5)
        for name, parameter in model.named_parameters():
            if parameter.numel() == 1:
                continue
            if name.endswith("bias") or (parameter.ndim == 1 and bool((parameter == 0).all())):
                normal(parameter, 0.1)
            elif parameter.ndim == 1 or (parameter.numel() == max(parameter.shape) and _is_flat(parameter)):
                # norm weights start at 1; layer scales at 1e-6 .. 1e-1
                start = float(parameter.abs().mean())
                uniform(parameter, *((0.5, 1.5) if start >= 0.5 else (0.1, 0.4)))
            elif _is_flat(parameter):  # heads, gates and positions that start at zero
                normal(parameter, 0.02)


def _is_flat(parameter: Any) -> bool:
    return bool((parameter == parameter.flatten()[0]).all())


# --- exporting ----------------------------------------------------------------------------------------------


def export(entry: Entry, path: Path, exporter: str) -> None:
    """Write one model; the batch is dynamic where that exports."""
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    model = build(entry)
    example = example_of(entry)
    with torch.no_grad():
        reference = model(*example)
    answers = [reference] if isinstance(reference, torch.Tensor) else list(reference)
    partial_path = path.with_suffix(".part")
    problem = ""
    for dynamic in (True, False) if entry.batch else (False,):
        try:
            _write(model, example, partial_path, exporter, len(answers), dynamic=dynamic, keep=entry.keep)
        except Exception as error:
            if not dynamic:
                raise
            problem = f", fixed batch, because: {type(error).__name__} {' '.join(str(error).split())[:200]}"
        else:
            break
    partial_path.rename(path)
    data = Path(f"{partial_path}.data")
    if data.exists():
        _rename_external(path, data)
    mean, spread = float(answers[0].float().mean()), float(answers[0].float().std())
    print(f"answers with mean {mean:.3g}, std {spread:.3g}{problem}")


def example_of(entry: Entry) -> tuple[Any, ...]:
    """Return random inputs."""
    import torch

    batch = 2 if entry.batch else 1
    return tuple(torch.randn(batch, *entry.size) for _ in range(entry.inputs))


def _write(
    model: nn.Module, example: tuple[Any, ...], path: Path, exporter: str, answers: int, *, dynamic: bool, keep: bool
) -> None:
    import torch

    inputs = ["input", *(f"input_{k}" for k in range(1, len(example)))]
    outputs = ["output", *(f"output_{k}" for k in range(1, answers))]
    common: dict[str, Any] = {"input_names": inputs, "output_names": outputs, "verbose": False}
    if exporter == "dynamo":
        batch = torch.export.Dim("batch", min=1, max=64)
        shapes = tuple({0: batch} for _ in example) if dynamic else None
        if shapes and type(model).__name__ == "Unpacked":
            shapes = (shapes,)  # its forward takes *x
        torch.onnx.export(model, example, str(path), dynamo=True, external_data=False, dynamic_shapes=shapes, **common)
        return
    if keep:
        common |= {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}
    axes = {name: {0: "batch"} for name in (*inputs, *outputs)} if dynamic else None
    torch.onnx.export(model, example, str(path), dynamo=False, opset_version=17, dynamic_axes=axes, **common)


def _rename_external(path: Path, data: Path) -> None:
    """Write a model again whose weights came as a second file, so that the two names agree."""
    import onnx

    model = onnx.load(path)
    data.unlink()
    onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data")


# --- the command --------------------------------------------------------------------------------------------


def chosen(names: list[str]) -> dict[str, Entry]:
    """Return {family:name: entry} by family, name or family:name; the first wave when nothing is named."""
    known = {f"{family}:{e.save_as or e.name}": e for family, entries in FAMILIES.items() for e in entries}
    result: dict[str, Entry] = {}
    for name in names or ["classification"]:
        found = [key for key in known if name in (key, *key.split(":"))]
        if not found:
            raise SystemExit(f"{name}: no such family or model; families are {', '.join(FAMILIES)}")
        result |= {key: known[key] for key in (found if name in FAMILIES else found[:1])}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", help="families or models")
    parser.add_argument("--exporter", choices=["ts", "dynamo"], default="ts")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for one model")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_intermixed_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for key, entry in chosen(options.names).items():
        path = options.folder / f"{entry.save_as or entry.name}.onnx"
        if options.one:
            export(entry, path, options.exporter)
        elif not path.exists():
            print(path.stem, end=" ", flush=True)
            print(_alone(key, options), flush=True)


def _alone(key: str, options: argparse.Namespace) -> str:
    """Export in a process of its own; return one line about it."""
    command = [sys.executable, __file__, str(options.folder), key, "--one", "--exporter", options.exporter]
    start = time.perf_counter()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=options.timeout, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        return f"FAILED: more than {options.timeout:g} s"
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines() or ["?"]
    line = next((line for line in reversed(lines) if re.match(r"[\w.]+(Error|Exception)\b", line)), lines[-1])
    return f"{'' if done.returncode == 0 else 'FAILED: '}{line[:300]} ({time.perf_counter() - start:.0f} s)"


if __name__ == "__main__":
    main()
