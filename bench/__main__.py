"""`python -m bench [SECTION ...]`, what `make bench` calls: measure, write results, draw the page.

Every section runs in a process of its own, and its results are written when it is done. Sections
left out, and what they found before, stay as they are.
"""

import argparse
import math
import os
import sys
import time

from bench import apart
from bench.plan import ENVIRONMENT, PLANS, SHORT, repeat, vary
from midas_lib import config, pages, results, sources

# What can be measured, and the module and function that do it.
SECTIONS = {
    "commands": ("bench.commands", "run"),
    "training": ("bench.training", "run"),
    "decoding": ("bench.decoding", "run"),
    "growth": ("bench.growth", "run"),
    "labels": ("bench.labels", "run"),
    "shapes": ("bench.trials", "shapes"),
    "tried": ("bench.trials", "tried"),
    "race": ("bench.race", "run"),
    "parts": ("bench.parts", "run"),
}


def main(argv=None) -> int:
    """Returns the exit code: 0 done, 1 a section failed, 2 bad input."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    names = ", ".join(SECTIONS)
    parser.add_argument("section", nargs="*", metavar="SECTION", help=f"of {names} (default: all)")
    parser.add_argument("--profile", default="full", choices=PLANS, help="how much (default full)")
    parser.add_argument("--repeats", type=int, help="of the race, in place of the profile's")
    parser.add_argument("--parts", nargs="+", choices=config.PROFILES, metavar="PROFILE",
                        help="profiles of the reports to measure")  # fmt: skip
    parser.add_argument("--torch", default=sys.executable, metavar="PYTHON",
                        help="a Python that has torch (default: this one)")  # fmt: skip
    args = parser.parse_args(argv)
    if unknown := set(args.section) - set(SECTIONS):
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {names}")
    try:
        return _measure(args)
    except config.UserError as error:
        _say(str(error))
        return 2
    except KeyboardInterrupt:
        _say("interrupted; the sections that were done are kept")
        return 130


def _measure(args) -> int:
    profile = args.profile
    plan = vary(PLANS[profile], part_profiles=args.parts, torch=args.torch)
    if args.repeats:
        plan = repeat(plan, args.repeats)
    if profile == "full" and plan.heats[0].repeats < SHORT.repeats:
        profile = "standard"
    archives = {name: sources.fetch(name, profile=plan.data) for name in sources.ARCHIVES}
    if not {archive.source for archive in archives.values()} <= {"original", "mirror"}:
        profile = "standard" if profile == "full" else profile
    if any(archive.source == "stand-in" for archive in archives.values()):
        os.environ["STANDIN"] = "1"  # for all archives, and all that is started from here
        archives = {name: sources.fetch(name, profile=plan.data) for name in archives}
    found = _before(results.provenance(profile, archives))
    failed = []
    for name in args.section or SECTIONS:
        begin = time.monotonic()
        try:
            found |= apart.call(*SECTIONS[name], plan, environment=ENVIRONMENT)
        except Exception as error:  # whatever it is, the other sections are measured
            failed.append(name)
            _say(f"{name} failed: {type(error).__name__}: {error}")
            continue
        _say(f"{name}: {time.monotonic() - begin:.0f} s")
        results.write(found, results.BENCH)
    page = pages.run_notebook(results.BENCH, profile=profile)
    pages.write_index(page.parent)
    _say(f"see {results.relative(page)}")
    print(_table(found.get("time_to_accuracy", {})))
    return 1 if failed else 0


def _before(origin: dict) -> dict:
    """What was measured before of the same data, with the origin of what comes now; a finding is
    the page's to make anew."""
    try:
        before = results.read(results.BENCH, origin["profile"]).info
    except config.UserError:
        return origin
    before.pop("finding", None)
    return before | origin if before["data"] == origin["data"] else origin


def _table(targets: dict) -> str:
    """Median seconds to each accuracy, and the ratio to the best peer; "-" for never."""
    lines = []
    for target, found in targets.items():
        medians = {racer: times["median"] for racer, times in found["seconds"].items()}
        ratio = found.get("ratio_to_best_peer", {}).get("median")
        cells = [f"{name} {_number(value)} s" for name, value in medians.items()]
        lines.append(f"{float(target):.1%}  {'  '.join(cells)}  ratio {_number(ratio)}")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return f"{value:.2f}" if value is not None and math.isfinite(value) else "-"


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
