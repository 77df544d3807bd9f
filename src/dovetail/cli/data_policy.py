"""`dovetail data FOLDER --policy CKPT`: a robot's numbers beside those that a policy knows."""

import argparse
import sys

from dovetail.cli.writing import assignments


def run_policy(options: argparse.Namespace) -> int:
    """Prints the normalisation report; 1 if a dimension is not what the checkpoint knows."""
    from dovetail.cli.output import StageBar, command_line, prepare_folder, print_json, say
    from dovetail.data.episodes import open_episodes
    from dovetail.data.normalization import normalization
    from dovetail.data.policy import read_policy

    if options.html and not options.html.endswith(".html"):
        prepare_folder(options.html)
    policy = read_policy(
        options.policy,
        statistics=options.statistics,
        settings=assignments(options.given),
        as_=options.as_,
        trust=options.trust,
    )
    episodes = open_episodes(options.manifest)
    with StageBar("episodes") as progress:
        report = normalization(episodes, policy, checkpoint=options.policy, progress=progress)
    if options.html:
        from dovetail.data.normalization_html import write_normalization

        paths = write_normalization(report, options.html, command=command_line(sys.argv[1:]))
        say(f"wrote {' and '.join(paths)}")
    if options.json:
        print_json(report.as_json())
    else:
        from dovetail.data.normalization_page import normalization_page
        from dovetail.render.terminal import show

        show(normalization_page(report))
    return 0 if report.is_good else 1
