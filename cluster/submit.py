"""Submit a command to the cluster, follow its log, and end as it ends; ``ray job submit`` says 1 for any failure, 0 for a stop.

    python cluster/submit.py python jobs/train.py --config jobs/configs/d3.yaml

Address and token are taken from the environment, as ``ray job submit`` does. Exit codes: the command's own; 143 where the job
was stopped; 130 where Ctrl-C has ended the watching, which leaves the job running; 1 where Ray could not run it.
"""

import subprocess
import sys
import uuid


def main() -> int:
    """Submit the words of the command line; the exit code."""
    words = sys.argv[1:]
    if not words:
        print("error: give the command to run, such as python jobs/train.py --config jobs/configs/d3.yaml", file=sys.stderr)
        return 2
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    name = f"rdd-{uuid.uuid4().hex[:12]}"
    submit = ["ray", "job", "submit", "--submission-id", name, "--working-dir", "."]
    submit += ["--runtime-env", "cluster/runtime_env.yaml", "--", "env", f"RDD_GIT_COMMIT={commit}", *words]
    try:
        submitted = subprocess.run(submit, check=False).returncode
    except KeyboardInterrupt:
        print(f"the job goes on: ray job logs {name} -f, ray job stop {name}", file=sys.stderr)
        return 130
    return _code_of(name, submitted)


def _code_of(name: str, submitted: int) -> int:
    """What the job itself has ended with; what ``ray job submit`` has said where the cluster does not answer."""
    from ray.job_submission import JobStatus, JobSubmissionClient

    try:
        job = JobSubmissionClient().get_job_info(name)
    except (RuntimeError, ConnectionError):
        return submitted or 1
    if job.status == JobStatus.STOPPED:
        return 143
    if job.status == JobStatus.FAILED:
        return job.driver_exit_code or 1
    return submitted


if __name__ == "__main__":
    sys.exit(main())
