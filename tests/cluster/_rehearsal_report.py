"""What a rehearsal came to, as tables of Markdown."""

from collections.abc import Mapping
from typing import Any

from _watched_job import Attempt, StageRun


def table_of(report: Mapping[str, Any]) -> str:
    """The tables: stages, kills, survival, and single numbers."""
    return "\n\n".join([_stages(report), _kills(report), _survival(report), _single(report)])


def _stages(report: Mapping[str, Any]) -> str:
    lines = ["| stage | s | driver, peak MiB | all processes, peak MiB | S3 requests | S3 read, MB | S3 written, MB |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    for name, run in report["stages"].items():
        asked = report["s3"][name]
        memory = f"{run.driver_peak_mib:.0f} | {run.all_peak_mib:.0f}"
        traffic = f"{asked['requests']} | {asked['read'] / 1e6:.1f} | {asked['written'] / 1e6:.1f}"
        lines.append(f"| {name} | {run.seconds:.0f} | {memory} | {traffic} |")
    return "\n".join(lines)


def _kills(report: Mapping[str, Any]) -> str:
    lines = ["| start | killed | after s | first commit after s | commits | left behind | there was to do |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    for name, run in report["stages"].items():
        if len(run.attempts) > 1:
            lines += [_attempt(f"{name} {number}", attempt) for number, attempt in enumerate(run.attempts, 1)]
    return "\n".join(lines)


def _attempt(name: str, attempt: Attempt) -> str:
    first = "" if attempt.first_commit_s is None else f"{attempt.first_commit_s:.0f}"
    said = attempt.said.split("] ")[-1].replace("|", "/")
    return (
        f"| {name} | {attempt.killed or 'ran to its end'} | {attempt.seconds:.0f} | {first} "
        f"| {attempt.commits} | {attempt.left_behind} | {said} |"
    )


def _survival(report: Mapping[str, Any]) -> str:
    lines = ["| real images | records | share |", "| --- | --- | --- |"]
    counts = sorted(report["survival"].items(), key=lambda entry: -entry[1])
    lines += [f"| {status} | {count} | {count / report['records']:.1%} |" for status, count in counts]
    return "\n".join(lines)


def _single(report: Mapping[str, Any]) -> str:
    stages: Mapping[str, StageRun] = report["stages"]
    web, features = report["web"], report["features"]
    return "\n".join(
        [
            f"{report['records']} records of {report['input_bytes'] / 1e6:.0f} MB, made in {report['making_s']:.0f} s.",
            f"Web: {web['requests']} requests, {web['asked_again']} of them again after kills, at most {web['most_at_once']} "
            "at the same time on a host.",
            f"Features: {features['written']} records written, {features['quarantined']} quarantined; those of "
            f"{features['encoded_again']} records encoded again one by one differ by at most {features['largest_difference']} "
            "steps of float16.",
            f"Training: test AUC {stages['train'].summary['test_auroc']:.4f}.",
            "No disagreement.",
        ]
    )
