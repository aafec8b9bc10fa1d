#!/usr/bin/env python
"""Train the paper's variants on the bundled data set and report how fast they converge.

Finished trainings are skipped and interrupted ones resume, so a command can be repeated.
docs/convergence.md has the protocol and the results.
"""

from __future__ import annotations

import argparse
import os
from datetime import datetime
from pathlib import Path

from convergence.report import Report, fill
from convergence.results import StudyError, load_results
from convergence.study import Study, Training, run_all
from convergence.variants import PROTOCOL, VARIANTS
from samdetr.errors import check_writable, refusing

ROOT = Path(__file__).resolve().parents[1]
EPILOG = """
examples:
  tools/convergence_study.py --list
  tools/convergence_study.py --run sam_detr_smca --seed 0
  tools/convergence_study.py --all --jobs 2
  tools/convergence_study.py --report
"""


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--list", action="store_true", help="list the trainings and which are done")
    what.add_argument("--run", nargs="+", metavar="NAME", help="train variants, by their configs")
    what.add_argument("--all", action="store_true", help="run all trainings of --list")
    what.add_argument("--report", action="store_true", help="update the tables and plots in docs/")
    add = parser.add_argument
    add("--seed", nargs="+", type=int, metavar="S", help="for --run (default: those of --list)")
    add(
        "--jobs",
        type=int,
        default=os.cpu_count(),
        help="parallel trainings of one thread each (default: one per core)",
    )
    add(
        "--results",
        type=Path,
        default=ROOT / "docs/convergence.json",
        help="results file (default: docs/convergence.json)",
    )
    add(
        "--output",
        type=Path,
        default=Path("output/convergence"),
        help="folder of the trainings (default: output/convergence)",
    )
    add(
        "--page",
        type=Path,
        default=ROOT / "docs/convergence.md",
        help="page updated by --report, with plots beside it (default: docs/convergence.md)",
    )
    add(
        "overrides",
        nargs="*",
        help="key=value on top of the study's protocol; requires another --results",
    )
    return parser


def chosen(names: list[str] | None, seeds: list[int] | None) -> list[Training]:
    """Return the requested trainings, ordered by seed: every variant is trained once first."""
    known = {variant.name: variant.seeds for variant in VARIANTS}
    for name in names or ():
        if name not in known:
            raise StudyError(f"--run {name!r}: the study has {', '.join(known)}")
    counts = {name: known[name] for name in names or known}
    every = range(max(counts.values())) if seeds is None else seeds
    return [
        Training(name, seed)
        for seed in every
        for name, count in counts.items()
        if seeds is not None or seed < count
    ]


def show_list(results: Path, protocol: tuple[str, ...]) -> None:
    done = load_results(results, protocol)
    for variant in VARIANTS:
        finished = sum(done.has(variant.name, seed) for seed in range(variant.seeds))
        print(f"{finished} of {variant.seeds}  {variant.name}  ({variant.label})")


def report(results_file: Path, page: Path) -> None:
    """Update the page and the plots beside it from the results file."""
    # Imported here because trainings do not need matplotlib.
    from convergence.plots import study_figures

    results = load_results(results_file)
    if not page.is_file():
        raise StudyError(f"--page {page} does not exist")
    page.write_text(fill(page.read_text(), Report(results).tables()))
    print(page)
    for name, figure in study_figures(results).items():
        picture = page.with_name(f"{page.stem}_{name}.png")
        figure.savefig(picture, dpi=100)
        print(picture)


def say(text: str) -> None:
    print(f"{datetime.now():%H:%M:%S} {text}", flush=True)


@refusing("convergence_study.py")
def main(arguments: list[str] | None = None) -> None:
    parser = argument_parser()
    options = parser.parse_intermixed_args(arguments)
    protocol = (*PROTOCOL, *options.overrides)
    if options.jobs < 1:
        parser.error(f"--jobs is {options.jobs}, must be 1 or more")
    if options.seed is not None and not options.run:
        parser.error("--seed requires --run")
    if options.list:
        show_list(options.results, protocol)
    elif options.report:
        report(options.results, options.page)
    else:
        check_writable(options.results)
        study = Study(ROOT, options.output.absolute(), options.results, protocol)
        run_all(study, chosen(options.run, options.seed), options.jobs, say)


if __name__ == "__main__":
    main()
