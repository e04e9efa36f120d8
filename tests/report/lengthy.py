"""Answers of all verbs with names that are too long for any terminal, and progress and warnings on the way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from report.handmade import ANALYZED, CHECKED, DATA, MODEL, PRUNED, SMALL, layer

from pfa_onnx import pipeline
from pfa_onnx.errors import UsageError
from pfa_onnx.inspection import BatchNorms, InspectedInput, InspectedLayer, Inspection
from pfa_onnx.recipe import Method, Proof, Reason
from pfa_onnx.results import Changed, Gate, LayerRepair, Merged, Quality, Repair, Tuned
from pfa_onnx.tradeoff import Candidate, ChangedInput, ClassRow, Compared, Made, Missed, Point, Swept

FOLDER = "/home/somebody/experiments/2024-11-03_resnet_with_squeeze_and_excitation/checkpoints/epoch_0120"
PATH = f"{FOLDER}/student_network_final.onnx"
LONG = "/backbone/stage3/stage3.11/block/depthwise_separable_with_squeeze_excitation/conv_b/Conv"
WIDE = "網路/骨幹/階段三/深度可分離卷積層與壓縮激勵模塊的組合/第二個卷積層之後的批次正規化/卷積"
WARNING = (
    f"3 layers have more channels than the 512 samples and stay whole, such as '{LONG}_of_the_very_last_block'; give "
    "2048 samples or more, or --allow-few-samples"
)

FROZEN = (
    Reason(f"is read by com.example.custom_operators.SuperLongOperatorName{'x' * 40}, which has no rule", LONG),
    Reason("is normalised over its channels by LayerNormalization (--through-norm prunes it)", f"{LONG}/norm"),
)
LAYERS = tuple(
    layer(f"{name}_{k}", 2048, 1024 + k, held=100 * (k % 2), frozen=FROZEN if k % 2 else (), gamma=0.5)
    for k, name in enumerate([LONG, LONG, WIDE, LONG, LONG, WIDE, LONG, LONG])
)
LONG_MODEL = replace(MODEL, path=PATH)
LONG_DATA = replace(DATA, source=f"{FOLDER}/validation_images_of_the_third_fold", skipped=(("a.jpg", "broken"),))
GAIN = Repair(tuple(LayerRepair(LONG, LONG, 0.5, 0.1, "least squares") for _ in range(3)), 2048, 3, 0.679, 0.0128, True)

ANALYSIS = replace(ANALYZED, model=LONG_MODEL, data=LONG_DATA, layers=LAYERS, warnings=(WARNING,))
PRUNING = replace(
    PRUNED, model=LONG_MODEL, data=LONG_DATA, layers=LAYERS, warnings=(WARNING,), repair=GAIN, output=Path(PATH)
)
CHECK = replace(
    CHECKED,
    original=LONG_MODEL,
    pruned=replace(LONG_MODEL, size=SMALL),
    data=LONG_DATA,
    repair=GAIN,
    latency_ms=(1234.5, 891.2),
    outputs={
        f"{LONG}_output_{k}": {
            "agreement": 0.97, "cosine_min": 0.99, "max_abs_error": 1.2, "note": "shapes differ: [1, 3, 224, 224] and [1, 3]"
        }
        for k in range(3)
    },
    gates=(*CHECKED.gates, Gate("min_cosine", 0.9, 0.95, passed=False), Gate("max_macs", 0.7, 0.5, passed=False)),
    changed=tuple(Changed(f"{FOLDER}/{WIDE if k % 2 else 'class'}/{k:05}.jpg", 123456, 654321) for k in range(14)),
)  # fmt: skip
MERGED = Merged(Path(PATH), 3, LONG_DATA.source, 1_281_167, 53, "cpu + cuda")
INSPECTED = Inspection(
    LONG_MODEL,
    (InspectedInput(f"{LONG}_tokens", ("batch_of_samples", "sequence_length"), "int64", (1, 128)),) * 3,
    tuple(
        InspectedLayer(
            one.output, one.node, one.op, one.weight, 2048, None, one.frozen, one.held, 10 * (k == 7), 1_234_567
        )
        for k, one in enumerate(LAYERS)
    ),
    BatchNorms(12, 34, "torch.onnx.export(..., training=TrainingMode.PRESERVE, do_constant_folding=False)"),
    pictures=False,
    wider=12_000,
    warnings=(WARNING,),
)
TUNED = Tuned(
    LONG_MODEL, PATH, LONG_DATA, 64, {"labels": True, "optimizer": "adamw", "rate": 0.001, "augment": ("flip", "shift"),
    "epochs": 5}, (Quality(1.25, 0.9, 0.9), Quality(0.5, 0.95, 0.91)), 1, 11_689_512, "cpu", Path(PATH), 0.939,
    (WARNING,),
)  # fmt: skip

METRICS = CHECKED.metrics | {"latency_ratio": 0.75}
MADE = (
    Made(Method("params", target=0.5, tau=0.97), 1_234_567, 2_345_678, repair=(0.679, 0.0128)),
    Made(None, 1_234_567, 2_345_678, tuned=(123, 500)),
    Made(Method("kl", select="reconstruct"), 34_567, 2_345_678, variants={"couple": "stream"}, redrawn=12345),
)
COMPARED = Compared(
    LONG_MODEL,
    LONG_DATA,
    tuple(Candidate(replace(LONG_MODEL, path=f"{PATH}_{k}"), METRICS, (1234.5, 891.2), {}, MADE) for k in range(4)),
    "label",
    tuple(ClassRow(f"{WIDE}_{k}", k, 12345, 12000, (12000, 11000, 9000, None)) for k in range(9)),
    tuple(ChangedInput(f"{FOLDER}/{k}.jpg", f"{WIDE}_{k}", 123, (1, 123, None, 4)) for k in range(9)),
    warnings=(WARNING,),
)
SWEPT = Swept(
    LONG_MODEL,
    LONG_DATA,
    LONG_DATA,
    1_281_167,
    1200,
    tuple(
        Point(
            Method("params", target=0.5, tau=0.97312, select="reconstruct", couple="stream"), SMALL, 900, METRICS,
            Proof(2e-7, 16, passed=True), METRICS, GAIN, Path(PATH),
        )
        for _ in range(4)
    ),
    (Missed(Method("params", target=0.01), f"no recipe has 0.01 of the original's params; the least is 0.1 ({LONG})"),),
    repaired=True,
    warnings=(WARNING,),
)  # fmt: skip

ANSWERS = {
    "analyze": ANALYSIS, "prune": PRUNING, "check": CHECK, "merge": MERGED, "inspect": INSPECTED, "finetune": TUNED,
    "compare_models": COMPARED, "sweep": SWEPT,
}  # fmt: skip


def install():
    """Let the pipeline answer with these."""
    for verb, answer in ANSWERS.items():
        setattr(pipeline, verb, _verb(answer))


def _verb(answer):
    def call(*args, hooks, **_):
        if args and isinstance(args[0], Path) and args[0].name == "missing.onnx":
            raise UsageError(
                f"--exclude '{LONG}' matches no layer", at=PATH,
                fix=f"did you mean '{LONG}_of_another_block'? List them with `pfa-onnx inspect {PATH} -v`",
            )  # fmt: skip
        for step in range(1, 4):
            hooks.progress("calibrate", 1000 * step, 1_281_167)
            hooks.progress("reconstruct", step, None)
        hooks.warn("another " + WARNING)
        hooks.note("multiples of 8: 0.7 " * 12)
        return answer

    return call
