"""Break files on purpose, in ways that are drawn from a seed, and let the verbs read them.

    python tests/fuzz/harness.py --cases 20000 --seed 0 --jobs 2
    python tests/fuzz/harness.py --seed 0 --case 1234          (one case again; its files stay)
    python tests/fuzz/harness.py --summarise a.jsonl b.jsonl   (of runs with --record)

Exit code 1: something failed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

from fuzz import oracle  # noqa: E402
from fuzz.corpus import Corpus, build  # noqa: E402

Result = dict[str, object]
_corpus: Corpus | None = None


def prepare(*, small: bool = False) -> Corpus:
    """Import what cases need before they fork, and make the corpus."""
    global _corpus  # noqa: PLW0603
    if _corpus is None:
        _corpus = build(small=small)
        import onnxruntime  # noqa: F401

        import pfa_onnx.cli
        import pfa_onnx.pipeline
        import pfa_onnx.report.as_json
        import pfa_onnx.steps.compare

        with contextlib.suppress(ImportError):
            import pfa_onnx.torch.tune  # noqa: F401
    return _corpus


def campaign(seed: int, numbers: Iterable[int], jobs: int = 1, keep: Path | None = None, only: str | None = None) -> Iterator[Result]:
    """Run cases, and yield how each ended."""
    assert _corpus is not None, "prepare() comes first"
    tasks = ((seed, number, keep, only) for number in numbers)
    if jobs == 1:
        yield from map(_one, tasks)
        return
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        yield from pool.imap_unordered(_one, tasks)


def _one(task: tuple[int, int, Path | None, str | None]) -> Result:
    seed, number, keep, only = task
    assert _corpus is not None
    return oracle.run(_corpus, seed, number, keep, only)


# --- the record ---------------------------------------------------------------------------------------------------


def table(results: list[Result]) -> str:
    """Cases by target and outcome, the slowest, and the one that took most memory."""
    targets = sorted({str(one["target"]) for one in results})
    bad = sorted({str(one["verdict"]) for one in results} - set(oracle.FINE))
    lines = [f"| target | cases | refused (2) | no (1) | fine (0) | {''.join(f'{name} | ' for name in bad)}failures |",
             "|---" * (6 + len(bad)) + "|"]  # fmt: skip
    for target in [*targets, "all"]:
        some = [one for one in results if target in {one["target"], "all"}]
        count = Counter(str(one["verdict"]) for one in some)
        failures = sum(count[name] for name in bad)
        cells = [len(some), count["refused"], count["no"], count["fine"], *(count[name] for name in bad), failures]
        lines.append(f"| {target} | " + " | ".join(f"{cell:,}" for cell in cells) + " |")
    slow = max(results, key=lambda one: one["seconds"])
    large = max(results, key=lambda one: one["megabytes"])
    total = sum(float(one["seconds"]) for one in results)
    lines += [
        "",
        f"slowest: {slow['seconds']:.1f} s of processor time (seed {slow['seed']}, case {slow['case']}: {_what(slow)})",
        f"most memory: {large['megabytes']:.0f} MB (seed {large['seed']}, case {large['case']}: {_what(large)})",
        f"cut models compared with an original that was masked independently: {sum(bool(one['compared']) for one in results):,}",
        f"all: {total / 3600:.1f} h of processor time, {1000 * total / len(results):.0f} ms a case",
    ]
    return "\n".join(lines)


def _what(one: Result) -> str:
    return f"{one['verb']} of {one['base']}, {', '.join(one['done'])}"


def failures(results: Iterable[Result]) -> Iterator[str]:
    """What failed, with the command that repeats it."""
    for one in results:
        if one["verdict"] not in oracle.FINE:
            again = f"python tests/fuzz/harness.py --seed {one['seed']} --case {one['case']}"
            yield f"{one['verdict']}: {one['target']}, {_what(one)}\n  {one['detail']}\n  {again}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--case", type=int, help="run this one alone, and keep its files")
    parser.add_argument("--target", help="of this kind only (the numbers then mean other cases)")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"), help="where the files of failures go")
    parser.add_argument("--small", action="store_true", help="break a few models only (the numbers then mean other cases)")
    parser.add_argument("--record", type=Path, help="append every result here, a JSON object a line; what is there is not run again")
    parser.add_argument("--summarise", type=Path, nargs="+", help="print the table of records")
    return parser.parse_args()


def main() -> int:
    given = _arguments()
    if given.summarise:
        results = [json.loads(line) for path in given.summarise for line in path.read_text().splitlines()]
    else:
        results = _ran(given)
    for text in failures(results):
        print(text)
    if results:
        print(table(results))
    return int(any(one["verdict"] not in oracle.FINE for one in results))


def _ran(given: argparse.Namespace) -> list[Result]:
    numbers = [given.case] if given.case is not None else range(given.first, given.first + given.cases)
    known: list[Result] = []
    if given.record is not None and given.record.exists():
        known = [json.loads(line) for line in given.record.read_text().splitlines()]
    left = sorted(set(numbers) - {int(one["case"]) for one in known if one["seed"] == given.seed})
    prepare(small=given.small)
    start = time.monotonic()
    for result in campaign(given.seed, left, given.jobs if given.case is None else 1, given.keep, given.target):
        known.append(result)
        if given.record is not None:
            with given.record.open("a") as stream:
                stream.write(json.dumps(result) + "\n")
        if sys.stderr.isatty():
            print(f"\r{len(known)} cases, {time.monotonic() - start:.0f} s", end="", file=sys.stderr)
    return known


if __name__ == "__main__":
    sys.exit(main())
