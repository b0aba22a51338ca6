"""tpu_pod.sh with a stand-in for gcloud, and the documented commands for pods and Slurm."""

import os
import re
import shlex
import signal
import subprocess
import sys

import pytest

from configs import nif
from tests.launch.stand_ins import (
    LAUNCH,
    ROOT,
    environment_with,
    executable,
    records_of,
    run,
    wait_for,
)

PLACE = ["--name=nif", "--zone=zone-a"]
CREATE = [*PLACE, "--accelerator=v5litepod-16"]
MAIN = [
    "--",
    "--config=configs/nif.py:movielens_100k,seed=1",
    "--workdir=gs://my-bucket/runs/it is",
    '--config.note=it\'s $HOME, "quoted"',
]
RESUME = ["resume", *CREATE, *MAIN]


@pytest.fixture
def pod(tmp_path, bin_folder):
    """tpu_pod.sh with a gcloud that notes its arguments and plays one worker on this machine."""
    home = tmp_path / "worker"
    home.mkdir()
    log = tmp_path / "gcloud.log"
    executable(
        bin_folder / "gcloud",
        f"""
        #!{sys.executable}
        import json, os, shutil, subprocess, sys
        words = sys.argv[1:]
        assert words[:3] == ["compute", "tpus", "tpu-vm"], words
        with open("{log}", "a") as log:
            print(json.dumps(words[3:]), file=log)
        if words[3] == "describe":
            if "FAKE_ERROR" in os.environ:
                sys.exit(os.environ["FAKE_ERROR"])
            print(os.environ.get("FAKE_STATE", "READY"))
        if "FAKE_WORKER" in os.environ and words[3] == "scp":
            shutil.copy(words[4], "{home}/nif_jax.tar.gz")
        if "FAKE_WORKER" in os.environ and words[3] == "ssh":
            (command,) = [w.partition("=")[2] for w in words if w.startswith("--command=")]
            sys.exit(subprocess.run(["bash", "-c", command], cwd="{home}",
                     env={{**os.environ, "HOME": "{home}"}}).returncode)
    """,
    )
    # On the worker: a bucket that is a folder, and a venv whose python takes notes.
    executable(bin_folder / "gcsfuse", f'#!/bin/sh\necho "$@" >> {tmp_path}/gcsfuse.log\n')
    executable(bin_folder / "mountpoint", "#!/bin/sh\nexit 1\n")
    executable(bin_folder / "python3", f'#!/bin/sh\necho "$@" >> {tmp_path}/python3.log\n')
    executable(
        home / "nif_jax" / ".venv" / "bin" / "python",
        f"""
        #!{sys.executable}
        import json, os, sys, time
        with open("{tmp_path}/main.log", "a") as log:
            print(json.dumps(sys.argv[1:]), file=log)
        print(os.environ.get("FAKE_SAYS", "a line of the log"), flush=True)
        time.sleep(float(os.environ.get("FAKE_SECONDS", "0")))
        sys.exit(int(os.environ.get("FAKE_CODE", "0")))
    """,
    )

    class Pod:
        folder = home / "nif_jax"

        def __call__(self, *arguments, code=0, **more):
            command = ["bash", str(LAUNCH / "tpu_pod.sh"), *arguments]
            return run(command, environment_with(bin_folder, **more), code, cwd=tmp_path)

        def calls(self):
            """gcloud's arguments since the last look."""
            found = records_of(log)
            log.unlink(missing_ok=True)
            return found

        def verbs(self):
            return [call[0] for call in self.calls()]

        def main_calls(self):
            return records_of(tmp_path / "main.log")

        def wait_for_end(self):
            wait_for((self.folder / "logs" / "code").exists)

    yield Pod()
    pid = home / "nif_jax" / "logs" / "pid"
    if pid.exists() and pid.read_text().strip():
        subprocess.run(
            ["kill", "-9", "--", f"-{pid.read_text().strip()}"], capture_output=True, check=False
        )


class TestTpuPodCommands:
    def _shown(self, pod, *arguments, **more):
        """What the printed commands do when a shell gets them; the printing itself does nothing."""
        printed = pod(arguments[0], "--dry-run", *arguments[1:], **more)
        assert pod.calls() == []
        environment = {"PATH": f"{pod.folder.parents[1]}/bin:{os.environ['PATH']}"}
        run(["bash", "-c", f"tar() {{ :; }}; {printed.stdout}"], environment)
        return pod.calls()

    def test_create(self, pod):
        expected = [
            "create",
            "nif",
            "--accelerator-type=v5litepod-16",
            "--version=v2-alpha-tpuv5-lite",
            "--zone=zone-a",
        ]
        assert self._shown(pod, "create", *CREATE) == [expected]
        more = ["--spot", "--project=p", "--version=other"]
        assert self._shown(pod, "create", *CREATE, *more) == [
            [*expected[:3], "--version=other", "--spot", "--zone=zone-a", "--project=p"]
        ]

    @pytest.mark.parametrize(
        ("accelerator", "version"),
        [
            ("v6e-8", "v2-alpha-tpuv6e"),
            ("v5p-16", "v2-alpha-tpuv5"),
            ("v4-8", "tpu-ubuntu2204-base"),
        ],
    )
    def test_version_goes_with_the_accelerator(self, pod, accelerator, version):
        more = {"TPU_NAME": "n", "TPU_ZONE": "z", "TPU_ACCELERATOR": accelerator}
        (call,) = self._shown(pod, "create", **more)
        assert f"--version={version}" in call

    def test_install(self, pod):
        copy, install = self._shown(pod, "install", *PLACE)
        assert copy == [
            "scp",
            "./nif_jax.tar.gz",
            "nif:nif_jax.tar.gz",
            "--worker=all",
            "--zone=zone-a",
        ]
        assert install[:3] == ["ssh", "nif", "--worker=all"]
        assert '--editable ".[tpu]"' in install[3]

    def test_run(self, pod):
        (call,) = self._shown(pod, "run", *PLACE, *MAIN)
        assert call[:3] == ["ssh", "nif", "--worker=all"]
        assert "nohup setsid" in call[3]

    @pytest.mark.parametrize("command", [["run", *PLACE], ["resume", *CREATE]], ids=lambda c: c[0])
    def test_a_dry_run_wherever_the_flag_stands(self, pod, command):
        before = pod(command[0], "--dry-run", *command[1:], *MAIN).stdout
        for arguments in ([*MAIN, "--dry-run"], ["--", "--dry-run", *MAIN[1:]]):
            assert pod(*command, *arguments).stdout == before
        assert pod.calls() == []

    def test_status_and_teardown(self, pod):
        describe, tail = self._shown(pod, "status", *PLACE, "--lines=7")
        assert describe == ["describe", "nif", "--format=value(state)", "--zone=zone-a"]
        assert tail[:3] == ["ssh", "nif", "--worker=all"]
        assert tail[3].endswith("tail -n 7 run.log")
        assert self._shown(pod, "teardown", *PLACE) == [
            ["delete", "nif", "--quiet", "--zone=zone-a"]
        ]

    def test_resume_shows_both_ways(self, pod):
        verbs = [call[0] for call in self._shown(pod, "resume", *CREATE, *MAIN)]
        well = ["describe", "ssh"]
        start_again = ["scp", "ssh", "ssh", "ssh"]
        make_again = ["delete", "create", "scp", "ssh", "ssh"]
        assert verbs == well + start_again + make_again

    @pytest.mark.parametrize(
        "arguments",
        [["create", *CREATE], ["run", *PLACE, *MAIN], ["status", *PLACE], ["teardown", *PLACE]],
        ids=lambda arguments: arguments[0],
    )
    def test_what_is_shown_is_what_is_done(self, pod, arguments):
        shown = self._shown(pod, *arguments)
        pod(*arguments)
        assert pod.calls() == shown

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ([], "no command"),
            (["start", *PLACE], "no command start"),
            (["run", "stop", *PLACE], "two commands: run and stop"),
            (["status", "--zone=z"], "'status' needs --name or TPU_NAME"),
            (["status", "--name=n"], "'status' needs --zone or TPU_ZONE"),
            (["create", *PLACE], "'create' needs --accelerator or TPU_ACCELERATOR"),
            (["create", *PLACE, "--accelerator=v9-8"], "no default runtime for v9-8"),
            (["create", *CREATE, "--config=x"], "no option --config=x"),
            (["status", *PLACE, "--lines=many"], "--lines=many is no number"),
            (["teardown", *PLACE, "--", "x"], "'teardown' takes no arguments"),
            (["resume", *PLACE, *MAIN], "'resume' needs --accelerator"),
            (["run", *PLACE], "'run' needs --workdir=gs://BUCKET/FOLDER"),
            (["run", *PLACE, "--", "--workdir=runs/nif"], "'run' needs --workdir=gs://"),
            (["run", *PLACE, "--", "--workdir=gs://bucket"], "'run' needs --workdir=gs://"),
            (
                ["run", *PLACE, *MAIN, "--config.source.path=gs://my-bucket-2/events.parquet"],
                "the workers mount gs://my-bucket/, the bucket of --workdir, and no other",
            ),
        ],
    )
    def test_usage_errors(self, pod, arguments, error):
        done = pod(*arguments, code=2)
        assert done.stderr.startswith(f"error: {error}")
        assert "--help" in done.stderr
        assert pod.calls() == []

    def test_help(self, pod):
        assert pod("--help").stdout.startswith("Usage: bash launch/tpu_pod.sh COMMAND")


def _examples():
    """(file, devices, main's arguments) of the documented commands for pods and Slurm."""
    for name in ("launch/tpu_pod.sh", "launch/slurm.sbatch", "docs/devices.md"):
        text = re.sub(r"\\\n#? *", "", (ROOT / name).read_text())
        for line in re.findall(r"^[# ]+((?:sbatch|bash) .*--workdir=.*)", text, re.MULTILINE):
            words = shlex.split(line, comments=True)
            options = dict(word.partition("=")[::2] for word in words)
            devices = 16  # of the pod that tpu_pod.sh makes in its own example
            if words[0] == "sbatch":  # by default what the script itself asks for
                devices = int(options.get("--nodes", 2)) * int(options.get("--gpus-per-node", 1))
            yield pytest.param(devices, options, id=f"{name}-{devices}")


class TestExamples:
    def test_are_found(self):
        found = sorted(example.id for example in _examples())
        assert found == [
            "docs/devices.md-16",
            "docs/devices.md-32",
            "launch/slurm.sbatch-2",
            "launch/slurm.sbatch-32",
            *["launch/tpu_pod.sh-16"] * 3,
        ]
        assert "export TPU_NAME=nif TPU_ZONE=europe-west4-b TPU_ACCELERATOR=v5litepod-16" in (
            (LAUNCH / "tpu_pod.sh").read_text()
        )
        assert "#SBATCH --nodes=2\n" in (LAUNCH / "slurm.sbatch").read_text()
        assert "#SBATCH --gpus-per-node=1\n" in (LAUNCH / "slurm.sbatch").read_text()

    @pytest.mark.parametrize(("devices", "options"), list(_examples()))
    def test_batches_split_evenly(self, devices, options):
        path, _, text = options["--config"].partition(":")
        assert path == "configs/nif.py"
        config = nif.get_config(text)
        config.update_from_flattened_dict(
            {
                key.removeprefix("--config."): int(value) if value.isdigit() else value
                for key, value in options.items()
                if key.startswith("--config.")
            }
        )
        for section in (config.train, config.pretrain):
            assert section.batch_size % (2 * devices) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="workers run Linux")
class TestTpuPodWorker:
    """The commands of the workers, run for real."""

    def test_run_reaches_main_word_by_word(self, pod, tmp_path):
        pod("run", *PLACE, *MAIN, FAKE_WORKER="1")
        pod.wait_for_end()
        workdir = "--workdir=buckets/my-bucket/runs/it is"
        assert pod.main_calls() == [["-m", "nif_jax.main", MAIN[1], workdir, MAIN[3]]]
        mount = (tmp_path / "gcsfuse.log").read_text()
        assert mount.endswith(" my-bucket buckets/my-bucket\n")
        status = pod("status", *PLACE, FAKE_WORKER="1").stdout
        assert status.startswith("READY\n")
        assert status.endswith(": ended with 0\na line of the log\n")

    def test_all_paths_of_the_bucket_are_those_of_the_mount(self, pod):
        given = [
            "--config=configs/nif.py:files,source.path=gs://b/a.csv,init_from=gs://b/old",
            "--config.source.path=gs://b/events.parquet",
            "--workdir=gs://b/new",
        ]
        pod("run", *PLACE, "--", *given, FAKE_WORKER="1")
        pod.wait_for_end()
        (call,) = pod.main_calls()
        assert call[2:] == [argument.replace("gs://b/", "buckets/b/") for argument in given]

    def test_a_run_is_not_started_twice(self, pod):
        pod("run", *PLACE, *MAIN, FAKE_WORKER="1", FAKE_SECONDS="60")
        wait_for(pod.main_calls)
        assert ": runs\n" in pod("status", *PLACE, FAKE_WORKER="1").stdout
        refused = pod("run", *PLACE, *MAIN, FAKE_WORKER="1", code=1)
        assert "a run is under way" in refused.stderr
        assert len(pod.main_calls()) == 1

    def test_install_unpacks_this_checkout(self, pod, tmp_path):
        stale = pod.folder / "nif_jax" / "removed.py"
        stale.parent.mkdir()
        stale.touch()
        pod("install", *PLACE, FAKE_WORKER="1")
        assert (pod.folder / "setup.py").read_bytes() == (ROOT / "setup.py").read_bytes()
        assert (pod.folder / "nif_jax" / "__init__.py").exists()
        assert (pod.folder / "configs" / "nif.py").exists()
        assert not stale.exists()
        assert "uv pip install" in (tmp_path / "python3.log").read_text()

    def test_resume_leaves_a_good_run_alone(self, pod):
        pod("run", *PLACE, *MAIN, FAKE_WORKER="1", FAKE_SECONDS="60")
        wait_for(pod.main_calls)
        pod.calls()
        assert "Nothing to do." in pod(*RESUME, FAKE_WORKER="1").stdout
        assert pod.verbs() == ["describe", "ssh"]

    def test_resume_leaves_a_finished_run_alone(self, pod):
        pod("run", *PLACE, *MAIN, FAKE_WORKER="1")
        pod.wait_for_end()
        assert "Nothing to do." in pod(*RESUME, FAKE_WORKER="1").stdout
        assert len(pod.main_calls()) == 1

    def test_resume_starts_a_failed_run_again(self, pod):
        pod("run", *PLACE, *MAIN, FAKE_WORKER="1", FAKE_CODE="1")
        pod.wait_for_end()
        pod.calls()
        pod(*RESUME, FAKE_WORKER="1")
        assert pod.verbs() == ["describe", "ssh", "scp", "ssh", "ssh", "ssh"]
        wait_for(lambda: len(pod.main_calls()) == 2)
        assert pod.main_calls()[0] == pod.main_calls()[1]

    def test_resume_starts_a_run_that_was_cut_off(self, pod):
        pod("run", *PLACE, *MAIN, FAKE_WORKER="1", FAKE_SECONDS="60")
        wait_for(pod.main_calls)
        group = int((pod.folder / "logs" / "pid").read_text())
        os.killpg(group, signal.SIGKILL)
        wait_for(lambda: "was cut off" in pod("status", *PLACE, FAKE_WORKER="1").stdout)
        pod(*RESUME, FAKE_WORKER="1")
        wait_for(lambda: len(pod.main_calls()) == 2)

    def test_resume_starts_a_run_that_sigterm_has_stopped(self, pod):
        said = "stopped by SIGTERM after step 2 of base; run the same command to go on"
        pod("run", *PLACE, *MAIN, FAKE_WORKER="1", FAKE_SAYS=said)
        pod.wait_for_end()
        assert ": was stopped\n" in pod("status", *PLACE, FAKE_WORKER="1").stdout
        pod(*RESUME, FAKE_WORKER="1")
        wait_for(lambda: len(pod.main_calls()) == 2)

    @pytest.mark.parametrize("state", ["PREEMPTED", "TERMINATED"])
    def test_resume_makes_the_slice_again(self, pod, state):
        pod(*RESUME, FAKE_WORKER="1", FAKE_STATE=state)
        assert pod.verbs() == ["describe", "delete", "create", "scp", "ssh", "ssh"]
        wait_for(lambda: len(pod.main_calls()) == 1)

    def test_resume_without_a_slice(self, pod):
        pod(*RESUME, FAKE_WORKER="1", FAKE_ERROR="ERROR: NOT_FOUND: no such node")
        assert pod.verbs() == ["describe", "create", "scp", "ssh", "ssh"]

    def test_resume_does_not_take_an_error_for_a_lost_slice(self, pod):
        error = "ERROR: PERMISSION_DENIED"
        assert error in pod(*RESUME, FAKE_WORKER="1", FAKE_ERROR=error, code=1).stderr
        assert pod.verbs() == ["describe"]

    def test_resume_waits_for_other_states(self, pod):
        refused = pod(*RESUME, FAKE_WORKER="1", FAKE_STATE="CREATING", code=1)
        assert "nif is CREATING; try again" in refused.stderr
        assert pod.verbs() == ["describe"]
