"""The command line: `midas COMMAND` or `python -m midas_lib COMMAND`; what `make` calls."""

import argparse
import ast
import contextlib
import csv
import io
import json
import os
import sys
import warnings
from pathlib import Path

from midas_lib import config
from midas_lib.config import UserError

NEED_CHECKOUT = ("report", "index", "pages")
DIGITS = set(config.DIGIT_NAMES)
NETWORKS = {
    "characters": config.ROOT / "checkpoints" / "part1" / "model.keras",
    "digits": config.ROOT / "checkpoints" / "part2" / "best.keras",
}


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with a command in one line."""

    def error(self, message):
        _say(f"midas_lib: {message} (see {self.prog} --help)")
        sys.exit(2)


def _count(text):
    if not (text.isdecimal() and 1 <= int(text[:5]) <= 1000):
        raise argparse.ArgumentTypeError(f"{text}: give 1 to 1000")
    return int(text)


TYPES = {"int": int, "count": _count, "path": config.from_caller}  # as commands.toml names them


# Each command returns its document (for --json) and its text (for people). What it imports, it
# imports itself, so that --help is there at once.


def fetch(args):
    from midas_lib import sources

    found = [sources.fetch(name, profile=args.profile) for name in sources.ARCHIVES]
    archives = [vars(a) | {"paths": list(map(str, a.paths))} for a in found]
    rows = ((a.name, a.source, ", ".join(path.name for path in a.paths)) for a in found)
    return {"archives": archives}, _columns([("archive", "source", "files"), *rows])


def report(args):
    from midas_lib import pages

    named = {"seeds": args.seeds, "jobs": args.jobs, "fresh": args.fresh}
    parameters = {name: _value(text) for name, text in args.parameters or ()}
    parameters |= {name: value for name, value in named.items() if value is not None}
    made = []
    for part in args.part or pages.parts():
        _say(f"part {part}, profile {args.profile} ...")
        made.append(pages.run_notebook(part, profile=args.profile, parameters=parameters))
        pages.write_index(made[-1].parent)
    if not made:
        raise UserError("notebooks/: there is no part1_*.ipynb, part2_*.ipynb or part3_*.ipynb")
    return _paths([*made, made[-1].parent / "index.html"])


def index(args):
    from midas_lib import pages, results

    return _paths([pages.write_index(results.pages_folder(args.profile))])


def pages(args):
    from midas_lib import pages

    return _paths(pages.render_pages(args.profile))


def runs(args):
    from midas_lib import store

    if args.action == "prune":
        removed = [path.name for path in store.prune()]
        return removed, f"removed {len(removed)} files that no run needs"
    if args.action == "show":
        if not args.name:
            raise UserError("runs show: say which run; runs list names them")
        paths = [path for path in store.finished() if path.stem.startswith(args.name)]
        if len(paths) != 1:
            raise UserError(f"{args.name}: {len(paths)} runs are called that; see runs list")
        document = store.details(paths[0])
        return document, json.dumps(document, indent=1)
    found, damaged = [], []
    for path in store.finished():
        try:
            found.append(store.details(path, whole=args.action == "verify"))
        except UserError as error:
            damaged.append(path.stem)
            _say(error)
    if args.action == "verify":
        counts = f"{len(found)} runs are whole, {len(damaged)} damaged"
        return {"whole": len(found), "damaged": damaged}, counts
    rows = [
        (r["name"], r["date"], f"{r['seconds']:.0f} s", f"{r['bytes'] / 1e6:.1f} MB",
         f"{r['settings']['training']['epochs']} epochs", f"seed {r['settings']['seed']}")
        for r in found
    ]  # fmt: skip
    return found, _columns(rows) if rows else "the run store is empty"


def evaluate(args):
    from midas_lib import inference

    if args.csv:
        _check_target(args.csv)
    classifier = inference.load_classifier(_network(args))
    result = _told(inference.evaluate(classifier, args.test, args.hands))
    predictions = result["predictions"]
    if args.csv:
        _write_csv(args.csv, predictions)
    if len(classifier.class_names) > 10 and {one.get("true") for one in predictions} <= DIGITS:
        _say("all images are of digits: --network digits reads these better than one of characters")
    if "accuracy" not in result:  # a folder without labels: the predictions are the answer
        return result, f"written to {args.csv}" if args.csv else _csv(predictions).rstrip()

    def accuracy(measured):
        low, high = measured["accuracy_interval"]
        return f"{measured['accuracy']:.4f}  (95 % interval {low:.4f} to {high:.4f})"

    rows = [
        ("images", str(result["n"])),
        ("accuracy", accuracy(result)),
        ("top 5", f"{result['top5_accuracy']:.4f}"),
        ("case merged", f"{result['case_merged_accuracy']:.4f}"),
        ("calibration error", f"{result['ece']:.4f}"),
    ]
    if args.hands:
        hands = result["hands"]
        rows.append((f"{hands['writers']} hands, each read together", accuracy(hands)))
    hardest = sorted(result["per_class"].items(), key=lambda item: item[1]["accuracy"])[:10]
    hardest = [(name, f"{one['accuracy']:.2f} of {one['n']}") for name, one in hardest]
    pairs = [(f"{a} and {b}", f"{count} errors") for a, b, count in result["confused"]]
    tables = [rows, [("hardest classes", "accuracy"), *hardest], [("most confused", ""), *pairs]]
    return result, "\n\n".join(map(_columns, tables))


def predict(args):
    from midas_lib import inference

    classifier = inference.load_classifier(_network(args))
    predictions, skipped = inference.predict_files(classifier, args.image, args.one_hand)
    if not predictions:
        raise UserError(f"{skipped[0]['file']}: {skipped[0]['reason']}")
    _told({"skipped": skipped})
    names = ["file", "label", "probability"] + ["hand_label"] * args.one_hand
    rows = [[p[n] if n != "probability" else f"{p[n]:.3f}" for n in names] for p in predictions]
    return predictions, _columns([[name.replace("_label", "") for name in names], *rows])


def audit(args):
    from midas_lib import inference

    if args.limit < 1:
        raise UserError(f"--limit {args.limit}: give 1 or more")
    found = _told(inference.audit_folders(args.folder, _reference(args), args.limit))
    low, high = found["own_folder_rate_interval"]
    own = f"{found['own_folder_rate']:.2%}  (95 % interval {low:.2%} to {high:.2%})"
    rows = [("images", str(found["n"])), ("verdict", found["verdict"])]
    rows += [("because", found["reason"]), ("advice", found["advice"])]
    rows += [("in their own folder", own)]
    table = [("class", *(f"in {name}" for name in found["classes"]))]
    for name, shares in zip(found["classes"], found["transition"], strict=True):
        table.append((name, *(f"{share:.1%}" for share in shares)))
    return found, f"{_columns(rows)}\n\n{_columns(table)}"


def relabel(args):
    from midas_lib import relabel

    _check_target(args.csv)
    found = _told(relabel.relabel(args.folder, _reference(args)))
    _write_csv(args.csv, found.pop("labels"))
    counts = f"{found['changed']} of {found['n']} pictures are relabelled"
    unsure = f"{found['unsure']} labels have a confidence below 0.9"
    return found, f"{found['verdict']}: {counts}, {unsure}; written to {args.csv}"


def _reference(args):
    """The network that an audit asks as well, or None."""
    from midas_lib import inference

    if args.reference == "none":
        return None
    path = config.from_caller(args.reference) if args.reference else NETWORKS["characters"]
    return inference.load_classifier(path)


def _network(args):
    """The checkpoint to be read with."""
    if args.checkpoint and args.network:
        raise UserError("--network and --checkpoint: give one of them")
    return args.checkpoint or NETWORKS[args.network or "characters"]


def _say(text):
    print(config.printable(text), file=sys.stderr, flush=True)


def _told(found):
    """What was found, after saying what was skipped."""
    for skipped in found["skipped"]:
        _say(f"skipped {skipped['file']}: {skipped['reason']}")
    return found


def _paths(paths):
    names = [os.path.relpath(path) for path in paths]
    return names, "\n".join(names)


def _columns(rows):
    rows = [list(map(config.printable, row)) for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ("  ".join(text.ljust(w) for text, w in zip(r, widths, strict=True)) for r in rows)
    return "\n".join(line.rstrip() for line in lines)


def _check_target(path):
    """Raise `UserError` where no file can be written: at once, not when all is done."""
    if path.is_dir() or not os.access(path.absolute().parent, os.W_OK | os.X_OK):
        raise UserError(f"{path}: there is no such folder, or no file can be written there")


def _write_csv(path, rows):
    from midas_lib import files

    files.write(path, _csv(rows).encode())


def _csv(rows):
    text = io.StringIO()
    cells = (map(_cell, row.values()) for row in rows)
    csv.writer(text, lineterminator="\n").writerows([rows[0], *cells])
    return text.getvalue()


def _cell(value):
    """A value as a cell that no spreadsheet takes for a formula, nor a terminal for a code."""
    text = config.printable(value)
    return f"'{text}" if isinstance(value, str) and text[:1] in set("=+-@") else text


def _value(text):
    """A parameter's value as typed: `3`, `0.5`, `True`, `None`; anything else is a string."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _parser():
    prog = "midas" if Path(sys.argv[0]).stem == "midas" else "python -m midas_lib"
    parser = _Parser(prog=prog, description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, found in config.read_table("commands").items():
        command = commands.add_parser(name, help=found["help"], description=found["help"])
        command.set_defaults(run=globals()[name])
        command.add_argument("--json", action="store_true", help="print one JSON document, no more")
        for names, settings in found["arguments"].items():
            if "type" in settings:
                settings["type"] = TYPES[settings["type"]]
            command.add_argument(*names.split(), **settings)
    return parser


def main(argv=None) -> int:
    """Run one command; returns the exit code: 0 done, 2 bad input, 130 interrupted."""
    args = _parser().parse_args(argv)
    warnings.formatwarning = lambda message, *_: f"midas_lib: {config.printable(message)}\n"
    try:
        if args.command in NEED_CHECKOUT and not (config.ROOT / "notebooks").is_dir():
            needed = f"a checkout of the project: there is no {config.ROOT}/notebooks"
            raise UserError(f"{args.command} needs {needed}")
        if "profile" in args:
            config.check_profile(args.profile)
        with contextlib.redirect_stdout(sys.stderr):  # libraries print; stdout is the answer's
            document, text = args.run(args)
        print(json.dumps(document, allow_nan=False) if args.json else text)
    except UserError as error:
        _say(f"midas_lib: {' '.join(str(error).split())}")
        return 2
    except OSError as error:
        refused = error.filename2 or error.filename or args.command
        _say(f"midas_lib: {refused}: {error.strerror or error}")
        return 2
    except KeyboardInterrupt:
        _say("midas_lib: interrupted; finished work is kept, the same command goes on from there")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
