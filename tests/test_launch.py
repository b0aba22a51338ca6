"""The launchers, with stand-ins for python, gcloud and srun: no network, nothing installed."""

import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from configs import nif

ROOT = pathlib.Path(__file__).resolve().parents[1]
LAUNCH = ROOT / "launch"
SCRIPTS = [*sorted(LAUNCH.glob("*.sh")), LAUNCH / "slurm.sbatch", ROOT / ".ci" / "run"]


@pytest.fixture
def bin_folder(tmp_path):
    """A folder that stands first on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    return folder


def _executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text).lstrip())
    path.chmod(0o755)


def _environment(bin_folder, **more):
    unset = ("PYTHON", "NIF_JAX_", "TPU_", "SLURM_", "JAX_", "XLA_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(unset)}
    return {**kept, "PATH": f"{bin_folder}:{os.environ['PATH']}", **more}


def _run(command, environment, code=0, **more):
    done = subprocess.run(command, env=environment, capture_output=True, text=True, **more)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def _records(log):
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def _wait(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script_parses(script):
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


class TestFindPython:
    """Stand-ins answer the two questions that python_fault asks."""

    def _python(self, path, version, has_venv=True):
        _executable(
            path,
            f"""
            #!/bin/sh
            case "$2" in *version_info*) echo {version} ;; *) exit {0 if has_venv else 1} ;; esac
        """,
        )

    def _find(self, folders, code=0, **more):
        """Only the stand-ins are on PATH."""
        environment = {"PATH": ":".join(map(str, folders)), **more}
        script = f"source '{LAUNCH}/setup_venv.sh'; find_python"
        return _run(["/bin/bash", "-c", script], environment, code)

    def test_prefers_what_is_tested(self, bin_folder):
        for version in ("3.13", "3.12", "3.11"):
            self._python(bin_folder / f"python{version}", version)
        assert self._find([bin_folder]).stdout == f"{bin_folder}/python3.11\n"

    def test_a_name_proves_nothing(self, bin_folder, tmp_path):
        shims = tmp_path / "shims"
        _executable(shims / "python3.11", "#!/bin/sh\necho 'no such version' >&2; exit 127\n")
        self._python(shims / "python3.12", "3.12", has_venv=False)
        self._python(shims / "python3", "3.8")
        self._python(bin_folder / "python3", "3.14")
        assert self._find([shims, bin_folder]).stdout == f"{bin_folder}/python3\n"

    def test_says_what_was_tried(self, bin_folder):
        self._python(bin_folder / "python3", "3.10")
        self._python(bin_folder / "python3.12", "3.12", has_venv=False)
        self._python(bin_folder / "python", "2.7")
        error = self._find([bin_folder], code=1).stderr
        assert "needs Python 3.11 or newer" in error
        assert f"{bin_folder}/python3 is Python 3.10, older than 3.11\n" in error
        assert f"{bin_folder}/python is Python 2.7, older than 3.11\n" in error
        assert f"{bin_folder}/python3.12 lacks the venv module" in error

    def test_a_named_python_is_used_or_refused(self, bin_folder, tmp_path):
        self._python(bin_folder / "python3.11", "3.11")
        self._python(tmp_path / "good", "3.12")
        self._python(tmp_path / "old", "3.9")
        assert self._find([bin_folder], PYTHON=f"{tmp_path}/good").stdout == f"{tmp_path}/good\n"
        refused = self._find([bin_folder], code=1, PYTHON=f"{tmp_path}/old")
        assert "old is Python 3.9, older than 3.11." in refused.stderr
        absent = self._find([bin_folder], code=1, PYTHON=f"{tmp_path}/absent")
        assert "absent does not run." in absent.stderr


@pytest.fixture
def checkout(tmp_path, bin_folder):
    """A copy of the launchers in a folder with a space, and a python that only takes notes."""
    root = tmp_path / "a checkout"
    for script in [*SCRIPTS, ROOT / "setup.py", ROOT / "pyproject.toml"]:
        copy = root / script.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(script.read_bytes())
    _executable(
        bin_folder / "python3.11",
        f"""
        #!{sys.executable}
        import json, os, pathlib, shutil, sys
        arguments = sys.argv[1:]
        if arguments[0] == "-c":
            print("3.11" if "version_info" in arguments[1] else "")
            sys.exit(0)
        environment = {{k: v for k, v in os.environ.items() if k == "JAX_LOCAL_DEVICE_IDS"}}
        with open("{tmp_path}/python.log", "a") as log:
            print(json.dumps([*arguments, environment] if environment else arguments), file=log)
        if arguments[1:3] == ["venv", "--clear"]:
            shutil.rmtree(arguments[-1], ignore_errors=True)
            python = pathlib.Path(arguments[-1], "bin", "python")
            python.parent.mkdir(parents=True)
            shutil.copy(__file__, python)
        sys.exit(int(os.environ.get("FAIL_" + arguments[1].partition(".")[0], "0")))
    """,
    )
    return root


class TestVirtualEnvironment:
    def _setup(self, checkout, bin_folder, code=0, **more):
        """What was done: (whether a venv was made, what was installed, stderr)."""
        log = bin_folder.parent / "python.log"
        log.unlink(missing_ok=True)
        script = 'set -euo pipefail; source launch/setup_venv.sh; setup_venv "$PWD"'
        done = _run(["bash", "-c", script], _environment(bin_folder, **more), code, cwd=checkout)
        records = _records(log)
        installs = [r[-1] for r in records if r[1] == "pip"]
        return any(r[1] == "venv" for r in records), installs, done.stderr

    def test_installs_once_and_again_when_the_packaging_changes(self, checkout, bin_folder):
        assert self._setup(checkout, bin_folder)[:2] == (True, [f"{checkout}[test]"])
        assert self._setup(checkout, bin_folder)[:2] == (False, [])
        for name in ("setup.py", "pyproject.toml"):
            with open(checkout / name, "a") as file:
                file.write("# changed\n")
            assert self._setup(checkout, bin_folder)[:2] == (False, [f"{checkout}[test]"])
            assert self._setup(checkout, bin_folder)[:2] == (False, [])
        more = {"NIF_JAX_EXTRAS": "test,cuda"}
        assert self._setup(checkout, bin_folder, **more)[:2] == (False, [f"{checkout}[test,cuda]"])

    def test_a_failed_installation_is_tried_again(self, checkout, bin_folder):
        made, installs, error = self._setup(checkout, bin_folder, code=1, FAIL_pip="1")
        assert (made, len(installs)) == (True, 1)
        assert "error: pip could not install nif_jax[test]" in error
        assert self._setup(checkout, bin_folder)[:2] == (False, [f"{checkout}[test]"])

    def test_a_broken_environment_is_made_again(self, checkout, bin_folder):
        self._setup(checkout, bin_folder)
        (checkout / ".venv" / "bin" / "python").unlink()
        (checkout / ".venv" / "bin").rmdir()
        assert self._setup(checkout, bin_folder)[:2] == (True, [f"{checkout}[test]"])

    def test_another_folder(self, checkout, bin_folder, tmp_path):
        self._setup(checkout, bin_folder, NIF_JAX_VENV=f"{tmp_path}/elsewhere")
        assert (tmp_path / "elsewhere" / "bin" / "python").exists()
        assert not (checkout / ".venv").exists()


class TestRunAndTest:
    """run.sh, test.sh, .ci/run and slurm.sbatch, from a folder that is not the checkout."""

    def _call(self, checkout, bin_folder, script, *arguments, code=0, **more):
        environment = _environment(bin_folder, **more)
        cwd = bin_folder.parent
        _run(["bash", str(checkout / script), *arguments], environment, code, cwd=cwd)
        return [r for r in _records(cwd / "python.log") if r[1] not in ("venv", "pip")]

    def test_run_has_a_default_config(self, checkout, bin_folder):
        note = "--config.note=a b, 'c' $HOME"
        calls = self._call(checkout, bin_folder, "launch/run.sh", note)
        assert calls == [["-m", "nif_jax.main", "--config=configs/nif.py", note]]

    @pytest.mark.parametrize("config", [["--config=configs/x.py:a,b"], ["--config", "c.py"]])
    def test_run_takes_another_config(self, checkout, bin_folder, config):
        calls = self._call(checkout, bin_folder, "launch/run.sh", "--workdir=w", *config)
        assert calls == [["-m", "nif_jax.main", "--workdir=w", *config]]

    def test_test_lints_and_tests(self, checkout, bin_folder):
        calls = self._call(checkout, bin_folder, "launch/test.sh", "tests", "-k", "a or b")
        assert calls[:4] == [
            ["-m", "ruff", "check", "."],
            ["-m", "ruff", "format", "--check", "--quiet", "."],
            ["-m", "codespell_lib", "."],
            ["-m", "mypy"],
        ]
        assert calls[4][:3] == ["-m", "pytest", "-q"]
        assert calls[4][-3:] == ["tests", "-k", "a or b"]

    def test_refresh_runs_sweeps_that_lend_to_each_other(self, checkout, bin_folder, tmp_path):
        arguments = (str(tmp_path), "runs/new")
        calls = self._call(checkout, bin_folder, "launch/refresh.sh", *arguments, JOBS="3")
        files = [pathlib.Path(call[1].partition("=")[2]) for call in calls]
        sweeps = {path.stem for path in (ROOT / "configs" / "sweeps").glob("[a-z]*.py")}
        assert {file.stem for file in files} == sweeps - {"common"}
        assert calls[0] == [
            "launch/sweep.py",
            "--sweep=configs/sweeps/main.py",
            f"--data={tmp_path}",
            "--workdir=runs/new/main",
            "--lenders=runs/new",
            "--jobs=3",
        ]

    def test_refresh_wants_the_data(self, checkout, bin_folder, tmp_path):
        absent = str(tmp_path / "absent")
        assert self._call(checkout, bin_folder, "launch/refresh.sh", absent, code=1) == []

    def test_refresh_goes_on_after_a_sweep_that_failed_and_says_so(self, checkout, bin_folder):
        self._call(checkout, bin_folder, "launch/run.sh")
        python = checkout / ".venv" / "bin" / "python"
        _executable(python, '#!/bin/sh\necho "$2"; case "$2" in *main*) exit 1; esac\n')
        environment = _environment(bin_folder, SWEEPS="main labels")
        command = ["bash", str(checkout / "launch" / "refresh.sh"), str(checkout)]
        done = _run(command, environment, code=1, cwd=checkout.parent)
        assert "main.py\n--sweep=configs/sweeps/labels.py\n" in done.stdout
        assert "error: not finished: main. The same command goes on" in done.stderr

    @pytest.mark.parametrize("tool", ["ruff", "codespell_lib", "mypy", "pytest"])
    def test_failures_fail(self, checkout, bin_folder, tool):
        self._call(checkout, bin_folder, "launch/test.sh", code=3, **{f"FAIL_{tool}": "3"})
        self._call(checkout, bin_folder, ".ci/run", code=3, **{f"FAIL_{tool}": "3"})

    def test_ci_uses_a_fresh_environment_and_removes_it(self, checkout, bin_folder, tmp_path):
        temporary = tmp_path / "temporary"
        temporary.mkdir()
        calls = self._call(checkout, bin_folder, ".ci/run", TMPDIR=str(temporary))
        assert [call[1] for call in calls] == ["ruff", "ruff", "codespell_lib", "mypy", "pytest"]
        venv = next(r for r in _records(tmp_path / "python.log") if r[1] == "venv")[-1]
        assert venv.startswith(f"{temporary}/")
        assert list(temporary.iterdir()) == []
        assert not (checkout / ".venv").exists()

    @pytest.mark.parametrize(
        ("slurm", "devices"),
        [
            ({"SLURM_GPUS_ON_NODE": "4"}, [{"JAX_LOCAL_DEVICE_IDS": "0,1,2,3"}]),
            ({"SLURM_GPUS_ON_NODE": "4", "SLURM_NTASKS_PER_NODE": "4"}, []),
            ({"SLURM_GPUS_ON_NODE": "1"}, []),
            ({}, []),
        ],
    )
    def test_slurm(self, checkout, bin_folder, tmp_path, slurm, devices):
        _executable(
            bin_folder / "srun",
            """
            #!/bin/bash
            [[ "$1" == --kill-on-bad-exit=1 ]] && exec "${@:2}"
        """,
        )
        spool = tmp_path / "spool" / "script"
        spool.parent.mkdir()
        spool.write_bytes((LAUNCH / "slurm.sbatch").read_bytes())
        more = {"SLURM_SUBMIT_DIR": str(checkout), **slurm}
        calls = self._call(checkout, bin_folder, spool, "--config=a b", **more)
        assert calls == [["-m", "nif_jax.main", "--config=a b", *devices]]

    def test_slurm_wants_to_start_in_the_checkout(self, checkout, bin_folder, tmp_path):
        more = {"SLURM_SUBMIT_DIR": str(tmp_path)}
        assert self._call(checkout, bin_folder, "launch/slurm.sbatch", code=1, **more) == []


class TestLocalCluster:
    def _command(self, tmp_path, target, *options):
        path = tmp_path / "target.py"
        path.write_text(textwrap.dedent(target))
        command = f"--command='{sys.executable}' '{path}'"
        return [sys.executable, str(LAUNCH / "local_cluster.py"), command, *options]

    def _gone(self, path):
        """Whether the process that wrote its id there is no more."""
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.read_text()), 0)

    # A process that says who it is and then sleeps, with a worker of its own.
    SLEEPER = """
        import os, pathlib, subprocess, sys, time
        number = sys.argv[-1].partition("=")[2]
        worker = subprocess.Popen(["sleep", "60"])
        folder = pathlib.Path({folder!r})
        (folder / f"worker{{number}}").write_text(str(worker.pid))
        (folder / f"process{{number}}").write_text(str(os.getpid()))
        while number == "1" and not (folder / "process0").exists():
            time.sleep(0.01)
        {then}
        time.sleep(60)
    """

    def test_processes_know_each_other(self, tmp_path):
        target = """
            import json, os, sys
            names = ("JAX_PLATFORMS", "XLA_FLAGS")
            print(json.dumps([sys.argv[1:], {name: os.environ[name] for name in names}]))
            print("to stderr", file=sys.stderr)
        """
        flags = "--xla_one=1 --xla_force_host_platform_device_count=7 --xla_two=2"
        environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "tpu"}
        options = ["--processes=3", "--devices_per_process=2", "--", "--config=a b,c", "--x"]
        done = _run(self._command(tmp_path, target, *options), environment)
        lines = sorted(done.stdout.splitlines())
        assert [line for line in lines if "stderr" in line] == [
            "[0] to stderr",
            "[1] to stderr",
            "[2] to stderr",
        ]
        coordinators = set()
        for number, line in enumerate(line for line in lines if "stderr" not in line):
            prefix, _, text = line.partition(" ")
            arguments, seen = json.loads(text)
            coordinators.add(arguments.pop(2))
            assert prefix == f"[{number}]"
            assert arguments == [
                "--config=a b,c",
                "--x",
                "--num_processes=3",
                f"--process_id={number}",
            ]
            assert seen["JAX_PLATFORMS"] == "cpu"
            assert seen["XLA_FLAGS"] == (
                "--xla_one=1 --xla_two=2 --xla_force_host_platform_device_count=2"
            )
        (coordinator,) = coordinators
        assert re.fullmatch(r"--coordinator=127\.0\.0\.1:\d+", coordinator)

    @pytest.mark.parametrize(
        ("then", "code"),
        [
            ("if number == '1': worker.kill(); sys.exit(3)", 3),
            ("if number == '1': worker.kill(); os.kill(os.getpid(), 9)", 128 + 9),
        ],
    )
    def test_a_failure_ends_the_others(self, tmp_path, then, code):
        target = self.SLEEPER.format(folder=str(tmp_path), then=then)
        started = time.monotonic()
        done = _run(self._command(tmp_path, target), os.environ, code)
        assert time.monotonic() - started < 30
        assert "process 1 failed" in done.stderr
        self._gone(tmp_path / "process0")
        _wait(lambda: self._ended(tmp_path / "worker0"))

    def _ended(self, path):
        """Whether a process is gone, or only waits for someone to notice that it is."""
        try:
            status = pathlib.Path(f"/proc/{path.read_text()}/stat").read_text()
        except FileNotFoundError:
            return True
        return status.rpartition(")")[2].split()[0] == "Z"

    def test_who_does_not_end_is_killed(self, tmp_path):
        then = "if number == '1': worker.kill(); sys.exit(3)"
        target = self.SLEEPER.format(folder=str(tmp_path), then=then)
        target = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + (
            textwrap.dedent(target)
        )
        started = time.monotonic()
        _run(self._command(tmp_path, target, "--grace_seconds=0.3"), os.environ, 3)
        assert time.monotonic() - started < 30  # left alone, it would end after 60
        self._gone(tmp_path / "process0")

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_interrupts_end_all(self, tmp_path, number):
        target = self.SLEEPER.format(folder=str(tmp_path), then="")
        command = self._command(tmp_path, target)
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as cluster:
            _wait(lambda: all((tmp_path / f"process{i}").exists() for i in (0, 1)))
            cluster.send_signal(number)
            assert cluster.wait(30) == 128 + number
        for i in (0, 1):
            self._gone(tmp_path / f"process{i}")


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
    _executable(
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
    _executable(bin_folder / "gcsfuse", f'#!/bin/sh\necho "$@" >> {tmp_path}/gcsfuse.log\n')
    _executable(bin_folder / "mountpoint", "#!/bin/sh\nexit 1\n")
    _executable(bin_folder / "python3", f'#!/bin/sh\necho "$@" >> {tmp_path}/python3.log\n')
    _executable(
        home / "nif_jax" / ".venv" / "bin" / "python",
        f"""
        #!{sys.executable}
        import json, os, sys, time
        with open("{tmp_path}/main.log", "a") as log:
            print(json.dumps(sys.argv[1:]), file=log)
        print("a line of the log", flush=True)
        time.sleep(float(os.environ.get("FAKE_SECONDS", "0")))
        sys.exit(int(os.environ.get("FAKE_CODE", "0")))
    """,
    )

    class Pod:
        folder = home / "nif_jax"

        def __call__(self, *arguments, code=0, **more):
            command = ["bash", str(LAUNCH / "tpu_pod.sh"), *arguments]
            return _run(command, _environment(bin_folder, **more), code, cwd=tmp_path)

        def calls(self):
            """gcloud's arguments since the last look."""
            found = _records(log)
            log.unlink(missing_ok=True)
            return found

        def verbs(self):
            return [call[0] for call in self.calls()]

        def main_calls(self):
            return _records(tmp_path / "main.log")

        def wait_for_end(self):
            _wait((self.folder / "logs" / "code").exists)

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
        _run(["bash", "-c", f"tar() {{ :; }}; {printed.stdout}"], environment)
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
        _wait(pod.main_calls)
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
        _wait(pod.main_calls)
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
        _wait(lambda: len(pod.main_calls()) == 2)
        assert pod.main_calls()[0] == pod.main_calls()[1]

    def test_resume_starts_a_run_that_was_cut_off(self, pod):
        pod("run", *PLACE, *MAIN, FAKE_WORKER="1", FAKE_SECONDS="60")
        _wait(pod.main_calls)
        group = int((pod.folder / "logs" / "pid").read_text())
        os.killpg(group, signal.SIGKILL)
        _wait(lambda: "was cut off" in pod("status", *PLACE, FAKE_WORKER="1").stdout)
        pod(*RESUME, FAKE_WORKER="1")
        _wait(lambda: len(pod.main_calls()) == 2)

    @pytest.mark.parametrize("state", ["PREEMPTED", "TERMINATED"])
    def test_resume_makes_the_slice_again(self, pod, state):
        pod(*RESUME, FAKE_WORKER="1", FAKE_STATE=state)
        assert pod.verbs() == ["describe", "delete", "create", "scp", "ssh", "ssh"]
        _wait(lambda: len(pod.main_calls()) == 1)

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
